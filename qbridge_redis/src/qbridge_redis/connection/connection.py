"""One connection to the server.

These are redis-py's raw connections. Its client class would send a command again when a reply is lost, and that makes
two messages of one publish and loses the batch of a read; here nothing is ever sent twice behind the caller's back.
"""

from __future__ import annotations

import contextlib
import select
import socket
from collections.abc import Sequence
from typing import Any, Final

from hiredis import pack_command
from redis.backoff import NoBackoff
from redis.connection import Connection, SSLConnection, UnixDomainSocketConnection
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import NoScriptError, RedisError, ResponseError
from redis.exceptions import TimeoutError as RedisTimeoutError
from redis.retry import Retry

from qbridge_core.backend import monotonic
from qbridge_redis.connection import forks
from qbridge_redis.connection.errors import not_connected
from qbridge_redis.connection.options import Address, Options, is_socket
from qbridge_redis.connection.route import Route
from qbridge_redis.connection.tls import driver_settings
from qbridge_redis.protocol.scripts import ACK, Command, with_text

LOST: Final = (RedisConnectionError, RedisTimeoutError)
"""What a command raises whose reply did not come: the server may or may not have carried it out.

Not the same as Python's ``ConnectionError``, which the contract's ``BrokerUnavailableError`` is one of.
"""
_PROTOCOL: Final = 2  # pinned, because redis-py's default differs between its versions and so do the shapes of replies


