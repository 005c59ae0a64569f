"""What plugins have entered around a run, and that it is left once, whoever does it."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import AbstractContextManager
from contextvars import Context, copy_context
from typing import Final

from qbridge_core.runtime.logs import logger

_log: Final = logger("qbridge.plugins")
_RAISED: Final = "a plugin's qbridge_task_run raised; the task is not affected"
Manager = AbstractContextManager[object]


class Scope:
    """The context managers around one run. Thread-safe.

    The run's own thread enters them, and leaves them when the handler has ended. When it does not come back, another
    thread abandons them, in a copy of the context as it was when they were entered.
    """

    __slots__ = ("_abandoned_with", "_context", "_entered", "_is_left", "_lock")

    def __init__(self) -> None:
        self._entered: list[Manager] = []
        self._lock = threading.Lock()
        self._is_left = False
        self._abandoned_with: BaseException | None = None
        self._context: Context | None = None

    @property
    def is_left(self) -> bool:
        """True when somebody leaves it, or has."""
        return self._is_left

    def enter(self, make: Callable[[], Manager | None]) -> None:
        """Make a context manager, if one is wanted, and enter it. Never raises."""
        try:
            manager = make()
            if manager is None:
                return
            manager.__enter__()
        except BaseException:  # noqa: BLE001 - a plugin is foreign code
            _log.exception(_RAISED)
            return
        with self._lock:
            if not self._is_left:
                self._entered.append(manager)
                self._context = copy_context()
                return
        _exit(manager, self._abandoned_with)  # meanwhile the time of the run was over

    def leave(self, error: BaseException | None) -> None:
        """Leave all, the last first, with what the handler has raised; nothing when that was done. Never raises."""
        for manager in self._take():
            _exit(manager, error)

    def abandon(self, error: BaseException) -> None:
        """Leave all in the place of the run's own thread, which has not come back."""
        self._abandoned_with = error
        context = self._context
        for manager in self._take():
            if context is not None:
                context.run(_exit, manager, error)

    def _take(self) -> list[Manager]:
        with self._lock:
            self._is_left = True
            taken, self._entered = self._entered[::-1], []
            return taken


def _exit(manager: Manager, error: BaseException | None) -> None:
    """Leave one; what it says of the exception does not count."""
    try:
        if error is None:
            manager.__exit__(None, None, None)
        else:
            manager.__exit__(type(error), error, error.__traceback__)
    except BaseException:  # noqa: BLE001 - a plugin is foreign code
        _log.exception(_RAISED)
