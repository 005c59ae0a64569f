"""The hand-over from the client to the workers: next to nothing is held that no worker is free for."""

from __future__ import annotations

import logging
import threading
import time
from typing import Any

import pytest

from qbridge_core import BrokerUnavailableError, Delivery, NotConnectedError, Outcome, TaskManager
from qbridge_core.work.dispatcher import Dispatcher
from qbridge_core.work.readahead import MOST, SECONDS_HELD, ReadAhead
from qbridge_memory import MemoryClient
from support.wait import wait_for


class Recording(MemoryClient):
    """Records each request for messages, and how many ran at once."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[int] = []
        self.at_once = 0
        self.most_at_once = 0
        self._count = threading.Lock()

    def receive(self, queue: str, max_messages: int = 1, timeout: float = 0.0) -> list[Delivery]:
        """Count, then receive."""
        with self._count:
            self.asked.append(max_messages)
            self.at_once += 1
            self.most_at_once = max(self.most_at_once, self.at_once)
        try:
            return super().receive(queue, max_messages, timeout)
        finally:
            with self._count:
                self.at_once -= 1


@pytest.fixture
def recording() -> Recording:
    """A recording client with the queues ``q`` and ``d``."""
    client = Recording()
    client.connect()
    client.declare("q", "d")
    return client


def test_no_more_is_asked_for_than_workers_are_idle(recording: Recording) -> None:
    """With 3 of 4 workers stuck, one message is taken at a time and the others stay at the broker."""
    release, running = threading.Event(), threading.Semaphore(0)

    def handler(payload: Any) -> None:
        running.release()
        if payload == "stuck":
            release.wait(10)
        time.sleep(SECONDS_HELD)  # for tasks that are quicker some more are taken

    recording.send_many("q", ["stuck"] * 3)
    with TaskManager(recording, handler, "q", "d", max_workers=4):
        for _ in range(3):
            assert running.acquire(timeout=5)
        wait_for(lambda: recording.at_once == 1 and recording.asked[-1] == 1, 5.0)
        before = len(recording.asked)
        recording.send_many("q", range(20))
        wait_for(lambda: recording.stats("q").ready == 0 and recording.stats("q").in_flight == 3, 5.0)
        assert set(recording.asked[before:]) == {1}
        assert max(recording.asked) <= 4
        release.set()


def test_idle_workers_ask_for_one_message_each_at_once(recording: Recording) -> None:
    """One request serves all idle workers: a round trip to the broker is not made for each."""
    barrier = threading.Barrier(4, timeout=5)
    with TaskManager(recording, lambda _: barrier.wait(), "q", "d", max_workers=4) as manager:
        session = manager._current.session
        assert session is not None
        wait_for(lambda: recording.at_once == 1 and session._job.dispatcher._idle.value == 4, 5.0)
        recording.send_many("q", range(8))
        wait_for(lambda: recording.stats("q").in_flight == recording.stats("q").ready == 0, 5.0)
        assert max(recording.asked) > 1


def test_one_receive_runs_at_a_time(recording: Recording) -> None:
    """A backend's ``receive`` serves one thread only, however many workers there are."""
    recording.send_many("q", range(300))
    TaskManager(recording, lambda _: None, "q", "d", max_workers=8).run_until_idle(20.0)
    assert recording.most_at_once == 1


def test_a_closed_dispatcher_lets_nothing_out(recording: Recording) -> None:
    """After ``close`` every worker gets None, also where messages wait; they are left over."""
    recording.send_many("q", range(3))
    dispatcher = Dispatcher(recording, "q", 3, 0.1)
    dispatcher.open()
    dispatcher._ready.extend(recording.receive("q", 2))
    dispatcher.close()
    assert dispatcher.take() is None
    assert len(dispatcher.left_over()) == 2
    assert dispatcher.left_over() == []
    assert recording.stats("q").ready == 1


def test_closing_wakes_a_waiting_worker(recording: Recording) -> None:
    """A worker that waits for messages ends at once, not after the poll timeout."""
    dispatcher = Dispatcher(recording, "q", 1, 300.0)
    results: list[Delivery | None] = []
    thread = threading.Thread(target=lambda: results.append(dispatcher.take()), daemon=True)
    thread.start()
    wait_for(lambda: recording.at_once == 1, 5.0)
    wait_for(lambda: dispatcher.close() or results, 5.0)
    assert results == [None]


