"""A queue, as a manager works on it: alone, or with others in a pool."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class InputQueue:
    """One queue that a manager takes tasks from.

    Attributes:
        name: the queue.
        dead_letter_queue: where its failed tasks go.
        weight: how many of its tasks start, in proportion to those of the other queues of the pool.
    """

    name: str
    dead_letter_queue: str
    weight: int = 1
