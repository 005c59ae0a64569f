"""What happened: the journal that the workers write, and what the harness itself did and saw."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from chaos.plan import WORKER_FAULTS, Fault, Sent

DONE: Final = "done"
FAILED: Final = "failed"
# How long a worker may take to find a broker that is back.
RECOVERY_SECONDS: Final = 5.0


@dataclass
class Run:
    """One run of a task's handler. Times are seconds of the system's monotonic clock.

    Attributes:
        name: which copy of which task.
        pid: the worker process.
        attempt: what the handler was told: 1 for the first.
        began: when the handler began.
        ended: when it ended, or None if it did not.
        outcome: `DONE`, `FAILED`, or "" if it did not end.
    """

    name: str
    pid: int
    attempt: int
    began: float
    ended: float | None = None
    outcome: str = ""


@dataclass(frozen=True)
class Period:
    """A fault while it lasted, by the monotonic clock.

    Attributes:
        fault: its kind.
        what: its description.
        began: when it began.
        ended: when what it broke was in order again.
        backlog: how many confirmed tasks had not succeeded when it began.
    """

    fault: Fault
    what: str
    began: float
    ended: float
    backlog: int


@dataclass(frozen=True)
class Letter:
    """What counts of a dead letter.

    Attributes:
        name: the copy that became it.
        reason: why, as it says.
        attempts: the failed runs that it tells of.
        defects: what else in it is not as it should be.
    """

    name: str
    reason: str
    attempts: int
    defects: tuple[str, ...] = ()


@dataclass
class History:
    """Everything that was seen in one cell.

    Attributes:
        runs: all runs in the order of their beginnings.
        copies: every message that was published, by name, and what the broker said to it.
        kills: when each killed worker process was killed, by pid.
        stops: when each worker process was told to stop, by pid; without the last one, which had nothing left to do.
        exits: worker processes that ended without being told to, or wrongly, described.
        faults: the faults.
        stuck: the tasks that were not finished in time.
        overdue: what else was not over in time, described; empty when everything was.
        residue: messages that were left, by queue; without those in the dead-letter queue.
        leftovers: the names of messages that were left in the input queue, as far as they could be read.
        seconds: from the first task to the last.
        settling: for how many seconds the outcome of a run may be on its way to the broker.
    """

    runs: Sequence[Run] = ()
    copies: Mapping[str, Sent] = field(default_factory=dict)
    kills: Mapping[int, float] = field(default_factory=dict)
    stops: Mapping[int, float] = field(default_factory=dict)
    exits: Sequence[str] = ()
    faults: Sequence[Period] = ()
    stuck: frozenset[str] = frozenset()
    overdue: str = ""
    residue: Mapping[str, int] = field(default_factory=dict)
    leftovers: frozenset[str] = frozenset()
    seconds: float = 0.0
    settling: float = 0.5

    def runs_by_name(self) -> dict[str, list[Run]]:
        """The runs of each copy that had any, in their order."""
        found: dict[str, list[Run]] = defaultdict(list)
        for run in self.runs:
            found[run.name].append(run)
        return found

    def ended_by_a_fault(self, pid: int) -> float:
        """When a worker was killed or told to stop; never for one that lived as long as there was work."""
        return min(self.kills.get(pid, math.inf), self.stops.get(pid, math.inf))

    def settled_until(self, pid: int) -> float:
        """The broker must have learned of what ended before this moment in the worker, although it was killed later.

        A worker that was told to stop has told the broker everything, unless the broker was out of reach.
        """
        if pid in self.kills:
            return self._in_reach_before(self.kills[pid] - self.settling)
        stopped = self.stops.get(pid, math.inf)
        moment = self._in_reach_before(stopped)
        return moment if moment < stopped else math.inf

    def _in_reach_before(self, moment: float) -> float:
        for fault in sorted(self.faults, key=lambda each: each.began, reverse=True):
            # While the broker is out of reach the worker keeps the outcomes.
            if fault.fault not in WORKER_FAULTS and fault.began <= moment < fault.ended + RECOVERY_SECONDS:
                moment = fault.began - self.settling
        return moment

    def out_of_reach(self, moment: float) -> bool:
        """Whether what a worker sent to the broker then may have arrived without its answer."""
        return any(
            fault.fault not in WORKER_FAULTS and fault.began - self.settling <= moment < fault.ended + RECOVERY_SECONDS
            for fault in self.faults
        )


class Journal:
    """Reads what the workers append, as far as it has been written.

    A worker writes ``start ID RUN ATTEMPT PID TIME`` and ``done ID RUN PID TIME`` or ``failed ID RUN PID TIME``, each
    in one write, and ``ready PID TIME`` when it is connected. Used by one thread.

    Attributes:
        path: the file.
        runs: all runs in the order of their beginnings.
        done: the names of those that succeeded.
        starts_of_workers: how many workers have connected.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.runs: list[Run] = []
        self.done: set[str] = set()
        self.starts_of_workers = 0
        self._by_key: dict[tuple[int, str], Run] = {}
        self._offset = 0
        self._rest = b""
        path.touch()

    def read(self) -> None:
        """Take in what is new."""
        with self.path.open("rb") as file:
            file.seek(self._offset)
            data = file.read()
        self._offset += len(data)
        *lines, self._rest = (self._rest + data).split(b"\n")
        self._take(line.decode() for line in lines)

    def _take(self, lines: Iterable[str]) -> None:
        for line in lines:
            event, *fields = line.split()
            if event == "ready":
                self.starts_of_workers += 1
            elif event == "start":
                name, number, attempt, pid, when = fields
                run = Run(name, int(pid), int(attempt), float(when))
                self.runs.append(run)
                self._by_key[run.pid, number] = run
            else:
                _, number, pid, when = fields
                run = self._by_key[int(pid), number]
                run.outcome, run.ended = event, float(when)
                if event == DONE:
                    self.done.add(run.name)
