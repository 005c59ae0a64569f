"""What an import costs: processor time, time and memory of a new interpreter that does nothing else."""

from __future__ import annotations

import os
import resource
import statistics
import subprocess
import time
from functools import partial
from typing import Any

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
    return {"cpu": cpu, "seconds": seconds, "rss": _resident(command)}


def _resident(command: list[str]) -> float:
    """The resident memory at the end of it."""
    look = "; print(open('/proc/self/statm').read().split()[1])"
    *interpreter, code = command
    done = subprocess.run([*interpreter, code + look], **_alone(), check=True, capture_output=True, text=True)
    return float(int(done.stdout) * os.sysconf("SC_PAGE_SIZE"))


def _run(command: list[str]) -> tuple[float, float]:
    """Processor time and time of a process, in seconds."""
    before, started = _children(), time.monotonic()
    subprocess.run(command, **_alone(), check=True)
    return _children() - before, time.monotonic() - started


def _alone() -> dict[str, Any]:
    """Nothing of this program's environment is the interpreter's."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    return {"env": environment, "cwd": "/", "stdin": subprocess.DEVNULL}


def _children() -> float:
    """Processor time of the children that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime
