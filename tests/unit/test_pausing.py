"""What managers do while their queue is paused. The looks at the broker are made more often here than they are."""

from __future__ import annotations

import gc
import logging
import threading
import time
import weakref
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any

import pytest

from qbridge_core import (
    AuthenticationError,
    BrokerUnavailableError,
    Capabilities,
    Delivery,
    NotConnectedError,
    QueuePausedError,
    TaskManager,
    connect,
)
from qbridge_core.logs import flush
from qbridge_core.work import pauses
from qbridge_core.work.dispatcher import Dispatcher
from qbridge_core.work.gate import Gate
from qbridge_core.work.pausing import Pausing
from qbridge_core.work.readahead import ReadAhead
from qbridge_core.work.rest import MANY
from qbridge_memory import MemoryClient
from support.handlers import work
from support.wait import wait_for


@pytest.fixture(autouse=True)
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    """Look twenty times a second."""
    monkeypatch.setattr(pauses, "LOOK_EVERY", 0.05)


class Asked(MemoryClient):
    """Counts how often it is asked which queues are paused, and may refuse to say."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: Counter[int] = Counter()
        self.refusal: Exception | None = None

    def paused(self, queues: Iterable[str]) -> set[str]:
        """Count, then look."""
        names = list(queues)
        self.asked[len(names)] += 1
        if self.refusal is not None:
            raise self.refusal
        return super().paused(names)


@pytest.fixture
def client() -> Iterator[Asked]:
    """A connected client with the queues ``q`` and ``d``."""
    with Asked() as client:
        client.declare("q", "d")
        yield client


def rested(client: MemoryClient, queue: str = "q") -> bool:
    """Whether nobody waits at the broker for messages of a queue: what is sent there stays."""
    client.publish(queue, b"{}")
    time.sleep(0.02)
    return bool(client.purge(queue))


def test_coroutines_rest(client: Asked) -> None:
    """Their one reader waits for the end of the pause, and goes on then."""
    runs: list[object] = []

    async def handler(payload: object) -> None:
        runs.append(payload)

    with TaskManager(client, handler, "q", "d", max_workers=10) as manager:
        client.send("q", 1)
        wait_for(lambda: runs == [1], 10.0)
        client.pause("q")
        wait_for(lambda: manager.paused and rested(client), 10.0)
        client.send("q", 2)
        client.resume("q")
        wait_for(lambda: runs == [1, 2], 10.0)


def test_child_processes_rest(client: Asked) -> None:
    """What runs in them ends, and nothing more is given to them."""
    with TaskManager(client, work, "q", "d", max_workers=2, executor="process") as manager:
        client.pause("q")
        wait_for(lambda: manager.paused and rested(client), 10.0)
        client.send_many("q", [{}, {}])
        assert manager.report().succeeded == 0
        client.resume("q")
        assert manager.run_until_idle(60.0).succeeded == 2


def test_what_was_read_ahead_and_not_begun_goes_back(client: Asked, monkeypatch: pytest.MonkeyPatch) -> None:
    """At once, in its order, and uncounted; the task that runs goes on."""
    monkeypatch.setattr(ReadAhead, "more", lambda self, done, now: 20)
    monkeypatch.setattr("qbridge_core.work.dispatcher._STALE_AFTER", 3600.0)
    running, go_on = threading.Event(), threading.Event()

    def handler(payload: object) -> None:
        running.set()
        go_on.wait(30.0)

    client.send_many("q", range(10))
    with TaskManager(client, handler, "q", "d", max_workers=1, task_timeout=600.0) as manager:
        assert running.wait(10.0)
        wait_for(lambda: client.stats("q").in_flight == 10, 10.0)
        client.pause("q")
        wait_for(lambda: client.stats("q").ready == 9, 10.0)
        back = client.receive("q", 10)
        assert [delivery.attempts for delivery in back] == [0] * 9
        assert [b'"payload":%d,' % number in delivery.body for number, delivery in enumerate(back, 1)] == [True] * 9
        client.hand_back(reversed(back))
        go_on.set()
        client.resume("q")
        assert manager.run_until_idle(30.0).succeeded == 10


def test_a_request_that_waits_long_is_ended(client: Asked) -> None:
    """A manager that rests as nothing comes for it may wait at the broker for a minute; a pause ends that."""
    manager = TaskManager(client, print, "q", "d", max_workers=1)
    thread = threading.Thread(target=manager.start, args=(3600.0,), daemon=True)
    thread.start()
    wait_for(lambda: manager.running, 10.0)
    client.pause("q")
    wait_for(lambda: manager.paused and rested(client), 10.0)
    manager.stop()
    thread.join(10.0)
    assert not thread.is_alive()


def test_a_stop_ends_the_rest(client: Asked) -> None:
    """Whoever waits for the end of a pause ends with the manager, and nothing is subscribed afterwards."""
    client.pause("q")
    for _ in range(3):
        with TaskManager(client, print, "q", "d", max_workers=4) as manager:
            wait_for(lambda: manager.paused, 10.0)
            began = time.monotonic()
        assert time.monotonic() - began < 5.0
        assert (manager.running, manager.paused) == (False, False)
    client.resume("q")
    assert rested(client)


def test_many_pauses_and_resumes_end_as_the_last_one_says(client: Asked, monkeypatch: pytest.MonkeyPatch) -> None:
    """However slowly the broker takes messages back, and whoever is overtaken by whom."""
    unsubscribe = MemoryClient.unsubscribe

    def slowly(self: MemoryClient, queue: str) -> None:
        time.sleep(0.03)
        unsubscribe(self, queue)

    monkeypatch.setattr(Asked, "unsubscribe", slowly, raising=False)
    with TaskManager(client, lambda _: None, "q", "d", max_workers=2) as manager:
        for turn in range(20):
            (client.resume if turn % 2 else client.pause)("q")
            time.sleep(0.04)
        wait_for(lambda: not manager.paused, 10.0)
        client.send_many("q", range(10))
        assert manager.run_until_idle(30.0).succeeded == 10
        client.pause("q")
        wait_for(lambda: manager.paused and rested(client), 10.0)
        client.resume("q")


def test_one_look_serves_all_managers_of_a_client(client: Asked) -> None:
    """A look asks for all queues at once, however many managers there are; the first look of each is its own."""
    managers = [TaskManager(client, print, f"q{number}", "d", max_workers=1) for number in range(20)]
    for manager in managers:
        manager.__enter__()
    try:
        wait_for(lambda: client.asked[20] >= 3, 10.0)
        assert client.asked[1] <= 20 + 2, "with what is asked while there is one manager"
        client.pause("q7")
        wait_for(lambda: [manager.paused for manager in managers].count(True) == 1, 10.0)
        assert managers[7].paused
    finally:
        for manager in managers:
            manager.__exit__(None, None, None)


def test_nobody_looks_when_no_manager_is_left() -> None:
    """And nothing holds the client."""
    gone = weakref.ref(once_asked())
    wait_for(lambda: gc.collect() is not None and gone() is None, 10.0)


def once_asked() -> Asked:
    """A client that was asked as long as it had a manager."""
    client = Asked()
    client.connect()
    with TaskManager(client, print, "q", "d", max_workers=1):
        wait_for(lambda: client.asked[1] >= 3, 10.0)
    asked = client.asked.total()
    time.sleep(0.2)
    assert client.asked.total() <= asked + 1
    return client


def test_a_client_that_cannot_pause_is_not_asked(client: Asked, monkeypatch: pytest.MonkeyPatch) -> None:
    """It costs nothing where nobody can pause anything."""
    monkeypatch.setattr(Asked, "capabilities", Capabilities(delay=True), raising=False)
    client.send("q", 1)
    assert TaskManager(client, lambda _: None, "q", "d").run_until_idle(10.0).succeeded == 1
    assert not client.asked


def test_while_nobody_can_tell_all_stays_as_it_is(client: Asked) -> None:
    """A broker that is away ends no pause, and begins none; a worker that starts meanwhile works."""
    with TaskManager(client, lambda _: None, "q", "d", max_workers=1) as manager:
        client.pause("q")
        wait_for(lambda: manager.paused, 10.0)
        client.refusal = BrokerUnavailableError("away")
        asked = client.asked.total()
        wait_for(lambda: client.asked.total() > asked + 3, 10.0)
        assert manager.paused
        other = TaskManager(client, lambda _: None, "q", "d", max_workers=1)
        with other:
            wait_for(lambda: other.running, 10.0)
            assert not other.paused
        client.resume("q")
        client.refusal = None
        wait_for(lambda: not manager.paused, 10.0)


def test_who_may_not_look_works_and_says_so_once(client: Asked, caplog: pytest.LogCaptureFixture) -> None:
    """Queues that were served before there were pauses are served on."""
    client.refusal = AuthenticationError("no permission")
    client.send("q", 1)
    with TaskManager(client, lambda _: None, "q", "d", max_workers=1) as manager:
        assert manager.run_until_idle(10.0).succeeded == 1
        wait_for(lambda: client.asked.total() > 5, 10.0)
    flush()
    said = [record for record in caplog.records if "cannot look which queues are paused" in record.message]
    assert [(record.levelno, "no permission" in record.message) for record in said] == [(logging.WARNING, True)]


def test_a_manager_that_rests_sees_that_its_client_was_disconnected(client: Asked) -> None:
    """It ends with that error, as one does that works."""
    client.pause("q")
    manager = TaskManager(client, print, "q", "d", max_workers=1)
    manager.__enter__()
    wait_for(lambda: manager.paused, 10.0)
    client.disconnect()
    assert manager.wait(10.0)
    with pytest.raises(NotConnectedError):
        manager.__exit__(None, None, None)


def test_a_pause_is_told_in_the_log(client: Asked, caplog: pytest.LogCaptureFixture) -> None:
    """Its begin and its end are one line each, with the queue."""
    caplog.set_level(logging.INFO, "qbridge")
    with TaskManager(client, print, "q", "d", max_workers=1) as manager:
        client.pause("q")
        wait_for(lambda: manager.paused, 10.0)
        client.resume("q")
        wait_for(lambda: not manager.paused, 10.0)
    flush()
    told = [record for record in caplog.records if "paused" in record.message or "resumed" in record.message]
    assert [getattr(record, "qbridge_queue", None) for record in told] == ["q", "q"]
    assert ["is paused" in told[0].message, "is resumed" in told[1].message] == [True, True]


def test_run_until_idle_waits_for_what_runs(client: Asked) -> None:
    """It gives up when nothing runs any more, and not while a task does that may be the last one."""
    go_on = threading.Event()

    def handler(payload: object) -> None:
        client.pause("q")
        go_on.wait(30.0)

    client.send_many("q", range(3))
    manager = TaskManager(client, handler, "q", "d", max_workers=1)
    threading.Timer(0.3, go_on.set).start()
    with pytest.raises(QueuePausedError) as caught:
        manager.run_until_idle(30.0)
    report: Any = caught.value.report
    assert report.succeeded >= 1


def test_suspects_rest_too() -> None:
    """A worker's thread does not look for them while the gate is shut."""
    looks: list[int] = []

    class Suspects:
        patience = 0.01

        def take(self, *args: object) -> Delivery | None:
            looks.append(1)
            return None

        def nothing_else(self) -> None:
            """Nothing."""

        def due_in(self) -> float:
            return 1.0

    with connect("memory://") as client:
        client.declare("q", "d")
        suspects: Any = Suspects()
        dispatcher = Dispatcher(client, "q", 1, 0.01, suspects)
        thread = threading.Thread(target=dispatcher.take, daemon=True)
        thread.start()
        wait_for(lambda: len(looks) > 3, 10.0)
        dispatcher.gate.shut()
        dispatcher.rest()
        before = len(looks)
        time.sleep(0.1)
        assert len(looks) == before
        dispatcher.go_on()
        wait_for(lambda: len(looks) > before, 10.0)
        dispatcher.close()
        thread.join(10.0)
        assert not thread.is_alive()


