"""Calls the lifecycle hooks of a worker's plugins.

A pluggy call costs more than the rest of a short task's bookkeeping, so a hook that nobody implements is not called
at all.
"""

from __future__ import annotations

import inspect
import reprlib
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Final

import pluggy

from qbridge_core.contract import hookspecs
from qbridge_core.contract.hookspecs import PROJECT
from qbridge_core.errors import ConfigurationError
from qbridge_core.runtime.clock import monotonic
from qbridge_core.runtime.logs import logger
from qbridge_core.task import foreign

_log: Final = logger("qbridge.plugins")
_LONGEST_WAIT: Final = 5.0
_HOOK_PREFIX: Final = "qbridge_"


def _nothing(**_: object) -> None:
    """Stands for a hook without implementations."""


class _Telling:
    """The call of a hook: in which thread it is, and whether it is over."""

    __slots__ = ("over", "thread")

    def __init__(self) -> None:
        self.over = threading.Event()
        self.thread = threading.get_ident()


class HookOrder:
    """Has the hooks about one task called in the order of what they tell, whichever threads call them.

    The copy of a message for its next attempt can be received as soon as the broker has it, which is before the hook
    that tells of it has been called. So whoever settles a task *tells* of it until that hook has returned, and whoever
    takes the next attempt waits for that; likewise a timeout for the hook that tells of the start. Thread-safe.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._telling: dict[str, list[_Telling]] = {}

    def begin(self, task_id: str) -> _Telling:
        """Something becomes of this task, of which a hook has yet to tell."""
        told = _Telling()
        with self._lock:
            self._telling.setdefault(task_id, []).append(told)
        return told

    def end(self, task_id: str, told: _Telling) -> None:
        """The hook has returned, or is not waited for any more. May be called again."""
        with self._lock:
            others = self._telling.get(task_id, [])
            if told in others:
                others.remove(told)
                if not others:
                    del self._telling[task_id]
        told.over.set()

    def give_up(self, thread: int) -> None:
        """The hooks that this thread calls hang."""
        with self._lock:
            hung = [
                (task_id, told) for task_id, each in self._telling.items() for told in each if told.thread == thread
            ]
        for task_id, told in hung:
            self.end(task_id, told)

    @contextmanager
    def telling(self, task_id: str) -> Iterator[None]:
        """``begin`` and ``end`` around a block."""
        told = self.begin(task_id)
        try:
            yield
        finally:
            self.end(task_id, told)

    def wait(self, task_id: str) -> None:
        """Wait until all is told that has begun by now; at most for some seconds, since a hook may hang."""
        if task_id not in self._telling:
            return
        with self._lock:
            begun = list(self._telling.get(task_id, ()))
        deadline = monotonic() + _LONGEST_WAIT
        for told in begun:
            if not told.over.wait(max(0.0, deadline - monotonic())):
                self.end(task_id, told)  # once is enough


# One for all managers of the process: the next attempt may run in another one.
_ORDER: Final = HookOrder()


class Lifecycle:
    """The lifecycle hooks of a set of plugins, each as a function that never raises.

    Attributes:
        order: keeps the hooks about a task in order; None when nobody listens to any.

    Raises:
        ConfigurationError: a plugin implements a hook that does not exist, or with other arguments; or it has none,
            or one that is not marked as such, or is a class instead of an object: its hooks would never be called.
    """

    order: HookOrder | None = None

    def __init__(self, plugins: Sequence[object]) -> None:
        if isinstance(plugins, str) or not isinstance(plugins, Sequence):
            raise ConfigurationError(f"plugins must be a sequence of objects with hooks, not {plugins!r}")
        self._manager = pluggy.PluginManager(PROJECT)
        self._manager.add_hookspecs(hookspecs)
        try:
            for plugin in plugins:
                self._manager.register(plugin)
            self._manager.check_pending()
        except (pluggy.PluginValidationError, ValueError) as exc:
            raise ConfigurationError(f"a plugin cannot be used: {exc}") from exc
        for plugin in plugins:
            if problem := self._why_not_called(plugin):
                raise ConfigurationError(f"plugin {reprlib.repr(plugin)} {problem}")
        self.worker_started = self._caller("qbridge_worker_started")
        self.worker_stopping = self._caller("qbridge_worker_stopping")
        self.task_started = self._caller("qbridge_task_started")
        self.task_succeeded = self._caller("qbridge_task_succeeded")
        self.task_failed = self._caller("qbridge_task_failed")
        self.task_timed_out = self._caller("qbridge_task_timed_out")
        self.task_retried = self._caller("qbridge_task_retried")
        self.task_dead_lettered = self._caller("qbridge_task_dead_lettered")
        about_tasks = (
            self.task_started, self.task_succeeded, self.task_failed, self.task_timed_out, self.task_retried,
            self.task_dead_lettered,
        )  # fmt: skip
        if any(call is not _nothing for call in about_tasks):
            self._keep_order(_ORDER)

    def _why_not_called(self, plugin: object) -> str | None:
        """Why hooks of a plugin would not be called, or not as somebody thinks, if that is so."""
        marked = {hook.name for hook in self._manager.get_hookcallers(plugin) or ()}
        for name in dir(plugin):
            if name not in marked and name in vars(hookspecs) and name.startswith(_HOOK_PREFIX):
                return f"has a {name} that is not marked as a hook: write @hookimpl above it (from qbridge_core)"
        if not marked:
            return f"has no hooks: methods marked with @hookimpl whose names begin with {_HOOK_PREFIX}"
        if isinstance(plugin, type) and any(
            inspect.isfunction(inspect.getattr_static(plugin, name)) for name in marked
        ):
            return f"is a class: give an object of it, {plugin.__name__}()"
        return None

    def _keep_order(self, order: HookOrder) -> None:
        self.order = order
        tell_start, tell_timeout = self.task_started, self.task_timed_out

        def started(queue: str, task_id: str, attempt: int) -> None:
            with order.telling(task_id):
                tell_start(queue=queue, task_id=task_id, attempt=attempt)

        def timed_out(queue: str, task_id: str, attempt: int, timeout: float) -> None:
            order.wait(task_id)
            tell_timeout(queue=queue, task_id=task_id, attempt=attempt, timeout=timeout)

        self.task_started, self.task_timed_out = started, timed_out

    @property
    def hears_start(self) -> bool:
        """True when somebody listens to the start of a worker."""
        return self.worker_started is not _nothing

    def give_up(self, thread: int) -> None:
        """A hook hangs in this thread: nobody waits for it."""
        if self.order is not None:
            self.order.give_up(thread)

    def telling(self, task_id: str) -> AbstractContextManager[None]:
        """Around a settlement and the hook that tells of it."""
        return nullcontext() if self.order is None else self.order.telling(task_id)

    def _caller(self, name: str) -> Callable[..., None]:
        hook: pluggy.HookCaller = getattr(self._manager.hook, name)
        if not hook.get_hookimpls():
            return _nothing

        def guarded(arguments: dict[str, object]) -> None:
            try:
                hook(**arguments)
            except BaseException:  # noqa: BLE001 - a plugin is foreign code, and a test's `fail` no Exception
                _log.exception("a plugin's %s raised; the task is not affected", name)

        def call(**arguments: object) -> None:
            foreign.call(f"a plugin's {name}", None, lambda: guarded(arguments), None)

        return call
