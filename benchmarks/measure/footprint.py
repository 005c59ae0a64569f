"""The worker process: how long until its first task, and what memory it holds when it has nothing to do."""

from __future__ import annotations

import os
import time
from functools import partial
from pathlib import Path

from benchmarks.bench import Bench
from benchmarks.contestants import FOOTPRINT, Contestant
from benchmarks.measure import Case, taking_part

IDLE = 1.0


def cases() -> list[Case]:
    """Everybody."""
    return [Case(FOOTPRINT, contestant, partial(measure, contestant)) for contestant in taking_part(FOOTPRINT)]


def measure(contestant: Contestant, bench: Bench) -> dict[str, float]:
    """One task waits; memory is that of the process that has run it, a second later."""
    order = bench.order(contestant, "work", 1)
    bench.run(contestant, order.but(role="fill"))
    started = time.monotonic()
    with bench.running(contestant, order) as process:
        report = bench.wait_for_report(process, order)
        time.sleep(IDLE)
        memory = _resident(int(report["pid"]))
    return {"rss": memory, "start": report["first"] - started}


def _resident(pid: int) -> float:
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return float(pages * os.sysconf("SC_PAGE_SIZE"))
