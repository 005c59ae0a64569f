"""Pools of connections: of one server, and of those servers of a cluster that have a hash slot in their turn."""

from __future__ import annotations

import abc
import contextlib
import threading
from collections.abc import Callable, Iterator
from typing import Final

from qbridge_core.backend import BrokerUnavailableError, monotonic
from qbridge_redis.connection.connection import RedisConnection
from qbridge_redis.connection.errors import REFUSED, unreachable
from qbridge_redis.connection.options import Address, Options
from qbridge_redis.connection.route import Route

_KEPT: Final = 16
_LEAST: Final = 0.05  # seconds in which a slot is located at least, however little time is left


class Pool(abc.ABC):
    """Connections for commands of any thread.

    Args:
        options: how to connect.
    """

    def __init__(self, options: Options) -> None:
        self._options = options

    @abc.abstractmethod
    def take(self, deadline: float) -> RedisConnection:
        """A connection that works as far as can be seen; give it back with ``give``.

        Raises:
            BrokerUnavailableError: none could be made before ``deadline`` (monotonic time).
        """

    @abc.abstractmethod
    def idle(self) -> RedisConnection | None:
        """Take a connection that is there and works as far as can be seen; None when there is none."""

    @abc.abstractmethod
    def give(self, connection: RedisConnection) -> None:
        """Take a connection back; broken ones are forgotten."""

    @abc.abstractmethod
    def trim(self, seconds: float, keep: int = 0) -> None:
        """Close the connections that nobody has used for so long, but for some."""

    @abc.abstractmethod
    def close(self) -> None:
        """Close all connections; commands that wait for a reply fail."""

    @contextlib.contextmanager
    def connection(self, timeout: float | None = None) -> Iterator[RedisConnection]:
        """``take`` and ``give`` around a block."""
        limit = self._options.connect_timeout if timeout is None else timeout
        connection = self.take(monotonic() + limit)
        try:
            yield connection
        finally:
            self.give(connection)


class ConnectionPool(Pool):
    """The connections to one server. They become more with the threads that use them at the same time."""

    def __init__(self, route: Route, name: str) -> None:
        super().__init__(route.options)
        self._route = route
        self._name = name
        self._idle: list[RedisConnection] = []
        self._busy: set[RedisConnection] = set()
        self._lock = threading.Lock()
        self._closed = False

    def take(self, deadline: float) -> RedisConnection:
        """See ``Pool.take``."""
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
        """See ``Pool.idle``."""
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
        """See ``Pool.give``."""
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
        """See ``Pool.trim``."""
        before, old = monotonic() - seconds, []
        with self._lock, contextlib.suppress(IndexError):  # another thread takes the last one without the lock
            while len(self._idle) > keep and self._idle[0].unused_since < before:
                old.append(self._idle.pop(0))
        for connection in old:
            connection.close()

    def let_go(self, connection: RedisConnection) -> None:
        """One that was taken is its user's own for a while."""
        self._busy.discard(connection)

    def give_bound(self, connection: RedisConnection) -> None:
        """Take a connection back that served another way to this server, unless it is of no use by that."""
        if not connection.is_usable:
            connection.close()
        connection.bind(self._route, self._route.moves)
        self.give(connection)

    def close(self) -> None:
        """See ``Pool.close``."""
        with self._lock:
            self._closed = True
            idle, self._idle = self._idle, []
        for connection in idle:
            connection.close()
        for connection in list(self._busy):
            connection.abort()


class SlotPool(Pool):
    """The connections for one hash slot, out of the pool of whichever master has it now.

    A master's answer that it has not concerns the slot, and the one connection over which it came.

    Args:
        route: the way to the master of the slot.
        pool_at: the pool of the master at an address.
        known: the same, None where there is none.
    """

    def __init__(
        self,
        route: Route,
        pool_at: Callable[[Address], ConnectionPool],
        known: Callable[[Address], ConnectionPool | None],
    ) -> None:
        super().__init__(route.options)
        self._route = route
        self._pool_at = pool_at
        self._known = known

    def take(self, deadline: float) -> RedisConnection:
        """See ``Pool.take``."""
        seconds = min(self._options.connect_timeout, deadline - monotonic())
        try:
            address, moves = self._route.locate(max(_LEAST, seconds))
        except REFUSED as exc:
            raise unreachable(exc, self._options) from exc
        connection = self._pool_at(address).take(deadline)
        connection.bind(self._route, moves)
        return connection

    def idle(self) -> RedisConnection | None:
        """See ``Pool.idle``. Asks nobody where the slot is."""
        address, moves = self._route.place
        pool = None if address is None else self._known(address)
        if pool is None or (connection := pool.idle()) is None:
            return None
        pool.let_go(connection)
        connection.bind(self._route, moves)
        return connection

    def give(self, connection: RedisConnection) -> None:
        """See ``Pool.give``."""
        pool = self._known(connection.address)
        if pool is None:
            connection.close()
        else:
            pool.give_bound(connection)

    def trim(self, seconds: float, keep: int = 0) -> None:
        """Nothing: the pools of the masters are trimmed by themselves."""

    def close(self) -> None:
        """Nothing: the pools of the masters are closed by themselves."""
