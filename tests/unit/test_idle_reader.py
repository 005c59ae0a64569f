"""Readers of coroutines whose queues are idle: in a process of many one thread waits for the messages of all."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator, Mapping

import pytest

from qbridge_core import BrokerUnavailableError, Delivery, NotConnectedError, TaskManager
from qbridge_memory import MemoryClient
from support.threads import NewThreads
from support.wait import wait_for

MANY = 6
done: list[object] = []


class Failing(MemoryClient):
    """One whose ``receive_any`` fails when it is told to."""

    def __init__(self) -> None:
        super().__init__()
        self.fails = threading.Event()

    def receive_any(self, wanted: Mapping[str, int], timeout: float = 0.0) -> list[Delivery]:
        """Take what has come, or fail."""
        came = [] if self.fails.is_set() else super().receive_any(wanted, timeout)
        if self.fails.is_set():
            raise BrokerUnavailableError("away")
        return came


async def note(payload: object) -> None:
    """Say that the task was run."""
    done.append(payload)


@pytest.fixture(autouse=True)
def many_managers(monkeypatch: pytest.MonkeyPatch) -> None:
    """A few managers are many, and soon at rest."""
    monkeypatch.setattr("qbridge_core.work.session.MANY", MANY - 1)
    monkeypatch.setattr("qbridge_core.work.rest.IDLE_AFTER", 0.1)
    done.clear()


@pytest.fixture
def client() -> Iterator[Failing]:
    """A connected client."""
    with Failing() as client:
        yield client


@pytest.fixture
def managers(client: Failing, new_threads: NewThreads) -> Iterator[list[TaskManager]]:
    """Some managers, all of them at rest."""
    with contextlib.ExitStack() as stack:
        managers = [stack.enter_context(TaskManager(client, note, f"q-{n}", "d")) for n in range(MANY)]
        at_rest(new_threads)
        yield managers


def at_rest(new_threads: NewThreads) -> None:
    """Wait until there is one thread for all."""
    wait_for(
        lambda: (new_threads.count("qbridge-idle-reader"), new_threads.count("qbridge-feeder")) == (1, 0), 20.0
    )  # fmt: skip


def test_idle_queues_are_waited_for_by_one_thread(
    client: Failing, managers: list[TaskManager], new_threads: NewThreads
) -> None:
    """Each message runs at once, again and again; while one queue is busy the others need no thread."""
    for turn in range(3):
        at_rest(new_threads)
        assert all(manager.health(stall=5.0).ready for manager in managers)
        for number in (3, 4):
            client.send_many(f"q-{number}", range(50))
        wait_for(lambda turn=turn: len(done) == 100 * (turn + 1), 10.0)
        assert new_threads.count("qbridge-feeder") <= 2


def test_g16_a_manager_stops_whose_queue_others_wait_for(
    client: Failing, managers: list[TaskManager], new_threads: NewThreads
) -> None:
    """At once, and nothing of its queue is taken any more; the others go on."""
    managers[0].stop()
    client.send("q-0", 1)
    client.send("q-1", 2)
    wait_for(lambda: done == [2], 10.0)
    assert client.stats("q-0").ready == 1
    for manager in managers:
        manager.stop()
    wait_for(lambda: not new_threads.names("qbridge-idle"), 10.0, "the thread has ended")


def test_a_pause_is_followed_where_others_wait(
    client: Failing, managers: list[TaskManager], new_threads: NewThreads
) -> None:
    """Nothing is taken until the queue is resumed, and then it is at once."""
    client.pause("q-2")
    wait_for(lambda: managers[2].paused, 10.0)
    client.send("q-2", "paused")
    client.send("q-3", "not paused")
    wait_for(lambda: done == ["not paused"], 10.0)
    assert client.stats("q-2").ready == 1
    client.resume("q-2")
    wait_for(lambda: done == ["not paused", "paused"], 10.0)


def test_g14_each_reads_for_itself_when_nobody_can_wait_for_all(
    client: Failing, managers: list[TaskManager], new_threads: NewThreads
) -> None:
    """An error of the wait for many queues is none of theirs."""
    client.fails.set()
    client.wake_receive_any()
    wait_for(lambda: new_threads.count("qbridge-feeder") == MANY, 10.0, "each has a thread")
    for number in range(MANY):
        client.send(f"q-{number}", number)
    wait_for(lambda: sorted(done, key=str) == list(range(MANY)), 10.0)
    assert new_threads.count("qbridge-idle-reader") == 0


def test_a_client_that_is_disconnected_ends_those_who_sleep(client: Failing, new_threads: NewThreads) -> None:
    """As it ends those who read."""
    managers = [TaskManager(client, note, f"q-{n}", "d") for n in range(MANY)]
    with contextlib.suppress(NotConnectedError), contextlib.ExitStack() as stack:
        for manager in managers:
            stack.enter_context(manager)
        at_rest(new_threads)
        client.disconnect()
        wait_for(lambda: all(isinstance(manager.error, NotConnectedError) for manager in managers), 10.0)
    assert not any(manager.running for manager in managers)
