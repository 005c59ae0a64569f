"""Has plugins enter a context manager around each run, in the thread, on the loop or in the process that runs it."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final, Self, cast

import pluggy

from qbridge_core.contract.plugins import load_plugin, plugin_manager
from qbridge_core.task.context import TaskContext
from qbridge_core.task.run import Run
from qbridge_core.task.scope import Manager, Scope

HOOK: Final = "qbridge_task_run"


class RunHooks:
    """The plugins that have the hook around a run. Another process that gets this has those that were named anew.

    Args:
        plugins: objects with that hook, or ``"module:name"`` of one each.
        system: of the client.
        server: of the client.
    """

    def __init__(self, plugins: Sequence[object], system: str, server: tuple[str, int | None] | None) -> None:
        self._plugins = tuple(plugins)
        self._system = system
        self._server = server
        hook: pluggy.HookCaller = getattr(plugin_manager(plugins).hook, HOOK)
        self._implementations = [
            (cast("Callable[..., Manager | None]", each.function), tuple(each.argnames))
            for each in hook.get_hookimpls()
        ]

    def __reduce__(self) -> tuple[type[RunHooks], tuple[Any, ...]]:
        return RunHooks, (self._plugins, self._system, self._server)

    @classmethod
    def of(cls, plugins: Sequence[object], system: str, server: tuple[str, int | None] | None) -> Self | None:
        """Those of a manager's plugins, which were checked, that have the hook; None when none has."""
        wanted = [plugin for plugin in plugins if _has_hook(plugin)]
        return cls(wanted, system, server) if wanted else None

    def enter(self, run: Run) -> None:
        """Enter what the plugins put around a run, in their order; ``run.scope`` has to be left. Never raises."""
        scope = run.scope = Scope()
        arguments = {"task": TaskContext(run), "system": self._system, "server": self._server}
        for function, names in self._implementations:
            scope.enter(functools.partial(function, *(arguments[name] for name in names)))

    @contextmanager
    def around(self, run: Run) -> Iterator[None]:
        """Enter before the block, and leave after it."""
        self.enter(run)
        scope = run.scope
        assert scope is not None  # noqa: S101 - it was entered
        try:
            yield
        except BaseException as exc:
            scope.leave(exc)
            raise
        else:
            scope.leave(None)


def _has_hook(plugin: object) -> bool:
    found = load_plugin(plugin) if isinstance(plugin, str) else plugin
    return getattr(found, HOOK, None) is not None
