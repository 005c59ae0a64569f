"""20,000 tasks that do nothing, one worker process: how many a second, from the first to the last."""

from __future__ import annotations

from functools import partial

from benchmarks.bench import Bench, Report
from benchmarks.contestants import CONSUME, Contestant
from benchmarks.measure import Case, taking_part

TASKS = 20_000


def cases() -> list[Case]:
    """Everybody."""
    return [Case(CONSUME, contestant, partial(measure, contestant)) for contestant in taking_part(CONSUME)]


def measure(contestant: Contestant, bench: Bench) -> dict[str, float]:
    """Fill the queue, start a worker, take the clock of its first and last task."""
    return rates(bench.consume(contestant, bench.order(contestant, "work", bench.scaled(TASKS))))


def rates(report: Report) -> dict[str, float]:
    """Tasks a second, and processor time of the worker for each."""
    tasks = report["count"] - 1
    return {
        "per_second": tasks / (report["last"] - report["first"]),
        "cpu_us": (report["last_cpu"] - report["first_cpu"]) / tasks * 1e6,
    }
