"""Whose turn it is among queues that have something, by weight.

It is start-time fair queueing (Goyal, Vin and Cheng, SIGCOMM 1996). Each queue has a mark on one line: a message of it
moves that on by a step, and the greater the weight, the shorter the step. The queue whose mark is furthest back comes
next. One that had nothing for a while begins where the others are, so it has neither saved turns up nor lost any, and
none waits for longer than its step is.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Mapping


class Shares:
    """For one thread at a time.

    Args:
        weights: of each queue, whole numbers from 1 on.
    """

    def __init__(self, weights: Mapping[str, int]) -> None:
        common = math.lcm(*weights.values())
        self._steps = {queue: common // weight for queue, weight in weights.items()}
        self._marks = dict.fromkeys(weights, 0)
        self._now = 0

    def take(self, queues: Collection[str]) -> str:
        """The queue that comes next among these, at least one; a message of it is taken."""
        queue, self._now = self._next(queues, self._marks, self._now)
        return queue

    def shares(self, count: int, queues: Collection[str]) -> Counter[str]:
        """How many of so many turns each of these queues would get, if all had enough. Nothing is taken."""
        if len(queues) == 1:
            return Counter(dict.fromkeys(queues, count))
        marks, now = dict(self._marks), self._now
        shares: Counter[str] = Counter()
        for _ in range(count):
            queue, now = self._next(queues, marks, now)
            shares[queue] += 1
        return shares

    def _next(self, queues: Collection[str], marks: dict[str, int], now: int) -> tuple[str, int]:
        steps = self._steps
        # Of those that stand together the one with the greatest weight.
        queue = min(queues, key=lambda each: (max(marks[each], now), steps[each]))
        now = max(marks[queue], now)
        marks[queue] = now + steps[queue]
        return queue, now
