"""One thread for each client that asks the broker things now and then for all of its managers.

Are there suspects in their side queues? Are their queues paused (:mod:`qbridge_core.work.pauses`)?
"""

from __future__ import annotations

import os
import threading
import weakref
from typing import Final, Protocol

from qbridge_core.contract.client import QueueClient
from qbridge_core.runtime.clock import monotonic
from qbridge_core.runtime.logs import logger
from qbridge_core.runtime.pulse import Pulse
from qbridge_core.runtime.schedule import Schedule

_log: Final = logger("qbridge.worker")


class Seeker(Protocol):
    """Who has something to look for."""

    def seek(self) -> None:
        """Look, and deal with what is there in another thread."""
        ...

    def look_in(self, seekers: int) -> float:
        """Seconds until the next look, where so many look for something."""
        ...


class Lookout:
    """The thread, which is there as long as there is somebody to look for. Thread-safe."""

    def __init__(self) -> None:
        self.pulse = Pulse("the thread that asks the broker for paused queues and suspects")
        self._changed = threading.Condition()
        self._seekers: Schedule[Seeker] = Schedule()
        self._is_running = False

    def add(self, seeker: Seeker) -> None:
        """Look for it from now on.

        Raises:
            RuntimeError: the system has no thread left.
        """
        with self._changed:
            if not self._is_running:
                threading.Thread(target=self._run, name="qbridge-lookout", daemon=True).start()
                self._is_running = True
            self._seekers.plan(seeker, monotonic())
            self._changed.notify()

    def remove(self, seeker: Seeker) -> None:
        """Look for it no more."""
        with self._changed:
            self._seekers.forget(seeker)
            self._changed.notify()

    def ring(self, seeker: Seeker) -> None:
        """Look for it now."""
        with self._changed:
            if seeker in self._seekers:
                self._seekers.plan(seeker, monotonic())
                self._changed.notify()

    def _run(self) -> None:
        while (seeker := self._next()) is not None:
            self.pulse.turn()
            try:
                seeker.seek()
            except BaseException:  # noqa: BLE001 - a backend's bug must not end this thread
                _log.exception("something cannot be looked for at the broker; it is tried again in some seconds")

    def _next(self) -> Seeker | None:
        """Wait until it is time to look for one; None when there is nobody left."""
        with self._changed:
            while self._seekers:
                now = monotonic()
                seeker = self._seekers.take_due(now)
                if seeker is not None:
                    self._seekers.plan(seeker, now + seeker.look_in(len(self._seekers)))
                    return seeker
                self.pulse.turn(self._seekers.next_at - now)
                self._changed.wait(self._seekers.next_at - now)
            self._seekers.clear()
            self._is_running = False
            self.pulse.rest()
            return None


_lookouts: weakref.WeakKeyDictionary[QueueClient, Lookout] = weakref.WeakKeyDictionary()
_lock = threading.Lock()


def lookout_of(client: QueueClient) -> Lookout:
    """The one that the managers of this client share."""
    with _lock:
        return _lookouts.setdefault(client, Lookout())


def pulses_of(client: QueueClient) -> tuple[Pulse, ...]:
    """That of its lookout, if there is one. Waits for nobody."""
    found = _lookouts.get(client)
    return () if found is None else (found.pulse,)


def _begin_anew() -> None:
    """In a forked child: there are no threads, and the lock may be held by one that does not exist here."""
    global _lookouts, _lock
    _lookouts, _lock = weakref.WeakKeyDictionary(), threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_begin_anew)
