"""Whether a busy queue is to be asked for its messages in two halves, one of them ahead."""

from __future__ import annotations

from typing import Final

WORTH: Final = 50
"""Fewer messages are asked for at once: two requests for so few cost more than waiting for one."""
_BUSY: Final = 0.05
_REQUESTS: Final = 16
_PAUSE: Final = 1.0


class Halves:
    """Follows how one queue is read; ``now`` is monotonic time. For one thread at a time.

    The server works while the messages are at work, so halves are quicker, unless its answer takes more than twice as
    long as their work: then the whole at once is. Which it is, the requests themselves tell.
    """

    def __init__(self) -> None:
        self._busy_until = 0.0
        self._not_before = 0.0
        self._requests = 0
        self._late = 0

    def pay(self, count: int, now: float) -> bool:
        """Whether to ask for ``count`` messages so: all that was asked for last has come, and has hardly lasted."""
        return count >= WORTH and self._not_before <= now < self._busy_until

    def came(self, now: float, *, everything: bool) -> None:
        """A request was answered, with all that it asked for or with less."""
        self._busy_until = now + _BUSY if everything else 0.0

    def answered(self, worked: float, waited: float, now: float) -> None:
        """A request ahead was answered ``waited`` seconds after somebody came for it, ``worked`` after it was sent.

        Judged by most of the last ones: now and then a server stalls.
        """
        self._requests += 1
        self._late += waited > worked
        if self._requests == _REQUESTS:
            if self._late > _REQUESTS // 2:
                self._not_before = now + _PAUSE
            self._requests = self._late = 0
