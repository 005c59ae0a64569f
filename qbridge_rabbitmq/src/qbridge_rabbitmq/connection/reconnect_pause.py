"""How long a connection waits between its attempts to come back."""

from __future__ import annotations

from typing import Final

from qbridge_core.backend import GrowingPause

_REFUSED: Final = 5.0
_JITTER: Final = (0.8, 1.2)  # so that many clients do not come at once


class ReconnectPause:
    """Doubled when all servers have been tried; the next of several is tried soon. For the I/O thread.

    Args:
        first: seconds of the first pause.
        longest: seconds that no pause exceeds, chance and refusals aside.
        servers: how many there are to try.
    """

    def __init__(self, first: float, longest: float, servers: int) -> None:
        first = min(first, longest)
        self._servers = servers
        self._failures = 0
        self._new_round = GrowingPause(first, longest, jitter=_JITTER)
        self._next_server = GrowingPause(first, first, jitter=_JITTER)
        self._after_refusal = GrowingPause(_REFUSED, _REFUSED, jitter=_JITTER)

    @property
    def exhausted(self) -> bool:
        """Whether no server is left that was not tried since the last success."""
        return self._failures >= self._servers

    def next(self, *, refused: bool) -> float:
        """It failed once more: the seconds to wait; a server that ``refused`` will not change its mind soon."""
        pause = self._next_server if self._failures % self._servers else self._new_round
        self._failures += 1
        seconds = pause.next()
        return max(seconds, self._after_refusal.next()) if refused and self.exhausted else seconds

    def reset(self) -> None:
        """It worked."""
        self._failures = 0
        self._new_round.reset()
