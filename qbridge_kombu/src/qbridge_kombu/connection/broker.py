"""The broker of one client: how sessions with it are made, what is said when it is away, and what its errors mean."""

from __future__ import annotations

from contextlib import suppress
from typing import Final

from kombu.connection import Connection

from qbridge_core.backend import (
    AuthenticationError,
    BrokerUnavailableError,
    ConnectionEvents,
    Outage,
    QBridgeError,
    logger,
)
from qbridge_kombu.connection.errors import Secrets, translated
from qbridge_kombu.transports.base import Transport
from qbridge_kombu.transports.session import KombuSession

log: Final = logger("qbridge.kombu")
_FORGET_AFTER: Final = 15.0  # seconds; who needs the broker asks more often


class Broker:
    """Makes sessions with one broker. Thread-safe.

    Args:
        transport: the kind of broker, and where it is.
        events: told of outages.
    """

    def __init__(self, transport: Transport, events: ConnectionEvents | None = None) -> None:
        self.transport = transport
        self._events = events or ConnectionEvents()
        self._secrets = Secrets(transport.url.password, *transport.secrets)
        self._outage = Outage(forget_after=_FORGET_AFTER)
        self._was_reached = False

    def load(self) -> None:
        """Import what the transport needs: that may take longer than any deadline of a call.

        Raises:
            ConfigurationError: something is not installed.
        """
        try:
            self.transport.load()
        except Exception as exc:  # noqa: BLE001 - whatever a module raises when it is imported
            error = self.translated(exc, f"use {self.transport.url.scheme}://")
            raise error from error.__cause__

    def open(self) -> KombuSession:
        """Connect once.

        Raises:
            BrokerUnavailableError, AuthenticationError, ConfigurationError: with the driver's error as its cause.
        """
        doing = f"connect to {self.transport.url}"
        try:
            session = KombuSession(Connection(**self.transport.connection_arguments()), self.transport.closing)
        except Exception as exc:  # noqa: BLE001 - drivers raise what they like
            error = self.translated(exc, doing)
            raise error from error.__cause__
        try:
            self.transport.connected(session)
        except Exception as exc:  # noqa: BLE001 - drivers raise what they like
            with suppress(Exception):
                session.close()
            error = self.translated(exc, doing)
            raise error from error.__cause__
        self._was_reached = True
        return session

    def translated(self, exc: Exception, doing: str) -> QBridgeError:
        """The error of QBridge's for a driver's, which is its cause; no password is in either."""
        transport = self.transport
        return translated(exc, doing, transport.translate, self._secrets, transport.required)

    def lost(self, who: object, error: BaseException) -> None:
        """A part of the client cannot use the broker: the log says so once, and again each minute.

        Before it could be used for the first time ``connect`` raises that, and nobody tries again.
        """
        if not self._was_reached:
            return
        if self._outage.lost(who):
            self._events.lost(str(self.transport.url), error)
        kind = AuthenticationError if isinstance(error, AuthenticationError) else BrokerUnavailableError
        if self._outage.is_news(kind):
            log.warning("%s; trying again until it works: running tasks go on", error)

    def back(self, who: object) -> None:
        """It can use the broker again."""
        reported = self._outage.was_reported
        seconds = self._outage.back(who)
        if seconds is not None:
            self._events.regained(str(self.transport.url), seconds)
        if seconds is not None and reported:
            log.info("%s can be used again after %.1f s", self.transport.url, seconds)
