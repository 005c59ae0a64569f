"""Wakes one waiting thread, from any thread and from signal handlers.

An event will not do: a signal handler that sets it may have interrupted whoever holds its lock. To put something into a
``SimpleQueue`` can be interrupted and done again at any time (https://docs.python.org/3/library/queue.html), and takes
no descriptor, of which a process may have none left.
"""

from __future__ import annotations

import queue as queues


class Wakeup:
    """A doorbell. ``notify`` from anywhere, ``wait`` in one thread."""

    def __init__(self) -> None:
        self._rung: queues.SimpleQueue[None] = queues.SimpleQueue()

    def notify(self) -> None:
        """End the current wait, or the next one."""
        self._rung.put(None)

    def wait(self, seconds: float) -> None:
        """Wait for a notification, at most so long."""
        try:
            if seconds > 0:
                self._rung.get(timeout=seconds)
            while True:
                self._rung.get_nowait()
        except queues.Empty:
            pass