class Flaky(Recording):
    """Fails to receive until told otherwise."""

    error: Exception | None = None

    def receive(self, queue: str, max_messages: int = 1, timeout: float = 0.0) -> list[Delivery]:
        """Raise the error, if there is one."""
        if (error := self.error) is not None:  # one look: the test takes it away meanwhile
            self.asked.append(max_messages)
            raise error
        return super().receive(queue, max_messages, timeout)


@pytest.mark.parametrize(
    "error", [BrokerUnavailableError("gone"), RuntimeError("a bug of the backend")], ids=["ours", "foreign"]
)
def test_a_worker_keeps_asking_while_receive_fails(error: Exception, caplog: pytest.LogCaptureFixture) -> None:
    """Whatever ``receive`` raises, the worker asks again after a pause, says so once, and goes on when it can."""
    client = Flaky()
    client.connect()
    client.declare("q", "d")
    client.error = error
    done = threading.Event()
    with caplog.at_level(logging.INFO, "qbridge"), TaskManager(client, lambda _: done.set(), "q", "d", max_workers=1):
        client.send("q", 1)
        wait_for(lambda: len(client.asked) >= 3, 5.0)
        assert not done.is_set()
        client.error = None
        assert done.wait(5)
    loud = [record for record in caplog.records if "cannot receive from q" in record.message]
    assert [record.levelno for record in loud] == [logging.ERROR]
    assert "receiving from q again" in caplog.text


def test_pauses_grow_and_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """A broker that is away for long is asked every two seconds, not in a busy loop."""
    client = Flaky()
    client.connect()
    client.error = BrokerUnavailableError("gone")
    dispatcher = Dispatcher(client, "q", 1, 0.1)
    pauses: list[float] = []
    monkeypatch.setattr(dispatcher._closed, "wait", pauses.append)
    for _ in range(7):
        dispatcher._read()
    assert pauses == [0.1, 0.2, 0.4, 0.8, 1.6, 2.0, 2.0]


def test_a_disconnected_client_ends_the_asking() -> None:
    """Nobody will connect it again: the worker is told."""
    client = Recording()
    with pytest.raises(NotConnectedError):
        Dispatcher(client, "q", 1, 0.1).take()


def test_g4_quick_tasks_are_read_ahead_within_a_bound() -> None:
    """Of tasks that take microseconds two milliseconds of work are held beyond the free workers, and 100 at most."""
    ahead = ReadAhead(workers=10)
    ahead.more(0, 100.0)
    assert ahead.more(10_000, 100.5) == 40
    assert ahead.more(200_000, 101.0) == MOST


@pytest.mark.parametrize("seconds", [0.003, 0.02, 10.0])
def test_g4_tasks_of_milliseconds_are_not_read_ahead(seconds: float) -> None:
    """Of tasks that take longer than two milliseconds only as many are taken as workers are free."""
    ahead = ReadAhead(workers=10)
    ahead.more(0, 100.0)
    assert ahead.more(round(10 / seconds), 101.0) == 0


def test_reading_ahead_needs_more_than_tasks_that_end_together() -> None:
    """Ten long tasks that end in the same moment do not count as quick ones, and a pause ends the reading ahead."""
    ahead = ReadAhead(workers=10)
    ahead.more(0, 100.0)
    assert ahead.more(10, 100.001) == 0
    assert ahead.more(10, 100.005) == 0
    assert ahead.more(1_000, 100.015) > 0
    assert ahead.more(1_010, 105.0) == 0


def test_the_wait_for_the_broker_is_no_part_of_the_tasks() -> None:
    """Ten tasks of 0.1 ms for each answer that takes 20 ms are quick ones, and ten of 3 ms are not."""
    quick, slow = ReadAhead(workers=10), ReadAhead(workers=10)
    now = 100.0
    for number in range(100):
        quick.more(number * 10, now)
        slow.more(number * 10, now)
        quick.waited(0.02)
        slow.waited(0.018)
        now += 0.021
    assert 15 <= quick.more(1_000, now) <= 20
    assert slow.more(1_000, now) == 0


