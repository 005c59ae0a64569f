"""The command line of ``make chaos``."""

from __future__ import annotations

import argparse
import logging
import random
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from rich.console import Console

from chaos.cell import Outcome, new_broker, run_cell
from chaos.plan import SCENARIOS, Backend, Plan, Size, make_plan
from chaos.report import LEGEND, command, failure, markdown, table


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
            for scenario in options.fault or SCENARIOS:
                yield make_plan(seed, backend, scenario, size)


def run(plan: Plan, directory: Path, console: Console, *, keep: bool) -> Outcome:
    """Carry out one cell and say how it went; its files stay when they are wanted or it failed."""
    console.print(f"{plan.backend}, {plan.scenario}: {'; '.join(map(str, plan.strikes))}", soft_wrap=True)
    outcome = run_cell(plan, directory, lambda text: console.print(f"  {text}", highlight=False, soft_wrap=True))
    if outcome.verdict.ok:
        console.print(f"  ok: {outcome.verdict.runs} runs in {outcome.history.seconds:.1f} s", highlight=False)
    else:
        console.print(failure(outcome), markup=False, highlight=False, soft_wrap=True)
        console.print(f"  its files: {directory}", highlight=False, soft_wrap=True)
    if outcome.verdict.ok and not keep:
        shutil.rmtree(directory, ignore_errors=True)
    return outcome


def run_all(options: argparse.Namespace, console: Console) -> list[Outcome]:
    """Run the table once, and again with the next seeds until the time is over."""
    seed: int = random.SystemRandom().randrange(1_000_000) if options.seed is None else options.seed
    directory = options.keep or Path(tempfile.mkdtemp(prefix="qbridge-chaos-"))
    ends = time.monotonic() + options.seconds
    outcomes: list[Outcome] = []
    while True:
        console.print(f"seed {seed}", highlight=False)
        for plan in plans(options, seed):
            place = directory / f"{seed}-{plan.backend}-{plan.scenario.replace(' ', '-')}"
            outcomes.append(run(plan, place, console, keep=options.keep is not None))
        seed += 1
        if time.monotonic() >= ends:
            return outcomes


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the cells; return the exit status: 1 when a cell failed, 2 when a server is missing."""
    options = parse(arguments)
    logging.getLogger("qbridge").addHandler(logging.NullHandler())  # lost connections are no news here
    console = Console()
    if not console.is_terminal:
        console = Console(width=140)
    missing = {plan.backend for plan in plans(options, 0) if not new_broker(plan.backend, Path("/")).available()}
    if missing:
        console.print(f"error: no server is installed for {', '.join(sorted(missing))}; see `make test`")
        return 2
    outcomes = run_all(options, console)
    console.print(table(outcomes))
    console.print(LEGEND)
    if options.markdown:
        options.markdown.write_text(markdown(outcomes) + "\n")
    failed = [outcome for outcome in outcomes if not outcome.verdict.ok]
    for outcome in failed:
        console.print(f"FAILED: {command(outcome)}", markup=False, highlight=False, soft_wrap=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
