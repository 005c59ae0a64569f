"""Compares what was planned with what happened. A pure function: its own tests feed it histories with every defect."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from chaos.excuses import Excuses
from chaos.history import DONE, FAILED, History, Letter, Run
from chaos.plan import Fate, Plan, Sent, task_of

_REASONS = {Fate.FAILS: "failed", Fate.MALFORMED: "malformed"}


@dataclass
class Verdict:
    """What the checker found.

    Attributes:
        problems: what is wrong, by the name of a copy; "" for what concerns no single one. Empty when all is right.
        runs: handlers that began.
        lost: confirmed tasks that neither succeeded nor became a dead letter, as they should have.
        stuck: tasks that were not finished in time (they are lost as well if nothing finished them).
        interrupted: runs that were killed with their worker.
        duplicates: runs of a message that went to their end and were more than it should have had; those with an
            excuse too. Those without are problems.
        second_letters: dead letters of a message that has one already; likewise.
        second_copies: messages that the publisher sent once more because a confirmation was missing, where the first
            was there after all, so that the task was done twice.
    """

    problems: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    runs: int = 0
    lost: int = 0
    stuck: int = 0
    interrupted: int = 0
    duplicates: int = 0
    second_letters: int = 0
    second_copies: int = 0

    @property
    def ok(self) -> bool:
        """True when nothing is wrong."""
        return not self.problems


@dataclass
class _Copy:
    """One message with everything that was seen of it."""

    name: str
    sent: Sent
    fate: Fate
    runs: Sequence[Run]
    letters: Sequence[Letter]

    def count(self, outcome: str) -> int:
        """Runs that ended so."""
        return sum(run.outcome == outcome for run in self.runs)


def check(plan: Plan, history: History, letters: Sequence[Letter]) -> Verdict:
    """Judge a cell by everything that was seen of it."""
    verdict = Verdict(runs=len(history.runs), stuck=len(history.stuck))
    runs = history.runs_by_name()
    letters_by_name: dict[str, list[Letter]] = defaultdict(list)
    for letter in letters:
        letters_by_name[letter.name].append(letter)
    for name in (runs.keys() | letters_by_name.keys()) - history.copies.keys():
        verdict.problems[name].append("nobody sent it, and it was run or is a dead letter")
    excuses = Excuses(plan, history)
    for name, sent in history.copies.items():
        copy = _Copy(name, sent, plan.fates[task_of(name)], runs.get(name, []), letters_by_name[name])
        if problems := list(_check_copy(copy, history, excuses, verdict)):
            verdict.problems[name] += [f"({copy.fate}) {problem}" for problem in problems]
    if problems := list(_check_as_a_whole(plan, history, excuses)):
        verdict.problems[""] += problems
    return verdict


def _check_as_a_whole(plan: Plan, history: History, excuses: Excuses) -> Iterable[str]:
    yield from history.exits
    if history.overdue:
        yield f"STUCK: not over within {plan.bound:.0f} s after the last fault: {history.overdue}"
    confirmed = Counter(task_of(name) for name, sent in history.copies.items() if sent is Sent.CONFIRMED)
    if missing := len(plan.fates.keys() - confirmed.keys()):
        yield f"{missing} tasks could not be published"
    if len(history.faults) != len(plan.strikes):
        yield f"{len(history.faults)} faults were made instead of {len(plan.strikes)}"
    for fault in history.faults:
        if not fault.backlog:
            yield f"there was no work left at '{fault.what}', so it proves nothing: take more tasks"
    for queue, count in history.residue.items():
        if count:
            yield f"RESIDUE: {count} messages left in {queue}"
    yield from excuses.overdrawn()


def _check_copy(copy: _Copy, history: History, excuses: Excuses, verdict: Verdict) -> Iterable[str]:
    if copy.sent is Sent.REFUSED and (copy.runs or copy.letters):
        yield "the publisher was told that the broker does not have it, and it was delivered"
    if copy.sent is Sent.UNKNOWN and (copy.count(DONE) or copy.letters):
        verdict.second_copies += 1
    yield from _check_ends(copy, history, verdict)
    yield from _check_runs(copy, excuses, verdict)
    yield from _check_letters(copy, excuses, verdict)


def _check_ends(copy: _Copy, history: History, verdict: Verdict) -> Iterable[str]:
    """A run ends, unless its worker was killed, and a message is finished in time."""
    if copy.name in history.stuck:
        yield "STUCK: it was not finished in time"
    if copy.name in history.leftovers:
        yield "RESIDUE: it is left in the queue"
    for run in copy.runs:
        if run.ended is None:
            if run.pid in history.kills:
                verdict.interrupted += 1
            else:
                yield f"STUCK: a run in worker {run.pid} did not end"


def _check_runs(copy: _Copy, excuses: Excuses, verdict: Verdict) -> Iterable[str]:
    done, failed = copy.count(DONE), copy.count(FAILED)
    if done < copy.fate.good_runs and copy.sent is Sent.CONFIRMED:
        verdict.lost += 1
        yield "LOST: it never succeeded"
    if failed < copy.fate.failed_runs and (copy.letters or done):
        yield f"{failed} failed runs instead of {copy.fate.failed_runs}"
    more_done, more_failed = max(0, done - copy.fate.good_runs), max(0, failed - copy.fate.failed_runs)
    if not more_done + more_failed:
        yield from _check_attempts(copy)
        return
    verdict.duplicates += more_done + more_failed
    excused_done, excused_failed = excuses.runs(copy.fate, copy.runs)
    if more_done > excused_done or more_failed > excused_failed:
        moved_done, moved_failed = excuses.moved_runs(copy.fate, copy.runs)
        excused_done, excused_failed = excused_done + moved_done, excused_failed + moved_failed
    for surplus, kind in ((more_done - excused_done, "successful"), (more_failed - excused_failed, "failed")):
        if surplus > 0:
            yield f"DUPLICATE: {surplus} {kind} runs too many"


def _check_attempts(copy: _Copy) -> Iterable[str]:
    """Each failed run is counted, and nothing else is."""
    failed = 0
    for run in copy.runs:
        if run.attempt != failed + 1:
            yield f"a run was told to be attempt {run.attempt} after {failed} failed runs"
        failed += run.outcome == FAILED


def _check_letters(copy: _Copy, excuses: Excuses, verdict: Verdict) -> Iterable[str]:
    planned, count = copy.fate.letters, len(copy.letters)
    if count < planned and copy.sent is Sent.CONFIRMED:
        verdict.lost += 1
        yield "LOST: it is not in the dead-letter queue"
    if count > planned:
        verdict.second_letters += count - planned
        if not planned or count > planned + excuses.letters(copy.fate, copy.runs):
            yield f"{count} dead letters instead of {planned}"
    for letter in copy.letters:
        if planned and (letter.reason, letter.attempts) != (_REASONS[copy.fate], copy.fate.failed_runs):
            yield f"its dead letter says '{letter.reason}' after {letter.attempts} attempts"
        yield from letter.defects
