"""One connection of kombu's with one channel, which one thread uses."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


class KombuSession:
    """An open connection and its channel. Used by the one thread that opened it.

    kombu's own ways to connect sleep and try again, and its ``ensure`` publishes twice; here an attempt is one attempt.

    Args:
        connection: a ``kombu.Connection`` that is not connected.
        closing: called with it before it is closed.

    Attributes:
        channel: the channel (``kombu.transport.virtual.Channel`` or what the transport has).
        raw: what the transport's ``establish_connection`` returned.
        notes: what a transport remembers for this session.
        broken: a transport sets it when the session is not to be used again.
    """

    def __init__(self, connection: Any, closing: Callable[[KombuSession], None]) -> None:
        self._closing = closing
        self._transport = connection.transport
        self.connection = connection
        self.notes: dict[str, Any] = {}
        self.broken = False
        self.raw = self._transport.establish_connection()
        try:
            self.channel = self._transport.create_channel(self.raw)
        except BaseException:
            self._transport.close_connection(self.raw)
            raise

    def another_channel(self) -> Any:
        """A channel of its own on this connection, for what may cost a channel; close it."""
        return self._transport.create_channel(self.raw)

    def close(self) -> None:
        """Close the connection; whatever a driver raises then is the caller's to swallow."""
        self._closing(self)
        self._transport.close_connection(self.raw)
