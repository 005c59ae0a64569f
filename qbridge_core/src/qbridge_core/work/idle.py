"""Tells whether a queue has no work left, or none that anybody does."""

from __future__ import annotations

from qbridge_core.contract.client import QueueClient
from qbridge_core.contract.names import suspects_queue
from qbridge_core.errors import TransientError


def is_empty(client: QueueClient, queue: str) -> bool:
    """True when nothing is ready, in flight or delayed, neither in the queue nor beside it; False when nobody knows."""
    queues = [queue, suspects_queue(queue)] if client.capabilities.crashes else [queue]
    try:
        counts = [client.count(each) for each in queues]
    except TransientError:
        return False
    return all(stats.ready == stats.in_flight == stats.delayed == 0 for stats in counts)


def is_at_rest(client: QueueClient, queue: str) -> bool:
    """True when the queue is paused and nothing of it is in flight any more; False when nobody knows."""
    try:
        stats = client.count(queue)
    except TransientError:
        return False
    return stats.paused is True and stats.in_flight == 0
