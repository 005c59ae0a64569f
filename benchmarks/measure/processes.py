"""Tasks that do nothing, each run in one of two child processes of a worker."""

from __future__ import annotations

from functools import partial

from benchmarks.bench import Bench
from benchmarks.contestants import PROCESSES, Contestant
from benchmarks.measure import Case, taking_part
from benchmarks.tally import counted

CHILDREN = 2
TASKS = 10_000


def cases() -> list[Case]:
    """Those that have a pool of processes."""
    return [Case(PROCESSES, contestant, partial(measure, contestant)) for contestant in taking_part(PROCESSES)]


def measure(contestant: Contestant, bench: Bench) -> dict[str, float]:
    """From the first task in any child to the last one; each child counts for itself."""
    order = bench.order(contestant, "work", bench.scaled(TASKS), mode="processes", threads=CHILDREN)
    bench.run(contestant, order.but(role="fill"))

    def done() -> bool:
        return sum(count for count, _, _ in counted(order.tally)) >= order.count

    with bench.running(contestant, order) as process:
        bench.wait_until(done, process, order)
    counts, firsts, lasts = zip(*counted(order.tally), strict=True)
    return {"per_second": sum(counts) / (max(lasts) - min(firsts)), "processes": len(counts)}
