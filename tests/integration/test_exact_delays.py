"""Delays on a busy worker: held by the broker, exact within a second, and none behind another."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from qbridge_core import QueueClient, Retry, TaskContext, TaskManager, connect
from support.wait import wait_for

DELAYED, BUSY_FOR = 60, 0.02


class Clock:
    """A handler that compares what it sees with what was wanted."""

    def __init__(self) -> None:
        self.lateness: list[float] = []
        self.waits: list[float] = []
        self._due: dict[str, float] = {}

    def __call__(self, payload: dict[str, float], task: TaskContext) -> None:
        """A delayed task asks for its delay in its first run; any other one keeps a thread busy."""
        now = time.time()
        if "delay" not in payload:
            self.waits.append(now - payload["sent"])
            time.sleep(BUSY_FOR)
        elif task.attempt == 1:
            self._due[task.task_id] = now + payload["delay"]
            raise Retry(after=payload["delay"])
        else:
            self.lateness.append(now - self._due[task.task_id])


@contextmanager
def load(client: QueueClient, queue: str) -> Iterator[None]:
    """Publish tasks that keep about half of the worker's threads busy, and say when they were sent."""
    over = threading.Event()

    def publish() -> None:
        while not over.wait(4 * BUSY_FOR):
            client.send_many(queue, [{"sent": time.time()} for _ in range(8)])

    thread = threading.Thread(target=publish, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def test_g7_delays_are_exact_under_load_and_none_waits_for_another(shared_url: str, unique_name: str) -> None:
    """Mixed delays, the long ones first: none is early, and they end within a second of their time.

    What a busy machine adds is measured by the tasks without a delay, and does not count.
    """
    clock = Clock()
    delays = sorted((random.uniform(0.2, 5.0) for _ in range(DELAYED)), reverse=True)
    with connect(shared_url) as client, connect(shared_url) as producer:
        client.declare(unique_name, f"{unique_name}.dead")
        client.publish(unique_name, b'{"payload": {"sent": 9e99}}', delay=60.0)  # makes what long delays need
        manager = TaskManager(client, clock, unique_name, f"{unique_name}.dead", max_workers=4, task_timeout=60.0)
        with manager, load(producer, unique_name):
            producer.send_many(unique_name, [{"delay": delay} for delay in delays])
            wait_for(lambda: len(clock.lateness) == DELAYED, 60, "each delayed task comes back")
        assert client.stats(unique_name).delayed == 1
    assert min(clock.lateness) > -0.01, "a delay was cut short"
    worst = max(clock.waits)
    assert sum(late < 1.0 + worst for late in clock.lateness) >= 0.9 * DELAYED, "delays were too long"
    assert max(clock.lateness) < 1.0 + 4 * worst, "a delay was too long"  # on RabbitMQ each crosses several queues
