"""Keeps one connection alive: connects, and connects again for ever with backoff, until it is closed."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final

from pika import exceptions

from qbridge_core.backend import QBridgeError, TransientError, monotonic
from qbridge_rabbitmq.amqp import errors, protocols
from qbridge_rabbitmq.amqp.connection import AmqpConnection
from qbridge_rabbitmq.connection.diagnosis import explain
from qbridge_rabbitmq.connection.hosts import Address, Hosts
from qbridge_rabbitmq.connection.io_thread import IOThread
from qbridge_rabbitmq.connection.options import Endpoint
from qbridge_rabbitmq.connection.outage_log import OutageLog
from qbridge_rabbitmq.connection.reconnect_pause import ReconnectPause

# A connection that is lost sooner than this was no success: pauses go on growing.
_STABLE_AFTER: Final = 5.0
# pika ends an attempt itself when a server does not answer; both at once would be in each other's way.
_TRIAL_END: Final = 0.5
# A broker greets within milliseconds. One that does not may be something else.
_SILENCE: Final = 1.0


class ReconnectingConnection:
    """One connection of a client, renewed whenever it is lost. All methods run in the I/O thread.

    Args:
        io: the I/O thread.
        endpoint: how to connect.
        hosts: where to, shared with the other connections of the client.
        outage: tells of losses and returns.
        role: what the connection is for, in the broker's list.
        on_up: called with each new connection.
        on_down: called with the reason when it is lost, and when an attempt failed.

    Attributes:
        connection: the connection, while there is one.
        problem: why there was none the last time.
        address: of the server, tried or in use.
    """

    def __init__(
        self,
        io: IOThread,
        endpoint: Endpoint,
        hosts: Hosts,
        outage: OutageLog,
        role: str,
        on_up: Callable[[AmqpConnection], None],
        on_down: Callable[[BaseException], None],
    ) -> None:
        self.connection: AmqpConnection | None = None
        self.problem: QBridgeError | None = None
        self._io = io
        self._endpoint = endpoint
        self._hosts = hosts
        self._outage = outage
        self.address = hosts.current
        self._role = role
        self._on_up = on_up
        self._on_down = on_down
        self._attempt: AmqpConnection | None = None
        options = endpoint.options
        self._pause = ReconnectPause(options.reconnect_delay, options.reconnect_delay_max, len(hosts))
        self._opened_at = 0.0
        self._heard = -1, 0.0  # bytes received, and since when there were no more
        self._useless = False
        self._waits = False  # for the next attempt
        self._closed: Callable[[], None] | None = None

    @property
    def exhausted(self) -> bool:
        """Whether no server is left that was not tried since the last success."""
        return self._pause.exhausted

    @property
    def received(self) -> tuple[int, int] | None:
        """In any thread: something that changes when anything comes from the broker; None when that cannot be."""
        connection = self.connection
        return (id(connection), connection.bytes_received) if connection is not None else None

    def open(self) -> None:
        """Start to connect."""
        self._waits = False
        if self._closed is not None:
            return
        self.address = self._hosts.current
        try:
            self._attempt = attempt = AmqpConnection(
                self._endpoint.parameters(self.address, self._role),
                on_open_callback=self._opened,
                on_open_error_callback=self._failed,
                on_close_callback=self._lost,
                ioloop=self._io.ioloop,
            )
        except Exception as exc:  # noqa: BLE001 - no descriptors, no memory: it must be tried again
            self._failed(None, exc)
            return
        if not self._opened_at:
            self._io.later(min(_SILENCE, self._endpoint.trial / 2), lambda: self._suspect(attempt))
        if len(self._hosts) > 1:
            # pika limits the time for each address of a name, and not the time for looking it up.
            self._io.later(self._endpoint.trial + _TRIAL_END, lambda: self._expire(attempt, TimeoutError()))

    def close(self, closed: Callable[[], None]) -> None:
        """Close for good; ``closed`` is called when the broker has confirmed it."""
        self._closed = closed
        connection = self.connection or self._attempt
        if connection is None or connection.is_closed:
            closed()
        elif connection is self._attempt:
            connection.abandon(exceptions.StreamLostError("closed before it was open"))
        elif not connection.is_closing:
            connection.close()

    def abandon(self) -> None:
        """Drop the socket of a connection whose broker does not answer."""
        for connection in (self.connection, self._attempt):
            if connection is not None:
                connection.abandon(exceptions.StreamLostError("no answer to the closing of the connection"))

    def reset(self, reason: Exception) -> None:
        """Begin anew with nothing of what there was, when pika's state is not to be trusted any more."""
        for connection in (self.connection, self._attempt):
            if connection is not None:
                with suppress(Exception):
                    connection.abandon(reason)
                with suppress(Exception):
                    connection.let_go()
        if self.connection is not None:
            self._hosts.lost(self.address, soon=False)
        if self.connection is not None or self._attempt is not None or not self._waits:
            self._down(reason)

    def let_go(self) -> None:
        """In a forked child: close the descriptors, and send nothing."""
        for connection in (self.connection, self._attempt):
            if connection is not None:
                connection.let_go()

    @property
    def unsent(self) -> int:
        """Bytes that the socket has not taken yet."""
        return self.connection.unsent if self.connection is not None else 0

    def move(self, reason: str) -> None:
        """Leave a server that answers but does not serve, if there is another one."""
        if self.connection is not None and len(self._hosts) > 1:
            self._useless = True
            self.connection.abandon(exceptions.StreamLostError(reason))

    def check(self) -> None:
        """Call it every few seconds: drops a connection whose broker has been silent for too long.

        The broker sends a heartbeat twice in each interval (rabbitmq.com/docs/heartbeats), so after one and a half
        intervals three are missing. pika waits for more than two intervals.
        """
        connection = self.connection
        if connection is None:
            return
        now = monotonic()
        if connection.bytes_received != self._heard[0]:
            self._heard = connection.bytes_received, now
        elif now - self._heard[1] > 1.5 * self._endpoint.options.heartbeat:
            connection.abandon(exceptions.AMQPHeartbeatTimeout("the broker has been silent for too long"))

    def _expire(self, attempt: AmqpConnection, reason: Exception) -> None:
        if self._attempt is attempt:
            attempt.abandon(reason)

    def _suspect(self, attempt: AmqpConnection) -> None:
        """Find out why a server is silent. It must not be asked in this thread, since it may go on being so."""
        if self._attempt is attempt and not attempt.frames_received:
            address = self.address
            threading.Thread(target=self._probe, args=(attempt, address), name="qbridge-probe", daemon=True).start()

    def _probe(self, attempt: AmqpConnection, address: Address) -> None:
        if other := protocols.probe(address):
            self._io.post(lambda: self._expire(attempt, protocols.OtherProtocol(other)))

    def _opened(self, connection: Any) -> None:
        if self._closed is not None:
            connection.close()
            return
        attempt = self._attempt
        if attempt is None or connection is not attempt:
            connection.abandon(exceptions.StreamLostError("nobody waits for it any more"))
            return
        self._hosts.opened(self.address)
        self._outage.up(self._role, self._where)
        self._opened_at = monotonic()
        self._heard = -1, self._opened_at
        self._attempt = None
        self.connection = attempt
        attempt.read_more_at_once()
        self._on_up(attempt)

    def _failed(self, connection: Any, error: BaseException | str) -> None:
        if connection is not None and connection is not self._attempt:
            return
        self._hosts.failed(self.address)
        self._down(error if isinstance(error, BaseException) else exceptions.AMQPConnectionError(error))

    def _lost(self, connection: Any, error: BaseException) -> None:
        if connection is not self.connection:
            return
        stable = monotonic() - self._opened_at > _STABLE_AFTER
        if stable:
            self._pause.reset()
        self._hosts.lost(self.address, soon=not stable or self._useless)
        self._useless = False
        self._down(error)

    def _down(self, error: BaseException) -> None:
        self.connection = self._attempt = None
        if self._closed is None:
            self._waits = True
            self._io.later(self._pause.next(refused=errors.is_refusal(error)), self.open)
        self.problem = explain(error, self._endpoint, self.address)
        if self._closed is None:
            self._tell(self.problem)
        self._on_down(error)
        if self._closed is not None:
            self._closed()

    def _tell(self, problem: QBridgeError) -> None:
        if self._opened_at:
            needs_help = not isinstance(problem, TransientError)
            self._outage.down(self._role, self._where, str(problem), needs_help)
        elif not self.exhausted:  # else connect() is about to raise it
            self._outage.skipped(self._where, str(problem))

    @property
    def _where(self) -> str:
        return self._endpoint.show(self.address)
