"""Whose a message is: of which queue, which task of an app, which handler."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final, NamedTuple

from qbridge_core import App, AppTask, TaskManager
from qbridge_memory.stored import StoredMessage
from qbridge_pytest.reading import Reader


class Whose(NamedTuple):
    """Some of the messages of a test.

    Attributes:
        name: whose they are, in words; "" for all.
        has: whether one of this queue is among them.
    """

    name: str
    has: Callable[[str, StoredMessage], bool]


EVERYBODY: Final = Whose("", lambda _queue, _message: True)


class Owners:
    """Tells whose messages are.

    Args:
        apps: those that the test has opened; there may be more later.
        managers: its own managers, likewise.
        reader: reads messages.
    """

    def __init__(self, apps: Sequence[App], managers: Sequence[TaskManager], reader: Reader) -> None:
        self._apps = apps
        self._managers = managers
        self._reader = reader

    def of(self, which: str | AppTask[Any] | None) -> Whose:
        """Those of a queue or of a task."""
        if which is None:
            return EVERYBODY
        if isinstance(which, str):
            return Whose(repr(which), lambda queue, _: queue == which)
        return Whose(which.name, lambda queue, message: self.is_of(which, queue, self._reader.name(queue, message)))

    def of_handlers(self, handlers: Sequence[object]) -> Whose:
        """Those that some tasks or functions run on; all, where the functions are no handlers but what those call."""
        tasks = [self.of(each) for each in handlers if isinstance(each, AppTask)]

        def are_theirs(queue: str, message: StoredMessage) -> bool:
            queues = [queue for each in self._managers if each._plan.handler in handlers for queue in each.input_queues]
            return not (tasks or queues) or queue in queues or any(task.has(queue, message) for task in tasks)

        return Whose(", ".join(task.name for task in tasks), are_theirs) if handlers else EVERYBODY

    def is_of(self, task: AppTask[Any], queue: str, name: object) -> bool:
        """Whether a message that names a task in a queue means this one: another app may have one of the same name."""
        if name not in (task.name, *task.aliases):
            return False
        others = (app for app in self._apps if app._root._outbox is not task._outbox())
        return queue == task.queue or all(queue != each.queue for app in others for each in app._root.tasks)