def test_quick_tasks_are_read_ahead_from_a_broker_that_answers_late() -> None:
    """Requests that take 10 ms bring more than one message for each worker, once it is plain that tasks are quick."""

    class Late(Recording):
        def receive(self, queue: str, max_messages: int = 1, timeout: float = 0.0) -> list[Delivery]:
            time.sleep(0.01)
            return super().receive(queue, max_messages, timeout)

    client = Late()
    with client:
        client.declare("q", "d")
        client.send_many("q", range(5_000))
        assert TaskManager(client, lambda _: None, "q", "d", max_workers=4).run_until_idle(60.0).succeeded == 5_000
    assert len(client.asked) < 1_000  # 1,250 would bring one for each worker


def test_g4_many_quick_tasks_need_few_requests(recording: Recording) -> None:
    """The requests to the broker are a small fraction of the tasks once it is known that tasks are quick."""
    recording.send_many("q", range(5_000))
    TaskManager(recording, lambda _: None, "q", "d", max_workers=4).run_until_idle(60.0)
    assert len(recording.asked) < 1_000
    assert max(recording.asked) <= 4 + MOST


def test_g8_what_waits_behind_long_tasks_goes_back_uncounted(recording: Recording) -> None:
    """Messages that were read ahead go back to the queue when the tasks before them turn out to be long."""
    release, running = threading.Event(), threading.Semaphore(0)

    def handler(payload: Any) -> None:
        running.release()
        release.wait(30)

    with TaskManager(recording, handler, "q", "d", max_workers=2) as manager:
        recording.send_many("q", range(2))
        for _ in range(2):
            assert running.acquire(timeout=5)
        recording.send_many("q", range(5))
        session = manager._current.session
        assert session is not None
        dispatcher = session._job.dispatcher
        dispatcher._ready.extend(recording.receive("q", 3))  # as if they had been read with the first two
        wait_for(lambda: recording.stats("q").ready == 5, 10.0)
        assert recording.stats("q").in_flight == 2
        release.set()
        report = manager.run_until_idle(20.0)
    assert (report.succeeded, report[Outcome.HANDED_BACK], report.retried) == (7, 3, 0)


def test_what_is_read_ahead_is_shared_equally(recording: Recording, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each worker that takes several gets its share, what no worker has begun goes first, and suspects go alone."""
    monkeypatch.setattr(ReadAhead, "more", lambda self, done, now: 20)
    recording.send_many("q", range(40))
    dispatcher = Dispatcher(recording, "q", 2, 0.1)
    taken = [dispatcher.take_more(_take(dispatcher), 100) for _ in range(2)]
    assert [len(each) for each in taken] == [11, 10]
    assert dispatcher.put_back(taken[0][3:]) == []
    assert _take(dispatcher) is taken[0][3]
    taken[0][5].suspected = True
    assert dispatcher.take_more(taken[0][3], 100) == taken[0][3:5]
    assert dispatcher.take_more(_take(dispatcher), 100) == [taken[0][5]]
    assert len(dispatcher.take_more(_take(dispatcher), 3)) == 3


def test_g8_tasks_are_not_shared_that_workers_are_free_for(recording: Recording) -> None:
    """As long as tasks are not known to be quick, a worker takes none beside its own."""
    recording.send_many("q", range(40))
    dispatcher = Dispatcher(recording, "q", 4, 0.1)
    dispatcher.idle.add(3)
    assert len(dispatcher.take_more(_take(dispatcher), 100)) == 1
    assert dispatcher.has_ready


def test_g8_what_comes_back_when_all_was_handed_back_is_not_kept(recording: Recording) -> None:
    """A worker that notices late, while the pool closes, has to hand its unbegun tasks back itself."""
    recording.send_many("q", range(3))
    dispatcher = Dispatcher(recording, "q", 1, 0.1)
    taken = [_take(dispatcher) for _ in range(3)]
    assert dispatcher.left_over() == []
    assert dispatcher.put_back(taken[1:]) == taken[1:]


def _take(dispatcher: Dispatcher) -> Delivery:
    delivery = dispatcher.take()
    assert delivery is not None
    return delivery
