"""Counts the suspects in a thread of its own, because the broker may be slow, and others shall not wait for it."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Final

from qbridge_core.runtime.aside import aside
from qbridge_core.runtime.pulse import Pulse

# Most brokers have answered by then.
_PATIENCE: Final = 0.05


class Scout:
    """Looks when it is asked to, one look at a time. For one thread at a time.

    Args:
        count: asks the broker.
    """

    def __init__(self, count: Callable[[], int]) -> None:
        self._count = count
        self._found = 0
        self._answered = threading.Event()
        self.pulse = Pulse("the thread that counts tasks which may have killed their worker")
        self.is_looking = False
        """Whether there is an answer to wait for, or to fetch."""

    def look(self) -> int | None:
        """How many there are; None when the broker takes long to say so: ask again then."""
        if not self.is_looking:
            self.is_looking = True
            self._answered.clear()
            aside("qbridge-suspects", self._look)
            self._answered.wait(_PATIENCE)
        if not self._answered.is_set():
            return None
        self.is_looking = False
        return self._found

    def _look(self) -> None:
        self._found = 0
        self.pulse.turn()
        try:
            self._found = self._count()
        finally:
            self.pulse.rest()
            self._answered.set()
