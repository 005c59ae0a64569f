"""What reads of queues send and bring, and how one that waits is ended."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from qbridge_core.backend import Delivery, QBridgeError
from qbridge_redis.connection.connection import LOST, RedisConnection
from qbridge_redis.connection.pool import Pool
from qbridge_redis.protocol import fields
from qbridge_redis.protocol.scripts import Command
from qbridge_redis.state.context import NodeContext
from qbridge_redis.state.in_flight import InFlight

SLICE: Final = 1.0
"""Seconds for which a read waits at most: bounds how long a dead connection goes unnoticed."""
_UNBLOCK_TIME: Final = 0.5


def read_command(context: NodeContext, streams: Sequence[bytes], count: int, block: int) -> Command:
    """The command that reads up to ``count`` new entries of each stream, and waits so many milliseconds if not 0."""
    wait: Command = ("BLOCK", block) if block else ()
    start = ("XREADGROUP", "GROUP", context.options.group, context.consumer, "COUNT", count)
    return (*start, *wait, "STREAMS", *streams, *(b">",) * len(streams))


def deliveries(in_flight: InFlight, entries: Sequence[Sequence[Any]]) -> list[Delivery]:
    """The deliveries of entries that were read, without those that are held already."""
    tags = in_flight.hold([entry[0] for entry in entries])
    queue, deliver = in_flight.queue, fields.delivery
    return [deliver(queue, entry[1] or (), tag) for entry, tag in zip(entries, tags, strict=True) if tag is not None]


def unblock(pool: Pool, reading: RedisConnection) -> bool:
    """End the read for which a connection waits; False when the server does not answer."""
    try:
        with pool.connection(_UNBLOCK_TIME) as connection:
            return connection.call(("CLIENT", "UNBLOCK", reading.client_id), _UNBLOCK_TIME) in (0, 1)
    except (QBridgeError, *LOST):
        return False
