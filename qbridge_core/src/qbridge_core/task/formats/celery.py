"""Messages of Celery: those of its protocol 2, and those of protocol 1, which it reads to this day."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, ClassVar, Final

from qbridge_core.contract.checks import DEFAULT_MAX_MESSAGE_BYTES
from qbridge_core.contract.envelope import MalformedTaskError, Task, UnsupportedTaskError, json_type, write_json
from qbridge_core.contract.headers import CONTENT_TYPE_HEADER
from qbridge_core.contract.message import Delivery, Message
from qbridge_core.errors import PayloadError
from qbridge_core.task.formats.base import Outgoing
from qbridge_core.task.formats.beside import VERSION
from qbridge_core.task.formats.foreign import (
    ForeignFormat,
    call_for,
    call_of,
    count_retries,
    name_for,
    text_of,
    version_in,
)
from qbridge_core.task.formats.kombujson import read_body

_NAME, _ID, _ETA, _EXPIRES, _RETRIES = "task", "id", "eta", "expires", "retries"
_COMPRESSION: Final = "compression"
_OWN_HEADERS: Final = frozenset({
    _NAME, _ID, _ETA, _EXPIRES, _RETRIES, _COMPRESSION, VERSION, "root_id", "parent_id", "group", "timelimit", "shadow",
    "lang",
})  # fmt: skip
_AFTERWARDS: Final = {
    "chain": "a chain, whose next task would not be sent",
    "chord": "part of a chord, whose callback would not be called",
    "callbacks": "a link, which would not be called",
    "errbacks": "a link_error, which would not be called",
}
"""What a Celery worker does when a task has ended: by the key of the body that says so."""
_BUILT_IN: Final = frozenset(
    f"celery.{name}"
    for name in (
        "accumulate", "backend_cleanup", "chain", "chord", "chord_unlock", "chunks", "group", "map", "starmap",
    )
)  # fmt: skip
_OTHER_SERIALIZERS: Final = {
    "application/x-python-serialize": "a pickle, which is never read here",
    "application/x-yaml": "YAML",
    "application/x-msgpack": "MessagePack",
    "application/data": "signed, or bytes",
}
"""What kombu calls bodies that are no JSON."""
_NONE: Final = (None, "", "null")
"""What says nothing; a broker that keeps texts only writes ``None`` as the last of them."""


class CeleryFormat(ForeignFormat):
    """Messages of Celery: protocol 2, with a body of JSON; those of protocol 1 are read, too.

    Name, id, ``eta``, ``expires`` and ``retries`` count. A message that wants more done when it has ended (a chain, a
    chord, ``link``, ``link_error``), and one that is no JSON, is ``unsupported``. Results are not written.
    """

    name: ClassVar[str] = "celery"

    def accepts(self, delivery: Delivery) -> bool:
        """By its headers, or by a body that is an object with a name, an id and arguments."""
        headers, body = delivery.headers, delivery.body
        marked = _NAME in headers and _ID in headers
        if body[:1] != b"{" and (marked or _COMPRESSION not in headers):
            return marked
        document = _object_in(body, headers.get(_COMPRESSION))
        return document is not None and (marked or (_NAME in document and _ID in document))

    def read(self, delivery: Delivery, max_bytes: int) -> Task:
        """Read it."""
        headers = delivery.headers
        if _NAME in headers and _ID in headers:
            task_id = text_of("the header 'id'", headers[_ID])
            _refuse_other_serializers(delivery.content_type, task_id)
            document = read_body(delivery.body, headers.get(_COMPRESSION), max_bytes, task_id)
            return self._task(delivery, headers, document, task_id)
        document = read_body(delivery.body, headers.get(_COMPRESSION), max_bytes)
        if not isinstance(document, dict):
            raise MalformedTaskError("neither the headers nor the body have the name and the id of a task")
        return self._task(delivery, document, document, text_of('"id"', document.get(_ID)))

    def write(self, task: Outgoing) -> Message:
        """Write it in protocol 2."""
        reserved = sorted(_OWN_HEADERS & task.headers.keys())
        if reserved:
            raise PayloadError(f"a message of Celery has headers of its own that are called {', '.join(reserved)}")
        args, kwargs = call_for(task.payload)
        body = write_json([args, kwargs, dict.fromkeys(_AFTERWARDS)], task.payload, task.task_id)
        headers = {
            **task.headers,
            "lang": "py",
            _NAME: name_for(task.name, self.name),
            _ID: task.task_id,
            "root_id": task.task_id,
            CONTENT_TYPE_HEADER: "application/json",
        }
        if task.expires_at is not None:
            headers[_EXPIRES] = datetime.fromtimestamp(task.expires_at, UTC).isoformat()
        if task.version != 1:
            headers[VERSION] = str(task.version)
        return Message(body, headers, task.message_id)

    def _task(self, delivery: Delivery, facts: Mapping[str, Any], document: object, task_id: str) -> Task:
        """Make a task of what stands in the headers, or in the body for protocol 1."""
        name = text_of(f"the name {_NAME!r}", facts[_NAME], task_id)
        args, kwargs, after = _parts(document, task_id)
        _refuse_more(name, after, task_id)
        is_local = facts.get("utc") is False
        task = Task(
            kwargs,
            task_id,
            version_in(facts.get(VERSION)),
            name,
            args,
            _moment(facts, _EXPIRES, task_id, is_local=is_local),
            _moment(facts, _ETA, task_id, is_local=is_local),
        )
        count_retries(delivery, facts.get(_RETRIES), task.expires_at)
        if facts.get("ignore_result") is False:
            self._tell_of_results(delivery, name, " (ignore_result is False, as it is by default)")
        return task


def _refuse_other_serializers(kind: str, task_id: str) -> None:
    if what := _OTHER_SERIALIZERS.get(kind):
        raise UnsupportedTaskError(f"the body is {what} ({kind}): let producers write JSON (task_serializer)", task_id)


def _object_in(body: bytes, compression: object) -> Mapping[str, Any] | None:
    """The object of a body that has the keys of a call, with a quick look before it is read."""
    if compression is None and (b'"args"' not in body or b'"kwargs"' not in body):
        return None
    try:
        document = read_body(body, compression, max(len(body), DEFAULT_MAX_MESSAGE_BYTES))
    except (MalformedTaskError, UnsupportedTaskError):
        return None
    is_call = isinstance(document, dict) and "args" in document and "kwargs" in document
    return document if is_call else None


def _parts(document: object, task_id: str) -> tuple[list[Any], dict[str, Any], Mapping[str, Any]]:
    """Arguments, and what is to be done afterwards."""
    if isinstance(document, dict):
        return *call_of(document.get("args"), document.get("kwargs"), task_id), document
    if not isinstance(document, list) or len(document) != 3:
        raise MalformedTaskError(
            f"the body is a JSON {json_type(document)}, not an array of arguments, keyword arguments and what is next",
            task_id,
        )
    args, kwargs, after = document
    if after is not None and not isinstance(after, dict):
        raise MalformedTaskError(f"what is next is a JSON {json_type(after)}, not an object", task_id)
    return *call_of(args, kwargs, task_id), after or {}


def _refuse_more(name: str, after: Mapping[str, Any], task_id: str) -> None:
    """Refuse what would be done in part only."""
    for key, text in _AFTERWARDS.items():
        if after.get(key):
            raise UnsupportedTaskError(f"{name} has {text}; it has not been run", task_id)
    if name in _BUILT_IN:
        raise UnsupportedTaskError(f"{name} is a task that is part of Celery, and is only run there", task_id)


def _moment(facts: Mapping[str, Any], key: str, task_id: str, *, is_local: bool) -> float | None:
    """A time in ISO 8601 as Unix time; without a time zone it is UTC, or local where protocol 1 says so."""
    value = facts.get(key)
    if value in _NONE:
        return None
    try:
        moment = value if isinstance(value, datetime) else datetime.fromisoformat(value)
        if moment.tzinfo is None and not is_local:
            moment = moment.replace(tzinfo=UTC)
        return moment.timestamp()
    except (OSError, OverflowError, TypeError, ValueError) as exc:
        raise MalformedTaskError(f"{key!r} is no time in ISO 8601", task_id) from exc
