"""The outcome of soaks as a table."""

from __future__ import annotations

from collections.abc import Iterable

from rich import box
from rich.table import Table

from soak.judge import trends
from soak.run import Outcome

_HEADINGS = (
    "broker", "tasks", "runs", "dead letters", "memory early", "late", "growth", "most", "files", "threads", "runs/s",
)  # fmt: skip
LEGEND = (
    "memory: resident, of the worker, in MiB; early: median over the second eighth of the runs; late: median over the "
    "second half; files, threads: early and late"
)


def cells(outcome: Outcome) -> tuple[str, ...]:
    """One row."""
    head = (outcome.broker, f"{outcome.plan.count:,}", f"{outcome.runs:,}", f"{len(outcome.remains.letters):,}")
    rate = f"{outcome.runs / outcome.seconds:,.0f}" if outcome.seconds else "-"
    found = trends(outcome.samples)
    if found is None:
        return (*head, *"------", rate)
    memory = found["memory"]
    sizes = (f"{size / 2**20:.1f}" for size in (memory.early, memory.late))
    pairs = (f"{found[what].early:.0f}, {found[what].late:.0f}" for what in ("files", "threads"))
    return (*head, *sizes, f"{memory.growth / 2**20:+.1f}", f"{memory.most / 2**20:.1f}", *pairs, rate)


def table(outcomes: Iterable[Outcome]) -> Table:
    """For the terminal."""
    shown = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for position, heading in enumerate((*_HEADINGS, "")):
        shown.add_column(heading, justify="right" if position else "left", no_wrap=True)
    for outcome in outcomes:
        shown.add_row(*cells(outcome), "FAILED" if outcome.problems else "ok")
    return shown
