"""G6: other tasks have their turn while suspects run, and suspects theirs."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path

import pytest

from qbridge_core import QueueStats, TaskManager
from support.handlers import notes, work
from support.suspects import CountingClient, suspected_once
from support.wait import wait_for


class HangingLook(CountingClient):
    """A broker that does not answer questions about the side queue until it is released."""

    def __init__(self) -> None:
        super().__init__()
        self.asked, self.released = threading.Event(), threading.Event()
        self.released.set()

    def count(self, queue: str) -> QueueStats:
        """Count, later."""
        if queue.endswith(".suspects") and not self.released.is_set():
            self.asked.set()
            assert self.released.wait(60.0)
        return super().count(queue)


@pytest.fixture
def client() -> Iterator[HangingLook]:
    """A connected client with the queues ``q`` and ``dead``; who is called a suspect is one at its first delivery."""
    with HangingLook() as client:
        client.declare("q", "dead")
        client.deaths["q"] = suspected_once(b"suspect")
        yield client


@pytest.mark.parametrize("workers", [1, 3])
def test_g6_suspects_without_a_child_leave_others_as_much_time(client: HangingLook, workers: int) -> None:
    """On a loaded queue they alternate with other tasks, which get at least as much time as the suspects take."""
    done: list[str] = []
    began = ended = 0.0

    def handler(payload: str) -> None:
        nonlocal began, ended
        if payload == "suspect-0":
            began = time.monotonic()
        if payload.startswith("suspect"):
            threading.Event().wait(0.1)
            ended = time.monotonic()
        else:
            threading.Event().wait(0.01)
        done.append(payload[0])

    client.send_many("q", [f"suspect-{n}" for n in range(15)] + [f"task-{n}" for n in range(800)])
    with TaskManager(client, handler, "q", "dead", max_workers=workers):
        wait_for(lambda: done.count("s") == 15, 60.0, "all suspects have run")
    rows = [len(list(row)) for kind, row in groupby(done) if kind == "s"]
    assert max(rows) <= 4, rows
    assert ended - began >= 2.4, "they take 1.5 s by themselves"
    assert client.stats("q").ready, "the others had enough to do"


def test_g6_suspects_without_a_child_do_not_wait_for_an_empty_queue(client: HangingLook) -> None:
    """When there is nothing else to do they run one after the other, however long a request for others may wait."""
    done = threading.Semaphore(0)
    manager = TaskManager(client, lambda payload: done.release(), "q", "dead", max_workers=2)
    worker = threading.Thread(target=manager.start, args=(30.0,))
    worker.start()
    try:
        client.send_many("q", [f"suspect-{n}" for n in range(20)])
        assert done.acquire(timeout=40.0), "the first one waits until somebody looks"
        began = time.monotonic()
        assert all(done.acquire(timeout=20.0) for _ in range(19))
        assert time.monotonic() - began < 20.0
    finally:
        manager.stop()
        worker.join()


def test_g6_suspects_take_half_of_the_slots(client: HangingLook, tmp_path: Path) -> None:
    """Where they run beside others, those go on in the other slots, though suspects wait that do not end."""
    journal, until = str(tmp_path / "journal"), tmp_path / "until"
    waiting = {"do": "wait for a file", "until": str(until), "file": journal}
    client.deaths["q"] = suspected_once(b"waits")
    client.send_many("q", [{"id": f"waits-{n}", **waiting} for n in range(4)])
    client.send_many("q", [{"id": f"quick-{n}", "file": journal} for n in range(10)])
    manager = TaskManager(client, work, "q", "dead", max_workers=2, executor="process", task_timeout=600.0)
    with manager as running:
        wait_for(lambda: sum(line.startswith("quick") for line in notes(journal)) == 10, 60.0, "the others go on")
        wait_for(lambda: sum(line.startswith("waits") for line in notes(journal)) == 2, 60.0, "slots that nobody needs")
        until.touch()
        running.run_until_idle(60.0)


def test_g6_nobody_waits_for_a_broker_that_is_slow_to_count_suspects(client: HangingLook) -> None:
    """While the question is not answered other tasks run, and when it is, the suspects."""
    done: list[str] = []

    def handler(payload: str) -> None:
        done.append(payload)

    with TaskManager(client, handler, "q", "dead", max_workers=2) as running:
        client.released.clear()
        client.send("q", "suspect")
        assert client.asked.wait(30.0)
        client.send_many("q", ["task"] * 10)
        wait_for(lambda: done == ["task"] * 10, 30.0, "the others are done")
        client.released.set()
        running.run_until_idle(30.0)
    assert done[10:] == ["suspect"]
