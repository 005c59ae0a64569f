"""The threads of a worker: started when there is work for them, and as many as the system gives."""

from __future__ import annotations

import threading
from collections import Counter

import pytest

from qbridge_core import TaskManager, connect
from support.wait import wait_for


def workers() -> int:
    """How many worker threads there are."""
    return sum(thread.name == "qbridge-worker" for thread in threading.enumerate())


def test_threads_are_started_when_there_is_work_for_them() -> None:
    """A huge ``max_workers`` costs nothing by itself, and that many tasks run at once when they come."""
    release, started = threading.Event(), Counter[str]()

    def handler(payload: str) -> None:
        started[payload] += 1
        if payload == "wait":
            release.wait(60.0)

    before = workers()
    with connect("memory://") as client:
        client.declare("q", "d")
        with TaskManager(client, handler, "q", "d", max_workers=100_000) as manager:
            client.send_many("q", ["quick"] * 20)
            wait_for(lambda: started["quick"] == 20, 30.0)
            assert workers() - before <= 70
            client.send_many("q", ["wait"] * 300)
            wait_for(lambda: started["wait"] == 300, 30.0, "all run at once")
            assert workers() - before <= 420
            release.set()
            assert manager.run_until_idle(30.0).succeeded == 320
    wait_for(lambda: workers() <= before, 30.0, "they end")


def test_as_many_threads_work_as_the_system_gives(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """When it gives no more, those that there are go on with everything, and the log says so once."""
    start = threading.Thread.start
    before = workers()

    def limited(thread: threading.Thread) -> None:
        if thread.name == "qbridge-worker" and workers() - before >= 40:
            raise RuntimeError("can't start new thread")
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", limited)
    together = threading.Barrier(40)
    with connect("memory://") as client:
        client.declare("q", "d")
        client.send_many("q", range(200))
        manager = TaskManager(client, lambda _: together.wait(30.0) and None, "q", "d", max_workers=1_000)
        assert manager.run_until_idle(60.0).succeeded == 200
    said = [record.getMessage() for record in caplog.records if record.name == "qbridge.worker"]
    assert said == ["no more than 40 of 1000 workers can run: can't start new thread"]
