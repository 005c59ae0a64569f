"""One story for each outage: that the connection is lost, that it still is, and that it is back.

A client has two connections, and each tries to come back many times. Whoever reads the log wants to know once that
the broker is away and why, then that it is still away, and then that all is well again.
"""

from __future__ import annotations

from typing import Final

from qbridge_core.backend import logger, monotonic

_log: Final = logger("qbridge.rabbitmq")
REMIND_EVERY: Final = 60.0


class Outage:
    """Tells of the outages of one client. For the I/O thread."""

    def __init__(self) -> None:
        self._up: set[str] = set()
        self._known: set[str] = set()
        self._skipped: set[str] = set()
        self._since = 0.0
        self._said_at = 0.0
        self._where = self._reason = ""
        self._refused = False

    def up(self, role: str, where: str) -> None:
        """A connection is there."""
        self._up.add(role)
        self._known.add(role)
        if self._since and self._up >= self._known:
            _log.info("connected to %s again, after %.1f s", where, monotonic() - self._since)
            self._since = 0.0
            self._refused = False

    def skipped(self, where: str, reason: str) -> None:
        """One of several servers could not be reached, before any connection was there."""
        if where not in self._skipped:
            self._skipped.add(where)
            _log.warning("%s; trying the next host of the URL", reason)

    def down(self, role: str, where: str, reason: str, refused: bool) -> None:
        """A connection is lost, or an attempt to get it back has failed; ``refused`` when it needs somebody's help."""
        self._up.discard(role)
        self._where, self._reason = where, reason
        if not self._since:
            self._since = self._said_at = monotonic()
            _log.warning(
                "lost the connection to %s: %s. Reconnecting; what was not acknowledged stays in the broker",
                where, reason,
            )  # fmt: skip
        if refused and not self._refused:
            self._refused = True
            _log.error("cannot connect to %s again: %s. Trying on", where, reason)

    def remind(self) -> None:
        """Now and then: say that the outage lasts."""
        now = monotonic()
        if self._since and now - self._said_at >= REMIND_EVERY:
            self._said_at = now
            _log.warning(
                "no connection to %s for %.0f s now: %s. Trying on", self._where, now - self._since, self._reason
            )
