"""Finds the queues on a server: the streams that have the consumer group."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Final

from redis.exceptions import ResponseError

from qbridge_core.backend import monotonic
from qbridge_redis.connection.connection import RedisConnection
from qbridge_redis.connection.errors import checked, is_transient
from qbridge_redis.connection.outage_log import log
from qbridge_redis.protocol.keys import Keys
from qbridge_redis.protocol.scripts import Command

_DOING: Final = "list queues"
_PAGE: Final = 1000  # keys of one look, which the server does nothing beside


def find_queues(connection: RedisConnection, keys: Keys, group: str, deadline: float) -> Iterator[str]:
    """The queues of one server. All its keys are gone through; when the time is over a warning says so.

    Args:
        connection: an open one.
        keys: what tells keys of queues from others.
        group: the consumer group.
        deadline: when to give up (monotonic time).

    Raises:
        QBridgeError: the server refuses it.
    """
    cursor: bytes | int = 0
    while True:
        scan: Command = ("SCAN", cursor, "MATCH", keys.pattern(), "COUNT", _PAGE, "TYPE", "stream")
        cursor, page = checked(connection.call(scan), _DOING)
        named = {key: name for key in page if (name := keys.queue(key)) is not None}
        commands: list[Command] = [("XINFO", "GROUPS", key) for key in named]
        if commands:
            replies = connection.call_many(commands)
            yield from (name for name, reply in zip(named.values(), replies, strict=True) if _has(reply, group))
        if int(cursor) == 0:
            return
        if monotonic() > deadline:
            log.warning("the server has so many keys that not all could be looked at: some queues may not be listed")
            return


def _has(reply: Any, group: str) -> bool:
    """Whether a stream has the group; one that is gone by now has none, and one that the user may not see neither."""
    if isinstance(reply, ResponseError):
        if is_transient(reply):
            checked(reply, _DOING)
        return False
    return any(_name(row) == group.encode() for row in reply)


def _name(row: Sequence[bytes]) -> bytes:
    return row[row.index(b"name") + 1]
