"""Copies of a message that the broker may have twice, because the confirmation of the first one did not come.

A retry is a copy that is confirmed before the original is acknowledged. When the connection breaks in between, nobody
knows whether the broker has the copy, and it must be published again. So that the task does not run twice for it, both
carry the same mark, and this client hands out the first of them that comes and acknowledges the second.
"""

from __future__ import annotations

import threading
from typing import Final

from qbridge_core import Delivery

MAX_MARKS: Final = 10_000


class Doubts:
    """The doubtful copies of one client. Thread-safe.

    Args:
        max_marks: how many are remembered; what is forgotten runs twice at worst.

    Attributes:
        marks: of each doubtful copy whether one with it was handed out and not given back. Empty most of the time,
            which any thread may ask.
    """

    def __init__(self, max_marks: int = MAX_MARKS) -> None:
        self.marks: dict[str, bool] = {}
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

    def admit(self, mark: str) -> bool:
        """Whether a message with this mark may be handed out; False for the twin of one that was."""
        with self._lock:
            if mark not in self.marks:
                return True
            first = not self.marks[mark]
            self.marks[mark] = True
            return first

    def withdraw(self, mark: str) -> None:
        """A message with this mark goes back to its queue, or may: whatever comes next must be handed out."""
        if mark in self.marks:
            with self._lock:
                if mark in self.marks:
                    self.marks[mark] = False
