"""The two connections of a client and their thread, from ``connect`` to ``disconnect``.

Publishing has a connection of its own: when memory or disk run low the broker stops reading from connections that
publish, and acknowledgements behind a blocked publish would never arrive (rabbitmq.com/docs/connection-blocked).
"""

from __future__ import annotations

import os
import weakref
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from enum import Enum
from typing import Final, NamedTuple

from qbridge_core.backend import BrokerUnavailableError, ConnectionEvents, NotConnectedError, monotonic
from qbridge_rabbitmq.amqp import errors
from qbridge_rabbitmq.amqp.connection import AmqpConnection
from qbridge_rabbitmq.connection.diagnosis import explain
from qbridge_rabbitmq.connection.hosts import Hosts
from qbridge_rabbitmq.connection.io_thread import IOThread
from qbridge_rabbitmq.connection.options import Endpoint
from qbridge_rabbitmq.connection.outage_log import OutageLog
from qbridge_rabbitmq.connection.reconnecting import ReconnectingConnection

# Together with what a worker waits for before, a stop takes at most three seconds more than its grace period.
ANSWERS: Final = 1.0
"""Seconds that a broker may be silent while its connections are closed."""
_LONGEST_CLOSE: Final = 5.0
_JOIN_TIMEOUT: Final = 0.3
HARDLY_ANSWERS: Final = 0.2
"""The same for one that was silent before: ``connect`` or ``disconnect`` has taken its time already."""

_all: Final[weakref.WeakSet[Connections]] = weakref.WeakSet()


def _leave_to_the_parent() -> None:
    """A forked child has copies of its parent's descriptors, and nothing that uses them.

    With a copy open, a connection would live on when its parent is dead, and the broker would wait for it. Closing a
    copy sends nothing, and takes nothing out of the parent's epoll set (epoll(7), questions and answers).
    """
    for connections in list(_all):
        connections.let_go()
    _all.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_leave_to_the_parent)


class State(Enum):
    """What there is of a client's connections. Each follows the one before it; opening may end in closing."""

    NEW = "no thread yet"
    OPENING = "both connections were begun for the first time"
    OPEN = "both were there; one that is lost is made again"
    CLOSING = "what is left is sent, and no connection is made any more"
    CLOSED = "the thread has ended, or was given up"


class Ends(NamedTuple):
    """Who is told, in the I/O thread, of one of the connections: that it is there, and why it is not."""

    up: Callable[[AmqpConnection], None]
    down: Callable[[BaseException], None]


