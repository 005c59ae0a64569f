"""Hands work to one thread, which is woken once for all that it has not taken yet."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from typing import Generic, TypeVar

_Item = TypeVar("_Item")


class Mailbox(Generic[_Item]):
    """What others want of a thread, in their order. ``post`` and ``ring`` for any thread, ``take`` for its own.

    A wake-up is a system call and a context switch, so only the first to come makes one. The flag is cleared before
    the items are taken: what is put down after the clearing wakes again, and nothing is left behind.

    Args:
        wake: makes the thread call ``take`` soon. Called by any thread; must not raise.
    """

    __slots__ = ("_is_awake", "_items", "_wake")

    def __init__(self, wake: Callable[[], object]) -> None:
        self._wake = wake
        self._items: deque[_Item] = deque()
        self._is_awake = False

    def __len__(self) -> int:
        return len(self._items)

    def post(self, item: _Item) -> None:
        """Put something down and have it taken."""
        self._items.append(item)
        if not self._is_awake:
            self._ring()

    def ring(self) -> None:
        """Have the thread look, without anything to take. Costs next to nothing when it was woken already."""
        if not self._is_awake:
            self._ring()

    def _ring(self) -> None:
        try:
            self._is_awake = True
            self._wake()
        except BaseException:  # Ctrl-C, in the middle of it: the next to come makes another one
            self._is_awake = False
            raise

    def forget_ring(self) -> None:
        """The wake-up may have been lost, with the loop that it was for: the next to come makes another one."""
        self._is_awake = False

    def take(self) -> Iterator[_Item]:
        """What has been put down by now, the oldest first; what comes meanwhile rings again.

        After the end of the thread several others may take at once: each item goes to one of them.
        """
        self._is_awake = False
        for _ in range(len(self._items)):
            try:
                item = self._items.popleft()
            except IndexError:
                return
            yield item
