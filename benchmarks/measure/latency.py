"""Idle latency: one message each 10 ms, from the call that publishes it to the first line of the handler."""

from __future__ import annotations

import time
from functools import partial

from benchmarks.bench import Bench
from benchmarks.contestants import LATENCY, Contestant
from benchmarks.measure import Case, taking_part

MESSAGES = 300
SETTLED = 0.5  # seconds for the worker's other threads to come to rest


def cases() -> list[Case]:
    """Everybody."""
    return [Case(LATENCY, contestant, partial(measure, contestant)) for contestant in taking_part(LATENCY)]


def measure(contestant: Contestant, bench: Bench) -> dict[str, float]:
    """The publisher is one process, the worker another; the clock is the same."""
    ticks = bench.order(contestant, "tick", bench.scaled(MESSAGES), mode="latency")
    first = ticks.but(role="fill", count=1)
    work = ticks.but(role="work", count=ticks.count + 1, report=f"{ticks.report}-work")
    bench.run(contestant, first)
    with bench.running(contestant, work) as process:
        bench.wait_for_first(process, work)
        time.sleep(SETTLED)
        bench.run(contestant, ticks)
        report = bench.wait_for_report(process, work)
    return {name: report[name] for name in ("p50", "p99")}
