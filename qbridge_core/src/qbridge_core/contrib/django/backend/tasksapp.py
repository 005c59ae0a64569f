"""The app behind a backend of ``django.tasks``: its broker, its queues, and the terms on which its tasks run."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any, Final

from qbridge_core.app.app import App
from qbridge_core.app.queues import QueueSettings
from qbridge_core.app.task import AppTask
from qbridge_core.contrib.django.backend.calls import TaskCall
from qbridge_core.contrib.django.backend.library import Task
from qbridge_core.errors import UnknownOptionError
from qbridge_core.task.retry import terms_of

URL: Final = "url"
_OF_TASKS: Final = ("max_retries", "backoff", "task_timeout", "dead_letter_on", "retry_rules")
_OF_QUEUES: Final = tuple(name for name in QueueSettings.__annotations__ if name != "formats")
"""Messages of these tasks are envelopes: other formats do not tell positional arguments from others."""


class TasksApp(App):
    """Sends tasks of ``django.tasks`` to any of its queues, and works off those that it is given.

    Args:
        alias: the name of the backend.
        url: the broker.
        queues: the names of its queues.
        options: settings of its tasks, as of ``App.task``, and of its queues, as of ``App.queue``.

    Attributes:
        url: the broker.
        queue_names: its queues.
        django_tasks: all that there are, set by who has found them.

    Raises:
        ConfigurationError: something of that is wrong.
    """

    def __init__(self, alias: str, url: str, queues: Sequence[str], options: Mapping[str, Any]) -> None:
        super().__init__()
        _check_options(options)
        self.url = url
        self.queue_names = tuple(queues)
        self.django_tasks: Sequence[Task] = ()
        self._alias = alias
        self._connection.usual_url = lambda: url
        self._terms = terms_of(**{name: options[name] for name in _OF_TASKS if name in options})
        self._calls: dict[tuple[Any, str], TaskCall] = {}
        settings: Any = {name: options[name] for name in _OF_QUEUES if name in options}
        for name in self.queue_names if settings else ():
            self.queue(name, **settings)

    @property
    def tasks(self) -> list[AppTask[Any]]:
        """Each task in each queue: it may be sent to any. One whose own tasks are all coroutines has an event loop."""
        found: list[AppTask[Any]] = []
        for queue in self.queue_names:
            own = [task for task in self.django_tasks if (task.backend, task.queue_name) == (self._alias, queue)]
            on_loop = bool(own) and all(inspect.iscoroutinefunction(task.func) for task in own)
            found += [self.call(task, queue, on_loop=on_loop and task in own) for task in self.django_tasks]
        return found

    def call(self, task: Task, queue: str, *, on_loop: bool = False) -> TaskCall:
        """The task of an app that a task of Django's is in a queue."""
        return TaskCall(task, queue, self._alias, self._terms, self._root_outbox, on_loop=on_loop)

    def sender(self, task: Task) -> TaskCall:
        """The same, to send it."""
        key = task.func, task.queue_name
        found = self._calls.get(key)
        if found is None:
            found = self._calls[key] = self.call(task, task.queue_name)
        return found


def _check_options(options: Mapping[str, Any]) -> None:
    known = (URL, *_OF_TASKS, *_OF_QUEUES)
    for name in options:
        if name not in known:
            raise UnknownOptionError(f"OPTIONS has nothing called {name!r}; there are {', '.join(known)}")
