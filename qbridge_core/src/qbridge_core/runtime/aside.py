"""Calls things in threads of their own, so that nobody waits for what may hang."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Final

from qbridge_core.runtime.logs import logger

_log: Final = logger("qbridge.manager")


class _Helper(threading.Thread):
    def join(self, timeout: float | None = None) -> None:
        """Wait for its end; one that could not start has nothing left to do."""
        if self.ident is not None:
            super().join(timeout)


def aside(name: str, call: Callable[[], None]) -> threading.Thread:
    """Call something in a daemon thread of this name; in this one when the system has no thread left. Never raises.

    Either way what is returned can be joined.
    """

    def guarded() -> None:
        try:
            call()
        except BaseException:  # noqa: BLE001 - there is nobody else who could say so
            _log.exception("%s failed", name)

    thread = _Helper(target=guarded, name=name, daemon=True)
    try:
        thread.start()
    except RuntimeError:
        guarded()
    return thread
