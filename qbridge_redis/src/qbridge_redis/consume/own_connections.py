"""Which queues may have a connection of their own: a few that are busy."""

from __future__ import annotations

import threading
from typing import Final

from qbridge_core.backend import monotonic

LIMIT: Final = 4
"""So many queues of one server may."""


class OwnConnections:
    """Who has one. Thread-safe; a reader is whoever reads one queue."""

    def __init__(self) -> None:
        self._subscribed: set[object] = set()
        self._granted: set[object] = set()
        self._lifted_until = 0.0
        self._lock = threading.Lock()

    def enter(self, reader: object) -> None:
        """A queue was subscribed."""
        with self._lock:
            self._subscribed.add(reader)

    def leave(self, reader: object) -> None:
        """It is not subscribed any more."""
        with self._lock:
            self._subscribed.discard(reader)
            self._granted.discard(reader)

    def grant(self, reader: object) -> bool:
        """Whether a subscribed queue may have a connection of its own."""
        with self._lock:
            if reader not in self._granted and (len(self._granted) < LIMIT or self.is_lifted):
                self._granted.add(reader)
            return reader in self._granted

    def has(self, reader: object) -> bool:
        """Whether a queue has one."""
        return reader in self._granted

    def give_up(self, reader: object) -> bool:
        """Have an idle queue do without; False when there are enough for all."""
        with self._lock:
            if len(self._subscribed) <= LIMIT or self.is_lifted:
                return False
            self._granted.discard(reader)
            return True

    def lift(self, seconds: float) -> None:
        """Let each queue have one for a while."""
        with self._lock:
            self._lifted_until = monotonic() + seconds

    @property
    def is_lifted(self) -> bool:
        """Whether each queue may have one now."""
        return monotonic() < self._lifted_until
