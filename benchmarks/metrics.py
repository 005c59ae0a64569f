"""What metrics cost a worker: PYTHONPATH=. python -m benchmarks.metrics URL [ROUNDS [TASKS]].

Rounds with and without the plugin alternate, in one process. Other programs disturb processor time less than they
disturb the clock on the wall, so both are told: medians over the rounds, each without its first third, in which the
worker starts and the plugin looks at the queue, as it does every five seconds.
"""

from __future__ import annotations

import itertools
import os
import sys
import threading
import time
from collections.abc import Callable
from statistics import median
from typing import Final, NamedTuple

from prometheus_client import CollectorRegistry

from qbridge_core import TaskManager, connect
from qbridge_core.contrib.prometheus import Metrics

_PATIENCE: Final = 300.0


class Round(NamedTuple):
    """One measurement: tasks a second, and processor time for each, in microseconds."""

    rate: float
    cost: float


class Span:
    """From when a third of the tasks has run to the last."""

    def __init__(self, tasks: int) -> None:
        self.done = threading.Event()
        self._tasks = tasks
        self._number = itertools.count(1)
        self._began = self._ended = (0.0, 0.0)

    def note(self) -> None:
        """A handler runs."""
        number = next(self._number)
        if number == self._tasks // 3:
            self._began = time.perf_counter(), time.process_time()
        if number == self._tasks:
            self._ended = time.perf_counter(), time.process_time()
            self.done.set()

    def round(self) -> Round:
        """What was measured."""
        wall, processor = (end - begin for begin, end in zip(self._began, self._ended, strict=True))
        tasks = self._tasks - self._tasks // 3
        return Round(tasks / wall, processor / tasks * 1e6)


def measure(url: str, tasks: int, *, on_loop: bool, metrics: bool) -> Round:
    """Work off so many tasks that do nothing."""
    span, queue = Span(tasks), f"bench-metrics-{os.getpid()}"

    def function(_: object) -> None:
        span.note()

    async def coroutine(_: object) -> None:
        span.note()

    handler: Callable[..., object] = coroutine if on_loop else function
    plugins = [Metrics(CollectorRegistry())] if metrics else []
    with connect(url) as client:
        client.declare(queue, f"{queue}.dead")
        client.send_many(queue, range(tasks))
        with TaskManager(client, handler, queue, f"{queue}.dead", max_workers=10, plugins=plugins):
            if not span.done.wait(_PATIENCE):
                raise TimeoutError(f"{tasks} tasks were not done in {_PATIENCE:g} s")
    return span.round()


def main(url: str, rounds: int = 12, tasks: int = 50_000) -> None:
    """Measure, and print a line for each kind of handler."""
    for on_loop in (False, True):
        found: dict[bool, list[Round]] = {False: [], True: []}
        for number in range(rounds + 1):
            for metrics in (False, True) if number % 2 else (True, False):
                one = measure(url, tasks, on_loop=on_loop, metrics=metrics)
                if number:  # the first round warms up
                    found[metrics].append(one)
        without, with_them = (median(each.cost for each in found[metrics]) for metrics in (False, True))
        rates = [median(each.rate for each in found[metrics]) for metrics in (False, True)]
        print(
            f"{'coroutines' if on_loop else 'functions'}: {without:.2f} us a task, with metrics {with_them:.2f} us "
            f"({(with_them / without - 1) * 100:+.1f} %); {rates[0]:.0f} and {rates[1]:.0f} tasks a second"
        )


if __name__ == "__main__":
    main(sys.argv[1], *map(int, sys.argv[2:4]))
