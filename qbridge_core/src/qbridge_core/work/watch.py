"""One thread that looks after all sessions of a process, however many queues it serves.

It never waits for a broker or a user's code. A session begins and ends in a thread of its own.
"""

from __future__ import annotations

import math
import os
import threading
from collections import deque
from typing import Final, Protocol

from qbridge_core.runtime.clock import monotonic
from qbridge_core.runtime.endurance import Endurance
from qbridge_core.runtime.pulse import Pulse
from qbridge_core.runtime.schedule import Schedule
from qbridge_core.runtime.wakeup import Wakeup

_LONGEST: Final = 1.0


class Watched(Protocol):
    """What is looked after."""

    def look(self) -> float | None:
        """Look; return the seconds until the next time, or None for no more looks. Never raises."""
        ...


class Watch:
    """The thread, which is there as long as there is something to look after. Thread-safe."""

    def __init__(self) -> None:
        self.pulse = Pulse("the watch over running tasks")
        self._lock = threading.Lock()
        self._watched: Schedule[Watched] = Schedule()
        self._rung: deque[Watched] = deque()
        self._doorbell: Wakeup | None = None
        self._endurance = Endurance("the watch over running tasks")

    @property
    def count(self) -> int:
        """How many are looked after."""
        return len(self._watched)

    def add(self, watched: Watched) -> None:
        """Look after it from now on.

        Raises:
            RuntimeError: the system has no thread left.
        """
        with self._lock:
            if self._doorbell is None:
                doorbell = Wakeup()
                threading.Thread(target=self._run, args=(doorbell,), name="qbridge-watch", daemon=True).start()
                self._doorbell = doorbell
            self._watched.plan(watched, math.inf)
        self.ring(watched)

    def ring(self, watched: Watched) -> None:
        """Have it looked at soon. Takes no lock: a signal handler may call it."""
        doorbell = self._doorbell
        if doorbell is not None:
            self._rung.append(watched)
            doorbell.notify()

    def look_within_a_second(self, watched: Watched) -> None:
        """Have it looked at without waking the thread for it. Takes no lock."""
        if self._doorbell is not None:
            self._rung.append(watched)

    def _run(self, doorbell: Wakeup) -> None:
        seconds: float | None = 0.0
        while seconds is not None:
            self.pulse.turn(seconds)
            doorbell.wait(seconds)
            seconds = _LONGEST  # if the look fails
            with self._endurance:
                seconds = self._look()
        self.pulse.rest()

    def _look(self) -> float | None:
        """Look where it is time to; return the seconds until the next time, or None when there is nothing left."""
        for watched in self._to_look_at(monotonic()):
            self._look_at(watched)
        with self._lock:
            if not self._watched:
                self._doorbell = None
                self._watched.clear()
                self._rung.clear()
                return None
        return 0.0 if self._rung else max(0.0, min(self._watched.next_at - monotonic(), _LONGEST))

    def _to_look_at(self, now: float) -> list[Watched]:
        now_due: dict[Watched, None] = {}
        while self._rung:
            now_due[self._rung.popleft()] = None
        while (due := self._watched.take_due(now)) is not None:
            now_due[due] = None
        return [watched for watched in now_due if watched in self._watched]

    def _look_at(self, watched: Watched) -> None:
        seconds: float | None = _LONGEST  # if its look fails, which must cost the others nothing
        with self._endurance:
            seconds = watched.look()
        with self._lock:
            if seconds is None:
                self._watched.forget(watched)
            else:
                at = monotonic() + seconds
                # Many that rest are looked at together: on the second, and not each some microseconds after it.
                self._watched.plan(watched, at if seconds <= _LONGEST else math.ceil(at))


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
