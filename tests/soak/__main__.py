"""The command line of ``make soak``."""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path

from rich.console import Console

from chaos.plan import Backend
from chaos.targets import broker_of
from soak.plan import Plan
from soak.report import LEGEND, table
from soak.run import Outcome, Say, soak_at, soak_privately

_DEFAULT_BACKENDS = (Backend.REDIS, Backend.QUORUM)
_BACKENDS = (*_DEFAULT_BACKENDS, Backend.CLASSIC)


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="soak", description="Run very many tasks, and prove that nothing grows.")
    parser.add_argument("--count", type=int, default=1_000_000, help="tasks for each broker (%(default)s)")
    parser.add_argument("--threads", type=int, default=10, help="of the worker (%(default)s)")
    where = parser.add_mutually_exclusive_group()
    where.add_argument("--url", help="a server that runs; private ones when missing")
    where.add_argument(
        "--backend", choices=_BACKENDS, action="append", help=f"of {', '.join(_DEFAULT_BACKENDS)} when missing"
    )
    parser.add_argument("--keep", type=Path, metavar="DIRECTORY", help="keep journals and logs there")
    return parser.parse_args(arguments)


def soaks(options: argparse.Namespace, directory: Path, say: Say) -> Iterator[Outcome]:
    """One after the other."""
    plan = Plan(options.count, options.threads)
    if options.url:
        yield soak_at(plan, options.url, f"soak-{uuid.uuid4().hex[:8]}", directory / "given", say)
        return
    for backend in options.backend or _DEFAULT_BACKENDS:
        yield soak_privately(plan, Backend(backend), directory / backend, say)


def main(arguments: Sequence[str] | None = None) -> int:
    """Soak; return the exit status: 1 when something does not hold, 2 when it cannot be measured here."""
    options = parse(arguments)
    console = Console()
    if not console.is_terminal:
        console = Console(width=150)
    backends = [] if options.url else options.backend or _DEFAULT_BACKENDS
    missing = [backend for backend in backends if not broker_of(backend).available()]
    if missing or not Path("/proc/self/statm").exists():
        what = f"no server is installed for {', '.join(missing)}; see `make test`" if missing else "/proc is missing"
        console.print(f"error: {what}")
        return 2
    directory = options.keep or Path(tempfile.mkdtemp(prefix="qbridge-soak-"))
    outcomes = []
    for outcome in soaks(options, directory, lambda text: console.print(f"  {text}", highlight=False)):
        outcomes.append(outcome)
        for problem in outcome.problems:
            console.print(f"{outcome.broker}: {problem}", markup=False, highlight=False, soft_wrap=True)
    console.print(table(outcomes))
    console.print(LEGEND)
    failed = any(outcome.problems for outcome in outcomes)
    if not failed and not options.keep:
        shutil.rmtree(directory, ignore_errors=True)
    elif failed:
        console.print(f"the files: {directory}", highlight=False, soft_wrap=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
