"""One blocking read for many queues of one server, so that idle queues need no connection each.

A few queues at a time have connections of their own, where a read takes acknowledgements along. When more are
subscribed, one that finds nothing gives its connection up and waits here, until something has come for it.

Facts: https://redis.io/docs/latest/commands/xreadgroup/ (COUNT is for each stream, and a read that waits ends with the
first stream that has something).
"""

from __future__ import annotations

import contextlib
import math
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Final

from redis.exceptions import ResponseError

from qbridge_core.backend import (
    BrokerUnavailableError,
    Delivery,
    DeliveryLostError,
    Pulse,
    QBridgeError,
    TransientError,
    monotonic,
)
from qbridge_redis.connection.connection import LOST, RedisConnection
from qbridge_redis.connection.errors import REFUSED, is_missing_group, is_transient, refused, unreachable
from qbridge_redis.connection.reconnect_pause import ReconnectPause
from qbridge_redis.consume.own_connections import OwnConnections
from qbridge_redis.consume.reading import SLICE, deliveries, read_command, unblock
from qbridge_redis.consume.subscription import PATIENCE, TOGETHER, Subscription
from qbridge_redis.queues.permissions import warn_of_missing_rights
from qbridge_redis.settle.rejections import Rejections
from qbridge_redis.state.context import NodeContext, log

_SWEEP_EVERY: Final = 0.5
_REFUSED_PAUSE: Final = 5.0
_CLOGGED: Final = 0.2


