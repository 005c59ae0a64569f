"""For how long other messages may wait for one that runs alone."""

from __future__ import annotations

from typing import Final

from qbridge_core.runtime.clock import monotonic

# With what it takes to find a suspect, and the watch that ends a stop and looks once a second, this stays below 5 s.
_LONGEST_STOP: Final = 3.0
# Others get so many times as long as they were stopped.
_WORK_SHARE: Final = 5.0


class Stops:
    """For how long nothing may be read: a few seconds, which come back while work goes on. For one thread at a time."""

    def __init__(self) -> None:
        self._left = _LONGEST_STOP
        self._since = monotonic()

    def left(self) -> float:
        """How many seconds a stop that begins now may last."""
        now = monotonic()
        self._left = min(_LONGEST_STOP, self._left + (now - self._since) / _WORK_SHARE)
        self._since = now
        return self._left

    def spend(self, seconds: float) -> None:
        """A stop of so many seconds is over."""
        self._left = max(0.0, self._left - seconds)
        self._since = monotonic()
