"""One story for each outage: that the connection is lost, that it still is, and that it is back.

A client has two connections, and each tries to come back many times. Whoever reads the log wants to know once that
the broker is away and why, then that it is still away, and then that all is well again.
"""

from __future__ import annotations

import math
from typing import Final

from qbridge_core.backend import BrokerUnavailableError, ConnectionEvents, Outage, logger

_log: Final = logger("qbridge.rabbitmq")
_AWAY: Final = "away"
_REFUSED: Final = "refused"


class OutageLog:
    """Tells of the outages of one client. For the I/O thread.

    Args:
        events: who else is told.
    """

    def __init__(self, events: ConnectionEvents | None = None) -> None:
        self._events = events or ConnectionEvents()
        self._outage = Outage()
        self._skipped: set[str] = set()
        self._where = self._reason = ""

    def up(self, role: str, where: str) -> None:
        """A connection is there."""
        seconds = self._outage.back(role)
        if seconds is not None:
            _log.info("connected to %s again, after %.1f s", where, seconds)
            self._events.regained(where, seconds)

    def skipped(self, where: str, reason: str) -> None:
        """One of several servers could not be reached, before any connection was there."""
        if where not in self._skipped:
            self._skipped.add(where)
            _log.warning("%s; trying the next host of the URL", reason)

    def down(self, role: str, where: str, reason: str, refused: bool) -> None:
        """A connection is lost, or an attempt to get it back has failed; ``refused`` when it needs somebody's help."""
        self._where, self._reason = where, reason
        if self._outage.lost(role):
            self._outage.is_news(_AWAY)
            self._events.lost(where, BrokerUnavailableError(f"lost the connection to {where}: {reason}"))
            _log.warning(
                "lost the connection to %s: %s. Reconnecting; what was not acknowledged stays in the broker",
                where, reason,
            )  # fmt: skip
        if refused and self._outage.is_news(_REFUSED, every=math.inf):
            _log.error("cannot connect to %s again: %s. Trying on", where, reason)

    def remind(self) -> None:
        """Now and then: say that the outage lasts."""
        seconds = self._outage.seconds
        if seconds and self._outage.is_news(_AWAY):
            _log.warning("no connection to %s for %.0f s now: %s. Trying on", self._where, seconds, self._reason)