def test_a_gate_lets_nobody_wait_who_cannot_be_told() -> None:
    """Given up, it holds up nobody, also when it is shut once more."""
    gate = Gate()
    assert gate.enter()
    gate.leave()
    gate.give_up()
    gate.shut()
    assert gate.enter()


@pytest.mark.parametrize("count", [1, MANY + 5])
def test_a_rest_of_idle_queues_and_a_pause_do_not_hinder_each_other(client: Asked, count: int) -> None:
    """Where many managers share their looks one that is resumed works at once."""
    managers = [TaskManager(client, lambda _: None, f"q{n}", "d", max_workers=1) for n in range(count)]
    for manager in managers:
        manager.__enter__()
    try:
        client.pause("q0")
        wait_for(lambda: managers[0].paused and rested(client, "q0"), 10.0)
        client.send("q0", 1)
        client.resume("q0")
        assert managers[0].run_until_idle(10.0).succeeded == 1
    finally:
        for manager in managers:
            manager.__exit__(None, None, None)


class Told(Dispatcher):
    """One whose queue is paused or resumed while it starts its consumer, as somebody else may do."""

    steps: list[str]
    pausing: Pausing

    def open(self) -> None:
        """Be told of a pause meanwhile."""
        super().open()
        self.steps.append("open")
        self.pausing.tell(True)

    def rest(self) -> list[Delivery]:
        """Note it."""
        self.steps.append("rest")
        return super().rest()


