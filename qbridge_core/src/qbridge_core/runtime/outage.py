"""Says that something does not work once, then once a minute, and at its end how long it took."""

from __future__ import annotations

import math
import threading
from typing import Final

from qbridge_core.runtime.clock import monotonic

REMIND_EVERY: Final = 60.0


class Outage:
    """Decides which of many complaints about the same thing are worth a line in the log. Thread-safe.

    Many notice one outage, each in its own way and each again and again; whoever reads the log wants one story. The
    texts are the caller's.

    Args:
        forget_after: seconds after which one that has not complained again does not count: nobody needs it any more.

    Attributes:
        was_reported: True when there was news in this outage, so that its end is news too.
    """

    def __init__(self, *, forget_after: float = math.inf) -> None:
        self.was_reported = False
        self._forget_after = forget_after
        self._lock = threading.Lock()
        self._since = 0.0
        self._waiting: dict[object, float] = {}
        self._say_at: dict[object, float] = {}

    def lost(self, who: object) -> bool:
        """It does not work for this one, or still does not; True when the outage begins with it."""
        with self._lock:
            now = monotonic()
            self._forget(now)
            begins = not self._waiting
            if begins:
                self._since, self.was_reported = now, False
                self._say_at.clear()
            self._waiting[who] = now
            return begins

    def is_news(self, kind: object, *, every: float | None = None) -> bool:
        """True when nothing of this kind (an exception stands for its type) was reported in the last minute.

        The caller reports it then.

        Args:
            kind: what is complained of.
            every: seconds after which it is news again, if not a minute; infinity for what is said once in an outage.
        """
        key = type(kind) if isinstance(kind, BaseException) else kind
        with self._lock:
            now = monotonic()
            if now < self._say_at.get(key, -math.inf):
                return False
            self._say_at[key] = now + (REMIND_EVERY if every is None else every)
            self.was_reported = True
            return True

    def back(self, who: object) -> float | None:
        """It works for this one, or nobody asks any more: how long it took when that was the last one, else None.

        Cheap for one that had not lost it.
        """
        if who not in self:
            return None
        with self._lock:
            now = monotonic()
            if self._waiting.pop(who, None) is None:
                return None
            self._forget(now)
            return None if self._waiting else now - self._since

    def __contains__(self, who: object) -> bool:
        """Whether it does not work for this one. Takes no lock."""
        return who in self._waiting

    @property
    def seconds(self) -> float:
        """How long it has lasted; 0 when there is none."""
        return monotonic() - self._since if self._waiting else 0.0

    def _forget(self, now: float) -> None:
        for who in [who for who, at in self._waiting.items() if now - at > self._forget_after]:
            del self._waiting[who]
