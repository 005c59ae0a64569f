"""The poison rule: which deaths of its holders count against a message, and which make it only suspected."""

from __future__ import annotations

from collections.abc import Sequence

from qbridge_core.backend import BESIDE, SUSPICIONS, Delivery, meta_int
from qbridge_redis.protocol.fields import counted, decode
from qbridge_redis.state.in_flight import Counts


def delivery_again(queue: str, fields: Sequence[bytes], tag: object, deaths: int, *, alone: bool) -> Delivery:
    """The delivery of an entry whose former holders have died, so many times.

    They are counted where it ran ``alone``, and the one that has brought it there with them. Elsewhere, and when it ran
    beside others, the holder may have died of another task, so it is only suspected.
    """
    delivery = counted(queue, decode(fields), tag)
    delivery.redelivered = True
    if deaths and BESIDE in delivery.meta:
        delivery.suspected = True
        delivery.meta = {**delivery.meta, SUSPICIONS: meta_int(delivery.meta, SUSPICIONS) + deaths}
    elif deaths and alone:
        delivery.crashes = (delivery.crashes or 1) + deaths
    elif deaths:
        delivery.suspected = True
    return delivery


def counts_of(delivery: Delivery) -> Counts:
    """What a copy of this delivery must say, too."""
    return Counts(delivery.crashes, delivery.suspected, delivery.attempts, _suspicions(delivery))


def _suspicions(delivery: Delivery) -> int:
    """How many of its holders have died, of it or of what ran beside it; 0 for one that never ran beside others."""
    return meta_int(delivery.meta, SUSPICIONS) if BESIDE in delivery.meta else 0
