"""How often the managers of a process do what they do though nothing comes for them.

A look of the watch and a request for messages wake a thread each. Once a second that is nothing for one manager, and
most of what an idle process of a thousand managers would do. So those whose queues are idle share a number of both.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from qbridge_core.runtime.clock import monotonic

_EACH_SECOND: Final = 25
_LONGEST: Final = 60.0
MANY: Final = _EACH_SECOND
"""With fewer managers than this in a process none of them does anything less often."""
IDLE_AFTER: Final = 10.0
"""Seconds without a message after which a queue is idle."""


def pause(managers: int) -> float:
    """Seconds between two looks, or requests, of each of so many managers."""
    return min(managers / _EACH_SECOND, _LONGEST)


class Resting:
    """Whether a manager rests, since nothing has come for it for a while.

    As long as it does, its requests wait for longer where many managers share the process.

    Args:
        is_idle: whether nothing runs, and nothing waits for a worker.
        received: how many messages have come in all.

    Attributes:
        rests: whether it does; looked at by whoever reads.
        roused: called with the first message after a time of rest; must not wait.
    """

    def __init__(self, is_idle: Callable[[], bool], received: Callable[[], int]) -> None:
        self.rests = False
        self.roused: Callable[[], None] = _ignore
        self._is_idle = is_idle
        self._received = received
        self._counted = 0
        self._since = 0.0

    def look(self) -> bool:
        """Whether nothing has come for a while and nothing runs; for one thread, which calls it again and again.

        ``roused`` is called when it is not so any more.
        """
        now, since = monotonic(), self._since
        if self._counted != self._received() or not self._is_idle():
            self._counted, self._since, self.rests = self._received(), now, False
        elif now - since >= IDLE_AFTER:
            self.rests = True
            # Looked at again: whoever has disturbed it before may have seen no rest.
            if self._counted != self._received() or since != self._since or not self._is_idle():
                self.rouse()
        return self.rests

    def rouse(self) -> None:
        """End the rest, and begin none for a while."""
        self._since, self.rests = monotonic(), False
        self.roused()


def _ignore() -> None:
    """Nobody wants to know."""
