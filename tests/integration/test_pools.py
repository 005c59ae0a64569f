"""Pools of queues on real brokers: shares, what a busy worker holds, and workers that die."""

from __future__ import annotations

import signal
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from qbridge_core import App, Outcome, QueueClient, connect
from qbridge_core.app.task import AppTask
from support.programs import Programs
from support.wait import wait_for

_SECONDS = 0.005


class Shop:
    """An app with a pool of two queues, and the order in which their tasks have started."""

    def __init__(self, prefix: str, seconds: float = _SECONDS, workers: int = 4) -> None:
        self.app = App(on_unknown=0)
        self.names = f"{prefix}-urgent", f"{prefix}-normal"
        self.order: list[str] = []
        self.go_on = threading.Event()
        self.app.pool("web", queues=dict(zip(self.names, (5, 1), strict=True)), max_workers=workers)
        self.urgent, self.normal = (self._task(name, seconds) for name in self.names)

    def _task(self, queue: str, seconds: float) -> AppTask[[]]:
        def run() -> None:
            self.order.append(queue)
            if seconds:
                time.sleep(seconds)
            else:
                self.go_on.wait(60.0)

        return self.app.task(name=queue, queue=queue, task_timeout=120)(run)

    def send(self, urgent: int, normal: int) -> None:
        """So many of each, those that are not urgent first."""
        self.app.send_many([self.normal.message() for _ in range(normal)])
        self.app.send_many([self.urgent.message() for _ in range(urgent)])


@pytest.mark.parametrize("url", ["redis", "rabbitmq", "kombu"], indirect=True)
def test_tasks_start_by_weight_on_each_broker(url: str, unique_name: str) -> None:
    """Five urgent ones for each other one while both queues are full, and all are worked off."""
    shop = Shop(unique_name)
    urgent, normal = shop.names
    with shop.app.open(url):
        shop.send(urgent=150, normal=60)
        assert shop.app.run_until_idle(120.0).counts == {Outcome.SUCCEEDED: 210}
    last = len(shop.order) - shop.order[::-1].index(urgent)
    counts = Counter(shop.order[:last])
    assert counts[urgent] == 150
    assert 26 <= counts[normal] <= 34


def test_an_urgent_message_is_not_behind_the_others(shared_url: str, unique_name: str) -> None:
    """It comes when all workers are busy, and is what the next free one takes."""
    shop = Shop(unique_name, seconds=0.3, workers=2)
    urgent, _ = shop.names
    with shop.app.open(shared_url):
        shop.send(urgent=0, normal=12)
        (manager,) = shop.app.managers()
        with manager:
            wait_for(lambda: len(shop.order) >= 4, 20.0)
            shop.urgent.send()
            before = len(shop.order)
            wait_for(lambda: urgent in shop.order, 20.0)
            assert shop.order.index(urgent) <= before + 2
            assert manager.run_until_idle(30.0).succeeded == 13


@pytest.fixture
def busy(shared_url: str, unique_name: str) -> Iterator[tuple[Shop, QueueClient]]:
    """A pool whose four workers are busy for long with tasks of one queue, and many messages in each."""
    shop = Shop(unique_name, seconds=0.0)
    with connect(shared_url) as client, shop.app.open(shared_url):
        shop.send(urgent=20, normal=0)
        (manager,) = shop.app.managers()
        with manager:
            wait_for(lambda: len(shop.order) == 4, 20.0)
            shop.send(urgent=0, normal=20)
            yield shop, client
            shop.go_on.set()
            assert manager.run_until_idle(60.0).counts[Outcome.SUCCEEDED] == 40


def test_a_busy_worker_holds_nothing_that_others_could_run(busy: tuple[Shop, QueueClient]) -> None:
    """Only what runs, a moment after all of its slots are taken; another process may have all of the rest.

    Of the other queue a consumer has got a message that no slot is free for.
    """
    shop, client = busy
    wait_for(lambda: sum(client.count(name).ready for name in shop.names) == 36, 20.0)
    wait_for(lambda: all(client.receive(name, 1, 0.0) for name in shop.names), 20.0)
    client.disconnect()


PROGRAM = """
import os, signal, sys, time
from pathlib import Path
from qbridge_core import App, current_task

prefix, journal = {prefix!r}, Path({journal!r})
app = App()
app.pool("web", queues={{f"{{prefix}}-urgent": 5, f"{{prefix}}-normal": 1}}, max_workers=3)

def note(text):
    with journal.open("a") as file:
        file.write(text + "\\n")

@app.task(name="urgent", queue=f"{{prefix}}-urgent", task_timeout=60)
def urgent(number: int) -> None:
    note(f"urgent {{number}}")
    time.sleep(0.02)

@app.task(name="normal", queue=f"{{prefix}}-normal", task_timeout=60)
def normal(number: int) -> None:
    note(f"normal {{number}}")
    time.sleep(0.02)

@app.task(name="deadly", queue=f"{{prefix}}-normal", task_timeout=60)
def deadly() -> None:
    note("deadly")
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.faults
def test_nothing_is_lost_when_the_worker_of_a_pool_dies(
    programs: Programs, shared_url: str, unique_name: str, tmp_path: Path
) -> None:
    """What it held of each queue runs elsewhere, and a task that kills it again and again is a letter of its queue."""
    journal = tmp_path / "journal"
    (tmp_path / "shop.py").write_text(PROGRAM.format(prefix=unique_name, journal=str(journal)))
    run = f"from shop import app\nwith app.open({shared_url!r}):\n    app.run_worker()\n"
    names = [f"{unique_name}-{kind}" for kind in ("urgent", "normal")]
    with connect(shared_url) as client:
        for name in names:
            client.declare(name, f"{name}.dead")
        for number in range(40):
            for name, kind in zip(names, ("urgent", "normal"), strict=True):
                client.publish(name, b'{"task": "%s", "payload": {"number": %d}}' % (kind.encode(), number))
        first = programs.start(run, "first.py")
        wait_for(lambda: journal.exists() and journal.read_text().count("\n") >= 10, 30.0)
        first.send_signal(signal.SIGKILL)
        client.publish(names[1], b'{"task": "deadly", "payload": {}}', message_id="deadly")
        expected = {f"{kind} {number}" for kind in ("urgent", "normal") for number in range(40)}
        workers = [programs.start(run, f"next-{number}.py") for number in range(2)]

        def done() -> bool:
            for place, worker in enumerate(workers):
                if worker.poll() is not None:
                    workers[place] = programs.start(run, f"again-{time.monotonic_ns()}.py")
            letters = client.stats(f"{names[1]}.dead").ready
            return letters == 1 and expected <= set(journal.read_text().splitlines())

        wait_for(done, 90.0)
        (letter,) = client.dead_letters(f"{names[1]}.dead")
        assert (letter.message_id, letter.reason, letter.source_queue) == ("deadly", "crashed", names[1])
        wait_for(lambda: all(client.count(name).in_flight + client.count(name).ready == 0 for name in names), 30.0)
