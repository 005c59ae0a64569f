"""How long to wait between attempts to connect."""

from __future__ import annotations

from typing import Final

from qbridge_core.backend import GrowingPause

_FIRST: Final = 0.05
_CAP: Final = 2.0
_FLOOR: Final = 0.02


class ReconnectPause:
    """Exponential with full jitter from 50 ms to 2 s, so that many workers do not come back all at once.

    Args:
        longest: seconds that no pause exceeds, where somebody must not be late.
    """

    def __init__(self, longest: float = _CAP) -> None:
        longest = min(_CAP, longest)
        self._pause = GrowingPause(min(_FIRST, longest), longest, jitter=(0.0, 1.0))

    def reset(self) -> None:
        """It worked."""
        self._pause.reset()

    def next(self) -> float:
        """Seconds to wait before the next attempt."""
        return max(_FLOOR, self._pause.next())
