"""Confirmed publishing: one after the other, and each contestant's best way for many."""

from __future__ import annotations

from functools import partial

from benchmarks.bench import Bench, Report
from benchmarks.contestants import PUBLISH, Contestant
from benchmarks.measure import Case, taking_part
from benchmarks.targets import MANY, ONE_BY_ONE

MESSAGES = 5_000


def cases() -> list[Case]:
    """Everybody, both ways."""
    return [
        Case(PUBLISH, contestant, partial(measure, contestant, label == MANY), label)
        for label in (ONE_BY_ONE, MANY)
        for contestant in taking_part(PUBLISH)
    ]


def measure(contestant: Contestant, many: bool, bench: Bench) -> dict[str, float]:
    """Publish from one process, without a worker."""
    order = bench.order(contestant, "publish", bench.scaled(MESSAGES * (4 if many else 1)), many=many)
    return rates(bench.run(contestant, order))


def rates(report: Report) -> dict[str, float]:
    """Messages a second, and processor time of the publisher for each."""
    return {
        "per_second": report["count"] / (report["last"] - report["first"]),
        "cpu_us": report["cpu"] / report["count"] * 1e6,
    }
