"""Keeps whoever reads messages from asking for more while the queue is paused."""

from __future__ import annotations

import threading


class Gate:
    """Open at first. ``enter`` and ``leave`` are for one thread at a time, the rest for any.

    Attributes:
        is_shut: nobody is to ask for messages.
        is_asking: somebody does, or is about to find out that the gate is shut.
    """

    def __init__(self) -> None:
        self.is_shut = False
        self.is_asking = False
        self._is_given_up = False
        self._opened = threading.Event()
        self._lock = threading.Lock()

    def enter(self) -> bool:
        """Whether to ask for messages; where not, it has waited until the gate was opened. Then look again."""
        self.is_asking = True  # before the look: who shuts the gate sees either this, or nobody who asks
        if not self.is_shut:
            return True
        self.is_asking = False
        self._opened.wait()
        return False

    def try_enter(self) -> bool:
        """Whether to ask for messages; waits for nothing."""
        self.is_asking = True  # as above
        if self.is_shut:
            self.is_asking = False
        return self.is_asking

    def leave(self) -> None:
        """The answer has come."""
        self.is_asking = False

    def shut(self) -> None:
        """Let nobody ask from now on; one who asks already goes on with that."""
        with self._lock:
            if not self._is_given_up:
                self._opened.clear()
                self.is_shut = True

    def open(self) -> None:
        """Let those ask who wait, and all others."""
        with self._lock:
            self.is_shut = False
            self._opened.set()

    def give_up(self) -> None:
        """Let nobody wait here any more: there is nothing left to ask for."""
        with self._lock:
            self._is_given_up = True
            self._opened.set()
