"""Compares what was planned with what happened. A pure function: its own tests feed it histories with every defect."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from chaos.history import DONE, FAILED, History, Letter, Run
from chaos.plan import WORKER_FAULTS, Fate, Fault, Plan

_REASONS = {Fate.FAILS: "failed", Fate.MALFORMED: "malformed"}


@dataclass
class Verdict:
    """What the checker found.

    Attributes:
        problems: what is wrong, by task id; "" for what concerns no single task. Empty when everything is right.
        runs: handlers that began.
        lost: tasks that neither succeeded nor became a dead letter, as they should have.
        stuck: tasks that were not finished in time (they are lost as well if nothing finished them).
        duplicates: runs that there should not have been, with no excuse.
        interrupted: runs that were killed with their worker.
        repeated: runs that were repeated because their worker was killed before the broker learned of their end, or
            because the publisher or (RabbitMQ) the worker, left without a confirmation, sent a message twice.
    """

    problems: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    runs: int = 0
    lost: int = 0
    stuck: int = 0
    duplicates: int = 0
    interrupted: int = 0
    repeated: int = 0

    @property
    def ok(self) -> bool:
        """True when nothing is wrong."""
        return not self.problems


def check(plan: Plan, history: History, letters: Sequence[Letter]) -> Verdict:
    """Judge a cell by everything that was seen of it."""
    verdict = Verdict(runs=len(history.runs), stuck=len(history.stuck))
    _check_as_a_whole(plan, history, verdict)
    runs = history.runs_by_task()
    letters_by_task: dict[str, list[Letter]] = defaultdict(list)
    for letter in letters:
        letters_by_task[letter.task_id].append(letter)
    for task_id in (runs.keys() | letters_by_task.keys()) - plan.fates.keys():
        verdict.problems[task_id].append("nobody sent it, and it was run or is a dead letter")
    for task_id, fate in plan.fates.items():
        _check_task(_Task(task_id, fate, runs.get(task_id, []), letters_by_task[task_id], plan, history), verdict)
    return verdict


def _check_as_a_whole(plan: Plan, history: History, verdict: Verdict) -> None:
    problems = [*history.exits]
    if history.overdue:
        problems.append(f"STUCK: not over within {plan.bound:.0f} s after the last fault: {history.overdue}")
    if missing := len(plan.fates.keys() - history.published):
        problems.append(f"{missing} tasks could not be published")
    if len(history.faults) != len(plan.strikes):
        problems.append(f"{len(history.faults)} faults were made instead of {len(plan.strikes)}")
    for fault in history.faults:
        if not fault.backlog:
            problems.append(f"there was no work left at '{fault.what}', so it proves nothing: take more tasks")
    problems += [f"RESIDUE: {count} messages left in {queue}" for queue, count in history.residue.items() if count]
    if problems:
        verdict.problems[""] += problems


@dataclass
class _Task:
    """One task with everything that was seen of it."""

    task_id: str
    fate: Fate
    runs: Sequence[Run]
    letters: Sequence[Letter]
    plan: Plan
    history: History

    def count(self, outcome: str) -> int:
        """Runs that ended so."""
        return sum(run.outcome == outcome for run in self.runs)

    @property
    def resent(self) -> int:
        """How many more messages of it there may be."""
        return self.history.resent.get(self.task_id, 0)

    @property
    def unsettled(self) -> int:
        """Runs that ended so shortly before their worker was killed that the broker may not have learned of it."""
        return sum(run.ended is not None and run.ended > self.history.settled_until(run.pid) for run in self.runs)

    @property
    def unconfirmed(self) -> int:
        """Failed runs whose copy, for a retry or as a dead letter, may have been sent twice."""
        if not self.plan.backend.doubles_copies:
            return 0
        return sum(
            run.outcome == FAILED and run.ended is not None and self.history.out_of_reach(run.ended)
            for run in self.runs
        )

    @property
    def copies(self) -> int:
        """How many messages of it may be run beyond one: a worker knows a second copy only as long as it lives."""
        restarted = any(fault.fault in WORKER_FAULTS for fault in self.history.faults)
        return self.letter_copies if restarted else self.resent + self.unsettled

    @property
    def letter_copies(self) -> int:
        """How many dead letters of it there may be beyond one."""
        if self.fate is Fate.MALFORMED:
            return self.resent + self._disturbances
        return self.resent + self.unsettled + self.unconfirmed

    @property
    def _disturbances(self) -> int:
        """How often a message may have been dead-lettered twice: no run says when that was."""
        if not self.plan.backend.doubles_copies:
            return 0
        return sum(fault.fault is not Fault.WORKER_TERM for fault in self.history.faults)


def _check_task(task: _Task, verdict: Verdict) -> None:
    problems = [
        *_check_ends(task, verdict),
        *_check_good_runs(task, verdict),
        *_check_failed_runs(task, verdict),
        *_check_letters(task, verdict),
        *_check_attempts(task),
    ]
    if problems:
        verdict.problems[task.task_id] += [f"({task.fate}) {problem}" for problem in problems]


def _check_ends(task: _Task, verdict: Verdict) -> Iterable[str]:
    """A run ends, unless its worker was killed, and a task is finished in time."""
    if task.task_id in task.history.stuck:
        yield "STUCK: it was not finished in time"
    if task.task_id in task.history.leftovers:
        yield "RESIDUE: a message of it is left"
    for run in task.runs:
        if run.ended is None:
            if run.pid not in task.history.kills:
                yield f"STUCK: a run in worker {run.pid} did not end"
            else:
                verdict.interrupted += 1


def _check_good_runs(task: _Task, verdict: Verdict) -> Iterable[str]:
    done, planned = task.count(DONE), task.fate.good_runs
    if done < planned:
        if task.task_id in task.history.published:
            verdict.lost += 1
            yield "LOST: it never succeeded"
        return
    yield from _check_surplus(task, verdict, done - planned, planned, "successful")


def _check_failed_runs(task: _Task, verdict: Verdict) -> Iterable[str]:
    failed, planned = task.count(FAILED), task.fate.failed_runs
    if failed < planned:
        if task.letters or task.count(DONE):
            yield f"{failed} failed runs instead of {planned}"
        return
    yield from _check_surplus(task, verdict, failed - planned, planned, "failed")


def _check_surplus(task: _Task, verdict: Verdict, surplus: int, planned: int, kind: str) -> Iterable[str]:
    # What came twice goes its whole way twice.
    excused = min(surplus, task.copies * planned)
    verdict.repeated += excused
    if surplus > excused:
        verdict.duplicates += surplus - excused
        yield f"DUPLICATE: {surplus - excused} {kind} runs too many"


def _check_letters(task: _Task, verdict: Verdict) -> Iterable[str]:
    planned, count = task.fate.letters, len(task.letters)
    if count < planned and task.task_id in task.history.published:
        verdict.lost += 1
        yield "LOST: it is not in the dead-letter queue"
    if count > planned and not (planned and count <= planned + task.letter_copies):
        yield f"{count} dead letters instead of {planned}"
    for letter in task.letters:
        if planned and (letter.reason, letter.attempts) != (_REASONS[task.fate], task.fate.failed_runs):
            yield f"its dead letter says '{letter.reason}' after {letter.attempts} attempts"


def _check_attempts(task: _Task) -> Iterable[str]:
    """Each failed run is counted, and nothing else is."""
    if task.fate is Fate.MALFORMED or task.copies:
        return
    failed = 0
    for run in task.runs:
        if run.attempt != failed + 1:
            yield f"a run was told to be attempt {run.attempt} after {failed} failed runs"
        failed += run.outcome == FAILED
