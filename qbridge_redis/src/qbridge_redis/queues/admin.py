"""Counts the messages of a queue, and deletes those that are ready."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from redis.exceptions import ResponseError

from qbridge_core.backend import QueueStats
from qbridge_redis.connection.connection import LOST, RedisConnection
from qbridge_redis.connection.errors import checked, is_missing_group, unreachable
from qbridge_redis.protocol.scripts import PURGE, Command
from qbridge_redis.state.context import NodeContext

_PURGE_PAGE: Final = 1000


class QueueAdmin:
    """Looks at queues without consuming them. Thread-safe."""

    def __init__(self, context: NodeContext) -> None:
        self._context = context

    def stats(self, queue: str) -> QueueStats:
        """Count in one round trip."""
        stream, group = self._context.keys.stream(queue), self._context.options.group
        commands: list[Command] = [
            ("XLEN", stream),
            ("XPENDING", stream, group),
            ("ZCARD", self._context.keys.delayed(queue)),
        ]
        with self._context.pool.connection() as connection:
            length, pending, delayed = ask(self._context, connection, commands)
        action = f"count {queue!r}"
        missing = isinstance(pending, ResponseError) and is_missing_group(pending)
        in_flight = 0 if missing else checked(pending, action)[0]
        ready = max(0, checked(length, action) - in_flight)
        return QueueStats(ready, in_flight, checked(delayed, action))

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
