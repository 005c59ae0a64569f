"""What the managers of one process share, however many there are."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Collection, Iterator

import pytest

from qbridge_core import BrokerUnavailableError, QueueClient, TaskManager
from qbridge_core.work.poison.lookout import Lookout
from qbridge_core.work.poison.side_queue import SideQueue, look_every
from qbridge_core.work.watch import Watch
from qbridge_memory import MemoryClient
from support.handlers import work
from support.suspects import CountingClient
from support.threads import NewThreads
from support.wait import wait_for

MANY = 50


@pytest.fixture
def client() -> Iterator[MemoryClient]:
    """A connected client."""
    with MemoryClient() as client:
        yield client


def descriptors() -> int:
    """How many this process has open."""
    return len(os.listdir("/proc/self/fd"))


def test_managers_share_the_watch_over_their_tasks(client: MemoryClient, new_threads: NewThreads) -> None:
    """Many managers have one thread beside those of their handlers, and no descriptors of their own."""
    before = descriptors()
    with contextlib.ExitStack() as stack:
        for number in range(MANY):
            stack.enter_context(TaskManager(client, print, f"q-{number}", "d", max_workers=1))
        wait_for(
            lambda: new_threads.count("qbridge-worker") == MANY and new_threads.count("qbridge-manager") == 0, 10.0
        )
        assert new_threads.count("qbridge-watch") == 1
        assert descriptors() == before
    wait_for(lambda: new_threads.count("qbridge-watch") == 0, 10.0, "the watch goes on with nothing to look after")


def test_g9_each_of_many_managers_ends_its_late_runs(client: MemoryClient) -> None:
    """The time of a run is over in time, whatever the other managers do."""
    release = threading.Event()

    def wait(payload: object) -> None:
        del payload
        release.wait(60)

    with contextlib.ExitStack() as stack:
        for number in range(MANY):
            stack.enter_context(
                TaskManager(client, wait, f"q-{number}", "d", max_retries=0, task_timeout=0.3, max_workers=1)
            )
            client.send(f"q-{number}", number)
        wait_for(lambda: client.stats("d").ready == MANY, 10.0, "some runs go on")
        release.set()


def test_a_manager_that_stops_leaves_the_others_alone(client: MemoryClient) -> None:
    """Its task has its grace period, and meanwhile the watch looks after the others."""
    release, begun = threading.Event(), threading.Event()

    def hold(payload: object) -> None:
        del payload
        begun.set()
        release.wait(60)

    slow = TaskManager(client, hold, "slow", "d", task_timeout=300.0, max_workers=1, grace_period=300.0)
    late = TaskManager(client, lambda _: release.wait(60), "late", "d", max_retries=0, task_timeout=0.3, max_workers=1)
    with slow, late:
        client.send("slow", 1)
        assert begun.wait(10)
        stopping = threading.Thread(target=slow.stop)
        stopping.start()
        client.send("late", 2)
        wait_for(lambda: client.stats("d").ready == 1, 10.0, "nobody ends the late run")
        assert stopping.is_alive()
        release.set()
        stopping.join(10)
        assert not slow.running
    assert client.stats("slow").ready == client.stats("slow").in_flight == 0


def test_managers_share_the_look_for_suspects(new_threads: NewThreads) -> None:
    """One thread asks for all of them, and one with a child process is there while there is a suspect."""
    with CountingClient() as client, contextlib.ExitStack() as stack:
        for number in range(MANY):
            stack.enter_context(TaskManager(client, work, f"q-{number}", "d", max_workers=1))
        wait_for(
            lambda: new_threads.count("qbridge-worker") == MANY and new_threads.count("qbridge-manager") == 0, 10.0
        )
        assert (new_threads.count("qbridge-lookout"), new_threads.count("qbridge-isolation")) == (1, 0)
        client.send("q-7.suspects", {"id": "suspect"})
        wait_for(lambda: client.stats("q-7.suspects").ready == 0, 20.0, "nobody takes the suspect")
        assert new_threads.count("qbridge-isolation") <= 1
    wait_for(lambda: new_threads.count("qbridge-lookout") == 0, 10.0, "it is looked for nobody")


class Telling(MemoryClient):
    """Tells at once which of many queues have something: those in ``occupied``."""

    def __init__(self) -> None:
        super().__init__()
        self.occupied = {"q-7"}
        self.asked: list[set[str]] = []
        self.is_away = False

    def _occupied(self, queues: Collection[str]) -> set[str]:
        if self.is_away:
            raise BrokerUnavailableError("away")
        self.asked.append(set(queues))
        return self.occupied & set(queues)


class Seeking:
    """Looks into a side queue, each fifth of a second."""

    def __init__(self, client: QueueClient, queue: str) -> None:
        self.side_queue = SideQueue(client, queue)
        self.seeks = 0

    def seek(self) -> None:
        """Count the looks."""
        self.seeks += 1

    def look_in(self, seekers: int) -> float:
        """Soon again."""
        return 0.2


def test_many_side_queues_are_looked_into_together() -> None:
    """Those that are empty are not counted one by one; when nobody can tell which are, all of them are."""
    client, lookout = Telling(), Lookout()
    seekers = [Seeking(client, f"q-{number}") for number in range(MANY)]
    for seeker in seekers:
        lookout.add(seeker)
    wait_for(lambda: client.asked and len(client.asked[-1]) == MANY, 10.0, "all of them are asked about at once")
    before = [seeker.seeks for seeker in seekers]
    wait_for(lambda: seekers[7].seeks >= before[7] + 3, 10.0)
    changed = [number for number, seeker in enumerate(seekers) if seeker.seeks > before[number] + 1]
    assert changed == [7]
    client.is_away = True
    before = [seeker.seeks for seeker in seekers]
    wait_for(lambda: all(seeker.seeks > before[number] + 1 for number, seeker in enumerate(seekers)), 10.0)
    for seeker in seekers:
        lookout.remove(seeker)


@pytest.mark.parametrize(("queues", "seconds"), [(1, 5.0), (250, 5.0), (500, 10.0), (1000, 20.0), (5000, 20.0)])
def test_g15_side_queues_are_looked_into_seldomer_when_there_are_many(queues: int, seconds: float) -> None:
    """So that they cost a broker a few dozen round trips a second; and each one often enough."""
    assert look_every(queues) == seconds


class _Looked:
    """Counts the looks, and wants the next one after so many seconds."""

    def __init__(self, seconds: float) -> None:
        self.look_at = 0.0
        self.looks = 0
        self.over = False
        self._seconds = seconds

    def look(self) -> float | None:
        """One more."""
        self.looks += 1
        return None if self.over else self._seconds


def test_the_watch_looks_when_it_is_time_and_when_somebody_rings(new_threads: NewThreads) -> None:
    """One that is looked at often does not have the others looked at."""
    watch, often, seldom = Watch(), _Looked(0.01), _Looked(60.0)
    watch.add(seldom)
    watch.add(often)
    wait_for(lambda: often.looks > 10, 10.0)
    before = seldom.looks
    assert before <= 2
    watch.ring(seldom)
    wait_for(lambda: seldom.looks == before + 1, 10.0, "nobody heard the bell")
    often.over = seldom.over = True
    watch.ring(seldom)
    wait_for(lambda: new_threads.count("qbridge-watch") == 0, 10.0, "the watch goes on with nothing to look after")
