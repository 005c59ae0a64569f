"""CloudEvents 1.0: the JSON event format, and the binary mode, whose attributes stand in headers."""

from __future__ import annotations

import time
from base64 import b64decode, b64encode
from collections.abc import Mapping
from datetime import datetime
from typing import Any, ClassVar, Final

from qbridge_core.contract.checks import MAX_ID_CHARS
from qbridge_core.contract.envelope import (
    MalformedTaskError,
    Task,
    UnsupportedTaskError,
    json_type,
    object_in,
    read_json,
    refuse_long,
    write_json,
)
from qbridge_core.contract.headers import CONTENT_TYPE_HEADER, instant, meta_text
from qbridge_core.contract.message import Delivery, Message
from qbridge_core.errors import ConfigurationError, PayloadError
from qbridge_core.task.formats.base import Format, Outgoing
from qbridge_core.task.formats.beside import refuse_own

_VERSION: Final = "specversion"
_PREFIXES: Final = ("ce-", "cloudEvents:", "cloudEvents_", "ce_")
"""Of headers: on RabbitMQ; on AMQP 1.0, two ways; on Kafka. The first one is written."""
_OWN: Final = (CONTENT_TYPE_HEADER, *map(str.lower, _PREFIXES))
_EVENTS: Final = "application/cloudevents"
_STRUCTURED: Final = "application/cloudevents+json; charset=UTF-8"
_JSON: Final = "application/json"
_BYTES: Final = "application/octet-stream"
_EXPIRY: Final = "expirytime"
_PAYLOAD_VERSION: Final = "qbridgeversion"
_REQUIRED: Final = ("id", "source", "type")


class CloudEventsFormat(Format):
    """Events of CloudEvents 1.0, in either mode: the ``type`` names the task, ``id`` is its id, ``data`` the payload.

    Args:
        source: what events that are sent say of their origin, a URI reference.
        binary: whether events that are sent have their attributes in headers, and their data alone in the body.

    Raises:
        ConfigurationError: an argument is wrong.
    """

    name: ClassVar[str] = "CloudEvents"

    def __init__(self, source: str = "/qbridge", *, binary: bool = False) -> None:
        if not isinstance(source, str) or not source:
            raise ConfigurationError(f"source must be a URI reference, such as '/shop', not {source!r}")
        if not isinstance(binary, bool):
            raise ConfigurationError(f"binary must be True or False, not {binary!r}")
        self._source = source
        self._binary = binary

    def accepts(self, delivery: Delivery) -> bool:
        """Whether it has the attributes in its headers, or is said to be an event, or looks like one."""
        if _prefix(delivery.headers) or delivery.content_type.lower().startswith(_EVENTS):
            return True
        body = delivery.body
        return b'"specversion"' in body and _is_event(body)

    def read(self, delivery: Delivery, max_bytes: int) -> Task:
        """Read it."""
        kind = delivery.content_type.lower()
        prefix = _prefix(delivery.headers)
        if prefix and not kind.startswith(_EVENTS):
            refuse_long(delivery.body, max_bytes)
            attributes = {
                name.removeprefix(prefix): value for name, value in delivery.headers.items() if name.startswith(prefix)
            }
            return _task(attributes, _decoded(delivery.body, kind, _id_of(attributes)))
        if kind.startswith(_EVENTS) and kind.partition(";")[0].strip() != _STRUCTURED.partition(";")[0]:
            raise UnsupportedTaskError(
                f"its content type is {delivery.content_type!r}; events are read as JSON, one each"
            )
        event = read_json(delivery.body, max_bytes)
        if not isinstance(event, dict):
            raise MalformedTaskError(f"the event is a JSON {json_type(event)}, not an object")
        return _task(event, _data_of(event, _id_of(event)))

    def write(self, task: Outgoing) -> Message:
        """Write it."""
        if task.name is None:
            raise PayloadError(f"task {task.task_id!r} has no name, which is the type of an event")
        refuse_own(task, _OWN)
        attributes: dict[str, Any] = {
            _VERSION: "1.0",
            "id": task.task_id,
            "source": self._source,
            "type": task.name,
            "time": _shown(time.time()),
        }
        if task.version != 1:
            attributes[_PAYLOAD_VERSION] = task.version
        if task.expires_at is not None:
            attributes[_EXPIRY] = _shown(task.expires_at)
        return self._binary_message(task, attributes) if self._binary else _structured_message(task, attributes)

    @staticmethod
    def _binary_message(task: Outgoing, attributes: Mapping[str, Any]) -> Message:
        is_raw = isinstance(task.payload, bytes)
        body = task.payload if is_raw else write_json(task.payload, task.payload, task.task_id)
        told = {f"{_PREFIXES[0]}{name}": str(value) for name, value in attributes.items()}
        headers = {**task.headers, **told, CONTENT_TYPE_HEADER: _BYTES if is_raw else _JSON}
        return Message(body, headers, task.message_id)


