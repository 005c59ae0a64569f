"""Has managers work, and lets time pass whenever there is nothing left to do at its present."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Sequence
from typing import Final

from qbridge_core import IdleTimeoutError, Outcome, QueuePausedError, RunReport, TaskManager
from qbridge_core.backend import GrowingPause, monotonic
from qbridge_memory import MemoryClient
from qbridge_memory.stored import Event
from qbridge_pytest.clock import VirtualClock
from qbridge_pytest.faults import Fault, Faults

_FIRST_PAUSE: Final = 0.000_2
_LONGEST_PAUSE: Final = 0.01
_QUIET: Final = 2
"""So many looks in a row must find nothing to do: a hook that is called after a settlement may send something."""
_SETTLED: Final = frozenset({"removed", "moved"})
_COUNTING_TIME: Final = 2.0
"""Seconds that a worker gets to count what it has settled; what is not counted then somebody else has settled."""


class Work:
    """What is done from one moment on.

    Args:
        client: has the broker.
        time: its clock.
        faults: what goes wrong there.
        events: all that has happened there.
        managers: those who work; all of them run.
        timeout: seconds, real ones, after which to give up.
    """

    def __init__(
        self,
        client: MemoryClient,
        time: VirtualClock,
        faults: Faults,
        events: Sequence[Event | Fault],
        managers: Sequence[TaskManager],
        timeout: float,
    ) -> None:
        self._client = client
        self._time = time
        self._faults = faults
        self._events = events
        self._first_event = len(events)
        self._by_others = 0
        self._managers = managers
        self._queues = list(dict.fromkeys(queue for manager in managers for queue in manager.input_queues))
        self._timeout = timeout
        self._deadline = monotonic() + timeout
        self._before = _counts(managers)
        self._began = time.monotonic()

    def finish(self, until: float | None) -> None:
        """Wait until nothing is left, and move the clock to what is due next, as long as there is something.

        Args:
            until: the clock is not moved beyond this (its monotonic time).

        Raises:
            IdleTimeoutError: the time is over.
            QueuePausedError: a queue has work that nobody does.
            BaseException: what has ended a manager.
        """
        __tracebackhide__ = True
        pause, rest, quiet = GrowingPause(_FIRST_PAUSE, _LONGEST_PAUSE), threading.Event(), 0
        while True:
            if (back := self._faults.awaited) is not None and (until is None or back <= until):
                self._time.advance_to(back)
            out_of_reach = back is not None and until is not None and back > until
            ready, in_flight, due = self._client.outlook(self._queues)
            quiet = 0 if (ready or in_flight) and not out_of_reach else quiet + 1
            if quiet >= _QUIET:
                if not out_of_reach:
                    self._have_counted(rest)
                if due is None or (until is not None and due > until):
                    return
                self._time.advance_to(due)
                pause.reset()
                quiet = 0
            self._check()
            rest.wait(pause.next())

    def report(self) -> RunReport:
        """What has happened."""
        counts = _counts(self._managers) - self._before
        return RunReport({outcome: counts[outcome] for outcome in Outcome if counts[outcome]})

    def _have_counted(self, rest: threading.Event) -> None:
        """Wait until the workers have counted what they have settled."""
        ended = monotonic() + _COUNTING_TIME
        settled = sum(
            event.what in _SETTLED and event.queue in self._queues for event in self._events[self._first_event :]
        )
        while (missing := settled - self._by_others - self._counted()) > 0:
            if monotonic() > ended:
                self._by_others += missing
            rest.wait(_FIRST_PAUSE)

    def _counted(self) -> int:
        return sum((_counts(self._managers) - self._before).values())

    def _check(self) -> None:
        __tracebackhide__ = True
        for manager in self._managers:
            if manager.error is not None:
                raise manager.error
        if stopped := self._paused_work():
            names = ", ".join(map(repr, stopped))
            raise QueuePausedError(
                f"what is left to do is in {names}, and nobody takes it while that is paused: call resume",
                self.report(),
            )
        if monotonic() > self._deadline:
            raise IdleTimeoutError(self._what_is_left(), self.report())

    def _paused_work(self) -> list[str]:
        """The paused queues that have work, where there is no other work."""
        paused = sorted(self._client.paused(self._queues))
        everywhere = self._client.outlook(self._queues)
        if not paused or everywhere.in_flight or self._client.outlook(paused).ready < everywhere.ready:
            return []
        return [queue for queue in paused if self._client.outlook([queue]).ready]

    def _what_is_left(self) -> str:
        counts = {queue: self._client.count(queue) for queue in self._queues}
        left = "; ".join(
            f"{queue!r}: {each.ready} ready, {each.in_flight} in flight, {each.delayed} delayed"
            for queue, each in counts.items()
            if each.ready or each.in_flight or each.delayed
        )
        passed = self._time.monotonic() - self._began
        return (
            f"there is still work after {self._timeout:g} s, in which {passed / 3600:,.1f} h of virtual time passed "
            f"({self.report()}): {left}"
        )


def _counts(managers: Sequence[TaskManager]) -> Counter[Outcome]:
    total: Counter[Outcome] = Counter()
    for manager in managers:
        total.update(manager.report().counts)
    return total
