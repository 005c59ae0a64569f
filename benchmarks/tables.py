"""The tables of a run, for the terminal and as Markdown."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from rich import box
from rich.table import Table

from benchmarks.contestants import (
    BODIES,
    CONSUME,
    COROUTINES,
    FOOTPRINT,
    GROWTH,
    IMPORTS,
    LATENCY,
    MIXED,
    MODELS,
    NO_BROKER,
    PEER,
    PROCESSES,
    PUBLISH,
    RAW,
    SQS,
)
from benchmarks.results import Results, Row, ratio
from benchmarks.targets import KILOBYTE, MEBIBYTE, Verdict


@dataclass(frozen=True)
class Column:
    """A column: the figure it shows, and how."""

    heading: str
    figure: str
    show: Callable[[float], str]


@dataclass(frozen=True)
class Sheet:
    """One table: a measurement, its columns, and the figure that the ratios compare."""

    measurement: str
    title: str
    columns: tuple[Column, ...]
    compared: str = ""


def _number(value: float) -> str:
    return f"{value:,.0f}"


def _milliseconds(value: float) -> str:
    return f"{value * 1e3:,.2f}"


def _mebibytes(value: float) -> str:
    return f"{value / MEBIBYTE:,.1f}"


def _kilobytes(value: float) -> str:
    return f"{value / KILOBYTE:,.1f}"


def _two(value: float) -> str:
    return f"{value:,.2f}"


_RATE = Column("a second", "per_second", _number)
_CPU = Column("CPU µs each", "cpu_us", _number)
_AT_FIRST, _AT_LAST = Column("MiB at first", "first_rss", _mebibytes), Column("MiB at last", "last_rss", _mebibytes)
SHEETS = (
    Sheet(CONSUME, "Consume: tasks that do nothing, one process", (_RATE, _CPU), "per_second"),
    Sheet(PUBLISH, "Publish, confirmed", (_RATE, _CPU), "per_second"),
    Sheet(
        LATENCY,
        "Idle latency from publish to handler, ms",
        (Column("p50", "p50", _milliseconds), Column("p99", "p99", _milliseconds)),
        "p50",
    ),
    Sheet(
        MIXED,
        "Mixed load: tasks of 0 to 20 ms, one in ten fails once, 10 at a time",
        (Column("seconds", "seconds", _two), Column("of the ideal", "efficiency", _two)),
        "efficiency",
    ),
    Sheet(
        BODIES,
        "Long bodies, the JSON read; tasks that do nothing, one process",
        (_RATE, _CPU, _AT_FIRST, _AT_LAST),
        "per_second",
    ),
    Sheet(
        MODELS,
        "A pydantic model in each message; tasks that do nothing, one process",
        (_RATE, _CPU),
        "per_second",
    ),
    Sheet(
        COROUTINES,
        "Coroutines that wait 1 s, 10,000 at once, one process",
        (
            _RATE,
            Column("of the ideal", "efficiency", _two),
            Column("at once", "at_once", _number),
            Column("threads", "threads", _number),
            Column("memory each, KB", "each", _kilobytes),
        ),
        "efficiency",
    ),
    Sheet(
        PROCESSES,
        "Two child processes of one worker: tasks that do nothing",
        (_RATE, Column("processes", "processes", _number)),
        "per_second",
    ),
    Sheet(
        IMPORTS,
        "A new interpreter that imports it and ends",
        (
            Column("CPU, ms", "cpu", _milliseconds),
            Column("time, ms", "seconds", _milliseconds),
            Column("memory, MiB", "rss", _mebibytes),
        ),
        "cpu",
    ),
    Sheet(
        FOOTPRINT,
        "An idle worker process",
        (
            Column("memory, MiB", "rss", _mebibytes),
            Column("start to first task, ms", "start", _milliseconds),
            Column("CPU until then, ms", "cpu", _milliseconds),
        ),
        "rss",
    ),
    Sheet(
        GROWTH,
        "QBridge as the work grows, and what its settings cost",
        (_RATE, _CPU, _AT_FIRST, _AT_LAST),
    ),
    Sheet(
        SQS,
        "Amazon SQS on moto's server: tasks that do nothing, and publishing",
        (
            _RATE,
            _CPU,
            Column("server's CPU µs each", "server_us", _number),
            Column("of one processor", "server_part", _two),
        ),
        "per_second",
    ),
)
_BEGIN, _END = "<!-- figures: make bench MARKDOWN=... writes from here -->", "<!-- to here -->"
_BROKERS = {"rabbitmq": "RabbitMQ", "redis": "Redis", "memory": "memory", "sqs": "SQS", NO_BROKER: "-"}
_COMPARED = {"times best peer": PEER, "times bare client": RAW}
Grid = tuple[str, list[str], list[list[str]]]


def grids(results: Results) -> list[Grid]:
    """All tables as title, headings and cells."""
    made = []
    for sheet in SHEETS:
        rows = results.rows(sheet.measurement)
        if rows:
            rows.sort(key=lambda row: list(_BROKERS).index(row.broker))
            headings = ["broker", "who", *(column.heading for column in sheet.columns)]
            headings += [heading for heading, kind in _COMPARED.items() if _comparable(results, sheet, kind)]
            made.append((sheet.title, headings, [_cells(results, sheet, row) for row in rows]))
    return made


def _cells(results: Results, sheet: Sheet, row: Row) -> list[str]:
    who = f"{row.contestant}, {row.label}" if row.label else row.contestant
    cells = [_BROKERS[row.broker], who]
    if not row.figures:
        return [*cells, f"FAILED: {row.error}"]
    if row.error:
        cells[1] += f" (failed in some rounds: {row.error})"
    cells += [
        column.show(row.figures[column.figure]) if column.figure in row.figures else "" for column in sheet.columns
    ]
    for kind in _COMPARED.values():
        if _comparable(results, sheet, kind):
            times = ratio(results, row, kind, sheet.compared)
            cells.append(f"{times:.2f}" if times else "")
    return cells


def _comparable(results: Results, sheet: Sheet, kind: str) -> bool:
    return bool(sheet.compared and results.rows(sheet.measurement, kind=kind))


def rich_table(grid: Grid) -> Table:
    """For the terminal."""
    title, headings, rows = grid
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    for position, heading in enumerate(headings):
        table.add_column(heading, justify="left" if position < 2 else "right", no_wrap=position == 0)
    for row in rows:
        table.add_row(*row)
    return table


def markdown(grid: Grid) -> str:
    """For the documentation."""
    title, headings, rows = grid
    lines = [f"### {title}", "", f"| {' | '.join(headings)} |", "|---|---|" + "---:|" * (len(headings) - 2)]
    for row in rows:
        full = row + [""] * (len(headings) - len(row))
        lines.append(f"| {' | '.join(full)} |")
    return "\n".join(lines)


def markdown_page(results: Results, grids: list[Grid], plots: Path | None) -> str:
    """All tables, the figures that were drawn, and where they come from."""
    drawn = sorted(plots.glob("*.png")) if plots else []
    figures = [f"![{path.stem}]({path.name})" for path in drawn]
    return "\n\n".join(["\n".join(f"* {line}" for line in about(results)), *map(markdown, grids), *figures])


def write_markdown(path: Path, text: str) -> None:
    """Write a page; in a page that has the two marks, replace what is between them."""
    old = path.read_text() if path.exists() else ""
    before, begin, rest = old.partition(_BEGIN)
    after = rest.partition(_END)[2]
    path.write_text(f"{before}{begin}\n{text}\n{_END}{after}" if begin else f"{text}\n")


def target_grid(overall: list[Verdict], by_round: list[list[Verdict]]) -> Grid:
    """The targets: the medians, and what each round shows; those that were not measured are left out."""
    rows = []
    for position, verdict in enumerate(overall):
        if verdict.seen is None:
            continue
        rounds = [one[position] for one in by_round if one[position].seen is not None]
        met = sum(bool(one.met) for one in rounds)
        rows.append(
            [
                verdict.text,
                f"{verdict.sign} {verdict.wanted:,g}",
                f"{verdict.seen:,.2f}",
                ", ".join(f"{one.seen:,.2f}" for one in rounds),
                "met" if met == len(rounds) else f"met in {met} of {len(rounds)}" if met else "NOT met",
            ]
        )
    return "Targets", ["what", "wanted", "median", "each round", ""], rows


def about(results: Results) -> list[str]:
    """Where the figures come from."""
    machine = results.machine
    lines = [
        f"{machine['processor']}, {machine['cores']} cores, {machine['memory']}; load before the run "
        + str(machine["load_at_start"]),
        f"{machine['system']}; Python {machine['python']}",
        f"rounds: {machine['rounds']}; {machine['scale']:g} times the usual number of tasks",
    ]
    lines += [f"{_BROKERS[kind]}: {text}" for kind, text in machine["servers"].items() if kind != NO_BROKER]
    lines += [
        f"{name}: " + ", ".join(f"{package} {version}" for package, version in versions.items())
        for name, versions in machine["versions"].items()
    ]
    return lines
