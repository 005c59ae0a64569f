"""The plugin that counts what workers tell. What shows its figures is elsewhere: here nothing foreign is imported."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from qbridge_core.contract.client import QueueClient
from qbridge_core.contract.dead_letter import Reason
from qbridge_core.contract.hookspecs import hookimpl
from qbridge_core.telemetry import catalogue
from qbridge_core.telemetry.depths import Depths
from qbridge_core.telemetry.figures import Figures

if TYPE_CHECKING:
    from qbridge_core.contract.settlement import Settlement

OUTCOMES: Final = ("succeeded", "retried", "dead-lettered", "snoozed", "handed back")
RETRY_REASONS: Final = (Reason.FAILED, Reason.TIMED_OUT, Reason.CRASHED)
CONFIRMED: Final = "confirmed"
FAILED: Final = "failed"
OTHERS: Final = "(others)"
"""Stands for further queues that somebody has published to."""
_MOST_TARGETS: Final = 1000
LOOK_EVERY: Final = 5.0


class Recorder:
    """Counts for any number of managers and clients, by queue. Thread-safe.

    Args:
        look_every: seconds between two looks at the queues of the managers at the broker, at least; ``None`` for never.

    Attributes:
        figures: what it has counted.
        depths: looks at the queues.
        look_every: as above.
    """

    def __init__(self, look_every: float | None = LOOK_EVERY) -> None:
        self.figures = Figures()
        self.depths = Depths(self.figures)
        self.look_every = look_every
        self._targets: set[str] = set()
        if look_every is not None:
            self.depths.begin(look_every)

    @hookimpl
    def qbridge_worker_started(self, queue: str, client: QueueClient) -> None:
        """Show all that is counted of the queue from now on, at 0: a rate needs the value before the first event."""
        count = self.figures.count
        for outcome in OUTCOMES:
            count(catalogue.TASKS, queue, outcome, by=0)
        for reason in RETRY_REASONS:
            count(catalogue.RETRIES, queue, reason.value, by=0)
        for reason in Reason:
            count(catalogue.DEAD_LETTERS, queue, reason.value, by=0)
        for metric in (catalogue.CRASHES, catalogue.SUSPICIONS, catalogue.ABANDONED, catalogue.REPEATED):
            count(metric, queue, by=0)
        for metric in (catalogue.WAIT_TIME, catalogue.RUN_TIME):
            self.figures.put(metric, [], queue)
        self.figures.show(catalogue.IN_FLIGHT, 0, queue)
        self.depths.add(queue, client)

    @hookimpl
    def qbridge_worker_stopping(self, queue: str, client: QueueClient) -> None:
        """Look at the queue no more."""
        self.depths.remove(queue, client)

    @hookimpl
    def qbridge_settlements(self, queue: str, settlements: Sequence[Settlement], running: int) -> None:
        """Count many at once."""
        figures = self.figures
        figures.show(catalogue.IN_FLIGHT, running, queue)
        ends: Counter[tuple[str, Reason | None]] = Counter()
        alike: dict[int, list[Settlement]] = {}
        for each in settlements:
            ends[each.outcome, each.reason] += each.times
            alike.setdefault(each.times, []).append(each)
        for (outcome, reason), number in ends.items():
            figures.count(catalogue.TASKS, queue, outcome, by=number)
            if outcome == "retried":
                figures.count(catalogue.RETRIES, queue, _text(reason), by=number)
            elif outcome == "dead-lettered":
                figures.count(catalogue.DEAD_LETTERS, queue, _text(reason), by=number)
        for times, some in alike.items():
            waits = [each.wait for each in some if each.wait is not None]
            runs = [each.duration for each in some if each.duration is not None]
            figures.put(catalogue.WAIT_TIME, waits, queue, times=times)
            figures.put(catalogue.RUN_TIME, runs, queue, times=times)

    @hookimpl
    def qbridge_task_handed_back(self, queue: str) -> None:
        """Count one."""
        self.figures.count(catalogue.TASKS, queue, "handed back")

    @hookimpl
    def qbridge_task_crashed(self, queue: str, suspected: bool) -> None:
        """Count one."""
        self.figures.count(catalogue.SUSPICIONS if suspected else catalogue.CRASHES, queue)

    @hookimpl
    def qbridge_task_abandoned(self, queue: str) -> None:
        """Count one."""
        self.figures.count(catalogue.ABANDONED, queue)

    @hookimpl
    def qbridge_settlement_repeated(self, queue: str) -> None:
        """Count one."""
        self.figures.count(catalogue.REPEATED, queue)

    @hookimpl
    def qbridge_connection_lost(self, address: str) -> None:
        """Count one."""
        self.figures.count(catalogue.LOST, address)
        self.figures.count(catalogue.RECONNECTS, address, by=0)

    @hookimpl
    def qbridge_connection_regained(self, address: str) -> None:
        """Count one."""
        self.figures.count(catalogue.RECONNECTS, address)

    @hookimpl
    def qbridge_published(self, queue: str, count: int, duration: float, exception: BaseException | None) -> None:
        """Count a call's messages, and measure how long it took where all were confirmed."""
        target = self._target(queue)
        if exception is not None:
            self.figures.count(catalogue.PUBLISHED, target, FAILED, by=count)
            return
        self.figures.count(catalogue.PUBLISHED, target, CONFIRMED, by=count)
        self.figures.put(catalogue.PUBLISH_TIME, [duration], target)

    def _target(self, queue: object) -> str:
        """The label of a queue that somebody publishes to: a program may make up any number of them."""
        if queue in self._targets:
            return str(queue)
        if not isinstance(queue, str) or len(self._targets) >= _MOST_TARGETS:
            return OTHERS
        self._targets.add(queue)
        for outcome in (CONFIRMED, FAILED):
            self.figures.count(catalogue.PUBLISHED, queue, outcome, by=0)
        return queue


def _text(reason: Reason | None) -> str:
    return "" if reason is None else reason.value
