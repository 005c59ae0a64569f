"""Bodies that are JSON, and all payload."""

from __future__ import annotations

from typing import ClassVar, Final

from qbridge_core.contract.envelope import Task, read_json, write_json
from qbridge_core.contract.message import Delivery, Message
from qbridge_core.task.formats import beside
from qbridge_core.task.formats.base import Format, Outgoing
from qbridge_core.task.formats.names import checked_name

_BEGINS: Final = frozenset(b'{["-0123456789tfn')
_SPACE: Final = b" \t\r\n"


class JSONFormat(Format):
    """The whole body is the payload, in JSON.

    Args:
        task: the task of an :class:`~qbridge_core.App` that a message without the header ``qbridge-task`` is for.

    Raises:
        ConfigurationError: no task can be called so.
    """

    name: ClassVar[str] = "JSON"
    breadth: ClassVar[int] = 1

    def __init__(self, task: str | None = None) -> None:
        self._task = checked_name(task)

    def accepts(self, delivery: Delivery) -> bool:
        """Whether it begins as JSON does."""
        start = delivery.body[:64].lstrip(_SPACE)
        return bool(start) and start[0] in _BEGINS

    def read(self, delivery: Delivery, max_bytes: int) -> Task:
        """Read it."""
        return beside.task_of(read_json(delivery.body, max_bytes), delivery, self._task)

    def write(self, task: Outgoing) -> Message:
        """Write it; what a worker must know beside the payload goes into headers."""
        body = write_json(task.payload, task.payload, task.task_id)
        return Message(body, beside.headers_of(task, self._task), task.message_id)
