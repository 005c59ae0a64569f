"""A mixed load: tasks of 0 to 20 ms of which one in ten fails once, ten at a time; time to empty against the ideal."""

from __future__ import annotations

from functools import partial

from benchmarks.bench import Bench
from benchmarks.contestants import MIXED, Contestant
from benchmarks.measure import Case, taking_part
from benchmarks.meter import mixed_ideal

TASKS = 2_000


def cases() -> list[Case]:
    """Everybody who retries."""
    return [Case(MIXED, contestant, partial(measure, contestant), once=True) for contestant in taking_part(MIXED)]


def measure(contestant: Contestant, bench: Bench) -> dict[str, float]:
    """From the start of the first task to the end of the last one that succeeded."""
    order = bench.order(contestant, "work", bench.scaled(TASKS), mode="mixed")
    report = bench.consume(contestant, order)
    seconds = report["last"] - report["first"]
    return {"seconds": seconds, "efficiency": mixed_ideal(order) / seconds}
