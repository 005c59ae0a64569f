"""Reads one queue.

Facts: https://redis.io/docs/latest/commands/xreadgroup/. A read hands entries to the consumer on the server before
the reply leaves it, so a read whose reply is lost must be followed by a look at what the consumer holds; and a blocked
read is never abandoned, its reply is awaited, because it may bring messages.

Where a queue is busy, ``receive`` returns half of what it may, and has asked for the other half by then: so the server
has its work done while the messages are at work here, and no more is held than was asked for.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Sequence
from typing import Any, Final

from redis.exceptions import ResponseError

from qbridge_core.backend import BrokerUnavailableError, Delivery, QBridgeError, TransientError, monotonic
from qbridge_redis.connection.connection import LOST, RedisConnection
from qbridge_redis.connection.errors import REFUSED, is_missing_group, unreachable
from qbridge_redis.connection.reconnect_pause import ReconnectPause
from qbridge_redis.consume.halves import WORTH, Halves
from qbridge_redis.consume.reading import SLICE, deliveries, read_command, unblock
from qbridge_redis.consume.sent_read import SentRead
from qbridge_redis.consume.subscription import Subscription
from qbridge_redis.consume.together import SharedQueues
from qbridge_redis.queues.permissions import warn_of_missing_rights
from qbridge_redis.recovery.takeover import Takeover, refuse
from qbridge_redis.state.context import NodeContext, log
from qbridge_redis.state.in_flight import InFlight

_FIRST_CONNECT: Final = 1.0  # what a receive without timeout grants a connection attempt
_HEALS: Final = 3
_ABORT_TIME: Final = 0.2
_CLOGGED: Final = 0.2
_IDLE: Final = 100  # milliseconds without anything


class StreamReader:
    """The receiving end of one queue; ``receive`` is for one thread at a time, the rest for any."""

    def __init__(self, context: NodeContext, queue: str, shared: SharedQueues) -> None:
        self._context = context
        self._shared = shared
        self._own = shared.own_connections
        self._queue = queue
        self._stream = context.keys.stream(queue)
        self._in_flight: InFlight = context.in_flight(queue)
        self._connection = RedisConnection(context.route, f"qbridge:{context.consumer}")
        self._turn = threading.Lock()
        self._cancels = 0
        self._reading = threading.Event()
        self._opened_before = False
        self._lent = False
        self._subscribed = False
        self._reconnect_pause = ReconnectPause()
        self._takeover = Takeover(context, queue)
        self._subscription = Subscription(context, queue, self._takeover)
        self._is_idle = False
        self._sent: SentRead | None = None
        self._halves = Halves()
        self._is_released = False
        self._used_at = monotonic()

    # ------------------------------------------------------------------ for any thread

    def cancel(self) -> None:
        """Wake a blocked ``receive``."""
        self._cancels += 1
        self._subscription.wake()
        deadline = monotonic() + SLICE
        while self._reading.is_set() and monotonic() < deadline:
            # The reader may be just before its read, where unblocking does nothing yet: hence again and again.
            if not unblock(self._context.pool, self._connection):
                return  # the read ends by itself at the end of its slice
            time.sleep(0.002)

    def subscribe(self) -> None:
        """``receive`` will be called again and again: keep a connection, as long as there are enough for all queues."""
        self._subscribed, self._is_idle = True, False
        self._own.enter(self)

    def unsubscribe(self) -> None:
        """Wake a blocked ``receive``, and keep no connection."""
        self._subscribed = False
        self._own.leave(self)
        self.cancel()
        if self._turn.acquire(blocking=False):  # otherwise whoever receives does it
            try:
                self._share()
            finally:
                self._turn.release()
        self._shared.remove(self._subscription)

    def release(self, seconds: float) -> bool:
        """Have this reader end when its queue was not used for so long; return whether it has."""
        if self._subscribed or monotonic() - self._used_at < seconds or not self._turn.acquire(blocking=False):
            return False
        self._is_released = self._in_flight.is_empty
        self._turn.release()
        return self._is_released

    def join(self, listener: threading.Event) -> Subscription | None:
        """Have the queue read with others from now on, and the listener told of it; None when this was released."""
        with self._turn:
            if self._is_released:
                return None
            self._read_sent(self._context.options.socket_timeout)
            self._used_at = monotonic()
            self._subscription.listener = listener
            return self._subscription

    def read_late(self, now: float) -> None:
        """Read what was sent ahead, when nobody has come for it until ``now`` (monotonic time).

        It is left to whoever receives next.
        """
        sent = self._sent
        if sent is None or now < sent.late_at or not self._turn.acquire(blocking=False):
            return
        try:
            if self._sent is sent:
                self._read_sent(self._context.options.socket_timeout)
                self._share()
        finally:
            self._turn.release()

    @property
    def cancels(self) -> int:
        """How often a wait was to be ended."""
        return self._cancels

    def abort(self) -> None:
        """Do not wait for a server that does not answer."""
        self._cancels += 1
        self._connection.abort()

    def close(self, timeout: float) -> None:
        """Wake ``receive``, wait until it is out, and close the connection."""
        self.cancel()
        if not self._turn.acquire(timeout=timeout):
            self._connection.abort()  # nothing comes from the server any more
            if not self._turn.acquire(timeout=_ABORT_TIME):
                return  # it is about to connect, and will see that nobody wants that any more
        try:
            self._read_sent(max(_ABORT_TIME, timeout))  # it is handed back with all that is held
            self._connection.close()
        finally:
            self._turn.release()

    # ------------------------------------------------------------------ for the receiving thread

    def receive(self, count: int, timeout: float) -> list[Delivery] | None:
        """See ``QueueClient.receive``; None when this reader was released."""
        cancels = self._cancels
        deadline = monotonic() + timeout
        with self._turn:
            if self._is_released:
                return None
            try:
                return self._receive(count, deadline, cancels)
            finally:
                self._used_at = monotonic()
                self._share()

    def _receive(self, count: int, deadline: float, cancels: int) -> list[Delivery]:
        while not self._is_cancelled(cancels):
            try:
                batch = self._step(count, deadline, cancels)
            except LOST as exc:
                self._takeover.reply_lost()
                self._wait(unreachable(exc, self._connection.where), deadline, cancels)
                continue
            except TransientError as exc:
                self._wait(exc, deadline, cancels)
                continue
            self._context.outage.back(self)
            if batch or monotonic() >= deadline:
                return batch
        if self._context.closing.is_set():
            self._read_sent(self._context.options.socket_timeout)
            self._connection.close()  # nobody else may be there to do it any more
        return []

    def _share(self) -> None:
        """Let others use the connection, so that queues that are asked now and then have not one each."""
        if self._subscribed and not self._is_idle and self._own.has(self):
            return
        if self._sent is not None and not self._context.closing.is_set():
            self._read_sent(self._context.options.socket_timeout)
            if not self._subscribed:  # the one that unsubscribed may be gone by now
                self._shared.remove(self._subscription)
        if not self._connection.is_usable or self._context.closing.is_set():
            return
        self._context.pool.give(self._connection)
        self._connection = RedisConnection(self._context.route, f"qbridge:{self._context.consumer}")
        self._lent = True

    def _borrow(self) -> bool:
        """Use a connection that nobody uses; False when there is none."""
        is_first = not self._opened_before
        if not (self._lent or is_first) or (connection := self._context.pool.idle()) is None:
            return False
        self._connection, self._lent = connection, False
        if is_first:
            self._opened()
        return True

    def _opened(self) -> None:
        """Note the first connection, and look what it may do."""
        self._opened_before = True
        warn_of_missing_rights(self._context, self._connection, self._queue)

    def _is_cancelled(self, cancels: int) -> bool:
        return self._cancels != cancels or self._context.closing.is_set()

    def _step(self, count: int, deadline: float, cancels: int) -> list[Delivery]:
        if (sent := self._sent) is not None and (batch := self._receive_sent(sent, count, cancels)):
            return batch
        waits = self._subscribed and monotonic() < deadline  # who does not wants to know what is there now
        if self._subscription.has_come or (waits and (self._is_idle or not self._own.grant(self))):
            return self._receive_shared(count, deadline, cancels)
        self._connect(deadline)
        if self._is_cancelled(cancels):
            return []
        if batch := self._takeover.receive(self._connection, count):
            return batch
        if self._in_flight.is_clogged:
            self._context.closing.wait(max(0.0, min(_CLOGGED, deadline - monotonic())))
            return []
        return self._read(count, deadline, cancels)

    def _receive_shared(self, count: int, deadline: float, cancels: int) -> list[Delivery]:
        """Wait with the other idle queues. One that gets something may have a connection of its own again."""
        batch = self._shared.receive(self._subscription, count, deadline, lambda: self._is_cancelled(cancels))
        self._is_idle = not batch and not self._own.is_lifted
        return batch

    def _connect(self, deadline: float) -> None:
        if self._connection.is_usable or self._borrow():
            return
        if self._connection.is_open:
            self._connection.close()
            self._in_flight.mark_deleted()  # what was read from a server that is no master any more
            self._takeover.reply_lost()
        try:
            self._connection.open(max(_FIRST_CONNECT, deadline - monotonic()))
        except REFUSED as exc:
            raise unreachable(exc, self._context.options) from exc
        if self._lent:
            self._lent = False  # nothing was lost
        elif self._opened_before:
            self._context.reconnected()
            self._takeover.begin_anew()
        else:
            self._opened()
        self._reconnect_pause.reset()

    def _wait(self, error: TransientError, deadline: float, cancels: int) -> None:
        self._context.lost(self, error)
        remaining = deadline - monotonic()
        if remaining <= 0:
            if isinstance(error, BrokerUnavailableError):
                raise error
            raise BrokerUnavailableError(str(error)) from error
        pause = min(self._reconnect_pause.next(), remaining)
        until = monotonic() + pause
        while not self._is_cancelled(cancels) and (left := until - monotonic()) > 0:
            self._context.closing.wait(min(left, 0.05))

    # ------------------------------------------------------------------ new entries

    def _read(self, count: int, deadline: float, cancels: int) -> list[Delivery]:
        asked = count // 2 if self._asks_in_halves(count, monotonic()) else count
        for _ in range(_HEALS):
            block = self._block(deadline)
            reply = self._read_once(asked, block, cancels)
            if not isinstance(reply, ResponseError):
                if reply:
                    batch = deliveries(self._in_flight, reply[0][1])
                    self._send_ahead(count, asked, len(reply[0][1]), cancels)
                    return batch
                self._is_idle = block >= _IDLE and self._subscribed and self._own.give_up(self)
                return []
            if is_missing_group(reply):
                log.warning("the queue %s or its group is gone (%s); making it again", self._queue, reply)
                self._in_flight.mark_deleted()
                self._context.declarations.ensure(self._connection, self._queue)
            else:
                refuse(self._connection, self._queue, reply)
        raise BrokerUnavailableError(f"the group of {self._queue!r} disappears again and again")

    def _block(self, deadline: float) -> int:
        """Milliseconds for which the read may block; 0 for not at all (to Redis it would mean for ever)."""
        now = monotonic()
        end = min(deadline, now + SLICE, self._takeover.next_at())
        if now >= deadline:
            return 0
        return max(1, round((end - now) * 1000))

    def _read_once(self, count: int, block: int, cancels: int) -> Any:
        self._reading.set()
        try:
            if self._is_cancelled(cancels):
                return None
            return self._send_read(count, block).reply(block / 1000 + self._context.options.socket_timeout)
        except BaseException:
            self._takeover.reply_lost()
            raise
        finally:
            self._reading.clear()

    def _send_read(self, count: int, block: int) -> SentRead:
        read = read_command(self._context, (self._stream,), count, block)
        return SentRead(self._context, self._connection, self._in_flight, read, count)

    # ------------------------------------------------------------------ reads that are sent ahead

    def _asks_in_halves(self, count: int, now: float) -> bool:
        return self._subscribed and self._halves.pay(count, now)

    def _send_ahead(self, count: int, asked: int, came: int, cancels: int) -> None:
        """Ask for the rest of ``count`` now, where ``asked`` were asked for and so many came. Waits for nothing."""
        now, more = monotonic(), min(count - came, count // 2)
        in_halves = self._asks_in_halves(count, now)
        self._halves.came(now, everything=came >= asked)
        if not in_halves or came < asked or more < WORTH // 2 or now >= self._takeover.next_at():
            return
        if self._is_cancelled(cancels) or self._in_flight.is_clogged or not self._connection.is_usable:
            return
        try:
            self._sent = self._send_read(more, 0)
        except LOST:
            self._takeover.reply_lost()  # what has come is handed out; the next request connects again
        else:
            self._context.will_read(self)

    def _receive_sent(self, sent: SentRead, count: int, cancels: int) -> list[Delivery]:
        """What a read that was sent ahead has brought, and more is asked for; what is too much is kept."""
        began = monotonic()
        batch = self._replies(self._context.options.socket_timeout)
        now = monotonic()
        self._halves.answered(began - sent.sent_at, now - began, now)
        if len(batch) > count:
            self._shared.keep(self._subscription, batch[count:])
            return batch[:count]
        self._send_ahead(count, sent.count, len(batch), cancels)
        return batch

    def _read_sent(self, limit: float) -> None:
        """Leave what was sent ahead has brought, if anything was, to whoever receives next."""
        if self._sent is not None:
            with contextlib.suppress(*LOST):  # then it comes back, as after each reply that is lost
                self._shared.keep(self._subscription, self._replies(limit))

    def _replies(self, limit: float) -> list[Delivery]:
        """The deliveries of the read that was sent ahead; none when it was refused, as the next will be."""
        self._context.unread.discard(self)
        sent = self._sent
        if sent is None:
            return []
        try:
            reply = sent.reply(limit)
        except BaseException:
            self._takeover.reply_lost()
            raise
        finally:
            self._sent = None
        if not reply or isinstance(reply, ResponseError):
            return []
        batch = deliveries(self._in_flight, reply[0][1])
        if not self._connection.is_usable:
            self._in_flight.mark_deleted()  # they are of a server that is no master any more
        return batch


def close_all(readers: Sequence[StreamReader], timeout: float) -> None:
    """Close several readers within one timeout."""
    deadline = monotonic() + timeout
    for reader in readers:
        with contextlib.suppress(QBridgeError):
            reader.close(max(0.0, deadline - monotonic()))
