"""QBridge as the work grows, and what its settings cost: messages, threads, processes, prefetch, batches."""

from __future__ import annotations

import time
from contextlib import ExitStack
from functools import partial
from pathlib import Path

from benchmarks.bench import Bench
from benchmarks.contestants import GROWTH, Contestant
from benchmarks.measure import Case, publish, taking_part
from benchmarks.measure.consume import TASKS, rates
from qbridge_core import connect

WAITING = (10_000, 100_000, 1_000_000)
THREADS = (1, 4, 16, 64)
PROCESSES = (1, 2)
PREFETCHES = (1, 10, 100, 1000)
BATCHES = (1, 10, 100, 1000, 10_000)
LONG = 100_000  # tasks


def cases() -> list[Case]:
    """QBridge, on each broker."""
    return [case for contestant in taking_part(GROWTH) for case in _cases(contestant)]


def _cases(contestant: Contestant) -> list[Case]:
    def case(label: str, count: int, long: bool = False, **settings: object) -> Case:
        return Case(GROWTH, contestant, partial(measure, contestant, count, settings), label, once=True, long=long)

    found = [case(f"{count:,} waiting", -count, count >= LONG) for count in WAITING]
    found += [case(_plural(threads, "thread"), TASKS, threads=threads) for threads in THREADS]
    for processes in PROCESSES:
        label = _plural(processes, "worker process", "es")
        found.append(Case(GROWTH, contestant, partial(measure_processes, contestant, processes), label, once=True))
    if contestant.broker == "rabbitmq":
        found += [case(f"prefetch {count}", TASKS, variant=f"prefetch={count}") for count in PREFETCHES]
    for batch in BATCHES:
        measured = partial(measure_batches, contestant, batch)
        found.append(Case(GROWTH, contestant, measured, f"send_many of {batch:,}", once=True))
    return found


def _plural(count: int, what: str, ending: str = "s") -> str:
    return f"{count} {what}{ending if count > 1 else ''}"


def measure(contestant: Contestant, count: int, settings: dict[str, object], bench: Bench) -> dict[str, float]:
    """As consuming is measured; a negative count stands for exactly so many, whatever the scale of the run."""
    tasks = -count if count < 0 else bench.scaled(count)
    report = bench.consume(contestant, bench.order(contestant, "work", tasks, **settings))
    return rates(report) | {name: report[name] for name in ("first_rss", "last_rss")}


def measure_processes(contestant: Contestant, processes: int, bench: Bench) -> dict[str, float]:
    """Let workers begin at the same moment, and add up what they have done when the queue is empty."""
    order = bench.order(contestant, "work", bench.scaled(TASKS))
    bench.run(contestant, order.but(role="fill"))
    works = [order.but(mode="shared", count=0, report=f"{order.report}-{number}") for number in range(processes)]
    with ExitStack() as stack:
        for work in works:
            bench.wait_for_first(stack.enter_context(bench.running(contestant, work)), work)
        Path(order.go_mark).touch()
        _wait_until_empty(order.url, order.queue, bench.timeout)
    reports = [bench.read_report(work) for work in works]
    done = sum(report["count"] for report in reports)
    seconds = max(report["last"] for report in reports) - min(report["first"] for report in reports)
    return {"per_second": done / seconds}


def measure_batches(contestant: Contestant, batch: int, bench: Bench) -> dict[str, float]:
    """Publish with so many messages confirmed by one call."""
    count = bench.scaled(publish.MESSAGES * (1 if batch == 1 else 4))
    order = bench.order(contestant, "publish", count, many=True, batch=batch)
    return publish.rates(bench.run(contestant, order))


def _wait_until_empty(url: str, queue: str, timeout: float) -> None:
    deadline = time.monotonic() + timeout
    with connect(url) as client:
        while client.stats(queue).ready and time.monotonic() < deadline:
            time.sleep(0.1)
    time.sleep(0.5)  # for what the workers hold
