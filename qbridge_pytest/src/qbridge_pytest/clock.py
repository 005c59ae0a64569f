"""Time that stands still until somebody moves it."""

from __future__ import annotations

import inspect
import re
import threading
import time
import weakref
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Final

from qbridge_core.backend import Clock, ConfigurationError

_UNITS: Final = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3_600.0, "d": 86_400.0, "w": 604_800.0}
_PART: Final = re.compile(r"\s*(\d+(?:\.\d+)?)\s*(ms|s|m|h|d|w)")
Listener = Callable[[], None]
Duration = float | str | timedelta
"""Seconds, or a text as ``"90s"``, ``"1h 30m"``, ``"30d"``, or a ``timedelta``."""


class VirtualClock:
    """A clock for a broker in memory, and for the managers that use it. Thread-safe.

    It begins at the last full second, so that times of a test are easy to read.

    Attributes:
        clock: what a client is made with.
    """

    def __init__(self) -> None:
        self._began: Final = float(int(time.time()))
        self._elapsed = 0.0
        self._moving = threading.Lock()
        self._listeners: list[Callable[[], Listener | None]] = []
        self.clock: Final = Clock(self.wall, self.monotonic, self.listen)

    def wall(self) -> float:
        """Unix time in seconds."""
        return self._began + self._elapsed

    def monotonic(self) -> float:
        """Seconds since it was made."""
        return self._elapsed

    @property
    def now(self) -> datetime:
        """The same as ``wall`` (UTC)."""
        return datetime.fromtimestamp(self.wall(), UTC)

    def listen(self, listener: Listener) -> None:
        """Have this called after each jump; of a method, only as long as its object lives."""
        found = weakref.WeakMethod(listener) if inspect.ismethod(listener) else lambda: listener
        with self._moving:
            self._listeners = [*(each for each in self._listeners if each() is not None), found]

    def advance(self, seconds: float) -> None:
        """Let so much time pass."""
        with self._moving:
            self._elapsed += seconds
        self._tell()

    def advance_to(self, moment: float) -> None:
        """Let time pass until a moment (as ``monotonic`` tells it), unless that is past."""
        with self._moving:
            self._elapsed = max(self._elapsed, moment)
        self._tell()

    def _tell(self) -> None:
        for found in self._listeners:
            if (listener := found()) is not None:
                listener()


def seconds_of(what: str, value: object) -> float:
    """The seconds of a length of time: of a number, a ``timedelta``, or a text as ``"90s"``, ``"1h 30m"``, ``"30d"``.

    Args:
        what: the name of the argument, for the error.
        value: the length.

    Raises:
        ConfigurationError: it is none, or negative.
    """
    __tracebackhide__ = True
    found: float | None = None
    if isinstance(value, timedelta):
        found = value.total_seconds()
    elif isinstance(value, str):
        found = _read(value)
    elif isinstance(value, int | float) and not isinstance(value, bool):
        found = float(value)
    if found is None or not 0 <= found < float("inf"):
        raise ConfigurationError(
            f'{what} must be a length of time, as 90, "90s", "1h 30m", "30d" or a timedelta, not {value!r}'
        )
    return found


def _read(text: str) -> float | None:
    total, position = 0.0, 0
    while (part := _PART.match(text, position)) is not None:
        total += float(part[1]) * _UNITS[part[2]]
        position = part.end()
    return total if position and not text[position:].strip() else None
