"""What SIGINT and SIGTERM do to a worker program: stop, stop at once, and end the process."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any, Final

_SIGNALS: Final = (signal.SIGINT, signal.SIGTERM)
_LAST: Final = 3
_replaced: Final[dict[signal.Signals, Any]] = {}
"""What handled the signals before."""


def _restore() -> None:
    """In a process that a handler has forked: whoever sends it a signal expects what happens without a manager.

    At once, and not when the signal comes: Python 3.13.0 does not run handlers in a process that another thread than
    the main one has forked, before it waits for something.
    """
    with contextlib.suppress(ValueError):  # not the main thread, says Python
        for number, handler in _replaced.items():
            signal.signal(number, handler)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_restore)


def signal_name(number: int) -> str:
    """What a signal is called. Takes no lock."""
    try:
        return signal.Signals(number).name
    except ValueError:  # a real-time signal has a number only
        return f"signal {number}"


class Insistence:
    """Counts the signals; the third one ends the process at once, whatever hangs in it."""

    def __init__(self) -> None:
        self._count = 0

    def count(self, number: int) -> None:
        """A signal came. Takes no lock, and logs nothing: it may have interrupted whoever holds one."""
        self._count += 1
        if self._count >= _LAST:
            os._exit(128 + number)


@contextmanager
def stop_signals(stop: Callable[[int], None]) -> Iterator[None]:
    """SIGINT and SIGTERM call ``stop`` with their number.

    Only in the main thread, where alone Python can install handlers.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    process, insistence = os.getpid(), Insistence()

    def on_signal(number: int, frame: FrameType | None) -> None:
        del frame
        if process == os.getpid():
            insistence.count(number)
            stop(number)
            return
        # A process that C code of a handler's has forked, of which Python knows nothing.
        signal.signal(number, previous[signal.Signals(number)])
        signal.raise_signal(number)

    previous = {number: signal.signal(number, on_signal) for number in _SIGNALS}
    _replaced.update(previous)
    try:
        yield
    finally:
        _replaced.clear()
        for number, handler in previous.items():
            signal.signal(number, handler)
