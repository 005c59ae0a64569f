"""G6: what a dead worker held is suspect, runs alone, and is convicted only by a death of its own."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest

from qbridge_core import (
    BrokerUnavailableError,
    ConfigurationError,
    Delivery,
    Outcome,
    QueueFullError,
    QueueStats,
    Reason,
    TaskManager,
)
from qbridge_core.work.poison.side_queue import SideQueue
from support.suspects import CountingClient, suspected
from support.wait import wait_for


@pytest.fixture
def client() -> Iterator[CountingClient]:
    """A connected client with the queues ``q`` and ``dead``."""
    with CountingClient() as client:
        client.declare("q", "dead")
        yield client


def test_g6_a_suspect_runs_with_nothing_beside_it(client: CountingClient) -> None:
    """While a suspect runs no other task runs in the process, and afterwards the others go on."""
    client.deaths["q"] = suspected(b"suspect")
    lock = threading.Lock()
    running: set[object] = set()
    beside: list[set[object]] = []

    def handler(payload: str) -> None:
        with lock:
            running.add(payload)
            if "suspect" in payload or any("suspect" in str(name) for name in running):
                beside.append(set(running))
        threading.Event().wait(0.002)
        with lock:
            running.discard(payload)

    client.send_many("q", [f"task-{n}" for n in range(100)] + ["suspect"] + [f"late-{n}" for n in range(100)])
    report = TaskManager(client, handler, "q", "dead", max_workers=8).run_until_idle(30.0)
    assert report.succeeded == 201
    assert beside == [{"suspect"}]


def test_g6_enough_deaths_alone_convict_a_task_without_another_run(client: CountingClient) -> None:
    """At ``max_crashes`` the message is dead-lettered as ``crashed``, not run, and its attempts are not touched."""
    client.deaths["q"] = suspected(b"pill")
    client.deaths["q.suspects"] = suspected(b"pill", deaths=2)
    runs: Counter[str] = Counter()

    def handler(payload: str) -> None:
        runs[payload] += 1

    client.send_many("q", ["pill", "good"])
    report = TaskManager(client, handler, "q", "dead", max_crashes=3, max_workers=2).run_until_idle(30.0)
    assert (report[Outcome.CRASHED], report.succeeded) == (1, 1)
    assert runs == {"good": 1}
    (letter,) = client.dead_letters("dead")
    assert (letter.reason, letter.crashes, letter.attempts) == (Reason.CRASHED, 3, 0)
    assert letter.source_queue == "q"


def test_g6_deaths_in_company_never_convict(client: CountingClient) -> None:
    """However many workers died with a message among others, it gets a run alone before it is dead-lettered."""
    client.deaths["q"] = suspected(b"innocent", deaths=50)
    client.send("q", "innocent")
    report = TaskManager(client, lambda _: None, "q", "dead", max_crashes=3, max_workers=2).run_until_idle(30.0)
    assert (report.succeeded, report.dead_lettered) == (1, 0)


def test_g6_a_suspect_that_merely_fails_goes_on_with_its_attempts(client: CountingClient) -> None:
    """A failure of a suspect is a failure: counted, retried, and dead-lettered as ``failed``."""
    first = iter([1])
    client.deaths["q"] = lambda body: next(first, 0)
    attempts: list[int] = []

    def handler(payload: object) -> None:
        attempts.append(1)
        raise ValueError("sick")

    client.send("q", "sick")
    report = TaskManager(client, handler, "q", "dead", max_retries=2, max_workers=2).run_until_idle(30.0)
    assert len(attempts) == 3
    assert (report[Outcome.RETRIED], report[Outcome.FAILED]) == (2, 1)
    (letter,) = client.dead_letters("dead")
    assert (letter.reason, letter.attempts, letter.source_queue) == (Reason.FAILED, 3, "q")


def test_g6_a_suspect_that_hangs_is_timed_out_and_the_others_go_on(client: CountingClient) -> None:
    """A suspect that runs alone too long is fenced like any other task, and gives the workers free."""
    client.deaths["q"] = suspected(b"stuck")
    release = threading.Event()

    def handler(payload: str) -> None:
        if payload == "stuck":
            release.wait()

    client.send_many("q", ["stuck", *(f"good-{n}" for n in range(20))])
    manager = TaskManager(client, handler, "q", "dead", max_retries=0, task_timeout=0.2, max_workers=2)
    try:
        report = manager.run_until_idle(30.0)
    finally:
        release.set()
    assert (report.succeeded, report[Outcome.TIMED_OUT]) == (20, 1)


def test_g6_stopping_hands_a_waiting_suspect_back(client: CountingClient) -> None:
    """A suspect that has not started when the worker stops stays in the side queue."""
    client.declare("q.suspects", "dead")
    busy, release = threading.Event(), threading.Event()

    def handler(payload: object) -> None:
        busy.set()
        release.wait(10.0)

    client.send("q", "long")
    with TaskManager(client, handler, "q", "dead", max_workers=2) as manager:
        assert busy.wait(10.0)
        client.publish("q.suspects", b'{"payload": 1}')
        stopper = threading.Thread(target=manager.stop)
        stopper.start()
        release.set()
        stopper.join(10.0)
        assert not stopper.is_alive()
    wait_for(lambda: client.stats("q").in_flight == 0)
    assert client.stats("q.suspects").ready == 1


@pytest.mark.parametrize("value", [0, 1, True, 2.5, "3"])
def test_max_crashes_must_leave_room_for_a_run_alone(client: CountingClient, value: object) -> None:
    """One death can be a neighbour's fault, so fewer than two are refused."""
    with pytest.raises(ConfigurationError, match="max_crashes"):
        TaskManager(client, print, "q", "dead", max_crashes=value)  # type: ignore[arg-type]


class FullSideQueue(CountingClient):
    """A broker that takes nothing into the side queue."""

    def reject(self, delivery: Delivery, requeue: bool = True, **options: Any) -> None:
        """Refuse to move a message."""
        if options.get("queue"):
            raise QueueFullError("no room for suspects")
        super().reject(delivery, requeue, **options)


def test_g19_a_suspect_that_cannot_be_put_apart_runs_beside_others(caplog: pytest.LogCaptureFixture) -> None:
    """It neither waits for room in the side queue nor goes round, and the log says why."""
    with FullSideQueue() as client:
        client.declare("q", "dead")
        client.deaths["q"] = suspected(b"suspect")
        client.send_many("q", ["suspect", "task"])
        report = TaskManager(client, lambda _: None, "q", "dead", max_workers=2).run_until_idle(30.0)
    assert (report.succeeded, report[Outcome.HANDED_BACK]) == (2, 0)
    assert "cannot run by itself: no room for suspects" in caplog.text


class DeafClient(CountingClient):
    """A broker that does not answer."""

    def count(self, queue: str) -> QueueStats:
        """Fail."""
        raise BrokerUnavailableError(f"no answer about {queue}")


def test_g6_suspects_that_cannot_be_looked_for_are_reported(caplog: pytest.LogCaptureFixture) -> None:
    """One failure is no news; many in a row are a warning, and not one each time."""
    suspects = SideQueue(DeafClient(), "q.suspects")
    for count in range(1, 11):
        suspects.moved()
        assert suspects.take(lambda: True, threading.Event()) is None
        warnings = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
        assert len(warnings) == (count >= 3)
    assert "no answer about q.suspects" in warnings[0]