class SharedReader:
    """Reads the idle queues of one server with one thread and one connection. Thread-safe.

    Attributes:
        pulse: of the thread.
    """

    def __init__(self, context: NodeContext) -> None:
        self.pulse = Pulse("the thread that reads idle queues of Redis")
        self.own_connections: Final = OwnConnections()
        self._context = context
        self._rejections = Rejections(context)
        self._connection = RedisConnection(context.route, f"qbridge:{context.consumer}")
        self._lock = threading.Lock()
        self._turned = threading.Condition(self._lock)
        self._turns = 0
        self._subscriptions: dict[bytes, Subscription] = {}
        self._current: dict[bytes, Subscription] = {}
        self._uncollected: set[Subscription] = set()
        self._is_woken = False
        self._wanted = threading.Event()
        self._reading = threading.Event()
        self._thread: threading.Thread | None = None
        self._opened_before = False
        self._reconnect_pause = ReconnectPause()
        self._error: BrokerUnavailableError | None = None
        self._sweep_at = 0.0
        self._recover_at = 0.0

    def queues(self) -> list[str]:
        """The queues that are read together now."""
        with self._lock:
            return [subscription.queue for subscription in self._subscriptions.values()]

    # ------------------------------------------------------------------ for the threads that receive

    def receive(
        self, subscription: Subscription, count: int, deadline: float, is_cancelled: Callable[[], bool]
    ) -> list[Delivery]:
        """Wait until ``deadline`` (monotonic time) for what comes for a queue.

        May end sooner with nothing.

        Raises:
            BrokerUnavailableError: it could not be read at the end.
            QBridgeError: it cannot be read.
        """
        subscription.count = count
        subscription.until = deadline + PATIENCE
        if batch := subscription.collect(count):
            return batch
        self.add([subscription])
        while not is_cancelled() and self._subscriptions.get(subscription.stream) is subscription:
            if (left := deadline - monotonic()) <= 0:
                self.require_success()
                return []
            subscription.wait(left)
        return subscription.collect(count)

    def require_success(self) -> None:
        """Do nothing as long as the queues can be read.

        Raises:
            BrokerUnavailableError: they could not be read the last time.
        """
        if self._error is not None:
            raise BrokerUnavailableError(str(self._error)) from self._error.__cause__

    def remove(self, subscription: Subscription) -> None:
        """Read a queue no more, and give back what has come for it."""
        with self._lock:
            self._subscriptions.pop(subscription.stream, None)
            turns, is_current = self._turns, subscription.stream in self._current
        if is_current:
            self._wake()
            with self._turned:
                self._turned.wait_for(lambda: self._turns != turns, SLICE)
        self._give_back(subscription)

    def abort(self) -> None:
        """Do not wait for a server that does not answer."""
        self._connection.abort()

    def stop(self, timeout: float) -> None:
        """End the thread; ``context.closing`` must be set."""
        thread = self._thread
        if thread is None:
            return
        self._wake()
        thread.join(timeout)
        if thread.is_alive():
            self._connection.abort()
            thread.join(timeout)

    def add(self, subscriptions: Iterable[Subscription]) -> None:
        """Read these queues too, those that are not read already."""
        with self._lock:
            new = [one for one in subscriptions if one.stream not in self._subscriptions]
            if not new:
                return
            self._start()  # before anything is noted: without a thread all is tried again
            now = monotonic()
            for subscription in new:
                self._subscriptions[subscription.stream] = subscription
                self._recover_at = min(self._recover_at, subscription.recovers_at(now))
        self._wake()

    def keep(self, subscription: Subscription, batch: Sequence[Delivery]) -> None:
        """Leave deliveries to whoever receives next; when nobody does for a while, they go back."""
        if not batch:
            return
        self._deliver(subscription, batch)
        if not self._context.closing.is_set():  # otherwise all that is held is handed back soon
            with self._lock:
                self._start()
            self._wanted.set()

    def _start(self) -> None:
        """Start the thread if there is none. Expects the lock to be held."""
        if self._thread is None:
            thread = threading.Thread(target=self._run, name="qbridge-redis-reader", daemon=True)
            thread.start()
            self._thread = thread

    def _wake(self) -> None:
        """Have the thread look again at what to read. Whoever is first does it for all."""
        with self._lock:
            if self._is_woken:
                return
            self._is_woken = True
        self._wanted.set()
        deadline = monotonic() + SLICE
        while self._is_woken and self._reading.is_set() and monotonic() < deadline:
            # The thread may be just before its read, where unblocking does nothing yet: hence again and again.
            if not unblock(self._context, self._connection):
                return  # the read ends by itself at the end of its slice
            time.sleep(0.002)

    # ------------------------------------------------------------------ the thread

    def _run(self) -> None:
        closing = self._context.closing
        while not closing.is_set():
            self.pulse.turn(SLICE + self._context.options.patience)
            current = self._begin()
            try:
                self._give_back_uncollected()
                if current:
                    self._turn(current)
            except (*REFUSED, *LOST) as exc:
                error = unreachable(exc, self._context.options)
                error.__cause__ = exc
                self._failed(error)
            except TransientError as exc:
                self._failed(exc)
            except Exception:  # noqa: BLE001 - a dead thread would be worse than any error
                log.exception("reading goes on after an unexpected error")
                self._recover_at = 0.0
                closing.wait(self._reconnect_pause.next())
            finally:
                self._end()
            if not current:
                self.pulse.rest()
                self._wanted.wait(PATIENCE if self._uncollected else None)
        self._connection.close()
        self.pulse.rest()

    def _begin(self) -> list[Subscription]:
        """What to read in this turn: what somebody asks for."""
        self._wanted.clear()
        now = monotonic()
        with self._lock:
            self._is_woken = False
            if now >= self._sweep_at:
                self._subscriptions = {stream: one for stream, one in self._subscriptions.items() if one.until >= now}
                self._sweep_at = now + _SWEEP_EVERY
            self._current = dict(self._subscriptions)
            return list(self._current.values())

    def _end(self) -> None:
        with self._turned:
            self._current = {}
            self._turns += 1
            self._turned.notify_all()

    def _give_back_uncollected(self) -> None:
        now = monotonic()
        for subscription in list(self._uncollected):
            if now > subscription.collect_by:
                self._give_back(subscription)
        with self._lock:
            self._uncollected = {subscription for subscription in self._uncollected if subscription.has_come}

    def _turn(self, current: Sequence[Subscription]) -> None:
        self._connect(current)
        if monotonic() >= self._recover_at:
            self._recover(current)
        left = self._left(current)
        if ready := [one for one in left if not one.in_flight.is_clogged]:
            self._read(ready)
        elif left:
            self._context.closing.wait(_CLOGGED)
        self._error = None
        self._reconnect_pause.reset()
        self._context.outage.back(self)

    def _failed(self, error: QBridgeError) -> None:
        self._recover_at = 0.0
        self._error = error if isinstance(error, BrokerUnavailableError) else BrokerUnavailableError(str(error))
        self._context.lost(self, error)
        self._context.closing.wait(self._reconnect_pause.next())

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
            self._context.reconnected()
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
                warn_of_missing_rights(self._context, connection, one.queue)
        looks = [one for one in current if one.takeover.look_at <= now + TOGETHER]
        if looks:
            replies = connection.call_many([one.takeover.look_command() for one in looks])
            for one, reply in zip(looks, replies, strict=True):
                with self._apart(one):
                    one.takeover.looked(connection, reply)
        for one in self._left(current):
            if one.takeover.comes_back_at() <= now:
                with self._apart(one):
                    self._deliver(one, one.takeover.receive(connection, one.count))
        next_at = min((one.recovers_at(now) for one in self._left(current)), default=math.inf)
        with self._lock:
            self._recover_at = min(self._recover_at, next_at)

    def _left(self, current: Sequence[Subscription]) -> list[Subscription]:
        """Those that are still read here; the others are the business of the threads that receive."""
        return [one for one in current if self._subscriptions.get(one.stream) is one]

    @contextlib.contextmanager
    def _apart(self, subscription: Subscription) -> Iterator[None]:
        """Do something for one queue; what the server refuses there is no trouble of the others."""
        try:
            yield
        except TransientError:
            raise
        except QBridgeError as exc:
            self._eject(subscription)
            subscription.fail(exc)

    def _read(self, ready: Sequence[Subscription]) -> None:
        block = self._block()
        streams = [one.stream for one in ready]
        self._reading.set()
        try:
            if self._is_woken or self._context.closing.is_set():
                return
            self._connection.send([read_command(self._context, streams, 1, block)])
            reply = self._connection.read(block / 1000 + self._context.options.socket_timeout)
        except BaseException:
            for one in ready:
                one.takeover.reply_lost()
            raise
        finally:
            self._reading.clear()
        if isinstance(reply, ResponseError):
            self._refused(ready, reply)
        elif reply:
            self._hand_out(reply)

    def _block(self) -> int:
        """Milliseconds for which the read may block."""
        return max(1, round(min(SLICE, self._recover_at - monotonic()) * 1000))

    def _hand_out(self, reply: Sequence[Sequence[Any]]) -> None:
        """Hand out what has come, with more of the same queues where more is wanted."""
        came = {self._current[row[0]]: deliveries(self._current[row[0]].in_flight, row[1]) for row in reply}
        more = [one for one in came if one.count > 1]
        try:
            commands = [read_command(self._context, [one.stream], one.count - 1, 0) for one in more]
            for one, rest in zip(more, self._connection.call_many(commands) if more else (), strict=True):
                if rest and not isinstance(rest, ResponseError):
                    came[one] += deliveries(one.in_flight, rest[0][1])
        except BaseException:
            for one in more:
                one.takeover.reply_lost()
            raise
        finally:
            for one, batch in came.items():
                self._deliver(one, batch)

    def _deliver(self, subscription: Subscription, batch: Sequence[Delivery]) -> None:
        """Leave it to whoever receives; the queue is read here again when that asks for more."""
        if batch:
            self._eject(subscription)
            subscription.put(batch)
            with self._lock:
                self._uncollected.add(subscription)

    def _eject(self, subscription: Subscription) -> None:
        with self._lock:
            if self._subscriptions.get(subscription.stream) is subscription:
                del self._subscriptions[subscription.stream]

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
        self.own_connections.lift(_REFUSED_PAUSE)
        for one in ready:
            self._eject(one)
            one.wake()

    def _heal(self, subscription: Subscription) -> None:
        if self._context.declarations.ensure(self._connection, subscription.queue):
            log.warning("the queue %s or its group was gone; it was made again", subscription.queue)
            subscription.in_flight.mark_deleted()

    def _give_back(self, subscription: Subscription) -> None:
        """Give back, uncounted, what nobody has collected."""
        for delivery in subscription.clear():
            try:
                self._rejections.hand_back(delivery, 0.0)
            except DeliveryLostError:
                pass  # others have it
            except QBridgeError as exc:
                log.debug("a message of %s is given back later: %s", subscription.queue, exc)
                self._deliver(subscription, [delivery])
