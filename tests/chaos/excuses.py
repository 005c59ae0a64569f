"""What may happen to a message twice, and why. Everything else is a defect.

* A worker that is killed may have ended a run of which the broker does not know yet. Its task runs again elsewhere.
* A worker that keeps outcomes for a broker that is out of reach, and is killed or told to stop before it is back, takes
  them with it.
* On RabbitMQ, a copy (for a retry, or a dead letter) whose confirmation was lost is published again. A worker that
  lives hands out one of two retries; a later one may hand out the other. A letter may be there twice. On kombu's
  brokers the worker that lives runs both.
* On RabbitMQ, what a killed worker held is moved aside by another one, to run alone: a copy is confirmed, and then the
  original is acknowledged. When that worker is killed in between, both are there, and both run.

Each of the first two needs a worker that was ended by a fault, and a run of the same message elsewhere after that.
Where no worker was ended, no run is excused but those of a doubled retry on kombu's brokers. The last one needs two
workers that were killed, one after the other.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence

from chaos.history import DONE, FAILED, History, Run
from chaos.plan import Backend, Fate, Fault, Plan


class Excuses:
    """Says how many runs and letters more than planned a message may have, and remembers who had to be excused."""

    def __init__(self, plan: Plan, history: History) -> None:
        self._plan = plan
        self._history = history
        self._used: Counter[int] = Counter()  # messages with an unsettled run, by the worker that was killed
        self._moved: Counter[int] = Counter()  # messages that were moved aside, by the worker that was killed meanwhile

    def runs(self, fate: Fate, runs: Sequence[Run]) -> tuple[int, int]:
        """How many successful and how many failed runs more than planned a message may have."""
        good = failed = 0
        workers = set()
        for run in runs:
            elsewhere = self._ran_elsewhere(run, runs)
            if elsewhere and self._is_unsettled(run):
                # The message comes back as it was before this run.
                good += fate.good_runs
                failed += fate.failed_runs - run.attempt + 1 if run.outcome == FAILED else 0
                workers.add(run.pid)
            elif self._may_be_doubled(run) and (elsewhere or self._plan.backend.is_a_bridge):
                # Two messages are what they were after this run.
                good += fate.good_runs
                failed += fate.failed_runs - run.attempt
        self._used.update(workers)
        return good, failed

    def moved_runs(self, fate: Fate, runs: Sequence[Run]) -> tuple[int, int]:
        """How many successful and failed runs more than planned it may have if it was doubled while it was moved aside.

        For messages only that nothing else excuses: each worker can have moved no more of them than it has threads.
        """
        pid = self._mover(runs)
        if pid is None:
            return 0, 0
        self._moved[pid] += 1
        before = sum(run.outcome == FAILED and run.began < self._history.kills[pid] for run in runs)
        return fate.good_runs, fate.failed_runs - before

    def letters(self, fate: Fate, runs: Sequence[Run]) -> int:
        """How many dead letters more than one a message may have."""
        if not self._plan.backend.doubles_copies:
            return 0  # the letter and the end of the message are one step
        if fate is Fate.MALFORMED:  # no run says when it was dead-lettered
            return sum(fault.fault is not Fault.WORKER_TERM for fault in self._history.faults)
        moved = self._mover(runs) is not None
        return moved + sum(self._is_unsettled(run) or self._may_be_doubled(run) for run in runs)

    def overdrawn(self) -> Iterable[str]:
        """Workers whose end had to excuse more than it can: about as many messages as it ran at once."""
        for pid, count in self._used.items():
            killed = self._history.kills.get(pid, math.inf)
            in_reach = self._history.settled_until(pid) == killed - self._history.settling
            if in_reach and count > self._plan.threads and self._plan.backend is not Backend.KOMBU_SQS:
                yield f"DUPLICATE: {count} messages ran again although their runs had ended before worker {pid} did"
        for pid, count in self._moved.items():
            if count > self._plan.threads:
                yield f"DUPLICATE: {count} messages were doubled when worker {pid} was killed"

    def _mover(self, runs: Sequence[Run]) -> int | None:
        """The worker that may have been killed while it moved the message aside: there was an earlier kill, too."""
        if not self._plan.backend.doubles_copies or not runs:
            return None
        last = max(run.began for run in runs)
        kills = sorted((moment, pid) for pid, moment in self._history.kills.items() if moment < last)
        return kills[-1][1] if len(kills) > 1 else None

    def _ran_elsewhere(self, run: Run, runs: Sequence[Run]) -> bool:
        """Whether it ended, and the message was run again by another worker after the end of its own."""
        ended = self._history.ended_by_a_fault(run.pid)
        return bool(run.outcome) and any(later.began > ended and later.pid != run.pid for later in runs)

    def _is_unsettled(self, run: Run) -> bool:
        """Whether the broker may not have learned of it before its worker ended."""
        return run.outcome in (DONE, FAILED) and (run.ended or 0.0) > self._history.settled_until(run.pid)

    def _may_be_doubled(self, run: Run) -> bool:
        """Whether its copy, for a retry or as a dead letter, may have been published twice."""
        return (
            self._plan.backend.doubles_copies
            and run.outcome == FAILED
            and run.ended is not None
            and self._history.out_of_reach(run.ended)
        )
