"""Copies of a message that the broker may have twice.

A retry is a copy that is confirmed before the original is acknowledged. When the connection breaks in between, nobody
knows whether the broker has the copy, and it must be published again. So that the task does not run twice for it, both
carry the same mark, and this client hands out the first of them that comes and acknowledges the second.

A delayed copy may be doubled by the broker itself: when it crashes while it transfers a message from one of its queues
to the next, it does that again afterwards, although the message may have arrived. Nobody is told, so every message that
comes from a queue of delays is remembered.
"""

from __future__ import annotations

import threading
from typing import Final

from qbridge_core.backend import Delivery

MAX_MARKS: Final = 10_000


class Duplicates:
    """The doubtful copies of one client. Thread-safe.

    Args:
        max_marks: how many are remembered of each kind; what is forgotten runs twice at worst.

    Attributes:
        marks: of each doubtful copy whether one with it was handed out and not given back. Empty most of the time,
            which any thread may ask.
        delayed: likewise of each message that has come from a queue of delays.
    """

    def __init__(self, max_marks: int = MAX_MARKS) -> None:
        self.marks: dict[str, bool] = {}
        self.delayed: dict[str, bool] = {}
        self._max_marks = max_marks
        self._lock = threading.Lock()
        # Holds the delivery too: its identity must not go to another one.
        self._tries: dict[int, tuple[Delivery, str]] = {}

    def mark_of(self, delivery: Delivery) -> str | None:
        """The mark of an earlier copy of this delivery, which the broker may have."""
        with self._lock:
            _, mark = self._tries.get(id(delivery), (None, None))
            return mark

    def add(self, delivery: Delivery, mark: str) -> None:
        """A copy of this delivery was published and not confirmed."""
        with self._lock:
            self._tries[id(delivery)] = delivery, mark
            self.marks.setdefault(mark, False)
            if len(self._tries) > self._max_marks:
                del self._tries[next(iter(self._tries))]  # the oldest
            if len(self.marks) > self._max_marks:
                del self.marks[next(iter(self.marks))]

    def settle(self, delivery: Delivery) -> None:
        """A copy of it was confirmed: there will be no further one."""
        if self._tries:
            with self._lock:
                self._tries.pop(id(delivery), None)

    def admit(self, mark: str, delayed: bool = False) -> bool:
        """Whether a message with this mark may be handed out; False for the twin of one that was.

        Args:
            mark: of the message.
            delayed: it has come from a queue of delays, so that there may be another one.
        """
        with self._lock:
            known = self.marks if mark in self.marks or not delayed else self.delayed
            first = not known.get(mark, False)
            if mark in known or delayed:
                known[mark] = True
                if len(known) > self._max_marks:
                    del known[next(iter(known))]
            return first

    def is_out(self, mark: str) -> bool:
        """Whether a message with this mark was handed out, so that another one is its twin."""
        with self._lock:
            return self.marks.get(mark, False) or self.delayed.get(mark, False)

    def withdraw(self, mark: str) -> None:
        """A message with this mark goes back to its queue, or may: whatever comes next must be handed out."""
        with self._lock:
            for known in (self.marks, self.delayed):
                if mark in known:
                    known[mark] = False
