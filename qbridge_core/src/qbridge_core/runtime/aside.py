"""Calls things in threads of their own, so that nobody waits for what may hang."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Final

from qbridge_core.runtime.logs import logger

_log: Final = logger("qbridge.manager")


def aside(name: str, call: Callable[[], None]) -> threading.Thread:
    """Call something in a daemon thread of this name; in this one when the system has no thread left. Never raises."""

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
    return thread
