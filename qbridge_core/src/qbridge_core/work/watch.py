"""One thread that looks after all sessions of a process, however many queues it serves.

It never waits for a broker or a user's code. A session begins and ends in a thread of its own.
"""

from __future__ import annotations

import os
import threading
from typing import Final, Protocol

from qbridge_core.runtime.clock import monotonic
from qbridge_core.runtime.wakeup import Wakeup

_LONGEST: Final = 3600.0  # the platform's own limit on waiting is far away, but finite


class Watched(Protocol):
    """What is looked after.

    Attributes:
        look_at: when to look again (monotonic time).
    """

    look_at: float

    def look(self) -> float | None:
        """Look; return the seconds until the next time, or None for no more looks. Never raises."""
        ...


class Watch:
    """The thread, which is there as long as there is something to look after. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._watched: dict[Watched, None] = {}
        self._doorbell: Wakeup | None = None

    @property
    def count(self) -> int:
        """How many are looked after."""
        return len(self._watched)

    def add(self, watched: Watched) -> None:
        """Look after it from now on.

        Raises:
            RuntimeError: the system has no thread left.
        """
        watched.look_at = 0.0
        with self._lock:
            if self._doorbell is None:
                doorbell = Wakeup()
                threading.Thread(target=self._run, args=(doorbell,), name="qbridge-watch", daemon=True).start()
                self._doorbell = doorbell
            self._watched[watched] = None
        self.ring(watched)

    def ring(self, watched: Watched) -> None:
        """Have it looked at soon. Takes no lock: a signal handler may call it."""
        watched.look_at = 0.0
        doorbell = self._doorbell
        if doorbell is not None:
            doorbell.notify()

    def _run(self, doorbell: Wakeup) -> None:
        while (seconds := self._look()) is not None:
            doorbell.wait(seconds)

    def _look(self) -> float | None:
        """Look where it is time to; return the seconds until the next time, or None when there is nothing left."""
        with self._lock:
            everything = list(self._watched)
            if not everything:
                self._doorbell = None
                return None
        now = monotonic()
        next_at = now + _LONGEST
        for watched in everything:
            if watched.look_at <= now:
                self._look_at(watched)
            next_at = min(next_at, watched.look_at)
        return max(0.0, next_at - monotonic())

    def _look_at(self, watched: Watched) -> None:
        watched.look_at = monotonic() + _LONGEST
        seconds = watched.look()
        if seconds is None:
            with self._lock:
                self._watched.pop(watched, None)
            watched.look_at = 0.0  # look at once whether anything is left
        else:
            watched.look_at = min(watched.look_at, monotonic() + seconds)  # somebody may have rung meanwhile


watch: Final = Watch()
"""Of this process."""

if hasattr(os, "register_at_fork"):
    # A child has neither the thread nor anything to look after, and the lock may be held by a thread that it has not.
    os.register_at_fork(after_in_child=watch.__init__)  # type: ignore[misc]


class Bell:
    """Wakes who looks after a session: the watch, and at the end the session's own thread. ``notify`` is for anywhere.

    Args:
        watched: the session.
    """

    def __init__(self, watched: Watched) -> None:
        self._watched = watched
        self._own: Wakeup | None = None

    def notify(self) -> None:
        """End the current wait, or the next one."""
        own = self._own
        if own is None:
            watch.ring(self._watched)
        else:
            own.notify()

    def take(self) -> None:
        """The watch looks no more: ``wait`` will be called."""
        self._own = Wakeup()

    def wait(self, seconds: float) -> None:
        """Wait for a notification, at most so long; after ``take``."""
        assert self._own is not None  # noqa: S101 - it was taken
        self._own.wait(seconds)
