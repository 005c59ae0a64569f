"""The outcome of cells as a table, and what is wrong in them with the history of the messages concerned."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import groupby
from typing import Final

from rich import box
from rich.table import Table

from chaos.cell import Outcome
from chaos.history import Run
from chaos.plan import SCENARIOS, Backend

_MOST_MESSAGES: Final = 20
_COUNTS: Final = ("tasks", "runs", "lost", "stuck", "duplicates", "killed", "second letters", "sent twice")
_HEADINGS: Final = ("backend", "fault", *_COUNTS)
LEGEND: Final = (
    "runs: handlers that began; duplicates: runs that ended and were more than their message should have had; killed: "
    "runs that died with their worker; second letters: dead letters of a message that has one already; sent twice: "
    "tasks that the publisher sent once more because a confirmation was missing, where the first message had arrived "
    "after all, so that both were done"
)


def in_order(outcomes: Iterable[Outcome]) -> list[Outcome]:
    """As in the table."""
    return sorted(outcomes, key=_place)


def _place(outcome: Outcome) -> tuple[int, int, int]:
    plan = outcome.plan
    return list(Backend).index(plan.backend), SCENARIOS.index(plan.scenario), plan.seed


def _counts(outcome: Outcome) -> Sequence[int]:
    verdict = outcome.verdict
    return (
        len(outcome.plan.fates),
        verdict.runs,
        verdict.lost,
        verdict.stuck,
        verdict.duplicates,
        verdict.interrupted,
        verdict.second_letters,
        verdict.second_copies,
    )


def table(outcomes: Iterable[Outcome]) -> Table:
    """For the terminal: one row for each cell."""
    shown = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for position, heading in enumerate((*_HEADINGS, "seconds", "seed", "")):
        shown.add_column(heading, justify="left" if position < 2 else "right", no_wrap=True)
    for outcome in in_order(outcomes):
        plan = outcome.plan
        numbers = (f"{number:,}" for number in _counts(outcome))
        ok = "ok" if outcome.verdict.ok else "FAILED"
        shown.add_row(plan.backend, plan.scenario, *numbers, f"{outcome.history.seconds:.0f}", str(plan.seed), ok)
    return shown


def markdown(outcomes: Iterable[Outcome]) -> str:
    """For a document: one row for each backend and fault, with the sums over all seeds."""
    rows = [tuple(heading.capitalize() for heading in _HEADINGS), ("---", "---", *["--:"] * len(_COUNTS))]
    for (backend, scenario), cells in groupby(
        in_order(outcomes), key=lambda outcome: (outcome.plan.backend, outcome.plan.scenario)
    ):
        sums = map(sum, zip(*map(_counts, cells), strict=True))
        rows.append((backend, scenario, *(f"{number:,}" for number in sums)))
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def command(outcome: Outcome) -> str:
    """What repeats this cell; "" for a brief one, which `make chaos` does not draw."""
    plan, size = outcome.plan, outcome.plan.size
    if size.brief:
        return ""
    return (
        f"make chaos SEED={plan.seed} BACKEND={plan.backend} FAULT='{plan.scenario}' TASKS={size.tasks} "
        f"TASK_SECONDS={size.task_seconds:g} THREADS={size.threads} FAULTS={size.strikes}"
    )


def failure(outcome: Outcome) -> str:
    """Everything that helps to understand a cell that failed."""
    problems = outcome.verdict.problems
    lines = [f"{outcome.plan.backend}, {outcome.plan.scenario}: FAILED"]
    if repeats := command(outcome):
        lines.append(f"  repeat it: {repeats}")
    start = outcome.history.faults[0].began if outcome.history.faults else 0.0
    lines += [f"  {fault.began - start:+9.3f} s {fault.what}; over at {fault.ended - start:+.3f} s; "
              f"{fault.backlog} tasks waited" for fault in outcome.history.faults]  # fmt: skip
    lines += [f"  {problem}" for problem in problems.get("", ())]
    concerned = [name for name in problems if name]
    for name in concerned[:_MOST_MESSAGES]:
        lines += [f"  message {name}: {problem}" for problem in problems[name]]
        lines += _story(outcome, name, start)
    if len(concerned) > _MOST_MESSAGES:
        lines.append(f"  … and {len(concerned) - _MOST_MESSAGES} messages more")
    return "\n".join(lines)


def _story(outcome: Outcome, name: str, start: float) -> Sequence[str]:
    history = outcome.history
    lines = [_run(run, start) for run in history.runs if run.name == name]
    lines += [
        f"dead letter: {letter.reason} after {letter.attempts}" for letter in outcome.letters if letter.name == name
    ]
    lines.append(f"when it was published: {history.copies.get(name, 'never')}")
    return [f"    {line}" for line in lines]


def _run(run: Run, start: float) -> str:
    end = f"{run.outcome} at {run.ended - start:+.3f} s" if run.ended is not None else "no end"
    return f"{run.began - start:+9.3f} s attempt {run.attempt} in worker {run.pid}, {end}"