def test_a_pause_that_comes_while_a_worker_starts_is_followed(client: Asked) -> None:
    """What the consumer that is just being started has got goes back, too."""
    dispatcher = Told(client, "q", 1, 0.1)
    dispatcher.steps = []
    dispatcher.pausing = pausing = Pausing(client, "q", dispatcher, None, client.hand_back)
    pausing.begin()
    try:
        wait_for(lambda: dispatcher.steps == ["open"], 10.0)
        assert pausing.tell(True)  # the next look
        pausing.follow()
        assert dispatcher.steps == ["open", "rest"]
        assert pausing.rests
    finally:
        pausing.end()
        dispatcher.close()


def test_one_that_cannot_go_on_keeps_no_other_from_it(client: Asked, monkeypatch: pytest.MonkeyPatch) -> None:
    """A backend that fails in an unforeseen way is asked again, and a worker is never left at rest for ever."""
    names = [f"q{n}" for n in range(20)]  # more than there are threads to tell them
    managers = [TaskManager(client, lambda _: None, name, "d", max_workers=1) for name in names]
    for manager in managers:
        manager.__enter__()
    failures = ["q0", "q0", "q1"]
    subscribe = client.subscribe

    def fail(queue: str, *args: Any) -> None:
        if queue in failures:
            failures.remove(queue)
            raise RuntimeError("can't start new thread")
        subscribe(queue, *args)

    try:
        for name in names:
            client.pause(name)
        wait_for(lambda: all(manager.paused for manager in managers), 10.0)
        monkeypatch.setattr(client, "subscribe", fail)
        for name in names:
            client.resume(name)
        wait_for(lambda: not any(manager.paused for manager in managers), 10.0)
        client.send_many("q0", [1])
        assert managers[0].run_until_idle(10.0).succeeded == 1
        assert not failures
    finally:
        for manager in managers:
            manager.__exit__(None, None, None)
