"""What an import costs: processor time and time of a new interpreter that does nothing else."""

from __future__ import annotations

import os
import resource
import statistics
import subprocess
import time
from functools import partial

from benchmarks.bench import Bench
from benchmarks.contestants import IMPORTS, Contestant
from benchmarks.measure import Case, taking_part

RUNS = 10


def cases() -> list[Case]:
    """Everybody, and the interpreter alone."""
    return [Case(IMPORTS, contestant, partial(measure, contestant)) for contestant in taking_part(IMPORTS)]


def measure(contestant: Contestant, bench: Bench) -> dict[str, float]:
    """The medians of some processes, each from its start to its end."""
    python = bench.environments.python(contestant.environment)
    command = [python, "-c", f"import {contestant.program}" if contestant.program else "pass"]
    _run(command)  # which compiles the modules where nobody has yet
    runs = [_run(command) for _ in range(RUNS)]
    cpu, seconds = (statistics.median(values) for values in zip(*runs, strict=True))
    return {"cpu": cpu, "seconds": seconds}


def _run(command: list[str]) -> tuple[float, float]:
    """Processor time and time of a process, in seconds."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    before, started = _children(), time.monotonic()
    subprocess.run(command, env=environment, cwd="/", check=True, stdin=subprocess.DEVNULL)
    return _children() - before, time.monotonic() - started


def _children() -> float:
    """Processor time of the children that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime
