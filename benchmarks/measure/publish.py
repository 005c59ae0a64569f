"""Confirmed publishing: one after the other, so from sixteen threads, and each contestant's best way for many."""

from __future__ import annotations

from functools import partial

from benchmarks.bench import Bench, Report
from benchmarks.contestants import PUBLISH, Contestant
from benchmarks.measure import Case, taking_part
from benchmarks.targets import AT_ONCE, MANY, ONE_BY_ONE

MESSAGES = 5_000
SENDERS = 16
FORMS: dict[str, dict[str, object]] = {
    ONE_BY_ONE: {},
    AT_ONCE: {"senders": SENDERS},
    MANY: {"many": True},
}


def cases() -> list[Case]:
    """Everybody, in each form."""
    return [
        Case(PUBLISH, contestant, partial(measure, contestant, form), label)
        for label, form in FORMS.items()
        for contestant in taking_part(PUBLISH)
    ]


def measure(contestant: Contestant, form: dict[str, object], bench: Bench) -> dict[str, float]:
    """Publish from one process, without a worker."""
    order = bench.order(contestant, "publish", bench.scaled(MESSAGES * (4 if form else 1)), **form)
    return rates(bench.run(contestant, order))


def rates(report: Report) -> dict[str, float]:
    """Messages a second, and processor time of the publisher for each."""
    return {
        "per_second": report["count"] / (report["last"] - report["first"]),
        "cpu_us": report["cpu"] / report["count"] * 1e6,
    }
