"""Calls the lifecycle hooks of a worker's plugins.

A pluggy call costs more than the rest of a short task's bookkeeping, so a hook that nobody implements is not called
at all.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

import pluggy

from qbridge_core import hookspecs
from qbridge_core.errors import ConfigurationError
from qbridge_core.hookspecs import PROJECT
from qbridge_core.logs import logger

_log: Final = logger("qbridge.plugins")


def _nothing(**_: object) -> None:
    """Stands for a hook without implementations."""


class Lifecycle:
    """The lifecycle hooks of a set of plugins, each as a function that never raises.

    Raises:
        ConfigurationError: a plugin implements a hook that does not exist, or with other arguments.
    """

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
        self.worker_started = self._caller("qbridge_worker_started")
        self.worker_stopping = self._caller("qbridge_worker_stopping")
        self.task_started = self._caller("qbridge_task_started")
        self.task_succeeded = self._caller("qbridge_task_succeeded")
        self.task_failed = self._caller("qbridge_task_failed")
        self.task_timed_out = self._caller("qbridge_task_timed_out")
        self.task_retried = self._caller("qbridge_task_retried")
        self.task_dead_lettered = self._caller("qbridge_task_dead_lettered")

    def _caller(self, name: str) -> Callable[..., None]:
        hook: pluggy.HookCaller = getattr(self._manager.hook, name)
        if not hook.get_hookimpls():
            return _nothing

        def call(**arguments: object) -> None:
            try:
                hook(**arguments)
            except BaseException:  # noqa: BLE001 - a plugin is foreign code, and a test's `fail` no Exception
                _log.exception("a plugin's %s raised; the task is not affected", name)

        return call
