"""For how long other messages may wait until nothing runs, so that a suspect can run alone."""

from __future__ import annotations

from typing import Final

from qbridge_core.runtime.clock import monotonic

# With what it takes to find a suspect, and the watch that ends a wait and looks once a second, this stays below 5 s.
LONGEST_WAIT: Final = 3.0
# Others get so many times as long as they waited.
_WORK_SHARE: Final = 5.0


class WaitingTime:
    """For how long to wait until nothing runs: a few seconds, which come back while work goes on.

    For one thread at a time.
    """

    def __init__(self) -> None:
        self._left = LONGEST_WAIT
        self._since = monotonic()

    def left(self) -> float:
        """For how many seconds to wait from now on."""
        now = monotonic()
        self._left = min(LONGEST_WAIT, self._left + (now - self._since) / _WORK_SHARE)
        self._since = now
        return self._left

    def spend(self, seconds: float) -> None:
        """So many seconds were waited."""
        self._left = max(0.0, self._left - seconds)
        self._since = monotonic()
