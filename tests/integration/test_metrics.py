"""Metrics on real brokers, against a clock of the test's own."""

from __future__ import annotations

import functools
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from qbridge_core import Delivery, QueueClient, TaskManager, connect, current_task, hookimpl
from qbridge_core.contract.envelope import read_task
from qbridge_core.contrib.prometheus import Metrics
from qbridge_core.hookspecs import Settlement
from support.proxy import TCPProxy
from support.wait import wait_for

WITHIN = 0.005
CLOCK = 0.0015
"""Times travel in milliseconds."""
TASKS = 20


class Waits:
    """Remembers how long each attempt of each task has waited."""

    def __init__(self) -> None:
        self.waits: dict[str, dict[int, float]] = defaultdict(dict)

    @hookimpl
    def qbridge_settlements(self, settlements: Sequence[Settlement]) -> None:
        """Remember."""
        for each in settlements:
            assert each.wait is not None
            self.waits[each.task_id][each.attempt] = each.wait

    @property
    def count(self) -> int:
        """Of attempts."""
        return sum(map(len, self.waits.values()))


class Times:
    """When each attempt began to wait, and to run, by the test's clock.

    Attributes:
        since: a moment before and one after that from which it has waited.
        starts: when its handler was called.
    """

    def __init__(self) -> None:
        self.since: dict[tuple[str, int], tuple[float, float]] = {}
        self.starts: dict[tuple[str, int], float] = {}

    def begin(self, task_id: str, attempt: int, delay: float, call: Callable[[], None]) -> None:
        """It waits from this call on, or from so much later."""
        before = time.time()
        call()
        self.since[task_id, attempt] = before + delay, time.time() + delay

    def handler(self, kind: str) -> None:
        """Fails once where it is to be retried."""
        task = current_task()
        self.starts[task.task_id, task.attempt] = time.time()
        if kind == "retried" and task.attempt == 1:
            raise ValueError


def test_waits_are_right_within_5_ms(client: QueueClient, unique_name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """From sent, due, or put back for a retry, to the start: never more than the test's clock says, and as much.

    A busy machine may take its time between the start of a run and its handler's look at the clock, but not each time.
    """
    times, waits, registry, reject = Times(), Waits(), CollectorRegistry(), client.reject

    def rejecting(delivery: Delivery, **how: Any) -> None:
        task_id = read_task(delivery.body, 1000).task_id or ""
        times.begin(task_id, 2, 0.0, functools.partial(reject, delivery, **how))

    monkeypatch.setattr(client, "reject", rejecting)
    for kind in ("sent", "delayed", "retried"):
        delay = 0.5 if kind == "delayed" else 0.0
        for task_id in (f"{kind} {number}" for number in range(TASKS)):
            times.begin(
                task_id, 1, delay, functools.partial(client.send, unique_name, kind, task_id=task_id, delay=delay)
            )
    plugins = [Metrics(registry, look_every=None), waits]
    with TaskManager(client, times.handler, unique_name, f"{unique_name}-dead", max_workers=1, plugins=plugins):
        wait_for(lambda: waits.count == 4 * TASKS, 60)
    missing: dict[tuple[str, int], list[float]] = defaultdict(list)
    doubt: dict[tuple[str, int], list[float]] = defaultdict(list)
    for (task_id, attempt), (before, after) in times.since.items():
        wait, start = waits.waits[task_id][attempt], times.starts[task_id, attempt]
        assert 0.0 <= wait <= start - before + CLOCK
        missing[task_id.split()[0], attempt].append(start - before - wait)
        doubt[task_id.split()[0], attempt].append(after - before)
    assert {kind: min(each) for kind, each in missing.items() if min(each) > WITHIN + min(doubt[kind])} == {}
    total = sum(wait for attempts in waits.waits.values() for wait in attempts.values())
    name, labels = "qbridge_task_wait_time_seconds", {"queue": unique_name}
    assert registry.get_sample_value(f"{name}_sum", labels) == pytest.approx(total)
    assert registry.get_sample_value(f"{name}_count", labels) == 4 * TASKS


@pytest.mark.faults
def test_outages_are_counted(url: str, unique_name: str, tcp_proxy: Callable[[str], TCPProxy]) -> None:
    """A connection that is cut is lost once, and found again once."""
    registry = CollectorRegistry()
    proxy = tcp_proxy(url)

    def total(name: str) -> float:
        samples = [sample for family in registry.collect() for sample in family.samples if sample.name == name]
        return sum(sample.value for sample in samples)

    with connect(proxy.through(url)) as client:
        plugins = [Metrics(registry, look_every=None)]
        with TaskManager(client, lambda _: None, unique_name, f"{unique_name}-dead", plugins=plugins):
            client.send(unique_name, 1)
            proxy.reset()
            wait_for(lambda: total("qbridge_connections_lost_total") == 1, 60)
            wait_for(lambda: total("qbridge_reconnects_total") == 1, 60)
            client.send(unique_name, 2)
            wait_for(lambda: total("qbridge_tasks_total") >= 2, 60)
    assert registry.get_sample_value(
        "qbridge_messages_published_total", {"queue": unique_name, "outcome": "confirmed"}
    ) == 2  # fmt: skip
