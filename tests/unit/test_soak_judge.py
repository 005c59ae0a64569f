"""The judge of the soak accepts what is right, and flags each defect that there could be."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path

import pytest

from soak.journal import JournalWriter, Tally
from soak.judge import Letter, Remains, Sample, growth_problems, remains_problems, run_problems
from soak.plan import Fate, Plan, fate, name

MILLION = 1_000_000
PLAN = Plan(count=3_000)
DEAD = "soak.dead"
LETTERS = [
    Letter(name(number), fate(number).reason, fate(number).failed_runs)
    for number in range(PLAN.count)
    if fate(number).reason
]
REMAINS = Remains(LETTERS, {"soak": 0, DEAD: len(LETTERS)})


def samples(memory: Callable[[float], float] = lambda progress: 0, files: int = 0, threads: int = 0) -> list[Sample]:
    """A worker of 36 MiB, and what is added in the course of the soak."""
    moments = [step / 1_000 for step in range(1, 1_001)]
    return [
        Sample(at, 36 * 2**20 + round(memory(at)), 11 + round(files * at), 13 + round(threads * at)) for at in moments
    ]


def test_g4_a_worker_that_does_not_grow_is_accepted() -> None:
    """It warms up during the first tenth, breathes a little, and stays."""
    assert growth_problems(samples(lambda at: min(at, 0.1) * 100e6 + int(at * 1e6) % 3 * 5e5)) == []


def test_g4_sixteen_bytes_a_task_are_found() -> None:
    """Nothing that Python can keep of each of a million tasks is smaller."""
    (problem,) = growth_problems(samples(lambda at: 16 * MILLION * at))
    assert "memory grew by" in problem


@pytest.mark.parametrize("what", ["files", "threads"])
def test_g4_descriptors_and_threads_that_become_more_are_found(what: str) -> None:
    """Ten more of them from the beginning to the end."""
    (problem,) = growth_problems(samples(**{what: 10}))  # type: ignore[arg-type]
    assert what in problem


def test_too_few_samples_prove_nothing() -> None:
    """Four of them in the part that is compared."""
    assert "too few" in growth_problems([each for each in samples() if not 0.128 < each.progress < 0.25])[0]


def journal(path: Path, records: Iterable[tuple[int, int]]) -> Tally:
    """What a worker that noted these numbers and attempts has left."""
    writer = JournalWriter(str(path))
    for number, attempt in records:
        writer.note(number, attempt)
    tally = Tally(path, PLAN.count)
    tally.read()
    return tally


def as_planned() -> list[tuple[int, int]]:
    """Every run that there must be."""
    return [(number, run + 1) for number in range(PLAN.count) for run in range(fate(number).runs)]


def test_g4_a_journal_with_all_runs_is_accepted(tmp_path: Path) -> None:
    """Every attempt once, in any order, read in two parts."""
    records = as_planned()[::-1]
    tally = journal(tmp_path / "journal", records[:1_000])
    journal(tmp_path / "journal", records[1_000:])
    tally.read()
    assert run_problems(PLAN, tally) == []
    assert tally.runs == PLAN.runs == len(records)


@pytest.mark.parametrize(
    ("extra", "text"),
    [
        ((5, 1), "task 5 was run as attempt 1, again"),
        ((5, 2), "instead of [1]"),
        ((PLAN.count, 1), "out of all bounds"),
    ],
)
def test_g4_a_run_too_many_is_found(tmp_path: Path, extra: tuple[int, int], text: str) -> None:
    """A second run, an attempt too many, a task that nobody sent."""
    assert text in " ".join(run_problems(PLAN, journal(tmp_path / "journal", [*as_planned(), extra])))


@pytest.mark.parametrize("wanted", Fate)
def test_g4_a_missing_run_is_found(tmp_path: Path, wanted: Fate) -> None:
    """The last run of a task; what is no task has none to miss."""
    number = next(number for number in range(PLAN.count) if fate(number) is wanted)
    records = [record for record in as_planned() if record != (number, wanted.runs)]
    problems = run_problems(PLAN, journal(tmp_path / "journal", records))
    assert [problem.split(" (")[0] for problem in problems] == ([f"task {number}"] if wanted.runs else [])


def test_g4_a_broker_that_holds_the_expected_letters_only_is_accepted() -> None:
    """All queues are empty but one."""
    assert remains_problems(PLAN, REMAINS, DEAD) == []


@pytest.mark.parametrize(
    ("remains", "text"),
    [
        (replace(REMAINS, messages={"soak": 1}), "1 messages in soak instead of 0"),
        (replace(REMAINS, messages={DEAD: 5}), f"5 messages in {DEAD} instead of {len(LETTERS)}"),
        (replace(REMAINS, strangers=["left-over"]), "left-over"),
        (replace(REMAINS, letters=LETTERS[1:]), "LOST"),
        (replace(REMAINS, letters=[*LETTERS, LETTERS[0]]), "too many"),
        (replace(REMAINS, letters=[replace(LETTERS[0], attempts=9), *LETTERS[1:]]), "after 9 attempts"),
    ],
)
def test_g4_what_is_left_at_the_broker_is_found(remains: Remains, text: str) -> None:
    """Messages, keys and letters that should not be there, and letters that are missing."""
    assert text in " ".join(remains_problems(PLAN, remains, DEAD))
