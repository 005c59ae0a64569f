"""Calls the function that a message names, with its payload as arguments."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final, NoReturn

from qbridge_core.app.framework import Framework, framework_here
from qbridge_core.app.payload.misfit import MisfitError, kind_of, listed
from qbridge_core.app.payload.signature import UnknownKeysError
from qbridge_core.app.task import AppTask
from qbridge_core.contract.dead_letter import Reason
from qbridge_core.contract.envelope import MalformedTaskError, Task
from qbridge_core.contract.message import Delivery
from qbridge_core.task.context import current_task
from qbridge_core.task.routing import NotYetError, Router
from qbridge_core.task.terms import Terms

_Call = tuple[AppTask[Any], dict[str, Any]]
_NOWHERE: Final[Mapping[str, str]] = {}
_NAME: Final = "task"
_VERSION: Final = "version"


class Dispatch(Router):
    """The tasks of one queue, whose functions run in threads or child processes.

    Args:
        queue: what errors call it.
        tasks: at least one.
        patience: seconds for which a message waits that needs a newer program than this one.
        framework: what stands around each function, if anything.
        elsewhere: the queues of tasks that this program has, and this queue has not, by all their names.
    """

    def __init__(
        self,
        queue: str,
        tasks: Iterable[AppTask[Any]],
        patience: float,
        framework: Framework | None,
        elsewhere: Mapping[str, str] = _NOWHERE,
    ) -> None:
        self._queue = queue
        self._tasks = tuple(tasks)
        self._patience = patience
        self._framework = framework
        self._elsewhere = elsewhere
        self._called = {
            task: task.function if framework is None else framework.around(task.function) for task in self._tasks
        }
        self._by_name = {name: task for task in self._tasks for name in (task.name, *task.aliases)}
        self.functions = [task.function for task in self._tasks]
        self.terms = [task.terms for task in self._tasks]

    def __reduce__(self) -> tuple[Callable[..., object], tuple[Any, ...]]:
        # The framework is unpickled first: the modules of the tasks may need it.
        return _rebuilt, (self._framework, type(self), self._queue, self._tasks, self._patience)

    def route(self, task: Task, delivery: Delivery) -> Terms:
        """Find the function, and make its arguments of the payload."""
        del delivery
        name = task.document.get(_NAME) if task.name is None else task.name
        found = self._by_name.get(name) if isinstance(name, str) else self._refuse_nameless(task, name)
        if found is None:
            other = self._elsewhere.get(str(name))
            moved = "" if other is None else f" (one of {other!r} is: it can be replayed with that as its target)"
            raise self._not_yet(f"no task of {self._queue!r} is called {name!r}{moved}", task, Reason.UNKNOWN_TASK)
        task.payload = found, self._arguments(found, task)
        return found.terms

    def _arguments(self, found: AppTask[Any], task: Task) -> dict[str, Any]:
        version = task.document.get(_VERSION, 1)
        if type(version) is not int or version < 1:
            raise MalformedTaskError(f'"{_VERSION}" is {kind_of(version)}, not a whole number from 1 on', task.task_id)
        if version > found.payload_version:
            text = f"the payload is of version {version} of {found.name}, which is {found.payload_version} here"
            raise self._not_yet(text, task, Reason.UNKNOWN_TASK)
        try:
            payload = task.payload if task.args is None else found.signature.named(task.args, task.payload)
            if version != found.payload_version:
                payload = _upgraded(found, payload, version)
            return found.signature.decode(payload)
        except MisfitError as exc:
            raise MalformedTaskError(f"{found.name}: {exc}", task.task_id) from exc
        except UnknownKeysError as exc:
            text = f"{found.name}: payload has keys that are no parameters: {listed(exc.keys)}"
            raise self._not_yet(text, task, Reason.MALFORMED) from exc

    def _not_yet(self, text: str, task: Task, reason: Reason) -> NotYetError:
        known = f"; this program has {listed(list(self._by_name))}" if reason is Reason.UNKNOWN_TASK else ""
        return NotYetError(text + known, reason, self._patience, task.task_id)

    def _refuse_nameless(self, task: Task, name: object) -> NoReturn:
        known = listed(list(self._by_name))
        if task.name is None and not task.document:
            raise MalformedTaskError(f"nothing says which task this is: {known}", task.task_id)
        what = "has no" if name is None else f"has {kind_of(name)} as"
        raise MalformedTaskError(f'the JSON object {what} "{_NAME}", which names the task: {known}', task.task_id)

    def __call__(self, payload: _Call) -> object:
        """Run it."""
        task, arguments = payload
        result = self._started(task, arguments)
        if not inspect.iscoroutine(result):
            return result
        import asyncio  # here, for most queues do without

        return asyncio.run(result)

    def _started(self, task: AppTask[Any], arguments: dict[str, Any]) -> Any:
        function = self._called[task]
        return function(**arguments) if task.signature.context is None else function(current_task(), **arguments)


class AsyncDispatch(Dispatch):
    """The same on an event loop. Functions that are no coroutines run in threads."""

    async def __call__(self, payload: _Call) -> object:
        """Run it."""
        task, arguments = payload
        if task.is_async:
            return await self._started(task, arguments)
        import asyncio

        result = await asyncio.to_thread(self._started, task, arguments)
        return await result if inspect.iscoroutine(result) else result  # a decorator has hidden that it is one


def dispatch_for(
    queue: str,
    tasks: Iterable[AppTask[Any]],
    patience: float,
    *,
    processes: bool,
    elsewhere: Mapping[str, str] = _NOWHERE,
) -> Dispatch:
    """What suits the tasks: an event loop for coroutines.

    A thread that waits for a coroutine is a waste, so one is enough for that; a child process has one task at a time.
    """
    found = tuple(tasks)
    are_async = [task.is_async for task in found]
    on_loop = all(are_async) if processes else any(are_async)
    return (AsyncDispatch if on_loop else Dispatch)(queue, found, patience, framework_here(), elsewhere)


def _rebuilt(
    framework: Framework | None, kind: type[Dispatch], queue: str, tasks: Iterable[AppTask[Any]], patience: float
) -> Dispatch:
    return kind(queue, tasks, patience, framework)


def _upgraded(task: AppTask[Any], payload: object, version: int) -> object:
    try:
        return task.upgraded(payload, version)
    except Exception as exc:
        raise MisfitError(f"it is of version {version}, and its upgrade raised {type(exc).__name__}") from exc
