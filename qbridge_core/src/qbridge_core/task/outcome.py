"""What became of the messages a worker handled."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType
from typing import Final

from qbridge_core.contract.dead_letter import Reason


class Outcome(StrEnum):
    """The end of one delivery in this worker."""

    SUCCEEDED = "succeeded"
    RETRIED = "retried"
    FAILED = "failed"
    TIMED_OUT = "timed out"
    CRASHED = "crashed"
    MALFORMED = "malformed"
    REJECTED = "rejected"
    UNKNOWN_TASK = "unknown task"
    UNSUPPORTED = "unsupported"
    EXPIRED = "expired"
    SNOOZED = "snoozed"
    HANDED_BACK = "handed back"


_DEAD: Final = {reason: Outcome(reason.value) for reason in Reason}


def dead_lettered(reason: Reason) -> Outcome:
    """The outcome of a message that was dead-lettered for ``reason``."""
    return _DEAD[reason]


@dataclass(frozen=True, slots=True)
class RunReport:
    """Counts by outcome. ``FAILED`` to ``EXPIRED`` are dead letters by reason; ``RETRIED`` counts each retry.

    ``report[Outcome.SUCCEEDED]`` and ``report.succeeded`` are the same number.
    """

    counts: Mapping[Outcome, int]

    def __getitem__(self, outcome: Outcome) -> int:
        return self.counts.get(outcome, 0)

    @property
    def succeeded(self) -> int:
        """Messages acknowledged after a successful run."""
        return self[Outcome.SUCCEEDED]

    @property
    def retried(self) -> int:
        """Failed runs that another attempt followed."""
        return self[Outcome.RETRIED]

    @property
    def dead_lettered(self) -> int:
        """Messages moved to the dead-letter queue, for whatever reason."""
        return sum(self[outcome] for outcome in _DEAD.values())

    def __str__(self) -> str:
        dead = _DEAD.values()
        parts = [
            f"{count} dead-lettered ({outcome})" if outcome in dead else f"{count} {outcome}"
            for outcome, count in self.counts.items()
        ]
        return ", ".join(parts) or "nothing happened"


def total(reports: Iterable[RunReport]) -> RunReport:
    """What several of them count together."""
    counts: Counter[Outcome] = Counter()
    for report in reports:
        counts.update(report.counts)
    return RunReport({outcome: counts[outcome] for outcome in Outcome if counts[outcome]})


class Tally:
    """Counts outcomes from many threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts: Counter[Outcome] = Counter()

    def add(self, outcome: Outcome) -> None:
        """Count one."""
        with self._lock:
            self._counts[outcome] += 1

    def of(self, queue: str) -> Tally:
        """What counts those of this queue."""
        del queue
        return self

    def report(self) -> RunReport:
        """What was counted so far."""
        with self._lock:
            counts = {outcome: self._counts[outcome] for outcome in Outcome if self._counts[outcome]}
        return RunReport(MappingProxyType(counts))


class PoolTally(Tally):
    """Counts those of several queues, each by itself.

    Args:
        queues: their names.
    """

    def __init__(self, queues: Iterable[str]) -> None:
        super().__init__()
        self._parts = {queue: Tally() for queue in queues}

    def of(self, queue: str) -> Tally:
        """What counts those of this queue."""
        return self._parts[queue]

    def report(self) -> RunReport:
        """What was counted so far, of all queues."""
        return total(part.report() for part in self._parts.values())
