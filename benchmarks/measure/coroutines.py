"""10,000 coroutines at once that each wait a second: how near to the ideal, and what each one takes."""

from __future__ import annotations

from functools import partial

from benchmarks.bench import Bench
from benchmarks.contestants import COROUTINES, PEER, Contestant
from benchmarks.measure import Case, taking_part
from benchmarks.meter import waiting_ideal

AT_ONCE = 10_000
TASKS = 40_000


def cases() -> list[Case]:
    """Those that can run so many; the targets look at no peer."""
    return [
        Case(COROUTINES, contestant, partial(measure, contestant), once=contestant.kind == PEER)
        for contestant in taking_part(COROUTINES)
    ]


def measure(contestant: Contestant, bench: Bench) -> dict[str, float]:
    """From the start of the first task to the end of the last; memory and threads when most tasks wait.

    The memory of a task is what the process has gained since the first task began, shared among them.
    """
    tasks = bench.scaled(TASKS)
    order = bench.order(contestant, "work", tasks, mode="waiting", threads=min(AT_ONCE, tasks))
    report = bench.consume(contestant, order)
    seconds = report["last"] - report["first"]
    gained = report["most_rss"] - report["first_rss"]
    return {
        "per_second": tasks / seconds,
        "efficiency": waiting_ideal(order) / seconds,
        "at_once": report["at_once"],
        "threads": report["threads"],
        "each": gained / report["at_once"],
    }
