"""The thread that keeps leases alive, delivers delayed messages when they are due, and forgets dead consumers
and queues that are used no more.

It has a connection of its own, so that neither a blocked read nor a slow publish can make a lease run out.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Sequence
from typing import Final, Protocol

from qbridge_core.backend import Pulse, QBridgeError, monotonic
from qbridge_redis.connection.connection import LOST, RedisConnection
from qbridge_redis.connection.errors import REFUSED, unreachable
from qbridge_redis.connection.reconnect_pause import ReconnectPause
from qbridge_redis.protocol.scripts import REMOVE_IDLE_CONSUMERS
from qbridge_redis.queues.delays import Delays
from qbridge_redis.recovery.leases import Leases
from qbridge_redis.state.context import NodeContext, ServerContext, log

_REAP_EVERY: Final = 300.0
_RELEASE_EVERY: Final = 30.0
_SPARE: Final = 2
"""So many connections are kept for longer though nobody uses them."""
_SPARE_TIME: Final = 5.0
_REAP_IDLE: Final = 3600.0
_REFUSED_PAUSE: Final = 5.0
_WATCH_EVERY: Final = 1.0
_WATCH_PAUSE: Final = 5.0


class Maintained(Protocol):
    """A node."""

    @property
    def context(self) -> NodeContext:
        """What its parts share."""
        ...

    def with_delays(self) -> Sequence[str]:
        """The queues whose delayed messages are to be delivered."""
        ...

    def release_unused(self, connection: RedisConnection) -> None:
        """Forget the queues that are used no more."""


class Maintenance:
    """The thread that does so for one server.

    Args:
        server: the server.
        nodes: those that are there now.
        delays: of their queues.

    Attributes:
        pulse: of the thread.
    """

    def __init__(self, server: ServerContext, nodes: Callable[[], Sequence[Maintained]], delays: Delays) -> None:
        self.pulse = Pulse("the thread that keeps leases at Redis")
        self._server = server
        self._nodes = nodes
        self._connection = RedisConnection(server.route, server.name)
        self._poked = threading.Event()
        self._thread = threading.Thread(target=self._run, name="qbridge-redis-maintenance", daemon=True)
        self._leases = Leases(server.options.lease, lambda: [node.context for node in nodes()])
        self._delays = delays
        self._reap_at = monotonic() + _REAP_EVERY
        self._release_at = monotonic() + _RELEASE_EVERY
        self._watch_at = 0.0 if server.route.needs_watch else math.inf
        self._opened_before = False
        self._is_ended = False

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def poke(self) -> None:
        """Something was delayed: look when it is due."""
        self._delays.due_at = 0.0
        self._poked.set()

    def renew_soon(self) -> None:
        """A node has come here from another server: its leases may be about to run out."""
        self._leases.due_at = 0.0
        self.poke()

    def end(self) -> None:
        """End the thread some time: there is no node here any more."""
        self._is_ended = True
        self._poked.set()

    def abort(self) -> None:
        """Do not wait for a server that does not answer."""
        self._connection.abort()

    def stop(self, timeout: float) -> None:
        """End the thread; ``closing`` must be set."""
        self._poked.set()
        if self._thread.is_alive():
            self._thread.join(timeout)
            self._connection.abort()
            self._thread.join(timeout)
        self._connection.close()

    def _run(self) -> None:
        # Whoever gets a message as soon as the server is back has it renewed before its first lease is over.
        in_time = self._server.options.lease / 4
        pause = ReconnectPause(in_time)
        closing = self._server.closing
        while not (closing.is_set() or self._is_ended):
            self.pulse.turn(self._server.options.patience)
            try:
                self._watch()
                self._connect()
                self._work()
                self._server.outage.back(self)
                pause.reset()
            except REFUSED as exc:
                self._server.lost(self, exc)
                closing.wait(min(_REFUSED_PAUSE, in_time))
            except (QBridgeError, *LOST) as exc:
                error = unreachable(exc, self._connection.where) if isinstance(exc, LOST) else exc
                self._server.lost(self, error)
                closing.wait(pause.next())
            except Exception:  # noqa: BLE001 - a dead thread would be worse than any error
                log.exception("maintenance goes on after an unexpected error")
                closing.wait(pause.next())
            else:
                self._sleep()
        self._connection.close()  # it may have been opened after whoever stops this has closed it
        if self._is_ended:
            self._server.outage.back(self)
        self.pulse.rest()

    def _sleep(self) -> None:
        next_at = min(self._leases.due_at, self._delays.due_at, self._reap_at, self._release_at, self._watch_at)
        seconds = max(0.001, next_at - monotonic())
        self.pulse.turn(seconds)
        self._poked.wait(seconds)
        self._poked.clear()

    def _watch(self) -> None:
        now = monotonic()
        if now >= self._watch_at:
            answered = self._server.route.watch()
            self._watch_at = now + (_WATCH_EVERY if answered else _WATCH_PAUSE)

    def _connect(self) -> None:
        if self._connection.is_usable:
            return
        self._connection.close()
        self._connection.open()
        if self._opened_before:
            for node in self._nodes():
                node.context.reconnected()
            self._leases.due_at = 0.0  # before the others may take over what this client holds
        self._opened_before = True

    def _work(self) -> None:
        now = monotonic()
        if now >= self._leases.due_at:
            self._leases.renew(self._connection)
        if now >= self._delays.due_at:
            queues = [queue for node in self._nodes() for queue in node.with_delays()]
            self._delays.deliver_due(self._connection, queues)
        self._server.pool.trim(_SPARE_TIME, _SPARE)
        if self._server.acks_waiting.is_set():
            self._server.acks_waiting.set()  # whoever it is for may not have been there, and be found now
        if now >= self._release_at:
            for node in self._nodes():
                node.release_unused(self._connection)
            self._release_at = now + _RELEASE_EVERY
        if now >= self._reap_at:
            self._reap()
            self._reap_at = now + _REAP_EVERY

    def _reap(self) -> None:
        for context in [node.context for node in self._nodes()]:
            for in_flight in context.all_in_flight():
                stream = context.keys.stream(in_flight.queue)
                self._connection.call(REMOVE_IDLE_CONSUMERS([stream], context.options.group, int(_REAP_IDLE * 1000)))
