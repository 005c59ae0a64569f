"""Counts the messages of a queue, tells what else there is to tell of it, and deletes those that are ready."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from redis.exceptions import ResponseError

from qbridge_core.backend import QueueMismatchError, QueueStats
from qbridge_redis.connection.connection import LOST, RedisConnection
from qbridge_redis.connection.errors import checked, code, is_missing_group, unreachable
from qbridge_redis.protocol.scripts import LOOK, PURGE, Command
from qbridge_redis.state.context import NodeContext
from qbridge_redis.state.handbacks import HANDBACK

_PURGE_PAGE: Final = 1000
_ALIVE: Final = 5.0  # seconds; who waits for messages asks each second, and who has enough to do renews its leases


@dataclass(frozen=True, slots=True)
class Look:
    """What there is to tell of a queue.

    Attributes:
        stats: its counts, the consumers that were seen within a lease, the age of what is ready, and the letters.
        added: how many entries have ever come.
        held: how many of them are there.
    """

    stats: QueueStats
    added: int
    held: int


class QueueAdmin:
    """Looks at queues without consuming them. Thread-safe."""

    def __init__(self, context: NodeContext) -> None:
        self._context = context

    def count(self, queue: str) -> QueueStats:
        """Count in one round trip."""
        commands = self._counts(queue)
        with self._context.pool.connection() as connection:
            replies = ask(self._context, connection, commands)
        return _counted(replies, f"count {queue!r}")

    def occupied(self, queues: Collection[str]) -> set[str]:
        """Those that have something ready or in flight, and those that may not be looked at, in one round trip."""
        commands = [self.length_command(queue) for queue in queues]
        with self._context.pool.connection() as connection:
            replies = ask(self._context, connection, commands)
        return {queue for queue, length in zip(queues, replies, strict=True) if length != 0}

    def length_command(self, queue: str) -> Command:
        """What to ask, together with other things, whether a queue has something: 0 means that it has not."""
        return ("XLEN", self._context.keys.stream(queue))

    def look(self, queue: str, dead: str | None) -> Look:
        """Count, and look at what is beside the counts, in one round trip.

        Args:
            queue: the queue.
            dead: its dead-letter queue, where that lies on the same node.
        """
        options, stream = self._context.options, self._context.keys.stream(queue)
        alive = round(max(_ALIVE, options.lease) * 1000)
        counts = self._counts(queue)
        commands = [LOOK([stream], options.group, alive, HANDBACK), *counts]
        if dead is not None:
            commands += self._letter_counts(dead)
        with self._context.pool.connection() as connection:
            look, *replies = ask(self._context, connection, commands)
        action = f"look at {queue!r}"
        stats = _counted(replies[: len(counts)], action)
        letters = None if dead is None else self._letters(queue, replies[len(counts) :], action)
        consumers, age, added, held = checked(look, action)
        return Look(replace(stats, dead=letters, consumers=consumers, oldest_age=age / 1000), added, held)

    def letters(self, queue: str, dead: str) -> int | None:
        """How many letters of a queue are ready in its dead-letter queue; ``None`` when nobody knows."""
        with self._context.pool.connection() as connection:
            replies = ask(self._context, connection, self._letter_counts(dead))
        return self._letters(queue, replies, f"count {dead!r}")

    def purge(self, queue: str) -> int:
        """Delete what is ready now, page by page."""
        stream, group = self._context.keys.stream(queue), self._context.options.group
        purged, start = 0, b"-"
        with self._context.pool.connection() as connection:
            end = last_id(self._context, connection, queue)
            while end and start:
                command = PURGE([stream], group, start, end, _PURGE_PAGE)
                deleted, seen = checked(ask(self._context, connection, [command])[0], f"purge {queue!r}")
                purged += deleted
                start = b"(" + seen if seen else b""
        return purged

    def _letter_counts(self, dead: str) -> list[Command]:
        return [("EXISTS", self._context.keys.stream(dead)), *self._counts(dead)]

    def _letters(self, queue: str, replies: Sequence[Any], action: str) -> int | None:
        exists, *counts = replies
        if not checked(exists, action):
            return 0 if self._context.declarations.is_declared(queue) else None
        try:
            return _counted(counts, action).ready
        except QueueMismatchError:  # something else has that key; who moves letters there is told
            return None

    def _counts(self, queue: str) -> list[Command]:
        stream = self._context.keys.stream(queue)
        return [
            ("XLEN", stream),
            ("XPENDING", stream, self._context.options.group),
            ("ZCARD", self._context.keys.delayed(queue)),
            ("ZCARD", self._context.keys.paused(queue)),
        ]


def _counted(replies: Sequence[Any], action: str) -> QueueStats:
    length, pending, delayed, paused = replies
    missing = isinstance(pending, ResponseError) and is_missing_group(pending)
    in_flight = 0 if missing else checked(pending, action)[0]
    ready = max(0, checked(length, action) - in_flight)
    return QueueStats(ready, in_flight, checked(delayed, action), paused=is_marked(paused))


def is_marked(reply: object) -> bool | None:
    """What the size of a pause's mark says; ``None`` when nobody can tell. What is there may be somebody else's."""
    if isinstance(reply, ResponseError):
        return False if code(reply) == "WRONGTYPE" else None
    return bool(reply)


def ask(context: NodeContext, connection: RedisConnection, commands: Sequence[Command]) -> list[Any]:
    """The replies to commands that change nothing, or that may be given again.

    Raises:
        BrokerUnavailableError: there are none.
    """
    try:
        return connection.call_many(commands)
    except LOST as exc:
        raise unreachable(exc, context.options) from exc


def last_id(context: NodeContext, connection: RedisConnection, queue: str) -> bytes:
    """What is in a queue now ends here; b"" when there is nothing."""
    (reply,) = ask(context, connection, [("XREVRANGE", context.keys.stream(queue), "+", "-", "COUNT", 1)])
    last = checked(reply, f"look at {queue!r}")
    return last[0][0] if last else b""
