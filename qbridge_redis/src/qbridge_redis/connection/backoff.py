"""How long to wait between attempts to connect."""

from __future__ import annotations

import random
from typing import Final

_FIRST: Final = 0.05
_CAP: Final = 2.0
_FLOOR: Final = 0.02
# Of our own: drawing from the shared generator would change what a program with a fixed seed gets.
_random: Final = random.Random()  # noqa: S311 - it spreads load and hides nothing


class Backoff:
    """Exponential with full jitter from 50 ms to 2 s, so that many workers do not come back all at once."""

    def __init__(self) -> None:
        self._limit = _FIRST

    def reset(self) -> None:
        """It worked."""
        self._limit = _FIRST

    def next(self) -> float:
        """Seconds to wait before the next attempt."""
        pause = max(_FLOOR, _random.uniform(0, self._limit))
        self._limit = min(_CAP, self._limit * 2)
        return pause
