"""Says that something does not work once, then once a minute, and at its end how long it took."""

from __future__ import annotations

import threading
from typing import Final

from qbridge_core.runtime.clock import monotonic

REMIND_EVERY: Final = 60.0


class Outage:
    """Decides which of many complaints about the same thing are worth a line in the log. Thread-safe.

    Attributes:
        was_reported: True when there was news in this outage, so that its end is news too.
    """

    def __init__(self) -> None:
        self.was_reported = False
        self._lock = threading.Lock()
        self._since = 0.0
        self._say_at: dict[type[BaseException], float] = {}
        self._waiting = 0

    def began(self) -> None:
        """Somebody's first try failed."""
        with self._lock:
            if self._waiting == 0:
                self._since, self.was_reported = monotonic(), False
                self._say_at.clear()
            self._waiting += 1

    def is_news(self, exc: BaseException) -> bool:
        """True when no error of this kind has been reported in the last minute. The caller reports it then."""
        with self._lock:
            now = monotonic()
            if now < self._say_at.get(type(exc), 0.0):
                return False
            self._say_at[type(exc)] = now + REMIND_EVERY
            self.was_reported = True
            return True

    def ended(self) -> float | None:
        """Who said ``began`` got through, or gave up: the seconds that it took, when it was the last one; else None."""
        with self._lock:
            self._waiting -= 1
            return None if self._waiting else monotonic() - self._since
