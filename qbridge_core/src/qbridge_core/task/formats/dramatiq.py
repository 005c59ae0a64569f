"""Messages of Dramatiq: a JSON object with the name of the actor, its arguments and options."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any, ClassVar, Final

from qbridge_core.contract.checks import is_number
from qbridge_core.contract.envelope import (
    MalformedTaskError,
    Task,
    UnsupportedTaskError,
    json_type,
    object_in,
    read_json,
    write_json,
)
from qbridge_core.contract.message import Delivery, Message
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

_NAME, _ID, _OPTIONS, _SENT = "actor_name", "message_id", "options", "message_timestamp"
_MARKS: Final = (b'"actor_name"', b'"message_id"', b'"args"')
_AFTERWARDS: Final = (
    "pipe_target",
    "on_success",
    "on_failure",
    "on_retry_exhausted",
    "group_completion_uuid",
    "group_completion_callbacks",
)
"""Options by which other messages are sent when a task has ended."""
_DELAYED: Final = ".DQ"
"""What ends the name of the queue in which delayed messages wait."""


class DramatiqFormat(ForeignFormat):
    """Messages of Dramatiq, as its ``JSONEncoder`` writes them.

    Name, id, ``eta``, ``max_age`` and ``retries`` count. A message by which others are sent when it has ended (a
    pipeline, ``on_success``, ``on_failure``, a group with a callback) is ``unsupported``. Results are not stored.
    """

    name: ClassVar[str] = "dramatiq"

    def accepts(self, delivery: Delivery) -> bool:
        """By a body that is an object with the keys of a message of Dramatiq."""
        body = delivery.body
        if body[:1] != b"{" or not all(mark in body for mark in _MARKS):
            return False
        document = object_in(body)
        return document is not None and all(key in document for key in (_NAME, _ID, "args"))

    def read(self, delivery: Delivery, max_bytes: int) -> Task:
        """Read it."""
        document = read_json(delivery.body, max_bytes)
        if not isinstance(document, dict):
            raise MalformedTaskError(f"the body is a JSON {json_type(document)}, not an object")
        task_id = text_of(f'"{_ID}"', document.get(_ID))
        name = text_of(f'"{_NAME}"', document.get(_NAME), task_id)
        args, kwargs = call_of(document.get("args"), document.get("kwargs"), task_id)
        options = _options(document.get(_OPTIONS), name, task_id)
        expires_at = _expiry(options, document.get(_SENT))
        count_retries(delivery, options.get("retries"), expires_at)
        if options.get("store_results"):
            self._tell_of_results(delivery, name, "")
        return Task(
            kwargs,
            task_id,
            version_in(options.get(VERSION)),
            name,
            args,
            expires_at,
            _seconds(options.get("eta")),
        )

    def write(self, task: Outgoing) -> Message:
        """Write it."""
        args, kwargs = call_for(task.payload)
        now = round(time.time() * 1000)
        options: dict[str, object] = {}
        if task.expires_at is not None:
            options["max_age"] = max(1, round(task.expires_at * 1000) - now)  # 0 would be none
        if task.version != 1:
            options[VERSION] = task.version
        document = {
            "queue_name": task.queue,
            _NAME: name_for(task.name, self.name),
            "args": args,
            "kwargs": kwargs,
            _OPTIONS: options,
            _ID: task.task_id,
            _SENT: now,
        }
        return Message(write_json(document, task.payload, task.task_id), task.headers, task.message_id)

    def feeder_of(self, queue: str) -> str | None:
        """The queue in which Dramatiq's delayed messages wait."""
        return f"{queue}{_DELAYED}"


def _options(options: object, name: str, task_id: str) -> Mapping[str, Any]:
    """The options of a message, unless they ask for more than a run."""
    if options is None:
        return {}
    if not isinstance(options, dict):
        raise MalformedTaskError(f'"{_OPTIONS}" is a JSON {json_type(options)}, not an object', task_id)
    for key in _AFTERWARDS:
        if options.get(key):
            raise UnsupportedTaskError(f"{name} has the option {key}, which would not be obeyed; it has not been run",
                                       task_id)  # fmt: skip
    return options


def _seconds(milliseconds: object) -> float | None:
    """A time in milliseconds as Unix time in seconds; what is none means at once, as it does to Dramatiq."""
    return milliseconds / 1000 if is_number(milliseconds) else None


def _expiry(options: Mapping[str, Any], sent: object) -> float | None:
    """When a message is too old, where it says so."""
    age = options.get("max_age")
    return (sent + age) / 1000 if age and is_number(age) and is_number(sent) else None
