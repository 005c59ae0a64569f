"""A pool of connections to one server."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from typing import Final

from qbridge_core.backend import BrokerUnavailableError, monotonic
from qbridge_redis.connection.connection import RedisConnection
from qbridge_redis.connection.errors import REFUSED, unreachable
from qbridge_redis.connection.route import Route

_KEPT: Final = 16


class ConnectionPool:
    """A pool of connections for commands of any thread. It grows with the threads that use it at the same time."""

    def __init__(self, route: Route, name: str) -> None:
        self._route = route
        self._options = route.options
        self._name = name
        self._idle: list[RedisConnection] = []
        self._busy: set[RedisConnection] = set()
        self._lock = threading.Lock()
        self._closed = False

    def take(self, deadline: float) -> RedisConnection:
        """A connection that works as far as can be seen; give it back with ``give``.

        Raises:
            BrokerUnavailableError: none could be made before ``deadline`` (monotonic time).
        """
        if (connection := self.idle()) is not None:
            return connection
        if self._closed:
            raise BrokerUnavailableError("the client was disconnected")
        connection = RedisConnection(self._route, self._name)
        try:
            connection.open(deadline - monotonic())
        except REFUSED as exc:
            # It worked when the client connected; it is an outage for those who run, until somebody repairs it.
            raise unreachable(exc, self._options) from exc
        self._busy.add(connection)
        return connection

    def idle(self) -> RedisConnection | None:
        """Take a connection that is there and works as far as can be seen; None when there is none."""
        while True:
            try:
                connection = self._idle.pop()
            except IndexError:
                return None
            if connection.is_usable and not connection.is_stale():
                self._busy.add(connection)
                return connection
            connection.close()

    def give(self, connection: RedisConnection) -> None:
        """Take a connection back; broken ones are forgotten."""
        self._busy.discard(connection)
        if not connection.is_open:
            return
        with self._lock:
            if not self._closed and connection.is_usable and len(self._idle) < _KEPT:
                connection.unused_since = monotonic()
                self._idle.append(connection)
                return
        connection.close()

    def trim(self, seconds: float, keep: int = 0) -> None:
        """Close the connections that nobody has used for so long, but for some."""
        before, old = monotonic() - seconds, []
        with self._lock, contextlib.suppress(IndexError):  # another thread takes the last one without the lock
            while len(self._idle) > keep and self._idle[0].unused_since < before:
                old.append(self._idle.pop(0))
        for connection in old:
            connection.close()

    @contextlib.contextmanager
    def connection(self, timeout: float | None = None) -> Iterator[RedisConnection]:
        """``take`` and ``give`` around a block."""
        limit = self._options.connect_timeout if timeout is None else timeout
        connection = self.take(monotonic() + limit)
        try:
            yield connection
        finally:
            self.give(connection)

    def close(self) -> None:
        """Close all connections; commands that wait for a reply fail."""
        with self._lock:
            self._closed = True
            idle, self._idle = self._idle, []
        for connection in idle:
            connection.close()
        for connection in list(self._busy):
            connection.abort()
