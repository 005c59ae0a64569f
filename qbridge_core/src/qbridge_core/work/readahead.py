"""How many more messages to take than workers are free, so that quick tasks do not wait for the broker.

A round trip to the broker takes as long as dozens of tasks that do next to nothing, so taking one message for each free
worker would let the workers wait most of the time. Taking more is harmless only as long as it is little work: what
is held here no other worker process can have, and it is delivered again when this one dies. So what is held beyond the
free workers is two milliseconds of work at most, and tasks that take longer than that are never held; ten milliseconds
where child processes run them, which get them together. Time in which all workers waited is no work: where the broker
answers late, or the machine is busy, tasks are no longer for that, and to take few of them would make the workers wait
even more.
"""

from __future__ import annotations

from typing import Final

from qbridge_core.contract.checks import PREFETCH_BYTES

MOST: Final = 100
"""More brings nothing: the round trip is a small part of the cost by then."""
LARGE: Final = PREFETCH_BYTES // MOST
"""Smaller messages, in bytes, make no difference."""
SECONDS_HELD: Final = 0.002
"""Where threads or coroutines run the tasks."""
SECONDS_FOR_CHILDREN: Final = 0.01
# A shorter time would take some tasks that happen to end together for quick ones.
_WINDOWS: Final = 2.5


class ReadAhead:
    """Follows the speed of the workers. For one thread at a time.

    Args:
        workers: how many there are.
        seconds: so much work may be held beyond what they do.

    Attributes:
        size: of the bodies that came lately, about, as far as they were large.
    """

    def __init__(self, workers: int, seconds: float = SECONDS_HELD) -> None:
        self._workers = workers
        self._seconds = seconds
        self._window = seconds * _WINDOWS
        self._since = 0.0
        self._done = 0
        self._more = 0
        self.size = 0

    def seen(self, size: int) -> None:
        """One of the messages that came last had a body of this size, in bytes."""
        # Growth counts at once, and shrinking slowly.
        self.size = size if size > self.size else self.size - (self.size - size) // 8
        self._more = min(self._more, PREFETCH_BYTES // max(1, self.size))

    def waited(self, seconds: float) -> None:
        """For so long nothing ran, since ``more`` was called last: all workers waited for messages."""
        self._since += seconds

    def more(self, done: int, now: float) -> int:
        """How many messages to take beyond the free workers, when ``done`` tasks have ended in all until ``now``."""
        elapsed = now - self._since
        if elapsed >= self._window:
            held = int((done - self._done) / elapsed * self._seconds)
            most = min(MOST, PREFETCH_BYTES // max(1, self.size))
            self._more = min(held, most) if held >= self._workers else 0
            self._since, self._done = now, done
        return self._more
