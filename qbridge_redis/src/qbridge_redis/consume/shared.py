"""One thread and one connection for many queues of one server, so that idle queues need none each.

Facts: https://redis.io/docs/latest/commands/xreadgroup/ (COUNT is for each stream, and a read that waits ends with the
first stream that has something).
"""

from __future__ import annotations

import contextlib
import math
import threading
import time
from collections.abc import Iterator, Sequence
from typing import Any, Final

from redis.exceptions import ResponseError

from qbridge_core.backend import BrokerUnavailableError, Pulse, QBridgeError, TransientError, monotonic
from qbridge_redis.connection.connection import LOST, RedisConnection
from qbridge_redis.connection.errors import REFUSED, is_missing_group, is_transient, refused, unreachable
from qbridge_redis.connection.reconnect_pause import ReconnectPause
from qbridge_redis.consume.reading import SLICE, deliveries, read_command, unblock
from qbridge_redis.consume.subscription import PATIENCE, TOGETHER, Subscription
from qbridge_redis.consume.together import SharedQueues
from qbridge_redis.queues.permissions import warn_of_missing_rights
from qbridge_redis.state.context import ServerContext, log

_REFUSED_PAUSE: Final = 5.0
_CLOGGED: Final = 0.2


class SharedReader:
    """Reads the idle queues of one server, all with one blocking read. Thread-safe.

    Args:
        server: the server.
        queues: those that are read together, here and elsewhere.

    Attributes:
        pulse: of the thread.
        turns: how often it has read what there is.
    """

    def __init__(self, server: ServerContext, queues: SharedQueues) -> None:
        self.pulse = Pulse("the thread that reads idle queues of Redis")
        self.turns = 0
        self._server = server
        self._queues = queues
        self._connection = RedisConnection(server.route, server.name)
        self._lock = threading.Lock()
        self._current: dict[bytes, Subscription] = {}
        self._is_woken = False
        self._wanted = threading.Event()
        self._reading = threading.Event()
        self._thread: threading.Thread | None = None
        self._is_ended = False
        self._opened_before = False
        self._reconnect_pause = ReconnectPause()
        self._error: BrokerUnavailableError | None = None
        self._recover_at = 0.0

    # ------------------------------------------------------------------ for any thread; see Reads

    def ensure(self) -> None:
        """Start the thread if there is none."""
        with self._lock:
            if self._thread is None:
                thread = threading.Thread(target=self._run, name="qbridge-redis-reader", daemon=True)
                thread.start()
                self._thread = thread

    def expect(self, new: Sequence[Subscription]) -> None:
        """Read these soon, too."""
        now = monotonic()
        recovers_at = min(subscription.recovers_at(now) for subscription in new)
        with self._lock:
            self._recover_at = min(self._recover_at, recovers_at)

    def wake(self) -> None:
        """Have the thread look again at what to read. Whoever is first does it for all."""
        with self._lock:
            if self._is_woken:
                return
            self._is_woken = True
        self._wanted.set()
        deadline = monotonic() + SLICE
        while self._is_woken and self._reading.is_set() and monotonic() < deadline:
            # The thread may be just before its read, where unblocking does nothing yet: hence again and again.
            if not unblock(self._server.pool, self._connection):
                return  # the read ends by itself at the end of its slice
            time.sleep(0.002)

    def care(self) -> None:
        """Something was left that may not be collected, or is to be read here now."""
        self._wanted.set()

    def require_success(self) -> None:
        """Do nothing as long as the queues can be read."""
        if self._error is not None:
            raise BrokerUnavailableError(str(self._error)) from self._error.__cause__

    def abort(self) -> None:
        """Do not wait for a server that does not answer."""
        self._connection.abort()

    def end(self) -> None:
        """End the thread some time: there is no node here any more."""
        self._is_ended = True
        self._wanted.set()

    def stop(self, timeout: float) -> None:
        """End the thread; ``closing`` must be set."""
        thread = self._thread
        if thread is None:
            return
        self.wake()
        thread.join(timeout)
        if thread.is_alive():
            self._connection.abort()
            thread.join(timeout)

    # ------------------------------------------------------------------ the thread

    def _run(self) -> None:
        closing = self._server.closing
        while not (closing.is_set() or self._is_ended):
            self.pulse.turn(SLICE + self._server.options.patience)
            self._wanted.clear()
            self._is_woken = False
            current, uncollected = self._queues.begin(self), True
            self._current = {one.stream: one for one in current}
            try:
                uncollected = self._queues.give_back_uncollected(self)
                if current:
                    self._turn(current)
            except (*REFUSED, *LOST) as exc:
                error = unreachable(exc, self._connection.where)
                error.__cause__ = exc
                self._failed(error)
            except TransientError as exc:
                self._failed(exc)
            except Exception:  # noqa: BLE001 - a dead thread would be worse than any error
                log.exception("reading goes on after an unexpected error")
                self._recover_at = 0.0
                closing.wait(self._reconnect_pause.next())
            finally:
                self._current = {}
                self._queues.end(self, current)
            self._rest(current, uncollected=uncollected)
        self._connection.close()
        if self._is_ended:
            self._server.outage.back(self)
        self.pulse.rest()

    def _rest(self, current: Sequence[Subscription], *, uncollected: bool) -> None:
        """Wait until there is something to read, or to give back."""
        if not current:
            self.pulse.rest()
            self._wanted.wait(PATIENCE if uncollected else None)

    def _turn(self, current: Sequence[Subscription]) -> None:
        self._connect(current)
        if monotonic() >= self._recover_at:
            self._recover(current)
        left = self._left(current)
        if ready := [one for one in left if not one.in_flight.is_clogged]:
            self._read(ready)
        elif left:
            self._server.closing.wait(_CLOGGED)
        self._error = None
        self._reconnect_pause.reset()
        self._server.outage.back(self)

    def _failed(self, error: QBridgeError) -> None:
        self._recover_at = 0.0
        self._error = error if isinstance(error, BrokerUnavailableError) else BrokerUnavailableError(str(error))
        self._server.lost(self, error)
        self._server.closing.wait(self._reconnect_pause.next())

    def _connect(self, current: Sequence[Subscription]) -> None:
        if self._connection.is_usable:
            return
        if self._connection.is_open:
            self._connection.close()
            for subscription in current:
                subscription.in_flight.mark_deleted()  # what was read from a server that is no master any more
                subscription.takeover.reply_lost()
        self._connection.open()
        if self._opened_before:
            for context in {subscription.context for subscription in current}:
                context.reconnected()
            for subscription in current:
                subscription.takeover.begin_anew()
        self._opened_before = True

    def _recover(self, current: Sequence[Subscription]) -> None:
        """Hand out what comes back."""
        connection, now = self._connection, monotonic()
        with self._lock:  # before the looks: what is added meanwhile brings it forward again
            self._recover_at = math.inf
        for one in current:
            if one.is_new:
                one.is_new = False
                warn_of_missing_rights(one.context, connection, one.queue)
        looks = [one for one in current if one.takeover.look_at <= now + TOGETHER]
        if looks:
            replies = connection.call_many([one.takeover.look_command() for one in looks])
            for one, reply in zip(looks, replies, strict=True):
                with self._apart(one):
                    one.takeover.looked(connection, reply)
        for one in self._left(current):
            if one.takeover.comes_back_at() <= now:
                with self._apart(one):
                    self._queues.deliver(one, one.takeover.receive(connection, one.count))
        next_at = min((one.recovers_at(now) for one in self._left(current)), default=math.inf)
        with self._lock:
            self._recover_at = min(self._recover_at, next_at)

    def _left(self, current: Sequence[Subscription]) -> list[Subscription]:
        """Those that are still read here; the others are the business of the threads that receive."""
        return [one for one in current if self._queues.has(one)]

    @contextlib.contextmanager
    def _apart(self, subscription: Subscription) -> Iterator[None]:
        """Do something for one queue; what the server refuses there is no trouble of the others."""
        try:
            yield
        except TransientError:
            raise
        except QBridgeError as exc:
            self._queues.eject(subscription)
            subscription.fail(exc)

    def _read(self, ready: Sequence[Subscription]) -> None:
        """Read what comes to any of them; wait for it a while."""
        block = self._block()
        streams = [one.stream for one in ready]
        self._reading.set()
        try:
            if self._is_woken or self._server.closing.is_set():
                return
            self._connection.send([read_command(ready[0].context, streams, 1, block)])
            reply = self._connection.read(block / 1000 + self._server.options.socket_timeout)
        except BaseException:
            for one in ready:
                one.takeover.reply_lost()
            raise
        finally:
            self._reading.clear()
        if isinstance(reply, ResponseError):
            self._refused(ready, reply)
        elif reply:
            self._hand_out(reply, 1)

    def _block(self) -> int:
        """Milliseconds for which the read may block."""
        return max(1, round(min(SLICE, self._recover_at - monotonic()) * 1000))

    def _hand_out(self, reply: Sequence[Sequence[Any]], asked: float) -> None:
        """Hand out what has come, with more of the same queues where more is wanted than was asked for."""
        came = {self._current[row[0]]: deliveries(self._current[row[0]].in_flight, row[1]) for row in reply}
        more = [one for one in came if one.count > asked]
        try:
            commands = [read_command(one.context, [one.stream], one.count - int(asked), 0) for one in more]
            for one, rest in zip(more, self._connection.call_many(commands) if more else (), strict=True):
                if rest and not isinstance(rest, ResponseError):
                    came[one] += deliveries(one.in_flight, rest[0][1])
        except BaseException:
            for one in more:
                one.takeover.reply_lost()
            raise
        finally:
            for one, batch in came.items():
                self._queues.deliver(one, batch)

    def _refused(self, ready: Sequence[Subscription], reply: ResponseError) -> None:
        if is_missing_group(reply):
            for one in ready:
                with self._apart(one):
                    self._heal(one)
            return
        if is_transient(reply):
            self._connection.close()  # the next attempt may find another server behind the address
            raise refused(reply, "read queues") from reply
        # The reply does not say which queue it is about: let each be read by itself for a while.
        self._queues.own_connections.lift(_REFUSED_PAUSE)
        for one in ready:
            self._queues.eject(one)
            one.wake()

    def _heal(self, subscription: Subscription) -> None:
        if subscription.context.declarations.ensure(self._connection, subscription.queue):
            log.warning("the queue %s or its group was gone; it was made again", subscription.queue)
            subscription.in_flight.mark_deleted()
