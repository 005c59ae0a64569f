"""The outcome of cells as a table, and what is wrong in them with the history of the tasks concerned."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

from rich import box
from rich.table import Table

from chaos.cell import Outcome
from chaos.history import Run

_MOST_TASKS: Final = 20
_HEADINGS: Final = ("backend", "fault", "tasks", "runs", "lost", "stuck", "duplicates", "killed", "repeated", "seconds")
LEGEND: Final = (
    "runs: handlers that began; duplicates: runs that nothing excuses; killed: runs that died with their worker; "
    "repeated: runs that were repeated because their worker was killed before it could say that they had ended, or "
    "because a message was sent twice, its confirmation being lost (by the publisher; on RabbitMQ also by the worker "
    "for a retry)"
)


def _cells(outcome: Outcome) -> tuple[str, ...]:
    plan, verdict = outcome.plan, outcome.verdict
    numbers = (
        len(plan.fates),
        verdict.runs,
        verdict.lost,
        verdict.stuck,
        verdict.duplicates,
        verdict.interrupted,
        verdict.repeated,
    )
    return (plan.backend, plan.scenario, *(f"{number:,}" for number in numbers), f"{outcome.history.seconds:.0f}")


def table(outcomes: Iterable[Outcome]) -> Table:
    """For the terminal."""
    shown = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for position, heading in enumerate((*_HEADINGS, "")):
        shown.add_column(heading, justify="left" if position < 2 else "right", no_wrap=True)
    for outcome in outcomes:
        shown.add_row(*_cells(outcome), "ok" if outcome.verdict.ok else "FAILED")
    return shown


def markdown(outcomes: Iterable[Outcome]) -> str:
    """For a document."""
    rows = [_HEADINGS, ("---", "---", *["--:"] * (len(_HEADINGS) - 2)), *map(_cells, outcomes)]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def command(outcome: Outcome) -> str:
    """What repeats this cell."""
    plan = outcome.plan
    return (
        f"make chaos SEED={plan.seed} BACKEND={plan.backend} FAULT='{plan.scenario}' TASKS={len(plan.fates)} "
        f"TASK_SECONDS={plan.task_seconds:g} THREADS={plan.threads} FAULTS={len(plan.strikes)}"
    )


def failure(outcome: Outcome) -> str:
    """Everything that helps to understand a cell that failed."""
    problems = outcome.verdict.problems
    lines = [f"{outcome.plan.backend}, {outcome.plan.scenario}: FAILED", f"  repeat it: {command(outcome)}"]
    start = outcome.history.faults[0].began if outcome.history.faults else 0.0
    lines += [f"  {fault.began - start:+9.3f} s {fault.what}; over at {fault.ended - start:+.3f} s; "
              f"{fault.backlog} tasks waited" for fault in outcome.history.faults]  # fmt: skip
    lines += [f"  {problem}" for problem in problems.get("", ())]
    concerned = [task_id for task_id in problems if task_id]
    for task_id in concerned[:_MOST_TASKS]:
        lines += [f"  task {task_id}: {problem}" for problem in problems[task_id]]
        lines += _story(outcome, task_id, start)
    if len(concerned) > _MOST_TASKS:
        lines.append(f"  … and {len(concerned) - _MOST_TASKS} tasks more")
    return "\n".join(lines)


def _story(outcome: Outcome, task_id: str, start: float) -> Sequence[str]:
    history = outcome.history
    lines = [_run(run, start) for run in history.runs if run.task_id == task_id]
    lines += [
        f"dead letter: {letter.reason} after {letter.attempts}"
        for letter in outcome.letters
        if letter.task_id == task_id
    ]
    if resent := history.resent.get(task_id):
        lines.append(f"sent again {resent} times")
    if task_id not in history.published:
        lines.append("its publishing was never confirmed")
    return [f"    {line}" for line in lines]


def _run(run: Run, start: float) -> str:
    end = f"{run.outcome} at {run.ended - start:+.3f} s" if run.ended is not None else "no end"
    return f"{run.began - start:+9.3f} s attempt {run.attempt} in worker {run.pid}, {end}"
