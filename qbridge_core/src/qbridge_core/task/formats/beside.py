"""What is told of a task in headers, beside a body that is all payload."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final

from qbridge_core.contract.checks import MAX_ID_CHARS
from qbridge_core.contract.envelope import MalformedTaskError, Task
from qbridge_core.contract.headers import END_OF_TIME, meta_text
from qbridge_core.contract.message import Delivery
from qbridge_core.errors import PayloadError
from qbridge_core.task.formats.base import Outgoing

NAME: Final = "qbridge-task"
VERSION: Final = "qbridge-task-version"
TASK_ID: Final = "qbridge-task-id"
EXPIRES_AT: Final = "qbridge-expires-at-ms"
_OWN: Final = (NAME, VERSION, TASK_ID, EXPIRES_AT)


def refuse_own(task: Outgoing, own: Iterable[str]) -> None:
    """Refuse headers of a producer that begin as those do which the format writes.

    Raises:
        PayloadError: there is one.
    """
    found = sorted(name for name in task.headers if name.lower().startswith(tuple(own)))
    if found:
        raise PayloadError(f"headers of task {task.task_id!r} have names that its format writes: {', '.join(found)}")


def headers_of(task: Outgoing, usual: str | None) -> Mapping[str, str]:
    """The headers of a message: the producer's, and what its body does not tell.

    Args:
        task: the task.
        usual: the name of a task that is not told, since all others are told.

    Raises:
        PayloadError: the producer has written one of them itself.
    """
    refuse_own(task, _OWN)
    told: dict[str, str] = {}
    if task.name is not None and task.name != usual:
        told[NAME] = task.name
    if task.version != 1:
        told[VERSION] = str(task.version)
    if task.task_id != task.message_id:
        told[TASK_ID] = task.task_id
    if task.expires_at is not None:
        told[EXPIRES_AT] = str(round(task.expires_at * 1000))
    return {**task.headers, **told} if told else task.headers


def task_of(payload: Any, delivery: Delivery, usual: str | None) -> Task:
    """The task with this payload, and with what the headers tell of it.

    Raises:
        MalformedTaskError: they cannot be read.
    """
    headers = delivery.headers
    if not headers:
        return Task(payload, None, headers, usual)
    task_id = meta_text(headers, TASK_ID)[:MAX_ID_CHARS] or None
    version = _number(headers, VERSION, task_id)
    expires_ms = _number(headers, EXPIRES_AT, task_id)
    return Task(
        payload,
        task_id,
        {"version": 1 if version is None else version},
        meta_text(headers, NAME) or usual,
        expires_at=None if expires_ms is None else min(expires_ms, END_OF_TIME) / 1000,
    )


def _number(headers: Mapping[str, Any], name: str, task_id: str | None) -> int | None:
    text = meta_text(headers, name)
    if not text:
        return None
    if not text.isdecimal() or len(text) > MAX_ID_CHARS:
        raise MalformedTaskError(f"the header {name} is {text[:20]!r}, not a whole number", task_id)
    return int(text)