class Connections:
    """One connected span of a client. Methods without a remark are for any thread but the I/O thread.

    Args:
        endpoint: where to connect and how.
        flush: called in the I/O thread to send what others have gathered; whether there was anything.
        consuming: told of the connection for all but publishing.
        publishing: told of the other one.
        events: told of outages.

    Attributes:
        state: see there (in any thread).
        pid: the process that they belong to.
        times_connected: how often the consuming connection was made (in any thread).
        io: the I/O thread.
        consuming: the connection for all but publishing (for the I/O thread).
        publishing: the other one (likewise).
    """

    def __init__(
        self,
        endpoint: Endpoint,
        flush: Callable[[], bool],
        consuming: Ends,
        publishing: Ends,
        events: ConnectionEvents | None = None,
    ) -> None:
        self.state = State.NEW
        self.pid: Final = os.getpid()
        self.times_connected = 0
        self.io = IOThread(flush, self._begin_anew)
        self._flush = flush
        self._endpoint = endpoint
        self._options = endpoint.options
        self._outage = OutageLog(events)
        self._opened: Future[None] = Future()
        self._failed_at = endpoint.addresses[0]
        self._ends = consuming, publishing
        parts = self.io, endpoint, Hosts(endpoint.addresses), self._outage
        self.consuming = ReconnectingConnection(*parts, "consume", self._consuming_up, self._consuming_down)
        self.publishing = ReconnectingConnection(*parts, "publish", self._publishing_up, self._publishing_down)
        _all.add(self)

    # ------------------------------------------------------------------ connect and disconnect

    def open(self, *begin: Callable[[], None]) -> None:
        """Connect; ``begin`` is called in the I/O thread at its beginning.

        Raises:
            BrokerUnavailableError: the broker cannot be reached.
            AuthenticationError: it refused the credentials or the virtual host.
        """
        self.state = State.OPENING
        self.io.start()
        for call in (self.consuming.open, self.publishing.open, *begin):
            self.io.post(call)
        try:
            self._opened.result(self._options.connect_timeout)
        except TimeoutError as exc:
            self.close(HARDLY_ANSWERS)
            raise BrokerUnavailableError(
                f"no connection to {self._endpoint} within {self._options.connect_timeout:g} s: the server does not "
                "answer"
            ) from exc
        except Exception as exc:
            self.close(HARDLY_ANSWERS)
            problem = explain(exc, self._endpoint, self._failed_at)
            raise type(problem)(f"no connection to {self._endpoint}: {problem}") from exc
        self.state = State.OPEN

    def begin_closing(self) -> None:
        """From now on whoever waits for the broker is told that the client was disconnected."""
        self.state = State.CLOSING

    def close(self, patience: float = ANSWERS) -> None:
        """Send what is left, close, and end the thread; a broker that is silent for ``patience`` has no more time."""
        self.begin_closing()
        self.io.post(lambda: self._begin_close(patience))
        self.io.join(_LONGEST_CLOSE + _JOIN_TIMEOUT)
        self.state = State.CLOSED

    @property
    def closing(self) -> bool:
        """Whether ``close`` was called."""
        return self.state in {State.CLOSING, State.CLOSED}

    def _begin_close(self, patience: float) -> None:
        self._flush()
        still_open = [self.consuming, self.publishing]

        def closed(connection: ReconnectingConnection) -> None:
            if connection in still_open:
                still_open.remove(connection)
                if not still_open:
                    self.io.stop()

        self._await_close(patience, monotonic() + _LONGEST_CLOSE)
        for connection in list(still_open):
            connection.close(lambda connection=connection: closed(connection))  # type: ignore[misc]

    def _await_close(self, patience: float, longest: float) -> None:
        """Drop the sockets when nothing moves any more: a broker that answers gets all that is left."""
        before = self._moved()

        def look() -> None:
            if self._moved() != before and monotonic() < longest:
                self._await_close(patience, longest)
                return
            self.io.later(_JOIN_TIMEOUT / 2, self.io.stop)
            self.consuming.abandon()
            self.publishing.abandon()

        self.io.later(patience, look)

    def _moved(self) -> tuple[object, ...]:
        return tuple((one.received, one.unsent) for one in (self.consuming, self.publishing))

    def _begin_anew(self, error: Exception) -> None:
        """Something went wrong that nobody foresaw: what there is may be half done, so it is made anew."""
        try:
            self.consuming.reset(error)
        finally:
            self.publishing.reset(error)

    def let_go(self) -> None:
        """Close the descriptors and send nothing: in a forked child, or when the thread has ended."""
        for part in (self.consuming, self.publishing, self.io):
            with suppress(Exception):  # the thread may have been in the middle of anything
                part.let_go()

    # ------------------------------------------------------------------ they come and go (I/O thread)

    def _consuming_up(self, connection: AmqpConnection) -> None:
        self.times_connected += 1
        self._ends[0].up(connection)
        self._check_opened()

    def _consuming_down(self, reason: BaseException) -> None:
        self._ends[0].down(reason)
        self._fail_opening(self.consuming, reason)

    def _publishing_up(self, connection: AmqpConnection) -> None:
        self._ends[1].up(connection)
        self._check_opened()

    def _publishing_down(self, reason: BaseException) -> None:
        self._ends[1].down(reason)
        self._fail_opening(self.publishing, reason)

    def _check_opened(self) -> None:
        if self.consuming.connection and self.publishing.connection and not self._opened.done():
            self._opened.set_result(None)

    def _fail_opening(self, connection: ReconnectingConnection, reason: BaseException) -> None:
        if not self._opened.done() and (connection.exhausted or errors.is_refusal(reason)):
            self._failed_at = connection.address
            self._opened.set_exception(reason)

    def check(self) -> None:
        """In the I/O thread, every few seconds: drop what is silent, and say when an outage lasts."""
        self.consuming.check()
        self.publishing.check()
        self._outage.remind()

    # ------------------------------------------------------------------ are they there?

    @property
    def is_up(self) -> bool:
        """Whether the consuming connection is there."""
        return self.consuming.connection is not None

    @property
    def because(self) -> str:
        """Why it is not, to be appended to a text; "" when that is not known."""
        problem = self.consuming.problem if self.consuming.connection is None else None
        return f": {problem}" if problem is not None else ""

    def require_open(self) -> None:
        """Raise NotConnectedError when ``disconnect`` was called."""
        if self.closing:
            raise NotConnectedError("the client was disconnected")

    def require_connection(self) -> None:
        """Raise when the consuming connection is down.

        Raises:
            NotConnectedError: ``disconnect`` was called.
            BrokerUnavailableError: the connection was lost.
        """
        self.require_open()
        if not self.is_up:
            raise BrokerUnavailableError(f"no connection to {self._endpoint}{self.because}")

    def __str__(self) -> str:
        return str(self._endpoint)

    def progress(self) -> Progress:
        """Begin to look whether anything comes on the consuming connection."""
        return Progress(self.consuming)


class Progress:
    """Whether anything comes on a connection."""

    def __init__(self, connection: ReconnectingConnection) -> None:
        self._connection = connection
        self._last = connection.received
        self.has_moved = False

    def moved(self) -> bool:
        """Whether anything has come since the last call."""
        before, self._last = self._last, self._connection.received
        moved = self._last is not None and self._last != before
        self.has_moved = self.has_moved or moved
        return moved
