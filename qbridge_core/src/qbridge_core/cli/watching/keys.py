"""Keys that are pressed in a terminal, one by one."""

from __future__ import annotations

import os
import select
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

_NAMES: Final = {
    b"\x1b[A": "up", b"\x1bOA": "up", b"k": "up", b"\x1b[B": "down", b"\x1bOB": "down", b"j": "down",
    b"\x1b[5~": "page up", b"\x1b[6~": "page down", b" ": "page down",
    b"\x1b[H": "home", b"g": "home", b"\x1b[F": "end", b"G": "end",
    b"q": "quit", b"Q": "quit", b"\x1b": "quit", b"\x04": "quit", b"s": "sort",
}  # fmt: skip
Press = Callable[[float], str]
"""Waits so many seconds at most for a key, and returns its name; "" for none, or one without a meaning."""


@contextmanager
def keyboard() -> Iterator[Press]:
    """Have keys at once and unseen, and the terminal afterwards as it was; no keys where that is no POSIX terminal.

    Ctrl-Z does nothing meanwhile: it would leave the terminal as it is now.
    """
    try:
        import termios
        import tty
    except ImportError:  # elsewhere Ctrl-C ends it
        yield _sleep
        return
    if sys.stdin is None or not sys.stdin.isatty():
        yield _sleep
        return
    descriptor = sys.stdin.fileno()
    before = termios.tcgetattr(descriptor)
    stops = signal.signal(signal.SIGTSTP, signal.SIG_IGN)
    try:
        tty.setcbreak(descriptor)
        yield lambda seconds: _press(descriptor, seconds)
    finally:
        termios.tcsetattr(descriptor, termios.TCSADRAIN, before)
        signal.signal(signal.SIGTSTP, stops)


def _sleep(seconds: float) -> str:
    time.sleep(seconds)
    return ""


def _press(descriptor: int, seconds: float) -> str:
    if not select.select([descriptor], [], [], seconds)[0]:
        return ""
    pressed = os.read(descriptor, 32)  # the bytes of an arrow come together
    return _NAMES.get(pressed, "") if pressed else "quit"  # the terminal is gone
