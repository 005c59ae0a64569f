"""Whose turn it is in a worker: that of the messages that may kill it, or that of all others."""

from __future__ import annotations

import math
from typing import Final

from qbridge_core.contract.message import Delivery
from qbridge_core.runtime.clock import monotonic

# When nothing came for so long the others have nothing to do. In proportion to what a stop took, because that was long
# when the broker is slow; then what it has takes longer to come, too. Where nothing came the last time either, the
# shortest wait will do: what comes during a stop is there at its end.
_SHARE: Final = 0.5
_SHORTEST_WAIT: Final = 0.05
_LONGEST_WAIT: Final = 0.5
# Suspects that are quickly done share a turn: at its begin the others must end what they do, and that takes time too.
_SHORTEST_TURN: Final = 0.25


class Turns:
    """Gives others as much time as they had to wait for suspects, and half of the slots, as far as they need it.

    The turn of the suspects is over when they have stopped others for a quarter of a second in all.

    A stop lasts from the search for a suspect until it has been found, or has run when nothing else could meanwhile.
    ``ended`` may be called by any thread, the rest by whoever has the right to read.

    Args:
        slots: how many tasks the worker runs at once.
    """

    def __init__(self, slots: int) -> None:
        self._most = max(1, slots // 2)
        self._stops_all = slots == 1
        self._beside: set[Delivery] = set()
        self._since: float | None = None
        self._ended_at = self._stopped = 0.0
        self._until = 0.0
        self._wait = 0.0
        self._skipped = False
        self._was_skipped = False

    def may_begin(self, now: float) -> bool:
        """Whether it is the turn of the suspects."""
        return now >= self._until and (self._skipped or len(self._beside) < self._most)

    def begin(self, now: float) -> None:
        """Nobody reads from now on."""
        if now - self._ended_at > self._stopped:  # the others had as much time, though it was not their turn yet
            self._stopped = 0.0
        self._since = now
        self._was_skipped, self._skipped = self._skipped, False

    def run_beside(self, delivery: Delivery) -> None:
        """A suspect takes one of the slots."""
        self._beside.add(delivery)
        if not self._stops_all:
            self.end()

    def ended(self, delivery: Delivery) -> None:
        """A suspect has been dealt with."""
        if delivery in self._beside:
            self._beside.discard(delivery)
            if self._stops_all:
                self.end()

    def end(self) -> None:
        """The stop is over, if it is not over already; others may read."""
        since, self._since = self._since, None
        if since is not None:
            now = self._ended_at = monotonic()
            self._stopped += now - since
            if self._stopped < _SHORTEST_TURN:
                return
            wait = 0.0 if self._was_skipped else _SHARE * self._stopped
            self._wait = min(max(wait, _SHORTEST_WAIT), _LONGEST_WAIT)
            self._until = now + self._stopped
            self._stopped = 0.0

    @property
    def patience(self) -> float:
        """For how many seconds to wait for others before it is the turn of the suspects; infinite when it is."""
        left = self._until - monotonic()
        if left > 0:
            return min(left, self._wait)
        return math.inf if self._skipped or len(self._beside) < self._most else _LONGEST_WAIT

    def skip(self) -> None:
        """The others have nothing to do."""
        self._until = 0.0
        self._skipped = True
