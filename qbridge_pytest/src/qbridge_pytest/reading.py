"""Reads messages that are or were in the broker as the workers of their queues do."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from qbridge_core.backend import TASK_ID, Delivery, meta_text
from qbridge_core.contract.envelope import Task, read_task
from qbridge_core.task.formats.chosen import Formats
from qbridge_memory.stored import StoredMessage


class Reader:
    """Makes tasks of messages.

    Args:
        formats: those of a queue; ``None`` for the envelope alone.
    """

    def __init__(self, formats: Callable[[str], Formats | None]) -> None:
        self._formats = formats

    def task(self, queue: str, message: StoredMessage) -> Task | None:
        """The task; ``None`` for what is none."""
        delivery = Delivery.from_headers(
            message.body, queue, message.headers, message.meta, message_id=message.message_id
        )
        formats, size = self._formats(queue), len(message.body)
        try:
            return read_task(message.body, size) if formats is None else formats.read(delivery, size)
        except Exception:  # noqa: BLE001 - a format may be foreign code; what it cannot read is no task here, too
            return None

    def name(self, queue: str, message: StoredMessage) -> object:
        """What the task is called that a message is for; ``None`` where it does not say."""
        task = self.task(queue, message)
        return None if task is None else name_of(task)

    def task_id(self, queue: str, message: StoredMessage) -> str:
        """The id of its task, or else of the message; "" for none."""
        task = self.task(queue, message)
        told = None if task is None else task.task_id
        return told or meta_text(message.meta, TASK_ID) or message.message_id or ""


def name_of(task: Task) -> Any:
    """What a task is called, where its queue has several kinds."""
    return task.document.get("task") if task.name is None else task.name
