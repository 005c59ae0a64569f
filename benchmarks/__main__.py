"""The command line of ``make bench``."""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from rich.console import Console

from benchmarks import machine, servers, tables
from benchmarks.bench import Bench, BenchError
from benchmarks.environments import PLOTS, ROOT, Environments, InstallationError
from benchmarks.measure import (
    Case,
    bodies,
    consume,
    coroutines,
    footprint,
    growth,
    imports,
    latency,
    mixed,
    models,
    processes,
    publish,
    sqs,
)
from benchmarks.results import Results, Sample
from benchmarks.targets import verdicts
from support.brokers import BrokerError

MEASUREMENTS = {
    "consume": consume.cases,
    "publish": publish.cases,
    "latency": latency.cases,
    "mixed": mixed.cases,
    "bodies": bodies.cases,
    "models": models.cases,
    "coroutines": coroutines.cases,
    "processes": processes.cases,
    "imports": imports.cases,
    "footprint": footprint.cases,
    "growth": growth.cases,
    "sqs": sqs.cases,
}
QUICK_SCALE = 0.25


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="benchmarks", description="Measure QBridge, its peers and the bare clients.")
    parser.add_argument("--rounds", type=int, help="how often each case is measured (3; 1 with --quick)")
    parser.add_argument("--only", default="", metavar="A,B", help=f"some of {','.join(MEASUREMENTS)}")
    parser.add_argument("--who", default="", metavar="A,B", help="contestants whose name has one of these words in it")
    parser.add_argument("--quick", action="store_true", help="a quarter of the tasks, one round, no long cases")
    parser.add_argument("--scale", type=float, help="a factor for the numbers of tasks")
    parser.add_argument("--out", type=Path, metavar="FILE", help="write everything there as JSON")
    parser.add_argument(
        "--markdown", type=Path, metavar="FILE", help="write the tables there, between its marks if it has them"
    )
    parser.add_argument("--plots", type=Path, metavar="DIRECTORY", help="draw figures there")
    parser.add_argument("--load", type=Path, metavar="FILE", help="measure nothing: show what --out has written")
    parser.add_argument(
        "--environments", type=Path, default=ROOT / ".bench-venv", help="where the libraries are installed"
    )
    parser.add_argument("--here", action="store_true", help="measure QBridge in the environment that runs this")
    options = parser.parse_args(arguments)
    options.rounds = options.rounds or (1 if options.quick else 3)
    options.scale = options.scale or (QUICK_SCALE if options.quick else 1.0)
    unknown = set(filter(None, options.only.split(","))) - set(MEASUREMENTS)
    if unknown:
        parser.error(f"--only knows {', '.join(MEASUREMENTS)}, not {', '.join(unknown)}")
    return options


def chosen(options: argparse.Namespace) -> list[Case]:
    """The cases that the command line asks for."""
    names = options.only.split(",") if options.only else list(MEASUREMENTS)
    words = [word.lower() for word in options.who.split(",") if word]
    cases = [case for name in names for case in MEASUREMENTS[name]()]
    if words:
        cases = [case for case in cases if any(word in case.contestant.key for word in words)]
    return [case for case in cases if not (options.quick and case.long)]


def rounds(cases: list[Case], count: int) -> Iterator[tuple[int, Case]]:
    """Every case in every round. Each round begins with another one, so that nobody is always first."""
    for number in range(count):
        start = number * len(cases) // count
        for case in cases[start:] + cases[:start]:
            if number == 0 or not case.once:
                yield number, case


def measure(case: Case, number: int, bench: Bench) -> Sample:
    """Measure one case once; a failure is a result too."""
    who = case.contestant
    about = (case.measurement, who.broker, who.name, who.kind, case.label, number)
    try:
        return Sample(*about, figures=case.measure(bench))
    except (BenchError, InstallationError, BrokerError, KeyError) as exc:
        return Sample(*about, error=f"{exc}")
    finally:
        bench.servers[who.broker].clear()


def run(options: argparse.Namespace, console: Console) -> Results:
    """Start the brokers, measure everything, end the brokers."""
    cases = chosen(options)
    kinds = {case.contestant.broker for case in cases}
    with tempfile.TemporaryDirectory(prefix="qbridge-bench-") as directory:
        started = {kind: servers.start(kind, Path(directory)) for kind in sorted(kinds)}
        try:
            environments = Environments(options.environments, options.here)
            bench = Bench(Path(directory), environments, started, options.scale)
            used = {case.contestant.environment for case in cases}
            results = Results(machine.describe(started, used, environments, options))
            for number, case in rounds(cases, options.rounds):
                begun = time.monotonic()
                sample = measure(case, number, bench)
                results.samples.append(sample)
                line = f"{_line(sample)}  (took {time.monotonic() - begun:.1f} s)"
                console.print(line, highlight=False, soft_wrap=True, markup=False)
                if options.out:
                    results.save(options.out)
        finally:
            for server in started.values():
                servers.stop(server)
    return results


def _line(sample: Sample) -> str:
    name = ", ".join(filter(None, (sample.measurement, sample.broker, sample.contestant, sample.label)))
    figures = "  ".join(f"{key} {value:,.6g}" for key, value in sample.figures.items())
    return f"round {sample.round + 1}  {name}: {sample.error and 'FAILED: '}{figures or sample.error}"


def show(results: Results, options: argparse.Namespace, console: Console) -> None:
    """Print the tables and write the files that were asked for."""
    targets = tables.target_grid(verdicts(results), [verdicts(each) for each in results.by_round()])
    grids = [*tables.grids(results), targets]
    for grid in grids:
        console.print(tables.rich_table(grid))
    console.print(*tables.about(results), sep="\n", highlight=False, soft_wrap=True, markup=False)
    if options.out:
        results.save(options.out)
    if options.plots:
        draw(results, options)
    if options.markdown:
        tables.write_markdown(options.markdown, tables.markdown_page(results, grids, options.plots))


def draw(results: Results, options: argparse.Namespace) -> None:
    """Draw the figures, in the environment that has matplotlib."""
    with tempfile.TemporaryDirectory(prefix="qbridge-bench-") as directory:
        saved = Path(directory) / "results.json"
        results.save(saved)
        command = [
            Environments(options.environments).python(PLOTS),
            "-m",
            "benchmarks.plots",
            str(saved),
            str(options.plots),
        ]
        subprocess.run(command, check=True)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark."""
    options = parse(arguments)
    terminal = Console()
    console = terminal if terminal.is_terminal else Console(width=120)
    try:
        show(Results.load(options.load) if options.load else run(options, console), options, console)
    except (BrokerError, InstallationError, OSError) as exc:
        print(f"error: {exc}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
