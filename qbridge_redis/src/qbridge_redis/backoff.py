"""How long to wait between attempts to connect."""

from __future__ import annotations

import random
from typing import Final

_FIRST: Final = 0.05
_CAP: Final = 2.0
_FLOOR: Final = 0.02


class Backoff:
    """Exponential with full jitter from 50 ms to 2 s, so that many workers do not come back all at once."""

    def __init__(self) -> None:
        self._limit = _FIRST

    def reset(self) -> None:
        """It worked."""
        self._limit = _FIRST

    def next(self) -> float:
        """Seconds to wait before the next attempt."""
        pause = max(_FLOOR, random.uniform(0, self._limit))  # noqa: S311 - no secret
        self._limit = min(_CAP, self._limit * 2)
        return pause
