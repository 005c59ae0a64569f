"""The command line of ``make chaos``."""

from __future__ import annotations

import argparse
import os
import random
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

from rich.console import Console

from chaos.cell import Outcome
from chaos.job import Job
from chaos.plan import SCENARIOS, Backend, Plan, Size, make_plan, scenarios_of
from chaos.report import LEGEND, command, in_order, markdown, table
from chaos.targets import broker_of


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="chaos", description="Break things, and prove that nothing was lost.")
    size = Size()
    parser.add_argument("--seed", type=int, help="the same seed makes the same plans; drawn when missing")
    parser.add_argument(
        "--backend", choices=[*Backend, "rabbitmq"], action="append", default=[], help="all when missing"
    )
    parser.add_argument("--fault", choices=SCENARIOS, action="append", default=[], help="all when missing")
    parser.add_argument("--tasks", type=int, default=size.tasks, help="of each cell (%(default)s)")
    parser.add_argument("--task-seconds", type=float, default=size.task_seconds, help="of one run (%(default)s)")
    parser.add_argument("--threads", type=int, default=size.threads, help="of the worker (%(default)s)")
    parser.add_argument("--faults", type=int, default=size.strikes, help="of each cell (%(default)s)")
    parser.add_argument(
        "--seeds", type=int, default=1, help="so many tables, with one seed after another (%(default)s)"
    )
    jobs = 2 * (os.cpu_count() or 1)
    parser.add_argument("--jobs", type=int, default=jobs, help="so many cells at once; they mostly wait (%(default)s)")
    parser.add_argument("--seconds", type=float, default=0.0, help="go on with further seeds for so long")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="write the table there as well")
    parser.add_argument("--keep", type=Path, metavar="DIRECTORY", help="keep journals and logs of all cells there")
    return parser.parse_args(arguments)


def plans(options: argparse.Namespace, seed: int) -> Iterator[Plan]:
    """The cells of one table."""
    wanted = set(options.backend or Backend)
    size = Size(options.tasks, options.task_seconds, options.threads, options.faults)
    for backend in Backend:
        if backend in wanted or ("rabbitmq" in wanted and backend.startswith("rabbitmq")):
            for scenario in scenarios_of(backend):
                if scenario in (options.fault or SCENARIOS):
                    yield make_plan(seed, backend, scenario, size)


def run_all(options: argparse.Namespace) -> tuple[list[Outcome], list[str]]:
    """Run the table for as many seeds as wanted, and again with the next seeds until the time is over.

    Return the outcomes, and the tracebacks of cells that could not be carried out.
    """
    seed: int = random.SystemRandom().randrange(1_000_000) if options.seed is None else options.seed
    directory = options.keep or Path(tempfile.mkdtemp(prefix="qbridge-chaos-"))
    ends = time.monotonic() + options.seconds
    outcomes: list[Outcome] = []
    broken: list[str] = []
    with ProcessPoolExecutor(options.jobs, get_context("spawn")) as pool:
        while True:
            seeds = range(seed, seed + options.seeds)
            everything = [plan for each in seeds for plan in plans(options, each)]
            everything.sort(key=lambda plan: -plan.bound)  # what may take longest begins first
            jobs = [pool.submit(Job(plan, _place(directory, plan), options.keep is not None)) for plan in everything]
            for job in jobs:
                try:
                    outcomes.append(job.result())
                except Exception:
                    broken.append(traceback.format_exc())
            seed = seeds.stop
            if time.monotonic() >= ends:
                return outcomes, broken


def _place(directory: Path, plan: Plan) -> Path:
    return directory / f"{plan.seed}-{plan.backend}-{plan.scenario.replace(' ', '-')}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the cells; return the exit status: 1 when a cell failed, 2 when a server is missing."""
    options = parse(arguments)
    console = Console()
    if not console.is_terminal:
        console = Console(width=160)
    cells = list(plans(options, 0))
    if not cells:
        console.print("error: there is no such fault for that backend")
        return 2
    missing = {plan.backend for plan in cells if not broker_of(plan.backend).available()}
    if missing:
        console.print(f"error: no server is installed for {', '.join(sorted(missing))}; see `make test`")
        return 2
    outcomes, broken = run_all(options)
    console.print(table(outcomes))
    console.print(LEGEND)
    if options.markdown:
        options.markdown.write_text(markdown(outcomes) + "\n")
    failed = [outcome for outcome in in_order(outcomes) if not outcome.verdict.ok]
    for outcome in failed:
        console.print(f"FAILED: {command(outcome)}", markup=False, highlight=False, soft_wrap=True)
    for error in broken:
        console.print(f"FAILED, a cell could not be carried out:\n{error}", markup=False, highlight=False)
    return 1 if failed or broken else 0


if __name__ == "__main__":
    sys.exit(main())
