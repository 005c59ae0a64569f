"""Compares what was planned with what happened. Pure functions: their own tests feed them every defect."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Final

from soak.journal import Tally
from soak.plan import Fate, Plan, fate, name

# Of a million tasks, 560,000 lie between the middles of the two parts that are compared: 4 MiB are 7 bytes of each,
# less than the smallest object. What the allocator of the platform does by itself is less than that.
MEMORY_TOLERANCE: Final = 4 * 2**20
# A connection that comes or goes; one that leaks would be there many times.
COUNT_TOLERANCE: Final = 2
_FEWEST_SAMPLES: Final = 5


@dataclass(frozen=True)
class Sample:
    """The worker process at one moment.

    Attributes:
        progress: the share of the runs that had ended, from 0 to 1.
        memory: bytes of resident memory.
        files: open file descriptors.
        threads: threads.
    """

    progress: float
    memory: int
    files: int
    threads: int


@dataclass(frozen=True)
class Letter:
    """What counts of a dead letter."""

    task_id: str
    reason: str
    attempts: int


@dataclass(frozen=True)
class Trend:
    """A quantity early in the soak, when everything has been used once, and late.

    Attributes:
        early: the median over the second eighth of the runs.
        late: the median over the second half.
        most: the largest of all samples.
    """

    early: float
    late: float
    most: float

    @property
    def growth(self) -> float:
        """How much more it became."""
        return self.late - self.early


@dataclass(frozen=True)
class Remains:
    """What the broker holds when the worker has ended.

    Attributes:
        letters: the dead letters.
        messages: messages by queue, as many as there were; all but the dead-letter queue have to be empty.
        strangers: queues or keys that nobody declared.
    """

    letters: Sequence[Letter] = ()
    messages: Mapping[str, int] = field(default_factory=dict)
    strangers: Sequence[str] = ()


def trends(samples: Sequence[Sample]) -> Mapping[str, Trend] | None:
    """Memory, files and threads; None when there are too few samples to say."""
    early = [each for each in samples if 1 / 8 <= each.progress < 1 / 4]
    late = [each for each in samples if each.progress >= 1 / 2]
    if min(len(early), len(late)) < _FEWEST_SAMPLES:
        return None
    return {
        what: Trend(
            median(getattr(each, what) for each in early),
            median(getattr(each, what) for each in late),
            max(getattr(each, what) for each in samples),
        )
        for what in ("memory", "files", "threads")
    }


def growth_problems(samples: Sequence[Sample]) -> list[str]:
    """What grew, and should not have."""
    found = trends(samples)
    if found is None:
        return [f"{len(samples)} samples are too few to say whether anything grew: take more tasks"]
    problems = []
    memory = found["memory"]
    if memory.growth > MEMORY_TOLERANCE:
        problems.append(f"GROWTH: the worker's memory grew by {memory.growth / 2**20:.1f} MiB")
    for what in ("files", "threads"):
        if found[what].growth > COUNT_TOLERANCE:
            problems.append(f"GROWTH: {found[what].early:.0f} {what} became {found[what].late:.0f}")
    return problems


def run_problems(plan: Plan, tally: Tally) -> list[str]:
    """Attempts that were not run, or were run and should not have been."""
    wrong = []
    for number in range(plan.count):
        expected = (1 << fate(number).runs) - 1
        if (seen := tally.attempts(number)) != expected:
            wrong.append(f"task {number} ({fate(number)}): attempts {_numbers(seen)} instead of {_numbers(expected)}")
    return [*tally.strange, *_first(wrong), *_more(tally.strange_count + len(wrong))]


def remains_problems(plan: Plan, remains: Remains, dead_letter_queue: str) -> list[str]:
    """What is at the broker and should not be, or is missing there."""
    expected = {name(number): number for number in range(plan.count) if fate(number).reason}
    problems = [f"RESIDUE: {name} was declared by nobody" for name in remains.strangers]
    for queue, count in remains.messages.items():
        wanted = len(expected) if queue == dead_letter_queue else 0
        if count != wanted:
            problems.append(f"RESIDUE: {count} messages in {queue} instead of {wanted}")
    wrong = []
    for letter in remains.letters:
        number = expected.pop(letter.task_id, None)
        if number is None:
            wrong.append(f"a dead letter of {letter.task_id} too many")
        elif (letter.reason, letter.attempts) != _what_a_letter_says(fate(number)):
            wrong.append(f"the dead letter of {letter.task_id} says {letter.reason!r} after {letter.attempts} attempts")
    wrong += [f"LOST: {task_id} is not in the dead-letter queue" for task_id in expected]
    return [*problems, *_first(wrong), *_more(len(wrong))]


def _what_a_letter_says(what: Fate) -> tuple[str, int]:
    return what.reason, what.failed_runs


def _numbers(attempts: int) -> list[int]:
    return [position + 1 for position in range(attempts.bit_length()) if attempts >> position & 1]


def _first(problems: Sequence[str]) -> Sequence[str]:
    return problems[:10]


def _more(count: int) -> list[str]:
    return [f"{count} such problems in all"] if count > 10 else []
