"""Keeps one connection alive: connects, and connects again for ever with backoff, until it is closed."""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable
from typing import Any, Final

from pika import exceptions

from qbridge_core.logs import logger
from qbridge_rabbitmq import errors
from qbridge_rabbitmq.hosts import Hosts
from qbridge_rabbitmq.loop import IOThread
from qbridge_rabbitmq.options import Endpoint
from qbridge_rabbitmq.wire import Connection

_log: Final = logger("qbridge.rabbitmq")
_REFUSED_PAUSE: Final = 5.0
# A connection that is lost sooner than this was no success: pauses go on growing.
_STABLE_AFTER: Final = 5.0
# pika ends an attempt itself when a server does not answer; both at once would be in each other's way.
_TRIAL_END: Final = 0.5
# Of our own: drawing from the shared generator would change what a program with a fixed seed gets.
_random: Final = random.Random()  # noqa: S311 - it spreads load and hides nothing


class Link:
    """One connection of a client, renewed whenever it is lost. All methods run in the I/O thread.

    Args:
        io: the I/O thread.
        endpoint: how to connect.
        hosts: where to, shared with the other connections of the client.
        role: what the connection is for, in logs and in the broker's list.
        on_up: called with each new connection.
        on_down: called with the reason when it is lost, and when an attempt failed.
    """

    def __init__(
        self,
        io: IOThread,
        endpoint: Endpoint,
        hosts: Hosts,
        role: str,
        on_up: Callable[[Connection], None],
        on_down: Callable[[BaseException], None],
    ) -> None:
        self.connection: Connection | None = None
        self._io = io
        self._endpoint = endpoint
        self._hosts = hosts
        self._address = hosts.current
        self._role = role
        self._on_up = on_up
        self._on_down = on_down
        self._attempt: Connection | None = None
        self._failures = 0
        self._opened_at = 0.0
        self._heard = -1, 0.0  # bytes received, and since when there were no more
        self._useless = False
        self._closed: Callable[[], None] | None = None

    @property
    def exhausted(self) -> bool:
        """Whether no server is left that was not tried since the last success."""
        return self._failures >= len(self._hosts)

    @property
    def received(self) -> tuple[int, int] | None:
        """In any thread: something that changes when anything comes from the broker; None when that cannot be."""
        connection = self.connection
        return (id(connection), connection.bytes_received) if connection is not None else None

    def open(self) -> None:
        """Start to connect."""
        if self._closed is not None:
            return
        self._address = self._hosts.current
        try:
            self._attempt = attempt = Connection(
                self._endpoint.parameters(self._address, self._role),
                on_open_callback=self._opened,
                on_open_error_callback=self._failed,
                on_close_callback=self._lost,
                custom_ioloop=self._io.ioloop,
            )
        except OSError as exc:
            self._failed(None, exc)
            return
        if len(self._hosts) > 1:
            # pika limits the time for each address of a name, and not the time for looking it up.
            self._io.later(self._endpoint.trial + _TRIAL_END, lambda: self._expire(attempt))

    def close(self, closed: Callable[[], None]) -> None:
        """Close for good; ``closed`` is called when the broker has confirmed it."""
        self._closed = closed
        connection = self.connection or self._attempt
        if connection is None or connection.is_closed:
            closed()
        elif not connection.is_closing:
            connection.close()

    def abandon(self) -> None:
        """Drop the socket of a connection whose broker does not answer."""
        for connection in (self.connection, self._attempt):
            if connection is not None:
                connection.abandon(exceptions.StreamLostError("no answer to the closing of the connection"))

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
        now = time.monotonic()
        if connection.bytes_received != self._heard[0]:
            self._heard = connection.bytes_received, now
        elif now - self._heard[1] > 1.5 * self._endpoint.options.heartbeat:
            connection.abandon(exceptions.AMQPHeartbeatTimeout("the broker has been silent for too long"))

    def _expire(self, attempt: Connection) -> None:
        if self._attempt is attempt:
            attempt.abandon(exceptions.StreamLostError("no answer in time"))

    def _opened(self, connection: Any) -> None:
        if self._closed is not None:
            connection.close()
            return
        self._hosts.opened(self._address)
        if self._failures:
            _log.info("connected to %s%s (%s)", self._where, " again" if self._opened_at else "", self._role)
        self._opened_at = time.monotonic()
        self._heard = -1, self._opened_at
        self._attempt = None
        self.connection = connection
        connection.read_more_at_once()
        self._on_up(connection)

    def _failed(self, connection: Any, error: BaseException | str) -> None:
        del connection
        self._hosts.failed(self._address)
        self._down(error if isinstance(error, BaseException) else exceptions.AMQPConnectionError(error))

    def _lost(self, connection: Any, error: BaseException) -> None:
        del connection
        stable = time.monotonic() - self._opened_at > _STABLE_AFTER
        if stable:
            self._failures = 0
        self._hosts.lost(self._address, soon=not stable or self._useless)
        self._useless = False
        self._down(error)

    def _down(self, error: BaseException) -> None:
        self.connection = self._attempt = None
        if self._closed is None:
            pause = self._pause(error)
            if self._opened_at or not self.exhausted:  # else connect() is about to raise it
                self._report(error, pause)
            self._io.later(pause, self.open)
        self._on_down(error)
        if self._closed is not None:
            self._closed()

    def _report(self, error: BaseException, pause: float) -> None:
        level = logging.ERROR if errors.is_refusal(error) else logging.WARNING
        _log.log(
            level, "no connection to %s (%s): %s; next attempt in %.1f s",
            self._where, self._role, errors.describe(error), pause,
        )  # fmt: skip

    @property
    def _where(self) -> str:
        return self._endpoint.show(self._address)

    def _pause(self, error: BaseException) -> float:
        """Seconds until the next attempt, with jitter so that many clients do not come at once.

        They are doubled when all servers have been tried; the next of several is tried soon.
        """
        options = self._endpoint.options
        rounds, tried = divmod(self._failures, len(self._hosts))
        self._failures += 1
        doublings = 0 if tried else min(rounds, 30)
        delay: float = min(options.reconnect_delay * 2.0**doublings, options.reconnect_delay_max)
        if errors.is_refusal(error) and self.exhausted:
            delay = max(delay, _REFUSED_PAUSE)
        return delay * _random.uniform(0.8, 1.2)
