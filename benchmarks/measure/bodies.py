"""Long bodies: tasks that do nothing with them, beside bare clients that read their JSON too."""

from __future__ import annotations

from functools import partial

from benchmarks.bench import Bench
from benchmarks.contestants import BODIES, QBRIDGE, Contestant
from benchmarks.measure import Case, taking_part
from benchmarks.measure.consume import rates
from benchmarks.targets import LONG_BODIES, of_body

LENGTHS = {"100 B": (100, 20_000), "10 KB": (10_000, 10_000), "1 MB": (1_000_000, 300)}


def cases() -> list[Case]:
    """Everybody who takes part with long ones, and QBridge with short ones too."""
    return [
        Case(BODIES, contestant, partial(measure, contestant, *LENGTHS[length]), of_body(length))
        for length in LENGTHS
        for contestant in taking_part(BODIES)
        if length in LONG_BODIES or contestant.kind == QBRIDGE
    ]


def measure(contestant: Contestant, body: int, count: int, bench: Bench) -> dict[str, float]:
    """As consuming is measured."""
    order = bench.order(contestant, "work", bench.scaled(count), body=body, mode="bodies")
    report = bench.consume(contestant, order)
    return rates(report) | {name: report[name] for name in ("first_rss", "last_rss")}
