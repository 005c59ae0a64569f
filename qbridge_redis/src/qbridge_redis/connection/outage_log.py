"""Says once that the server cannot be used, then each minute, and in the end how long that took.

All threads of a client notice an outage, each in its own way; the log gets one story.
"""

from __future__ import annotations

import math
import threading
from typing import Final

from qbridge_core.backend import ConnectionEvents, Outage, logger
from qbridge_redis.connection.errors import REFUSED

log: Final = logger("qbridge.redis")
_FORGOTTEN: Final = 15.0  # seconds; who waits for the server asks more often, unless nobody needs it any more
_AWAY: Final = "away"
_REFUSED: Final = "refused"


class OutageLog:
    """Tells whether a client can use its server. Thread-safe.

    Args:
        where: the server, as the log calls it.
        events: who else is told.
    """

    def __init__(self, where: object, events: ConnectionEvents | None = None) -> None:
        self._where = where
        self._events = events or ConnectionEvents()
        self._outage = Outage(forget_after=_FORGOTTEN)
        self._lock = threading.Lock()  # what is said comes in the order in which it was found

    def lost(self, who: object, error: BaseException) -> None:
        """Something that needs the server cannot use it, and tries again."""
        with self._lock:
            begins = self._outage.lost(who)
            if begins:
                self._events.lost(str(self._where), error)
            is_refused = isinstance(error.__cause__, REFUSED) and self._outage.is_news(_REFUSED, every=math.inf)
            if begins and self._outage.is_news(_AWAY):
                log.warning("%s; trying again until it works: running tasks go on, and no message is lost", error)
            elif is_refused:  # this does not pass by itself
                log.error("%s; trying again until somebody mends it", error)
            elif self._outage.is_news(_AWAY):
                log.warning("for %d s now: %s; still trying", self._outage.seconds, error)
            else:
                log.debug("%s", error)

    def back(self, who: object) -> None:
        """What was said to have lost it can use it again. Cheap when nothing was said."""
        if who not in self._outage:
            return
        with self._lock:
            seconds = self._outage.back(who)
            if seconds is not None:
                log.info("%s can be used again after %.1f s", self._where, seconds)
                self._events.regained(str(self._where), seconds)
