"""One thread for each client that asks the broker things now and then for all of its managers.

Are there suspects in their side queues? Are their queues paused (:mod:`qbridge_core.work.pauses`)? Where there are many
side queues, those whose turn comes within a second are asked about together.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final, Protocol

from qbridge_core.contract.client import QueueClient
from qbridge_core.runtime.clock import monotonic
from qbridge_core.runtime.logs import logger
from qbridge_core.runtime.pulse import Pulse
from qbridge_core.runtime.schedule import Schedule
from qbridge_core.work.perclient import PerClient
from qbridge_core.work.rest import MANY

if TYPE_CHECKING:
    from qbridge_core.work.poison.side_queue import SideQueue

_log: Final = logger("qbridge.worker")
_TOGETHER: Final = 1.0
_MOST: Final = 100


class Seeker(Protocol):
    """Who has something to look for."""

    @property
    def side_queue(self) -> SideQueue | None:
        """Where; None for one who has to look in any case."""
        ...

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
        while seekers := self._next():
            self.pulse.turn()
            for seeker in self._promising(seekers):
                self.pulse.turn()
                try:
                    seeker.seek()
                except BaseException:  # noqa: BLE001 - a backend's bug must not end this thread
                    _log.exception("something cannot be looked for at the broker; it is tried again in some seconds")

    def _promising(self, seekers: Sequence[Seeker]) -> Sequence[Seeker]:
        """Those who may find something."""
        places = {place.queue: place for seeker in seekers if (place := seeker.side_queue) is not None}
        if len(seekers) < 2 or len(places) < len(seekers):
            return seekers
        try:
            occupied = next(iter(places.values())).client._occupied(places)
        except Exception as exc:  # noqa: BLE001 - each of them finds out what is wrong, and says so
            _log.debug("cannot look into many queues at once: %s", exc)
            return seekers
        return [seeker for seeker in seekers if seeker.side_queue is None or seeker.side_queue.queue in occupied]

    def _next(self) -> list[Seeker]:
        """Wait until it is time to look for some; none when there is nobody left."""
        with self._changed:
            while self._seekers:
                now = monotonic()
                if seekers := self._take_due(now):
                    for seeker in seekers:
                        self._seekers.plan(seeker, now + seeker.look_in(len(self._seekers)))
                    return seekers
                self.pulse.turn(self._seekers.next_at - now)
                self._changed.wait(self._seekers.next_at - now)
            self._seekers.clear()
            self._is_running = False
            self.pulse.rest()
            return []

    def _take_due(self, now: float) -> list[Seeker]:
        """Somebody whose turn it is, and, where there are many, the others whose turn comes soon."""
        first = self._seekers.take_due(now)
        if first is None:
            return []
        taken = [first]
        if len(self._seekers) <= MANY or first.side_queue is None:
            return taken
        others: list[tuple[Seeker, float]] = []
        while len(taken) < _MOST and (at := self._seekers.next_at) <= now + _TOGETHER:
            seeker = self._seekers.take_due(at)
            if seeker is None:
                break
            if seeker.side_queue is None:
                others.append((seeker, at))
            else:
                taken.append(seeker)
        for seeker, at in others:
            self._seekers.plan(seeker, at)
        return taken


_lookouts: Final = PerClient(lambda _: Lookout())


def lookout_of(client: QueueClient) -> Lookout:
    """The one that the managers of this client share."""
    return _lookouts.of(client)


def pulses_of(client: QueueClient) -> tuple[Pulse, ...]:
    """That of its lookout, if there is one. Waits for nobody."""
    found = _lookouts.known(client)
    return () if found is None else (found.pulse,)
