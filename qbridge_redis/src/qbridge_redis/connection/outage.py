"""Says once that the server cannot be used, then each minute, and in the end how long that took.

All threads of a client notice an outage, each in its own way; the log gets one story.
"""

from __future__ import annotations

import threading
from typing import Final

from qbridge_core.backend import logger, monotonic
from qbridge_redis.connection.errors import REFUSED

log: Final = logger("qbridge.redis")
_REMIND_EVERY: Final = 60.0
_FORGOTTEN: Final = 15.0  # seconds; who waits for the server asks more often, unless nobody needs it any more


class Outage:
    """Whether a client can use its server. Thread-safe.

    Args:
        where: the server, as the log calls it.
    """

    def __init__(self, where: object) -> None:
        self._where = where
        self._lock = threading.Lock()
        self._waiting: dict[object, float] = {}
        self._since = 0.0
        self._remind_at = 0.0
        self._is_refused = False

    def lost(self, who: object, error: BaseException) -> None:
        """Something that needs the server cannot use it, and tries again."""
        with self._lock:
            now = monotonic()
            self._forget(now)
            is_refused = isinstance(error.__cause__, REFUSED)
            if not self._waiting:
                self._since, self._remind_at, self._is_refused = now, now + _REMIND_EVERY, is_refused
                log.warning("%s; trying again until it works: running tasks go on, and no message is lost", error)
            elif is_refused and not self._is_refused:  # this does not pass by itself
                self._is_refused = True
                log.error("%s; trying again until somebody mends it", error)
            elif now >= self._remind_at:
                self._remind_at = now + _REMIND_EVERY
                log.warning("for %d s now: %s; still trying", now - self._since, error)
            else:
                log.debug("%s", error)
            self._waiting[who] = now

    def back(self, who: object) -> None:
        """What was said to have lost it can use it again. Cheap when nothing was said."""
        if who not in self._waiting:
            return
        with self._lock:
            now = monotonic()
            self._waiting.pop(who, None)
            self._forget(now)
            if not self._waiting:
                log.info("%s can be used again after %.1f s", self._where, now - self._since)

    def _forget(self, now: float) -> None:
        for who in [who for who, at in self._waiting.items() if now - at > _FORGOTTEN]:
            del self._waiting[who]
