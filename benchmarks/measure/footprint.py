"""The worker process: how long until its first task, and what memory it holds when it has nothing to do."""

from __future__ import annotations

import os
import statistics
import time
from functools import partial
from pathlib import Path

from benchmarks.bench import Bench
from benchmarks.contestants import FOOTPRINT, Contestant
from benchmarks.measure import Case, taking_part

IDLE = 1.0
STARTS = 3


def cases() -> list[Case]:
    """Everybody."""
    return [Case(FOOTPRINT, contestant, partial(measure, contestant)) for contestant in taking_part(FOOTPRINT)]


def measure(contestant: Contestant, bench: Bench) -> dict[str, float]:
    """One task waits; the medians of some workers that run it. Memory is that of the last one, a second later."""
    starts = [_start(contestant, bench, IDLE if last else 0.0) for last in (*[False] * (STARTS - 1), True)]
    start, cpu, memory = zip(*starts, strict=True)
    return {"rss": memory[-1], "start": statistics.median(start), "cpu": statistics.median(cpu)}


def _start(contestant: Contestant, bench: Bench, idle: float) -> tuple[float, float, float]:
    """Seconds and processor time until a worker begins its first task, and its memory afterwards."""
    order = bench.order(contestant, "work", 1)
    bench.run(contestant, order.but(role="fill"))
    started = time.monotonic()
    with bench.running(contestant, order) as process:
        report = bench.wait_for_report(process, order)
        time.sleep(idle)
        return report["first"] - started, report["first_cpu"], _resident(int(report["pid"]))


def _resident(pid: int) -> float:
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return float(pages * os.sysconf("SC_PAGE_SIZE"))
