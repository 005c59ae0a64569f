"""Pools: queues of an app whose tasks share their workers, by weight."""

from __future__ import annotations

import os
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from qbridge_core import (
    App,
    CloudEventsFormat,
    ConfigurationError,
    Delivery,
    EnvelopeFormat,
    Outcome,
    QueuePausedError,
    Reason,
    TaskManager,
    UnroutableError,
    current_task,
    hookimpl,
)
from qbridge_core.app.task import AppTask
from qbridge_core.work import pauses
from support.apps import client_of, letters
from support.handlers import notes
from support.wait import wait_for

URGENT, NORMAL = "urgent", "normal"
_OF_WEIGHT: dict[str, int] = {URGENT: 5, NORMAL: 1}


def nothing() -> None:
    """A task that nobody sends."""


class Started:
    """The tasks of two queues, and the order in which they have started."""

    def __init__(self, app: App, seconds: float = 0.0, **settings: Any) -> None:
        self.order: list[str] = []
        app.pool("web", queues=_OF_WEIGHT, **settings)
        self.urgent = self._task(app, URGENT, seconds)
        self.normal = self._task(app, NORMAL, seconds)

    def _task(self, app: App, queue: str, seconds: float) -> AppTask[Any]:
        def started() -> None:
            self.order.append(queue)
            time.sleep(seconds)

        return app.task(name=queue, queue=queue)(started)

    def while_both_had_some(self) -> Counter[str]:
        """How many of each have started until the last of one of them did."""
        last = min(len(self.order) - self.order[::-1].index(queue) for queue in (URGENT, NORMAL))
        return Counter(self.order[:last])


@contextmanager
def working(app: App) -> Iterator[TaskManager]:
    """Work on all of its queues, which are one pool."""
    (manager,) = app.managers()
    with manager:
        yield manager


@pytest.mark.parametrize("workers", [1, 4])
def test_tasks_start_by_weight_while_all_queues_are_full(app: App, workers: int) -> None:
    """Five urgent ones for each other one, with one slot as with several; nothing is lost."""
    started = Started(app, max_workers=workers)
    app.send_many([started.normal.message() for _ in range(120)] + [started.urgent.message() for _ in range(300)])
    assert app.run_until_idle().counts == {Outcome.SUCCEEDED: 420}
    counts = started.while_both_had_some()
    assert counts[URGENT] == 300
    assert 55 <= counts[NORMAL] <= 65


def test_coroutines_start_by_weight(app: App) -> None:
    """One slot is free at a time there too."""
    order: list[str] = []
    app.pool("web", queues=_OF_WEIGHT, max_workers=3)

    def task_of(queue: str) -> AppTask[Any]:
        async def started() -> None:
            order.append(queue)

        return app.task(name=queue, queue=queue)(started)

    urgent, normal = task_of(URGENT), task_of(NORMAL)
    app.send_many([normal.message() for _ in range(60)] + [urgent.message() for _ in range(150)])
    assert app.run_until_idle().succeeded == 210
    last = len(order) - order[::-1].index(URGENT)
    assert 27 <= order[:last].count(NORMAL) <= 33


def test_child_processes_take_tasks_of_all_queues(app: App, tmp_path: Path) -> None:
    """There are as many as one pool has, whichever queue their tasks come from."""
    from support.shop import pooled

    app.include(pooled.part)
    app.send_many(
        task.message(str(tmp_path / task.queue)) for task in (pooled.urgent, pooled.normal) for _ in range(20)
    )
    (manager,) = app.managers()
    assert manager.run_until_idle(60.0).succeeded == 40
    urgent, normal = (notes(tmp_path / queue) for queue in (URGENT, NORMAL))
    assert (len(urgent), len(normal)) == (20, 20)
    assert 1 <= len({*urgent, *normal} - {str(os.getpid())}) <= 2


def test_an_urgent_task_is_the_next_when_all_slots_are_busy(app: App) -> None:
    """However many of the others wait before it."""
    order: list[str] = []
    go_on = threading.Semaphore(0)
    app.pool("web", queues=_OF_WEIGHT, max_workers=1)

    @app.task(name="urgent", queue=URGENT)
    def urgent() -> None:
        order.append(URGENT)

    @app.task(name="normal", queue=NORMAL, task_timeout=60)
    def normal() -> None:
        order.append(NORMAL)
        go_on.acquire(timeout=30.0)

    app.send_many(normal.message() for _ in range(10))
    with working(app) as manager:
        wait_for(lambda: len(order) == 1, 10.0)
        go_on.release()
        wait_for(lambda: len(order) == 2, 10.0)
        urgent.send()
        go_on.release(20)
        assert manager.run_until_idle().succeeded == 11
    assert order[:3] == [NORMAL, NORMAL, URGENT]


