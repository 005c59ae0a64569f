"""A task of ``django.tasks`` as a task of an app: what its message has, and what runs in a worker."""

from __future__ import annotations

import asyncio
import functools
import inspect
from collections.abc import Callable
from typing import Any, Final

from qbridge_core.app.payload.signature import signature_of
from qbridge_core.app.sending import Outbox
from qbridge_core.app.task import AppTask
from qbridge_core.contrib.django.backend import results
from qbridge_core.contrib.django.backend.found import task_called
from qbridge_core.contrib.django.backend.library import (
    Task,
    TaskContext,
    TaskResult,
    task_backends,
    task_finished,
    task_started,
)
from qbridge_core.contrib.django.connections import with_connections
from qbridge_core.task.context import current_task
from qbridge_core.task.terms import Terms

Args = list[Any] | None
KwArgs = dict[str, Any] | None


def _payload(args: list[Any] = None, kwargs: dict[str, Any] = None) -> None:  # type: ignore[assignment] # noqa: RUF013
    """What travels: the arguments as they were given, each kind where there are some."""


_SIGNATURE: Final = signature_of(_payload, "a task of Django")


class TaskCall(AppTask[Any]):
    """A task of ``django.tasks`` in one of the queues that it may be sent to.

    Args:
        task: that of Django.
        queue: where its messages are.
        alias: the backend that sends them.
        terms: its timeout and retries.
        outbox: what sends them.
        on_loop: a coroutine runs on the event loop of the worker; in a thread, with a loop of its own, otherwise.
    """

    def __init__(
        self, task: Task, queue: str, alias: str, terms: Terms, outbox: Callable[[], Outbox], *, on_loop: bool
    ) -> None:
        function = _coroutine(task, alias) if inspect.iscoroutinefunction(task.func) else _function(task, alias)
        if inspect.iscoroutinefunction(function) and not on_loop:
            function = _in_thread(function)
        super().__init__(function, task.module_path, queue, (), terms, _SIGNATURE, outbox)
        self.django_task = task
        self._rebuild = task.module_path, queue, alias, on_loop

    def __reduce__(self) -> Any:
        """A child process finds the task, and the settings of its backend."""
        return _rebuilt, self._rebuild


def _rebuilt(path: str, queue: str, alias: str, on_loop: bool) -> TaskCall:
    call: TaskCall = task_backends[alias].app.call(task_called(path), queue, on_loop=on_loop)
    return call


def _function(task: Task, alias: str) -> Callable[..., Any]:
    @functools.wraps(task.func)
    def run(args: Args = None, kwargs: KwArgs = None) -> None:
        result, sender = _begun(task, alias, args, kwargs)
        task_started.send_robust(sender, task_result=result)
        results.succeed(result, task.func(*_positional(result), **result.kwargs))
        task_finished.send_robust(sender, task_result=result)

    return run


def _coroutine(task: Task, alias: str) -> Callable[..., Any]:
    @functools.wraps(task.func)
    async def run(args: Args = None, kwargs: KwArgs = None) -> None:
        result, sender = _begun(task, alias, args, kwargs)
        await task_started.asend_robust(sender, task_result=result)
        results.succeed(result, await task.func(*_positional(result), **result.kwargs))
        await task_finished.asend_robust(sender, task_result=result)

    return run


def _in_thread(coroutine: Callable[..., Any]) -> Callable[..., Any]:
    connected = with_connections(coroutine)

    @functools.wraps(coroutine)
    def run(args: Args = None, kwargs: KwArgs = None) -> None:
        asyncio.run(connected(args, kwargs))

    return run


def _begun(task: Task, alias: str, args: Args, kwargs: KwArgs) -> tuple[TaskResult, type]:
    """The result, and what its signals come from. A receiver that raises changes nothing for the task."""
    return results.running(task, alias, current_task(), args or [], kwargs or {}), type(task_backends[alias])


def _positional(result: TaskResult) -> list[Any]:
    context = [TaskContext(task_result=result)] if result.task.takes_context else []
    return [*context, *result.args]
