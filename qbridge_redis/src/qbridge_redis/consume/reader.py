"""Reads one queue: new entries, entries of dead workers, and entries whose delivery was lost on the way.

Facts: https://redis.io/docs/latest/commands/xreadgroup/. A read hands entries to the consumer on the server before
the reply leaves it, so a read whose reply is lost must be followed by a look at what the consumer holds; and a blocked
read is never abandoned, its reply is awaited, because it may bring messages.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Sequence
from typing import Any, Final

from redis.exceptions import ResponseError

from qbridge_core.backend import BrokerUnavailableError, Delivery, QBridgeError, TransientError, monotonic
from qbridge_redis.connection.backoff import Backoff
from qbridge_redis.connection.connection import LOST, Link
from qbridge_redis.connection.errors import REFUSED, checked, is_missing_group, is_transient, refused, unreachable
from qbridge_redis.protocol import fields
from qbridge_redis.protocol.scripts import LOOK, TAKE, Command
from qbridge_redis.queues.permissions import missing_rights
from qbridge_redis.recovery.abandoned import Overdue
from qbridge_redis.settle.acknowledgements import acks_command, finish_acks
from qbridge_redis.state.context import Session, log
from qbridge_redis.state.handbacks import NOBODY
from qbridge_redis.state.in_flight import Ledger, Past

_SLICE: Final = 1.0  # of one blocking read: bounds how long a dead connection goes unnoticed
_FIRST_CONNECT: Final = 1.0  # what a receive without timeout grants a connection attempt
_PAGE: Final = 100
_HEALS: Final = 3
_CANCEL_TIME: Final = 0.5
_ABORT_TIME: Final = 0.2
_CLOGGED: Final = 0.2
_LOOKED_AT: Final = 1000  # entries of one look


class Reader:
    """The receiving end of one queue; ``receive`` is for one thread at a time, the rest for any."""

    def __init__(self, session: Session, queue: str) -> None:
        self._session = session
        self._queue = queue
        self._alone = session.queues.is_side_queue(queue)
        self._stream = session.keys.stream(queue)
        self._ledger: Ledger = session.ledger(queue)
        self._link = Link(session.route, f"qbridge:{session.consumer}")
        self._turn = threading.Lock()
        self._cancels = 0
        self._reading = threading.Event()
        self._opened_before = False
        self._lent = False
        self._subscribed = False
        self._backoff = Backoff()
        self._take_back_at: float | None = None
        self._take_back_until = 0.0
        self._overdue = Overdue(session.options.lease)
        self._look_at = 0.0
        self._look_every = min(session.options.lease / 4, 5.0)

    # ------------------------------------------------------------------ for any thread

    def cancel(self) -> None:
        """Wake a blocked ``receive``."""
        self._cancels += 1
        deadline = monotonic() + _SLICE
        while self._reading.is_set() and monotonic() < deadline:
            # The reader may be just before its read, where unblocking does nothing yet: hence again and again.
            if not self._unblock():
                return  # the read ends by itself at the end of its slice
            time.sleep(0.002)

    def _unblock(self) -> bool:
        try:
            with self._session.links.lease(_CANCEL_TIME) as link:
                return link.call(("CLIENT", "UNBLOCK", self._link.client_id), _CANCEL_TIME) in (0, 1)
        except (QBridgeError, *LOST):
            return False

    def subscribe(self) -> None:
        """Keep a connection from now on: receive will be called again and again."""
        self._subscribed = True

    def unsubscribe(self) -> None:
        """Wake a blocked ``receive``, and keep no connection."""
        self._subscribed = False
        self.cancel()
        if self._turn.acquire(blocking=False):  # otherwise whoever receives does it
            self._share()
            self._turn.release()

    def abort(self) -> None:
        """Do not wait for a server that does not answer."""
        self._cancels += 1
        self._link.abort()

    def close(self, timeout: float) -> None:
        """Wake ``receive``, wait until it is out, and close the connection."""
        self.cancel()
        if not self._turn.acquire(timeout=timeout):
            self._link.abort()  # nothing comes from the server any more
            if not self._turn.acquire(timeout=_ABORT_TIME):
                return  # it is about to connect, and will see that nobody wants that any more
        self._link.close()
        self._turn.release()

    # ------------------------------------------------------------------ for the receiving thread

    def receive(self, count: int, timeout: float) -> list[Delivery]:
        """See ``QueueClient.receive``."""
        cancels = self._cancels
        deadline = monotonic() + timeout
        with self._turn:
            try:
                return self._receive(count, deadline, cancels)
            finally:
                self._share()

    def _receive(self, count: int, deadline: float, cancels: int) -> list[Delivery]:
        while not self._is_cancelled(cancels):
            try:
                batch = self._step(count, deadline, cancels)
            except LOST as exc:
                self._lost_reply()
                self._wait(unreachable(exc, self._session.options), deadline, cancels)
                continue
            except TransientError as exc:
                self._wait(exc, deadline, cancels)
                continue
            self._session.outage.back(self)
            if batch or monotonic() >= deadline:
                return batch
        if self._session.closing.is_set():
            self._link.close()  # nobody else may be there to do it any more
        return []

    def _share(self) -> None:
        """Let others use the connection, so that queues that are asked now and then have not one each."""
        if self._subscribed or not self._link.is_usable or self._session.closing.is_set():
            return
        self._session.links.give(self._link)
        self._link = Link(self._session.route, f"qbridge:{self._session.consumer}")
        self._lent = True

    def _borrow(self) -> bool:
        """Use a connection that nobody uses; False when there is none."""
        is_first = not self._opened_before
        if not (self._lent or is_first) or (link := self._session.links.idle()) is None:
            return False
        self._link, self._lent = link, False
        if is_first:
            self._opened()
        return True

    def _opened(self) -> None:
        """Note the first connection, and look what it may do."""
        self._opened_before = True
        if lacking := missing_rights(self._session, self._link, self._queue):
            log.warning("reading %s, though %s", self._queue, lacking)

    def _is_cancelled(self, cancels: int) -> bool:
        return self._cancels != cancels or self._session.closing.is_set()

    def _step(self, count: int, deadline: float, cancels: int) -> list[Delivery]:
        self._connect(deadline)
        if self._is_cancelled(cancels):
            return []
        now = monotonic()
        if self._take_back_at is not None and now >= self._take_back_at and (batch := self._take_back(count)):
            return batch
        if now >= self._look_at:
            self._look()
        if now >= self._take_over_at() and (batch := self._take_over(count)):
            return batch
        if self._ledger.is_clogged:
            self._session.closing.wait(max(0.0, min(_CLOGGED, deadline - now)))
            return []
        return self._read(count, deadline, cancels)

    def _connect(self, deadline: float) -> None:
        if self._link.is_usable or self._borrow():
            return
        if self._link.is_open:
            self._link.close()
            self._ledger.uproot()  # what was read from a server that is no master any more
            self._lost_reply()
        try:
            self._link.open(max(_FIRST_CONNECT, deadline - monotonic()))
        except REFUSED as exc:
            raise unreachable(exc, self._session.options) from exc
        if self._lent:
            self._lent = False  # nothing was lost
        elif self._opened_before:
            self._session.reconnected()
            self._overdue.clear()
        else:
            self._opened()
        self._backoff.reset()

    def _lost_reply(self) -> None:
        """Look for what the lost reply brought, also later: the read may reach the server after the new connection."""
        now = monotonic()
        self._take_back_at = now
        self._take_back_until = now + 2 * _SLICE

    def _wait(self, error: TransientError, deadline: float, cancels: int) -> None:
        self._session.lost(self, error)
        remaining = deadline - monotonic()
        if remaining <= 0:
            if isinstance(error, BrokerUnavailableError):
                raise error
            raise BrokerUnavailableError(str(error)) from error
        pause = min(self._backoff.next(), remaining)
        until = monotonic() + pause
        while not self._is_cancelled(cancels) and (left := until - monotonic()) > 0:
            self._session.closing.wait(min(left, 0.05))

    # ------------------------------------------------------------------ new entries

    def _read(self, count: int, deadline: float, cancels: int) -> list[Delivery]:
        for _ in range(_HEALS):
            reply = self._read_once(count, self._block(deadline), cancels)
            if not isinstance(reply, ResponseError):
                return self._hand_out(reply[0][1]) if reply else []
            if is_missing_group(reply):
                log.warning("the queue %s or its group is gone (%s); making it again", self._queue, reply)
                self._ledger.uproot()
                self._session.queues.ensure(self._link, self._queue)
            else:
                self._refuse(reply)
        raise BrokerUnavailableError(f"the group of {self._queue!r} disappears again and again")

    def _refuse(self, reply: ResponseError) -> None:
        if is_transient(reply):
            self._link.close()  # the next attempt may find another server behind the address
        raise refused(reply, f"read the queue {self._queue!r}") from reply

    def _block(self, deadline: float) -> int:
        """Milliseconds for which the read may block; 0 for not at all (to Redis it would mean for ever)."""
        now = monotonic()
        end = min(deadline, now + _SLICE, self._look_at, self._take_over_at())
        if self._take_back_at is not None:
            end = min(end, self._take_back_at)
        if now >= deadline:
            return 0
        return max(1, round((end - now) * 1000))

    def _read_once(self, count: int, block: int, cancels: int) -> Any:
        self._reading.set()
        try:
            if self._is_cancelled(cancels):
                return None
            return self._exchange(self._read_command(count, block), block / 1000)
        except BaseException:
            self._lost_reply()
            raise
        finally:
            self._reading.clear()

    def _exchange(self, read: Command, block: float) -> Any:
        """Send what is acknowledged and the next read in one write; the first reply does not wait for the second."""
        limit = block + self._session.options.socket_timeout
        acks = self._ledger.take_acks()
        done = False
        try:
            self._link.send([acks_command(self._session, self._stream, acks), read] if acks else [read])
            reply = self._link.read(limit) if acks else None
            done = True
        finally:
            if acks and not finish_acks(self._ledger, acks, reply if done else None):
                self._session.acks_waiting.set()
        return self._link.read(limit)

    def _read_command(self, count: int, block: int) -> Command:
        group, consumer = self._session.options.group, self._session.consumer
        wait: Command = ("BLOCK", block) if block else ()
        return ("XREADGROUP", "GROUP", group, consumer, "COUNT", count, *wait, "STREAMS", self._stream, ">")

    def _hand_out(self, entries: Sequence[Sequence[Any]]) -> list[Delivery]:
        tickets = self._ledger.hold([entry[0] for entry in entries])
        queue, deliver = self._queue, fields.delivery
        return [
            deliver(queue, entry[1] or (), ticket)
            for entry, ticket in zip(entries, tickets, strict=True)
            if ticket is not None
        ]

    # ------------------------------------------------------------------ entries that come back

    def _hand_out_again(self, rows: Sequence[tuple[bytes, Sequence[bytes], int, bytes]]) -> list[Delivery]:
        batch = []
        for (_, content, times, former), ticket in zip(rows, self._ledger.hold([r[0] for r in rows]), strict=True):
            if ticket is not None:
                delivery = fields.delivery_again(self._queue, content, ticket, times - 1, alone=self._alone)
                self._ledger.returned.recall(delivery, ticket.entry_id, former)
                ticket.past = Past(delivery.crashes, delivery.suspected, delivery.attempts, fields.suspicions(delivery))
                batch.append(delivery)
        return batch

    def _look(self) -> None:
        """Look for entries that nobody renews."""
        session, now = self._session, monotonic()
        self._look_at = now + self._look_every
        lease = round(session.options.lease * 1000)
        ages = (self._overdue.least_idle(now), lease, _LOOKED_AT)
        reply = self._link.call(LOOK([self._stream], session.options.group, session.consumer, *ages))
        if isinstance(reply, ResponseError) and is_missing_group(reply):
            return
        if isinstance(reply, ResponseError) and is_transient(reply):
            self._refuse(reply)
        server_ms, rows, own = checked(reply, f"look for abandoned entries of {self._queue!r}")
        self._overdue.look(rows, server_ms, monotonic())
        if any(not self._ledger.is_held(entry_id) for entry_id in own):
            self._take_back_at = monotonic()

    def _take_over_at(self) -> float:
        return max(self._overdue.ready_at(), self._session.may_reclaim_at)

    def _take_over(self, count: int) -> list[Delivery]:
        """Take over entries that nobody has renewed for long enough."""
        session, overdue = self._session, self._overdue
        ripe = overdue.ripe(count, monotonic(), self._look_every)
        reply = self._link.call(TAKE([self._stream], session.options.group, session.consumer, overdue.tolerance, *ripe))
        if isinstance(reply, ResponseError) and is_missing_group(reply):
            overdue.clear()
            return []
        if isinstance(reply, ResponseError) and is_transient(reply):
            self._refuse(reply)
        taken = checked(reply, f"take over entries of {self._queue!r}")
        overdue.taken([row[0] for row in taken])
        if gone := sum(not row[3].startswith(NOBODY.encode()) for row in taken):
            log.warning("took over %d messages of %s from workers that are gone", gone, self._queue)
        return self._hand_out_again([(row[0], row[1] or (), row[2], row[3]) for row in taken])

    def _take_back(self, count: int) -> list[Delivery]:
        """Hand out what the server counts as delivered to this client and what never arrived."""
        rows, more = self._unknown(count)
        now = monotonic()
        if more:
            self._take_back_at = now
        else:
            self._take_back_at = self._take_back_until if now < self._take_back_until else None
        if not rows:
            return []
        log.warning("taking back %d messages of %s whose delivery was lost", len(rows), self._queue)
        replies = self._link.call_many([("XRANGE", self._stream, row[0], row[0]) for row in rows])
        for reply in replies:
            if isinstance(reply, ResponseError):
                self._take_back_at = now + self._look_every  # the others are handed out all the same
        found = [(row, reply) for row, reply in zip(rows, replies, strict=True) if not isinstance(reply, ResponseError)]
        # An entry that was deleted meanwhile is left to the next renewal, which drops it from the group.
        return self._hand_out_again([(row[0], reply[0][1], row[3], row[1]) for row, reply in found if reply])

    def _unknown(self, count: int) -> tuple[list[Any], bool]:
        """Up to ``count`` rows of this consumer's pending list that are not held here; whether there may be more."""
        group, consumer = self._session.options.group, self._session.consumer
        start: bytes = b"-"
        unknown: list[Any] = []
        while len(unknown) < count:
            page = self._link.call(("XPENDING", self._stream, group, start, "+", _PAGE, consumer))
            if isinstance(page, ResponseError) and is_missing_group(page):
                break
            rows = checked(page, f"read {self._queue!r}")
            unknown += [row for row in rows if not self._ledger.is_held(row[0])]
            if len(rows) < _PAGE:
                return unknown[:count], len(unknown) > count
            start = b"(" + rows[-1][0]
        return unknown[:count], bool(unknown)


def close_all(readers: Sequence[Reader], timeout: float) -> None:
    """Close several readers within one timeout."""
    deadline = monotonic() + timeout
    for reader in readers:
        with contextlib.suppress(QBridgeError):
            reader.close(max(0.0, deadline - monotonic()))
