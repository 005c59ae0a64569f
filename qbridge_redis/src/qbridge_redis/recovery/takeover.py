"""Hands out what comes back to a queue: entries of dead workers, and entries whose delivery was lost on the way."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, NoReturn

from redis.exceptions import ResponseError

from qbridge_core.backend import Delivery, monotonic
from qbridge_redis.connection.connection import RedisConnection
from qbridge_redis.connection.errors import checked, is_missing_group, is_redirect, is_transient, refused
from qbridge_redis.protocol.scripts import FIND_ABANDONED, TAKE_OVER, Command
from qbridge_redis.recovery.abandoned import AbandonedEntries
from qbridge_redis.recovery.poison import counts_of, delivery_again
from qbridge_redis.state.context import NodeContext, log
from qbridge_redis.state.handbacks import HANDBACK

LOOK_EVERY: Final = 5.0
"""Seconds between two looks for what dead workers held; less where leases are short."""
_PAGE: Final = 100
_LOOKED_AT: Final = 1000  # entries of one look
_LATE: Final = 2.0  # seconds after which a read whose reply was lost cannot reach the server any more


class Takeover:
    """What comes back to one queue. For one thread at a time."""

    def __init__(self, context: NodeContext, queue: str) -> None:
        self._context = context
        self._queue = queue
        self._alone = context.declarations.holds_suspects(queue)
        self._stream = context.keys.stream(queue)
        self._in_flight = context.in_flight(queue)
        self._abandoned = AbandonedEntries(context.options.lease)
        self._look_at = 0.0
        self._look_every = min(context.options.lease / 4, LOOK_EVERY)
        self._take_back_at: float | None = None
        self._take_back_until = 0.0

    def reply_lost(self) -> None:
        """Look for what the lost reply brought, also later: the read may reach the server after the new connection."""
        now = monotonic()
        self._take_back_at = now
        self._take_back_until = now + _LATE

    def begin_anew(self) -> None:
        """The connection is back: after an outage everything looks abandoned."""
        self._abandoned.clear()

    @property
    def look_at(self) -> float:
        """When to look for entries that nobody renews (monotonic time)."""
        return self._look_at

    def comes_back_at(self) -> float:
        """When there may be something to hand out, as far as is known (monotonic time)."""
        take_over_at = self._take_over_at()
        return take_over_at if self._take_back_at is None else min(take_over_at, self._take_back_at)

    def next_at(self) -> float:
        """When to call ``receive`` again (monotonic time)."""
        return min(self._look_at, self.comes_back_at())

    def receive(self, connection: RedisConnection, count: int) -> list[Delivery]:
        """Up to ``count`` deliveries that come back now."""
        now = monotonic()
        take_back = self._take_back_at is not None and now >= self._take_back_at
        if take_back and (batch := self._take_back(connection, count)):
            return batch
        if now >= self._look_at:
            self.looked(connection, connection.call(self.look_command()))
        if now >= self._take_over_at():
            return self._take_over(connection, count)
        return []

    def _hand_out_again(self, rows: Sequence[tuple[bytes, Sequence[bytes], int, bytes]]) -> list[Delivery]:
        batch = []
        for (_, content, times, former), tag in zip(rows, self._in_flight.hold([r[0] for r in rows]), strict=True):
            if tag is not None:
                delivery = delivery_again(self._queue, content, tag, times - 1, alone=self._alone)
                self._in_flight.handbacks.recall(delivery, tag.entry_id, former)
                tag.counts = counts_of(delivery)
                batch.append(delivery)
        return batch

    def look_command(self) -> Command:
        """What to ask the server for entries that nobody renews; give its reply to ``looked``."""
        context, now = self._context, monotonic()
        self._look_at = now + self._look_every
        lease = round(context.options.lease * 1000)
        ages = (self._abandoned.least_idle(now), lease, _LOOKED_AT)
        return FIND_ABANDONED([self._stream], context.options.group, context.consumer, *ages)

    def looked(self, connection: RedisConnection, reply: Any) -> None:
        """Note what the server has answered."""
        if isinstance(reply, ResponseError) and is_missing_group(reply):
            return
        if isinstance(reply, ResponseError) and is_transient(reply):
            refuse(connection, self._queue, reply)
        server_ms, rows, own = checked(reply, f"look for abandoned entries of {self._queue!r}")
        self._abandoned.look(rows, server_ms, monotonic())
        if any(not self._in_flight.is_held(entry_id) for entry_id in own):
            self._take_back_at = monotonic()

    def _take_over_at(self) -> float:
        return max(self._abandoned.ready_at(), self._context.may_reclaim_at)

    def _take_over(self, connection: RedisConnection, count: int) -> list[Delivery]:
        """Take over entries that nobody has renewed for long enough."""
        context, abandoned = self._context, self._abandoned
        ripe = abandoned.ripe(count, monotonic(), self._look_every)
        reply = connection.call(
            TAKE_OVER([self._stream], context.options.group, context.consumer, abandoned.tolerance, *ripe)
        )
        if isinstance(reply, ResponseError) and is_missing_group(reply):
            abandoned.clear()
            return []
        if isinstance(reply, ResponseError) and is_transient(reply):
            refuse(connection, self._queue, reply)
        taken = checked(reply, f"take over entries of {self._queue!r}")
        abandoned.taken([row[0] for row in taken])
        if gone := sum(not row[3].startswith(HANDBACK.encode()) for row in taken):
            log.warning("took over %d messages of %s from workers that are gone", gone, self._queue)
        return self._hand_out_again([(row[0], row[1] or (), row[2], row[3]) for row in taken])

    def _take_back(self, connection: RedisConnection, count: int) -> list[Delivery]:
        """Hand out what the server counts as delivered to this client and what never arrived."""
        rows, more = self._unknown(connection, count)
        now = monotonic()
        if more:
            self._take_back_at = now
        else:
            self._take_back_at = self._take_back_until if now < self._take_back_until else None
        if not rows:
            return []
        log.warning("taking back %d messages of %s whose delivery was lost", len(rows), self._queue)
        replies = connection.call_many([("XRANGE", self._stream, row[0], row[0]) for row in rows])
        for reply in replies:
            if isinstance(reply, ResponseError):
                self._take_back_at = now + self._look_every  # the others are handed out all the same
        found = [(row, reply) for row, reply in zip(rows, replies, strict=True) if not isinstance(reply, ResponseError)]
        # An entry that was deleted meanwhile is left to the next renewal, which drops it from the group.
        return self._hand_out_again([(row[0], reply[0][1], row[3], row[1]) for row, reply in found if reply])

    def _unknown(self, connection: RedisConnection, count: int) -> tuple[list[Any], bool]:
        """Up to ``count`` rows of this consumer's pending list that are not held here; whether there may be more."""
        group, consumer = self._context.options.group, self._context.consumer
        start: bytes = b"-"
        unknown: list[Any] = []
        while len(unknown) < count:
            page = connection.call(("XPENDING", self._stream, group, start, "+", _PAGE, consumer))
            if isinstance(page, ResponseError) and is_missing_group(page):
                break
            rows = checked(page, f"read {self._queue!r}")
            unknown += [row for row in rows if not self._in_flight.is_held(row[0])]
            if len(rows) < _PAGE:
                return unknown[:count], len(unknown) > count
            start = b"(" + rows[-1][0]
        return unknown[:count], bool(unknown)


def refuse(connection: RedisConnection, queue: str, reply: ResponseError) -> NoReturn:
    """Raise what the server's refusal of a read means."""
    if is_transient(reply) and not is_redirect(reply):
        connection.close()  # the next attempt may find another server behind the address
    raise refused(reply, f"read the queue {queue!r}") from reply