def _structured_message(task: Outgoing, attributes: Mapping[str, Any]) -> Message:
    payload = task.payload
    if isinstance(payload, bytes):
        data = {"datacontenttype": _BYTES, "data_base64": b64encode(payload).decode()}
    else:
        data = {"datacontenttype": _JSON, "data": payload}
    body = write_json({**attributes, **data}, payload, task.task_id)
    return Message(body, {**task.headers, CONTENT_TYPE_HEADER: _STRUCTURED}, task.message_id)


def _prefix(headers: Mapping[str, Any]) -> str:
    """What the attributes begin with, where they are headers; "" where they are not."""
    return next((prefix for prefix in _PREFIXES if f"{prefix}{_VERSION}" in headers), "") if headers else ""


def _is_event(body: bytes) -> bool:
    event = object_in(body)
    return event is not None and _VERSION in event and "type" in event


def _task(attributes: Mapping[str, Any], payload: Any) -> Task:
    task_id = _id_of(attributes)
    version = meta_text(attributes, _VERSION)
    if not version.startswith("1."):
        raise UnsupportedTaskError(f"it is of CloudEvents {version[:20]!r}; 1.0 is read", task_id)
    for name in _REQUIRED:
        if not isinstance(attributes.get(name), str | bytes) or not attributes[name]:
            raise MalformedTaskError(f"the event has no {name!r}, which is a string", task_id)
    number = meta_text(attributes, _PAYLOAD_VERSION) or "1"
    if not number.isdecimal() or len(number) > MAX_ID_CHARS:
        raise MalformedTaskError(f"{_PAYLOAD_VERSION!r} is {number[:20]!r}, not a whole number", task_id)
    return Task(
        payload,
        task_id,
        {"version": int(number)},
        meta_text(attributes, "type"),
        expires_at=_expiry(attributes.get(_EXPIRY), task_id),
    )


def _data_of(event: Mapping[str, Any], task_id: str | None) -> Any:
    """The data of an event in JSON."""
    encoded = event.get("data_base64")
    if encoded is None:
        return event.get("data")
    try:
        data = b64decode(encoded, validate=True)
    except (ValueError, TypeError) as exc:
        raise MalformedTaskError(f"data_base64 cannot be decoded: {exc}", task_id) from exc
    kind = event.get("datacontenttype")
    return data if kind is None else _decoded(data, str(kind), task_id)


def _decoded(data: bytes, kind: str, task_id: str | None) -> Any:
    """Data of this media type: what JSON says, or else the bytes; ``None`` when there are none."""
    if not data:
        return None
    media = (kind or _JSON).partition(";")[0].strip().lower()
    if not media.endswith(("/json", "+json")):
        return data
    try:
        return read_json(data, len(data))
    except MalformedTaskError as exc:
        raise MalformedTaskError(str(exc), task_id) from exc


def _expiry(value: object, task_id: str | None) -> float | None:
    if value is None or value == "":
        return None
    if isinstance(value, int):
        return value / 1000  # a timestamp of AMQP 1.0
    try:
        moment = value if isinstance(value, datetime) else datetime.fromisoformat(meta_text({_EXPIRY: value}, _EXPIRY))
        return moment.timestamp()
    except (ValueError, OverflowError) as exc:
        raise MalformedTaskError(f"{_EXPIRY!r} is no time as RFC 3339 has it: {str(value)[:40]!r}", task_id) from exc


def _id_of(attributes: Mapping[str, Any]) -> str | None:
    return meta_text(attributes, "id")[:MAX_ID_CHARS] or None


def _shown(moment: float) -> str:
    """A time as RFC 3339 has it."""
    found = instant(round(moment * 1000))
    assert found is not None  # noqa: S101 - it is between the year 1970 and 9999
    return found.isoformat(timespec="milliseconds").replace("+00:00", "Z")
