"""The pause between tries that grows, as long as what is tried does not work."""

from __future__ import annotations

from qbridge_core.runtime.randomness import random_between


class GrowingPause:
    """Seconds to wait before the next try: doubled each time, up to the longest. For one thread at a time.

    Args:
        first: seconds of the first pause.
        longest: seconds that no pause exceeds, chance aside.
        jitter: each pause is multiplied by a number drawn between these two, so that many that failed together do not
            come back together; the next one grows from what it was before.

    Attributes:
        count: how many pauses there have been since it last worked.
    """

    __slots__ = ("_first", "_jitter", "_longest", "_next", "count")

    def __init__(self, first: float, longest: float, *, jitter: tuple[float, float] = (1.0, 1.0)) -> None:
        self._first = self._next = first
        self._longest = longest
        self._jitter = jitter
        self.count = 0

    def next(self) -> float:
        """It failed once more: the seconds to wait."""
        pause, self._next = self._next, min(self._next * 2, self._longest)
        self.count += 1
        low, high = self._jitter
        return pause if low == high == 1.0 else pause * random_between(low, high)

    def reset(self) -> None:
        """It worked: the next pause is the first again."""
        self._next, self.count = self._first, 0
