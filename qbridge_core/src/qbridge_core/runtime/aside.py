"""Calls things in threads of their own, so that nobody waits for what may hang."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Final

from qbridge_core.runtime.logs import logger

_log: Final = logger("qbridge.manager")


class Helper:
    """What is called in a thread, for whoever waits for it; the system may have had none left. Thread-safe."""

    def __init__(self, thread: threading.Thread | None) -> None:
        self._thread = thread

    def join(self, timeout: float | None = None) -> None:
        """Wait until the call is done, but no longer than ``timeout`` seconds; ``None`` for as long as it takes."""
        if self._thread is not None:
            self._thread.join(timeout)

    def is_alive(self) -> bool:
        """False once the call is done."""
        return self._thread is not None and self._thread.is_alive()


def aside(name: str, call: Callable[[], None]) -> Helper:
    """Call something in a daemon thread of this name; in this one when the system has no thread left. Never raises.

    Either way what is returned can be waited for.
    """

    def guarded() -> None:
        try:
            call()
        except BaseException:  # noqa: BLE001 - there is nobody else who could say so
            _log.exception("%s failed", name)

    thread = threading.Thread(target=guarded, name=name, daemon=True)
    try:
        thread.start()
    except RuntimeError:
        guarded()
        return Helper(None)
    return Helper(thread)