def test_one_queue_has_all_slots_while_the_others_are_empty(app: App) -> None:
    """It is not held to its share; nobody waits for what is not there."""
    at_once = threading.Barrier(4)
    app.pool("web", queues=_OF_WEIGHT, max_workers=4)
    app.task(name="urgent", queue=URGENT)(nothing)

    @app.task(name="normal", queue=NORMAL, max_retries=0)
    def normal() -> None:
        at_once.wait(20.0)

    app.send_many(normal.message() for _ in range(8))
    assert app.run_until_idle().counts == {Outcome.SUCCEEDED: 8}


def test_timeouts_retries_and_dead_letters_are_those_of_task_and_queue(app: App) -> None:
    """A pool has slots in common and nothing else."""
    app.pool("web", queues=_OF_WEIGHT, max_workers=2)
    app.queue(URGENT, dead_letter_queue="lost")
    runs: Counter[str] = Counter()

    @app.task(name="fails", queue=URGENT, max_retries=2)
    def fails() -> None:
        runs["fails"] += 1
        raise ValueError(current_task().attempt)

    @app.task(name="slow", queue=NORMAL, max_retries=0, task_timeout=0.05)
    def slow() -> None:
        time.sleep(5.0)

    fails.send()
    slow.send()
    assert app.run_until_idle().counts == {Outcome.RETRIED: 2, Outcome.FAILED: 1, Outcome.TIMED_OUT: 1}
    assert runs["fails"] == 3
    (letter,) = client_of(app).dead_letters("lost")
    assert (letter.reason, letter.source_queue, letter.exception_message) == (Reason.FAILED, URGENT, "3")
    assert [reason for reason, _ in letters(app, NORMAL)] == [Reason.TIMED_OUT]


def test_one_queue_of_a_pool_can_be_paused(app: App, monkeypatch: pytest.MonkeyPatch) -> None:
    """The others go on, with all slots; what waits is worked off when it is resumed."""
    monkeypatch.setattr(pauses, "LOOK_EVERY", 0.05)
    started = Started(app, max_workers=2)
    client = client_of(app)
    with working(app) as manager:
        client.pause(URGENT)
        session = manager._current.session
        assert session is not None
        wait_for(lambda: session.rests_from(URGENT), 10.0)
        assert not manager.paused
        app.send_many([started.urgent.message() for _ in range(3)] + [started.normal.message() for _ in range(5)])
        wait_for(lambda: len(started.order) == 5, 10.0)
        assert set(started.order) == {NORMAL}
        with pytest.raises(QueuePausedError, match="'urgent' still has work, and is paused"):
            manager.run_until_idle()
        assert client.stats(URGENT).ready == 3
        client.resume(URGENT)
        wait_for(lambda: len(started.order) == 8, 10.0)
        client.pause(URGENT)
        client.pause(NORMAL)
        wait_for(lambda: manager.paused, 10.0)
        client.resume(NORMAL)
        started.normal.send()
        wait_for(lambda: len(started.order) == 9, 10.0)


