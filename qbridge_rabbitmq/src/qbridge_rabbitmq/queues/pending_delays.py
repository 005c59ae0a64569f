"""What this client had delayed when its connection was lost, and has not seen again.

A quorum queue that is not up yet counts as empty, without an error: after a restart of the broker its delayed messages
seem to be gone for a while. So those of this client are remembered until they come here, or have had the time to come
somewhere.
"""

from __future__ import annotations

import threading
from typing import Final

from qbridge_core.backend import monotonic

MOST: Final = 1_000
LATE: Final = 20.0
_PASSING: Final = 1.0


class PendingDelays:
    """The delayed messages of one client. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._sent: dict[str, tuple[str, float]] = {}
        self._doubtful: dict[str, tuple[str, float]] = {}
        self._back_at = 0.0

    def sent(self, queue: str, mark: str, delay: float) -> None:
        """The broker has confirmed a message for a queue, which is due in so many seconds."""
        with self._lock:
            self._sent[mark] = queue, monotonic() + delay
            if len(self._sent) > MOST:
                del self._sent[next(iter(self._sent))]  # the oldest

    def came(self, mark: str) -> None:
        """A message with this mark has come out of a delay."""
        with self._lock:
            self._sent.pop(mark, None)
            self._doubtful.pop(mark, None)

    def forget(self, queue: str) -> None:
        """What was delayed for a queue has been deleted."""
        with self._lock:
            for remembered in (self._sent, self._doubtful):
                for mark in [mark for mark, (other, _) in remembered.items() if other == queue]:
                    del remembered[mark]

    def lost(self) -> None:
        """The connection is lost: what is not due yet may not be seen when it is back."""
        with self._lock:
            since = monotonic() - _PASSING
            self._doubtful |= {mark: (queue, due) for mark, (queue, due) in self._sent.items() if due > since}
            self._sent.clear()

    def back(self) -> None:
        """There is a connection."""
        self._back_at = monotonic()

    def count(self, queue: str) -> int:
        """How many must be somewhere, or were a moment ago."""
        if not self._doubtful:
            return 0
        with self._lock:
            now, back_at = monotonic(), self._back_at
            self._doubtful = {m: (q, due) for m, (q, due) in self._doubtful.items() if now < max(due, back_at) + LATE}
            return sum(other == queue for other, _ in self._doubtful.values())
