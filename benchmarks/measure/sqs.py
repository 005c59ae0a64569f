"""Amazon SQS as moto's server imitates it: tasks that do nothing, confirmed publishing, and how busy the server was."""

from __future__ import annotations

import bisect
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

from benchmarks.bench import Bench, Report
from benchmarks.contestants import SQS, Contestant
from benchmarks.measure import Case, consume, publish, taking_part
from benchmarks.servers import BenchSQS
from benchmarks.targets import AT_ONCE, CONSUMED, MANY, ONE_BY_ONE

TASKS = 3_000
MESSAGES = {ONE_BY_ONE: 1_000, AT_ONCE: 2_000, MANY: 5_000}
_LOOK = 0.02


def cases() -> list[Case]:
    """Everybody, in each form."""
    return [
        Case(SQS, contestant, partial(measure, contestant, label), label)
        for label in (CONSUMED, *MESSAGES)
        for contestant in taking_part(SQS)
        if label == CONSUMED or contestant.publishes
    ]


def measure(contestant: Contestant, label: str, bench: Bench) -> dict[str, float]:
    """Consume or publish, and look at the server's processor time meanwhile."""
    server = bench.servers[contestant.broker]
    assert isinstance(server, BenchSQS)
    if label == CONSUMED:
        order = bench.order(contestant, "work", bench.scaled(TASKS))
        bench.run(contestant, order.but(role="fill"))
    else:
        order = bench.order(contestant, "publish", bench.scaled(MESSAGES[label]), **publish.FORMS[label])
    with Watch(server).running() as watch:
        report = bench.run(contestant, order)
    rates = consume.rates if label == CONSUMED else publish.rates
    return rates(report) | watch.seen(report)


class Watch:
    """Notes how much processor time a server has taken, again and again."""

    def __init__(self, server: BenchSQS) -> None:
        self._server = server
        self._times: list[float] = []
        self._spent: list[float] = []
        self._ended = threading.Event()

    @contextmanager
    def running(self) -> Iterator[Watch]:
        """Note it beside the block."""
        thread = threading.Thread(target=self._run)
        thread.start()
        try:
            yield self
        finally:
            self._ended.set()
            thread.join()

    def seen(self, report: Report) -> dict[str, float]:
        """What the server took for each message, and which part of one processor that was."""
        spent = self._until(report["last"]) - self._until(report["first"])
        return {
            "server_us": spent / report["count"] * 1e6,
            "server_part": spent / (report["last"] - report["first"]),
        }

    def _until(self, moment: float) -> float:
        return self._spent[min(bisect.bisect_left(self._times, moment), len(self._spent) - 1)]

    def _run(self) -> None:
        while not self._ended.is_set():
            self._times.append(time.monotonic())
            self._spent.append(self._server.processor_time())
            self._ended.wait(_LOOK)