def test_a_stop_hands_back_what_has_not_begun(app: App, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each to its own queue, uncounted; what runs ends."""
    from qbridge_core.work.readahead import ReadAhead

    monkeypatch.setattr(ReadAhead, "more", lambda self, done, now: 11)
    monkeypatch.setattr("qbridge_core.work.dispatcher._STALE_AFTER", 3600.0)
    running, go_on = threading.Event(), threading.Event()
    app.pool("web", queues={"a": 1, "b": 1}, max_workers=1)

    def run() -> None:
        running.set()
        go_on.wait(30.0)

    tasks = [app.task(name=queue, queue=queue, task_timeout=60)(run) for queue in ("a", "b")]
    app.send_many(task.message() for _ in range(6) for task in tasks)
    client = client_of(app)
    with working(app) as manager:
        assert running.wait(10.0)
        wait_for(lambda: client.count("a").in_flight + client.count("b").in_flight == 12, 10.0)
        stopping = threading.Thread(target=manager.stop)
        stopping.start()
        go_on.set()
        stopping.join(20.0)
        assert manager.report().counts == {Outcome.SUCCEEDED: 1, Outcome.HANDED_BACK: 11}
    assert client.count("a").ready + client.count("b").ready == 11
    assert {delivery.attempts for queue in ("a", "b") for delivery in client.receive(queue, 10)} == {0}


def test_hooks_and_health_name_each_queue(unique_name: str) -> None:
    """Start, end, settlements and what runs are told for each; a worker that takes nothing names all of them."""

    class Ears:
        def __init__(self) -> None:
            self.started: list[str] = []
            self.stopping: list[str] = []
            self.settled: Counter[str] = Counter()
            self.most_running: Counter[str] = Counter()

        @hookimpl
        def qbridge_worker_started(self, queue: str) -> None:
            self.started.append(queue)

        @hookimpl
        def qbridge_worker_stopping(self, queue: str) -> None:
            self.stopping.append(queue)

        @hookimpl
        def qbridge_settlements(self, queue: str, settlements: list[Any], running: int) -> None:
            self.settled[queue] += sum(each.times for each in settlements)
            self.most_running[queue] = max(self.most_running[queue], running)

    ears, go_on = Ears(), threading.Event()
    app = App(plugins=[ears])
    app.pool("web", queues=_OF_WEIGHT, max_workers=5)
    urgent = app.task(name="urgent", queue=URGENT)(lambda: None)
    normal = app.task(name="normal", queue=NORMAL)(lambda: go_on.wait(20.0) and None)
    with app.open(f"memory://{unique_name}"):
        app.send_many([urgent.message() for _ in range(4)] + [normal.message() for _ in range(3)])
        (manager,) = app.managers()
        assert "'urgent, normal' takes nothing" in manager.health().reason
        with manager:
            wait_for(lambda: ears.most_running == {URGENT: 0, NORMAL: 3}, 10.0)
            go_on.set()
            assert manager.run_until_idle().succeeded == 7
            assert manager.health().ready
    assert ears.started == ears.stopping == [URGENT, NORMAL]
    assert ears.settled == {URGENT: 4, NORMAL: 3}


def test_a_pool_has_one_lifespan(unique_name: str) -> None:
    """It is entered once, and the tasks of all queues have what it yields."""
    entered: list[int] = []
    seen: list[object] = []

    @contextmanager
    def lifespan() -> Iterator[str]:
        entered.append(os.getpid())
        yield "open"

    app = App(lifespan=lifespan)
    app.pool("web", queues=_OF_WEIGHT)
    tasks = [app.task(name=queue, queue=queue)(lambda: seen.append(current_task().state)) for queue in (URGENT, NORMAL)]
    with app.open(f"memory://{unique_name}"):
        app.send_many(task.message() for task in tasks)
        assert app.run_until_idle().succeeded == 2
    assert len(entered) == 1
    assert seen == ["open", "open"]


def test_some_queues_of_a_pool_can_be_chosen(app: App) -> None:
    """With the pool's settings; one that is chosen alone has the slots for itself. Other queues stay as they are."""
    started = Started(app, max_workers=7)
    app.task(name="mail", queue="mails")(nothing)
    assert [manager.input_queues for manager in app.managers()] == [(URGENT, NORMAL), ("mails",)]
    (one,) = app.managers([URGENT])
    assert (one.input_queues, one._plan.workers, one._plan.pool) == ((URGENT,), 7, ())
    started.urgent.send()
    started.normal.send()
    assert app.run_until_idle(queues=[URGENT]).succeeded == 1
    assert client_of(app).count(NORMAL).ready == 1


def test_settings_that_make_no_sense_are_refused(app: App) -> None:
    """The text says what to write instead."""
    wrong: Any
    for wrong, text in [
        ({}, "queues of pool 'web' must be names with weights, as in"),
        (["urgent"], "must be names with weights"),
        ({"urgent": 0}, "the weight of 'urgent' in pool 'web' must be a whole number from 1 to 1000, not 0"),
        ({"urgent": 1.5}, "not 1.5"),
        ({"urgent": True}, "not True"),
        ({"urgent": 1001}, "from 1 to 1000, not 1001"),
        ({"": 1}, "name"),
    ]:
        with pytest.raises(ConfigurationError, match=text):
            app.pool("web", queues=wrong)
    nameless: Any = None
    with pytest.raises(ConfigurationError, match="the name of a pool must be a text, not None"):
        app.pool(nameless, queues={"urgent": 1})
    setting: dict[str, Any] = {"max_worker": 3}
    with pytest.raises(ConfigurationError, match="pool 'web' has no setting 'max_worker'; did you mean 'max_workers'"):
        app.pool("web", queues={"urgent": 1}, **setting)
    dead: dict[str, Any] = {"dead_letter_queue": "lost"}
    with pytest.raises(ConfigurationError, match=r"each of its queues may have one, as in app.queue\('urgent', dead_"):
        app.pool("web", queues={"urgent": 1}, **dead)


def test_what_belongs_to_the_pool_is_refused_for_its_queues(app: App) -> None:
    """In either order, and for an app that is included; a dead-letter queue is the queue's own."""
    text = r"queue 'urgent' is in pool 'web', whose queues share max_workers: give that to app.pool\('web', ...\)"
    part, other = App(), App()
    app.pool("web", queues=_OF_WEIGHT)
    with pytest.raises(ConfigurationError, match=text):
        app.queue(URGENT, max_workers=3)
    app.queue(URGENT, dead_letter_queue="lost")
    part.queue(URGENT, max_workers=3)
    with pytest.raises(ConfigurationError, match=text):
        part.pool("web", queues=_OF_WEIGHT)
    with pytest.raises(ConfigurationError, match=text):
        app.include(part)
    other.pool("more", queues={NORMAL: 2})
    with pytest.raises(ConfigurationError, match="queue 'normal' is in two pools, 'web' and 'more'; leave it out"):
        app.include(other)
    with pytest.raises(ConfigurationError, match="there is a pool 'web' already"):
        app.pool("web", queues={"mails": 2})


def test_a_queue_of_a_pool_without_tasks_is_misspelt(app: App) -> None:
    """The worker says so, and which there are."""
    app.pool("web", queues={"urgnet": 5, NORMAL: 1})
    app.task(name="urgent", queue=URGENT)(nothing)
    app.task(name="normal", queue=NORMAL)(nothing)
    with pytest.raises(ConfigurationError, match="no task of this app has the queue 'urgnet' of pool 'web'; there are"):
        app.managers()


def test_a_pool_cannot_have_its_letters_run_again(app: App) -> None:
    """A dead-letter queue that is a queue of the same pool would be a circle."""
    app.pool("web", queues=_OF_WEIGHT)
    app.queue(URGENT, dead_letter_queue=NORMAL)
    for queue in _OF_WEIGHT:
        app.task(name=queue, queue=queue)(nothing)
    with pytest.raises(ConfigurationError, match="dead_letter_queue of 'urgent' cannot be 'normal', from which this"):
        app.managers()


def test_the_queues_of_a_pool_have_formats_in_common(app: App) -> None:
    """What is sent to any of them is of the first, and its workers read all."""
    app.pool("web", queues=_OF_WEIGHT, formats=[CloudEventsFormat("shop"), EnvelopeFormat])
    runs: list[str] = []

    def run(text: str) -> None:
        runs.append(text)

    tasks = [app.task(name=queue, queue=queue)(run) for queue in (URGENT, NORMAL)]
    app.send_many(task.message("event") for task in tasks)
    client = client_of(app)
    (event,) = client.receive(NORMAL)
    assert event.content_type.startswith("application/cloudevents+json")
    client.reject(event)
    client.publish(NORMAL, b'{"task": "normal", "payload": {"text": "envelope"}}')
    assert app.run_until_idle().succeeded == 3
    assert sorted(runs) == ["envelope", "event", "event"]
    with pytest.raises(ConfigurationError, match="whose queues share formats"):
        app.queue(URGENT, formats=[EnvelopeFormat])


def test_several_pools_of_an_app_work_side_by_side(app: App) -> None:
    """Each waits for its own queues, on one client, and all end together."""
    runs: list[str] = []
    queues = {"a": 3, "b": 1}, {"c": 1, "d": 1}
    for number, weights in enumerate(queues):
        app.pool(f"pool {number}", queues=weights, max_workers=2)
        for queue in weights:
            app.task(name=queue, queue=queue)(lambda queue=queue: runs.append(queue))
    managers = app.managers()
    assert len(managers) == 2
    with managers[0], managers[1]:
        for _ in range(3):
            for task in app.tasks:
                task.send()
                count = len(runs) + 1
                wait_for(lambda count=count: len(runs) >= count, 10.0)
        begin = time.monotonic()
    assert time.monotonic() - begin < 5.0
    assert Counter(runs) == dict.fromkeys("abcd", 3)


def test_a_pool_with_a_queue_that_cannot_be_read_is_not_ready(app: App, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is alive, works on the other queues, and its health says which queue it is, and why."""
    monkeypatch.setattr(pauses, "LOOK_EVERY", 0.05)  # it is an answer of the broker, too
    started = Started(app, max_workers=1)
    client = client_of(app)
    receive = client.receive

    def refuse(queue: str, max_messages: int = 1, timeout: float = 0.0) -> list[Delivery]:
        if queue == URGENT:
            raise UnroutableError("it is gone")
        return receive(queue, max_messages, timeout)

    monkeypatch.setattr(client, "receive", refuse)
    with working(app) as manager:
        started.normal.send()
        wait_for(lambda: started.order == [NORMAL], 10.0)
        wait_for(lambda: not manager.health(silence=1.0).ready, 10.0)
        health = manager.health(silence=1.0)
        assert health.alive
        assert "nothing could be received from urgent for 1 s: it is gone" in health.reason
        monkeypatch.setattr(client, "receive", receive)
        wait_for(lambda: manager.health(silence=1.0).ready, 10.0)