class RedisConnection:
    """One connection, for one thread at a time. Closes itself on any failure; ``open`` makes a new one."""

    def __init__(self, route: Route, name: str) -> None:
        self._route = route
        self._options = route.options
        self._name = name
        self._driver: Any = None  # redis-py's annotations differ between its versions
        self._socket: socket.socket | None = None
        self._poll: select.poll | None = None
        self._timeout = 0.0
        self.client_id = 0
        self.unused_since = 0.0
        """When it was last given back to a pool (monotonic time)."""
        self._moves = 0
        self.address = route.options.hosts[0]
        """Where it leads to, once it was opened."""
        self.is_demoted = False
        """The server said that it is not the right one, or not any more. Another one may be behind the same address."""

    @property
    def where(self) -> object:
        """What an error calls the server to which it leads."""
        return self._route.called(self.address)

    @property
    def is_open(self) -> bool:
        """Whether there is a connection, as far as is known."""
        return self._driver is not None

    @property
    def is_usable(self) -> bool:
        """Whether there is a connection, and it leads to the right server."""
        return self._driver is not None and not self.is_demoted and self._moves == self._route.moves

    def open(self, timeout: float | None = None) -> None:
        """Connect within ``timeout`` seconds (and the connect timeout).

        Raises:
            BrokerUnavailableError: it did not work.
            AuthenticationError: the server refused the credentials.
            ConfigurationError: it has no such database.
        """
        limit = self._options.connect_timeout
        deadline = monotonic() + (limit if timeout is None else max(0.05, min(timeout, limit)))
        self.address, self._moves = self._route.locate(deadline - monotonic())
        self.is_demoted = False
        driver: Any = None
        try:
            driver = _driver_connection(self._options, self.address, max(0.05, deadline - monotonic()))
            forks.watch(driver)  # before the handshake, during which another thread may fork
            driver.connect()
            self._adopt(driver)
            self._introduce()
        except BaseException as exc:
            self._driver = driver  # whatever it has opened by now
            self.close()
            self._route.failed()
            if isinstance(exc, Exception):
                raise not_connected(exc, self.where) from exc
            raise

    def bind(self, route: Route, moves: int) -> None:
        """Use it for this way from now on, which has led to the same server as of ``moves``."""
        self._route, self._moves = route, moves

    def close(self) -> None:
        """Close the connection, if there is one. Never raises."""
        driver, self._driver = self._driver, None
        self._socket = None
        if driver is not None:
            with contextlib.suppress(RedisError, OSError):
                driver.disconnect()

    def abort(self) -> None:
        """Make a command that another thread waits for fail now. Never raises."""
        sock = self._socket
        if sock is not None:
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)

    def is_stale(self) -> bool:
        """Whether the server closed the idle connection: only that (or a leftover reply) makes it readable."""
        return self._poll is None or bool(self._poll.poll(0))

    def call(self, command: Command, timeout: float | None = None) -> Any:
        """Run one command; return its reply, a ``ResponseError`` included. A forgotten script is sent along."""
        return self.call_many([command], timeout)[0]

    def call_many(self, commands: Sequence[Command], timeout: float | None = None) -> list[Any]:
        """Run commands in one write; return their replies, ``ResponseError`` included."""
        self._limit(timeout)
        self.send(commands)
        replies = self.read_many(len(commands), timeout)
        again = {
            position: with_text(commands[position])
            for position, reply in enumerate(replies)
            if isinstance(reply, NoScriptError)
        }
        if again:
            if commands[-1][0] == "WAIT":  # it has not waited for what the scripts are yet to write
                again[len(commands) - 1] = commands[-1]
            self.send(list(again.values()))
            for position, reply in zip(again, self.read_many(len(again), timeout), strict=True):
                replies[position] = reply
        return replies

    def send(self, commands: Sequence[Command], timeout: float | None = None) -> None:
        """Write commands; their replies must be read, one ``read`` each, before anything else."""
        driver = self._required()
        try:
            if timeout is not None:
                self._limit(timeout)
            # Straight to hiredis: redis-py's own pack_commands costs three times as much.
            packed = b"".join([pack_command(command) for command in commands])  # type: ignore[arg-type]
            driver.send_packed_command([packed], check_health=False)
        except BaseException as exc:
            raise self._broken(exc) from exc

    def read(self, timeout: float | None = None) -> Any:
        """Read one reply; a ``ResponseError`` is returned, anything worse closes the connection and is raised."""
        return self.read_many(1, timeout)[0]

    def read_many(self, count: int, timeout: float | None = None) -> list[Any]:
        """Read some replies as ``read`` does; the timeout is for each of them."""
        read = self._required().read_response
        replies: list[Any] = []
        try:
            self._limit(timeout)
            for _ in range(count):
                try:
                    replies.append(read())
                except ResponseError as exc:
                    replies.append(exc)
                    if not self.is_demoted:
                        self.is_demoted = self._route.contradicted(exc)
        except BaseException as exc:
            raise self._broken(exc) from exc
        return replies

    def _limit(self, timeout: float | None) -> None:
        """Let the next operations on the socket take so long at most."""
        limit = self._options.socket_timeout if timeout is None else timeout
        if limit != self._timeout and self._socket is not None:
            with contextlib.suppress(OSError):  # closed: the operation itself will say so
                self._socket.settimeout(limit)
            self._timeout = limit

    def _broken(self, exc: BaseException) -> BaseException:
        """Close the connection; return what to raise.

        After a KeyboardInterrupt too: the reply that is still to come would be taken for that of the next command.
        """
        self.close()
        if isinstance(exc, OSError | RedisError) and not isinstance(exc, LOST):
            return RedisConnectionError(str(exc))
        return exc

    def _required(self) -> Any:
        if self._driver is None:
            raise RedisConnectionError("the connection is closed")
        return self._driver

    def _adopt(self, driver: Any) -> None:
        sock = driver._sock
        if sock is None:
            raise RedisConnectionError("the connection is closed")
        self._driver, self._socket, self._timeout = driver, sock, 0.0
        self._poll = select.poll()
        self._poll.register(sock, select.POLLIN)

    def _introduce(self) -> None:
        """Name the connection, learn its id for CLIENT UNBLOCK, load the script of the hot path; none is vital.

        Where a server may be a replica by now, ask: sentinels and other servers can be the last to hear of it.
        """
        questions: list[Command] = [("CLIENT", "SETNAME", self._name), ("CLIENT", "ID"), ACK.load()]
        if self._route.needs_master:
            questions.append(("ROLE",))
        replies = self.call_many(questions)
        self.client_id = replies[1] if isinstance(replies[1], int) else 0
        role = replies[-1]
        if self._route.needs_master and isinstance(role, list) and role[0] != b"master":
            raise RedisConnectionError("the server is a replica")


def _driver_connection(options: Options, address: Address, connect_timeout: float) -> Any:
    settings: dict[str, Any] = {
        "db": options.db,
        "username": options.username,
        "password": options.password,
        "protocol": _PROTOCOL,
        "retry": Retry(NoBackoff(), 0),
        "socket_connect_timeout": connect_timeout,
        "socket_timeout": connect_timeout,  # until _limit sets another one: of the handshake
        "health_check_interval": 0,
    }
    if is_socket(address):
        local: Any = UnixDomainSocketConnection
        return local(path=address[0], **settings)
    settings |= {"host": address[0], "port": address[1], "socket_keepalive": True}
    plain: Any = Connection
    if not options.tls:
        return plain(**settings)
    secure: Any = SSLConnection
    return secure(**settings, **driver_settings(options))
