"""Confirmed publishing: one after the other, so from sixteen threads, and each contestant's best way for many."""

from __future__ import annotations

from functools import partial

from benchmarks.bench import Bench, Report
from benchmarks.contestants import PEER, PUBLISH, RAW, Contestant
from benchmarks.measure import Case, taking_part
from benchmarks.targets import AT_ONCE, MANY, ONE_BY_ONE

MESSAGES = 5_000
SENDERS = 16
FORMS: dict[str, dict[str, object]] = {
    ONE_BY_ONE: {},
    AT_ONCE: {"senders": SENDERS},
    MANY: {"many": True},
}
FACTORS = {ONE_BY_ONE: 1, AT_ONCE: 2, MANY: 4}


def cases() -> list[Case]:
    """Everybody, in each form; the targets look at the peers' best way for many in no round.

    The bare clients say what one by one can reach, and what sixteen under way can.
    """
    return [
        Case(
            PUBLISH,
            contestant,
            partial(measure, contestant, label),
            label,
            once=label == MANY and contestant.kind == PEER,
        )
        for label in FORMS
        for contestant in taking_part(PUBLISH)
        if label != MANY or contestant.kind != RAW
    ]


def measure(contestant: Contestant, label: str, bench: Bench) -> dict[str, float]:
    """Publish from one process, without a worker."""
    order = bench.order(contestant, "publish", bench.scaled(MESSAGES * FACTORS[label]), **FORMS[label])
    return rates(bench.run(contestant, order))


def rates(report: Report) -> dict[str, float]:
    """Messages a second, and processor time of the publisher for each."""
    return {
        "per_second": report["count"] / (report["last"] - report["first"]),
        "cpu_us": report["cpu"] / report["count"] * 1e6,
    }
