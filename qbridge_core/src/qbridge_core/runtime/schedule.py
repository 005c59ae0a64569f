"""Says whose turn it is, of many things that have a time each; it looks at none whose time has not come."""

from __future__ import annotations

import heapq
import itertools
import math
from typing import Final, Generic, TypeVar

T = TypeVar("T")
_REPLACED: Final = 100


class Schedule(Generic[T]):
    """Items, each with the time of its next turn (monotonic time). Not thread-safe.

    Beside a thread that does all else, others may plan an item for ``math.inf``, and ask how many there are.
    """

    def __init__(self) -> None:
        self._at: dict[T, float] = {}
        self._due: list[tuple[float, int, T]] = []
        """A heap; what has another time in ``_at`` was replaced."""
        self._numbers = itertools.count()

    def __len__(self) -> int:
        return len(self._at)

    def __contains__(self, item: object) -> bool:
        return item in self._at

    @property
    def next_at(self) -> float:
        """The time of the next turn; infinite when there is none."""
        while self._due and self._at.get(self._due[0][2]) != self._due[0][0]:
            heapq.heappop(self._due)
        return self._due[0][0] if self._due else math.inf

    def plan(self, item: T, at: float) -> None:
        """Give an item its turn then, in place of any other; with ``math.inf`` it has none."""
        self._at[item] = at
        if at == math.inf:
            return
        heapq.heappush(self._due, (at, next(self._numbers), item))
        if len(self._due) > 2 * len(self._at) + _REPLACED:
            self._due = [due for due in self._due if self._at.get(due[2]) == due[0]]
            heapq.heapify(self._due)

    def forget(self, item: T) -> None:
        """Take an item out, if it is there."""
        self._at.pop(item, None)

    def take_due(self, now: float) -> T | None:
        """An item whose turn has come, and who has none from now on until it is planned; None if there is none."""
        if self.next_at > now:
            return None
        return heapq.heappop(self._due)[2]

    def clear(self) -> None:
        """Take all out."""
        self._at.clear()
        self._due.clear()
