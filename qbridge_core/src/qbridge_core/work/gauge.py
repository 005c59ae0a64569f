"""A number that several threads change."""

from __future__ import annotations

import threading

from qbridge_core.runtime.clock import monotonic


class Gauge:
    """A number that many threads change.

    Attributes:
        value: the number.
        raised_at: when it last grew (monotonic time).
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.value = 0
        self.raised_at = 0.0

    def add(self, change: int) -> None:
        """Change it."""
        with self._lock:
            self.value += change
            if change > 0:
                self.raised_at = monotonic()
