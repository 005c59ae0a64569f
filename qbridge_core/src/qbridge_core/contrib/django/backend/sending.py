"""``QBridgeBackend``: what ``TASKS`` in the settings of Django names."""

from __future__ import annotations

import functools
import threading
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any, Final

from django.apps import apps
from django.core import checks
from django.utils import timezone

from qbridge_core.contract.message import new_id
from qbridge_core.contract.registry import client_for
from qbridge_core.contrib.django.backend import results
from qbridge_core.contrib.django.backend.calls import TaskCall
from qbridge_core.contrib.django.backend.library import (
    LIBRARY,
    BaseTaskBackend,
    InvalidTask,
    InvalidTaskBackend,
    Task,
    TaskResult,
    task_enqueued,
)
from qbridge_core.contrib.django.backend.tasksapp import URL, TasksApp
from qbridge_core.contrib.django.framework import URL_SETTING, url_of_settings, with_shared_memory
from qbridge_core.errors import ConfigurationError
from qbridge_core.runtime.signatures import call_signature

_Settings = tuple[str, Sequence[str], Mapping[str, Any]]

_apps: Final[dict[str, tuple[_Settings, TasksApp]]] = {}
_making: Final = threading.Lock()


class QBridgeBackend(BaseTaskBackend):  # type: ignore[misc]
    """Sends tasks of ``django.tasks`` through QBridge; ``manage.py qbridge worker`` runs them.

    Django makes one for each thread; all of an alias have one app, with one connection.
    """

    supports_async_task = True
    supports_get_result = False
    supports_priority = False

    def __init__(self, alias: str, params: Mapping[str, Any]) -> None:
        super().__init__(alias, params)
        self._queue_names = list(params.get("QUEUES", ["default"]))
        self._problem: checks.Error | None = None
        self._app: TasksApp | None = None
        try:
            self._app = _app_of(alias, self._settings())
        except ConfigurationError as exc:
            self._problem = self._error(str(exc), "E002")

    @property
    def supports_defer(self) -> bool:
        """Whether the broker can hold what is to run later."""
        return self._app is None or _holds_delays(self._app.url)

    @property
    def app(self) -> TasksApp:
        """What sends.

        Raises:
            InvalidTaskBackend: the settings are wrong.
        """
        if self._app is None:
            raise InvalidTaskBackend(self._problem.msg if self._problem else "")
        return self._app

    def validate_task(self, task: Task) -> None:
        """Refuse what cannot be run, as Django does.

        Raises:
            InvalidTask: it cannot.
        """
        if not isinstance(task, Task):
            raise InvalidTask(f"{task!r} is no task of {LIBRARY}; import `task` from there.")
        super().validate_task(task)

    def enqueue(self, task: Task, args: Sequence[Any], kwargs: Mapping[str, Any]) -> TaskResult:
        """Send a task; its message is confirmed on return.

        Raises:
            TypeError: the function does not take such arguments.
            TypeError, ValueError, PayloadError: JSON does not have one of them.
            InvalidTaskBackend: the settings are wrong.
            The errors of ``QueueClient.publish`` and, at the first task, of ``connect`` and ``declare``.
        """
        result, sender = self._prepared(task, args, kwargs)
        sender.send(**_payload(result))
        results.enqueued(result)
        task_enqueued.send_robust(type(self), task_result=result)  # it is sent, whatever a receiver says
        return result

    async def aenqueue(self, task: Task, args: Sequence[Any], kwargs: Mapping[str, Any]) -> TaskResult:
        """The same in a coroutine."""
        result, sender = self._prepared(task, args, kwargs)
        await sender.asend(**_payload(result))
        results.enqueued(result)
        await task_enqueued.asend_robust(type(self), task_result=result)
        return result

    def get_result(self, result_id: str) -> TaskResult:
        """There is none.

        Raises:
            NotImplementedError: in any case.
        """
        raise NotImplementedError(
            f"QBridge keeps no results, so that of {result_id!r} cannot be had: let the task write it where others look"
        )

    async def aget_result(self, result_id: str) -> TaskResult:
        """The same in a coroutine."""
        return self.get_result(result_id)

    def check(self, **kwargs: Any) -> Iterator[checks.CheckMessage]:
        """What is wrong with its settings, for ``manage.py check``."""
        del kwargs
        if self._problem is not None:
            yield self._problem
        if not apps.is_installed("qbridge_core.contrib.django"):
            yield checks.Error(
                "INSTALLED_APPS lacks qbridge_core.contrib.django, so there is no `manage.py qbridge worker`",
                obj=f"TASKS[{self.alias!r}]",
                id="qbridge.E003",
            )

    def _settings(self) -> _Settings:
        own = self.options.get(URL)
        if not isinstance(own, str | None):
            raise ConfigurationError(f"url in OPTIONS is a text, not a {type(own).__name__}")
        url = with_shared_memory(own) if own else url_of_settings()
        if url is None:
            raise ConfigurationError(f"which broker? Set {URL_SETTING} in the settings, as in redis://localhost:6379/0")
        if not self._queue_names:
            raise ConfigurationError("QUEUES is empty: a worker works on the queues that it names")
        client_for(url)  # whether there is such a broker; it connects with the first task
        return url, self._queue_names, self.options

    def _error(self, text: str, number: str) -> checks.Error:
        return checks.Error(text, obj=f"TASKS[{self.alias!r}]", id=f"qbridge.{number}")

    def _prepared(self, task: Task, args: Sequence[Any], kwargs: Mapping[str, Any]) -> tuple[TaskResult, TaskCall]:
        self.validate_task(task)
        _check_arguments(task, args, kwargs)
        result = results.ready(task, self.alias, new_id(), args, kwargs)
        return result, self.app.sender(task).options(task_id=result.id, at=_aware(task.run_after))


@functools.cache
def _holds_delays(url: str) -> bool:
    return client_for(url).capabilities.delay


def _check_arguments(task: Task, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
    """What the function does not take would fail in a worker, again and again."""
    context = [None] if task.takes_context else []
    try:
        call_signature(task.func).bind(*context, *args, **kwargs)
    except TypeError as exc:
        raise TypeError(f"{task.module_path}: {exc}") from None


def _payload(result: TaskResult) -> dict[str, Any]:
    given = {"args": result.args, "kwargs": result.kwargs}
    return {name: value for name, value in given.items() if value}


def _aware(moment: datetime | None) -> datetime | None:
    """With a time zone: that of the settings, where Django works without them."""
    return moment if moment is None or timezone.is_aware(moment) else timezone.make_aware(moment)


def _app_of(alias: str, settings: _Settings) -> TasksApp:
    """The app of an alias in this process, made anew when the settings have changed, as tests do."""
    with _making:
        known = _apps.get(alias)
        if known is not None and known[0] == settings:
            return known[1]
        app = TasksApp(alias, *settings)
        _apps[alias] = settings, app
    if known is not None:
        known[1].django_tasks = ()
        known[1].close()
    return app
