"""Shows whether a long-lived thread still turns, without waking it: it says when it will be back, others look.

It costs the thread two attributes for each of its turns, and no lock, so that a thread that hangs cannot hide it.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Iterable
from typing import NamedTuple

from qbridge_core.runtime.clock import monotonic


class Stalled(NamedTuple):
    """Something that should have turned by now.

    Attributes:
        what: what it is, for people.
        seconds: for how long it is overdue.
        thread: the identifier of the thread that should have; None where there is none.
    """

    what: str
    seconds: float
    thread: int | None


class Pulse:
    """Of one thread, which calls ``turn`` and ``rest``; the others are for any.

    Args:
        name: what turns, for people.

    Attributes:
        rested_at: ``monotonic()`` when it rested last.
    """

    __slots__ = ("_due_at", "_name", "_thread", "rested_at")

    def __init__(self, name: str) -> None:
        self._name = name
        self._thread: int | None = None
        self._due_at = math.inf
        self.rested_at = monotonic()

    def turn(self, within: float = 0.0) -> None:
        """The calling thread has turned, and will turn again.

        Args:
            within: seconds that this may take as planned: of a wait, or of a call with a deadline.
        """
        self._thread = threading.get_ident()
        self._due_at = monotonic() + within

    def rest(self) -> None:
        """It has nothing to do until somebody wakes it, or has ended."""
        self._due_at, self.rested_at = math.inf, monotonic()

    @property
    def rests(self) -> bool:
        """Whether it has nothing to do."""
        return self._due_at == math.inf

    def stalled(self, now: float) -> Stalled:
        """For how long it is overdue; less than nothing when it is not."""
        return Stalled(self._name, now - self._due_at, self._thread)


def worst(stalled: Iterable[Stalled], seconds: float) -> Stalled | None:
    """What is overdue for the longest time, and for longer than this; None when nothing is."""
    return max((each for each in stalled if each.seconds > seconds), key=lambda each: each.seconds, default=None)
