"""Bodies that are bytes."""

from __future__ import annotations

from typing import ClassVar

from qbridge_core.contract.envelope import Task, refuse_long
from qbridge_core.contract.message import Delivery, Message
from qbridge_core.errors import PayloadError
from qbridge_core.task.formats import beside
from qbridge_core.task.formats.base import Format, Outgoing
from qbridge_core.task.formats.names import checked_name


class RawFormat(Format):
    """The body as it is: the payload is ``bytes``. It accepts every message.

    Args:
        task: the task of an :class:`~qbridge_core.App` that a message without the header ``qbridge-task`` is for. Its
            function has one parameter, and ``whole_payload=True``.

    Raises:
        ConfigurationError: no task can be called so.
    """

    name: ClassVar[str] = "raw"
    breadth: ClassVar[int] = 2

    def __init__(self, task: str | None = None) -> None:
        self._task = checked_name(task)

    def accepts(self, delivery: Delivery) -> bool:
        """Always."""
        del delivery
        return True

    def read(self, delivery: Delivery, max_bytes: int) -> Task:
        """Take it as it is."""
        refuse_long(delivery.body, max_bytes)
        return beside.task_of(delivery.body, delivery, self._task)

    def write(self, task: Outgoing) -> Message:
        """Write bytes, or a text in UTF-8; what a worker must know beside them goes into headers."""
        payload = task.payload
        if isinstance(payload, str):
            payload = payload.encode("utf-8", "surrogatepass")
        if not isinstance(payload, bytes | bytearray | memoryview):
            raise PayloadError(
                f"the payload of task {task.task_id!r} is a {type(payload).__name__}: RawFormat writes bytes"
            )
        return Message(bytes(payload), beside.headers_of(task, self._task), task.message_id)
