"""Managers whose queues are idle: in a process of many they hardly do anything, and a message wakes them at once."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable, Iterator

import pytest

from qbridge_core import Delivery, QueueClient, TaskManager
from qbridge_core.runtime.clock import monotonic
from qbridge_core.work.dispatcher import Dispatcher
from qbridge_core.work.poison.side_queue import SideQueue
from qbridge_core.work.rest import pause
from qbridge_core.work.watch import watch
from qbridge_memory import MemoryClient
from support.handlers import work
from support.suspects import CountingClient
from support.wait import wait_for

MANY = 5
LONG = 300.0


class Timed(MemoryClient):
    """Records how long the requests were to wait."""

    def __init__(self) -> None:
        super().__init__()
        self.timeouts: list[float] = []

    def receive(self, queue: str, max_messages: int = 1, timeout: float = 0.0) -> list[Delivery]:
        """Record, then receive."""
        self.timeouts.append(timeout)
        return super().receive(queue, max_messages, timeout)


class NeverWoken(Timed):
    """A backend whose ``receive`` nothing can end."""

    unsubscribe = QueueClient.unsubscribe


@pytest.fixture(autouse=True)
def many_managers(monkeypatch: pytest.MonkeyPatch) -> None:
    """A few managers are many, and soon at rest for long."""
    monkeypatch.setattr("qbridge_core.work.session.MANY", MANY - 1)
    monkeypatch.setattr("qbridge_core.work.rest.IDLE_AFTER", 0.1)
    for user in ("session", "dispatcher"):
        monkeypatch.setattr(f"qbridge_core.work.{user}.pause", lambda _: LONG)


@pytest.fixture
def client() -> Iterator[Timed]:
    """A connected client with the queues ``q`` and ``d``."""
    with Timed() as client:
        client.declare("q", "d")
        yield client


def taking(dispatcher: Dispatcher) -> list[Delivery | None]:
    """Where a worker's thread puts what it takes, once."""
    taken: list[Delivery | None] = []
    threading.Thread(target=lambda: taken.append(dispatcher.take()), daemon=True).start()
    return taken


def looked_at_in(manager: TaskManager) -> float:
    """Seconds until the watch looks at a manager."""
    assert manager._current.session is not None
    return watch._watched._at.get(manager._current.session, monotonic()) - monotonic()  # it may be looked at just now


def at_rest(manager: TaskManager) -> bool:
    """Whether it does next to nothing."""
    assert manager._current.session is not None
    return looked_at_in(manager) > LONG / 2 and manager._current.session._job.dispatcher.resting.rests


def test_a_thousand_managers_share_25_looks_a_second() -> None:
    """Each of them is looked at, and asks for messages, every 40 seconds; more of them once a minute."""
    assert pause(1000) == 40.0
    assert pause(5000) == 60.0


def test_an_idle_queue_has_its_requests_wait_longer(client: Timed) -> None:
    """Nothing wakes its thread but a message, which is there at once, and after which it waits as before."""
    dispatcher = Dispatcher(client, "q", 1, 0.05)
    roused = threading.Event()
    dispatcher.resting.roused = roused.set
    taken = taking(dispatcher)
    wait_for(dispatcher.resting.look, 10.0)
    wait_for(lambda: client.timeouts[-1] == LONG, 10.0)
    client.send("q", 1)
    wait_for(lambda: taken, 10.0)
    assert taken[0] is not None
    assert roused.is_set()
    assert not dispatcher.resting.look()
    dispatcher.resting._since = -LONG
    assert not dispatcher.resting.look(), "its worker is not idle"
    dispatcher.shut()


def test_g16_a_stop_ends_a_long_request(client: Timed) -> None:
    """However long it may wait."""
    dispatcher = Dispatcher(client, "q", 1, 0.05)
    taken = taking(dispatcher)
    wait_for(dispatcher.resting.look, 10.0)
    wait_for(lambda: client.timeouts[-1] == LONG, 10.0)
    wait_for(lambda: dispatcher.close() or taken, 10.0)
    assert taken == [None]


def test_a_request_that_cannot_be_woken_is_as_short_as_ever() -> None:
    """A backend without ``unsubscribe`` would keep its worker from stopping."""
    with NeverWoken() as client:
        client.declare("q", "d")
        dispatcher = Dispatcher(client, "q", 1, 0.05)
        taken = taking(dispatcher)
        wait_for(dispatcher.resting.look, 10.0)
        count = len(client.timeouts)
        wait_for(lambda: len(client.timeouts) > count + 2, 10.0)
        assert set(client.timeouts) == {0.05}
        dispatcher.close()
        wait_for(lambda: taken == [None], 10.0)


def test_a_worker_that_looks_for_suspects_does_so_in_time() -> None:
    """Where no other thread does, its requests end when it is time to look."""
    with CountingClient() as client:
        client.declare("q", "d")
        client.declare("q.suspects", "d")
        side_queue = SideQueue(client, "q.suspects")
        dispatcher = Dispatcher(client, "q", 1, 0.05, side_queue)
        side_queue._look_at = monotonic() + 7.0
        assert 5.0 < dispatcher._long_timeout() <= 7.0
        side_queue.isolated = True
        assert dispatcher._long_timeout() == LONG


@pytest.fixture(params=["function", "coroutine"])
def handler(request: pytest.FixtureRequest) -> Iterator[tuple[Callable[[object], object], threading.Event]]:
    """A handler that hangs as long as it may, and what says that it has begun."""
    begun, release = threading.Event(), threading.Event()

    def hang(payload: object) -> None:
        del payload
        begun.set()
        release.wait(60)

    async def hang_on_the_loop(payload: object) -> None:
        del payload
        begun.set()
        await asyncio.sleep(60)

    yield (hang if request.param == "function" else hang_on_the_loop), begun
    release.set()


def test_g9_a_run_after_a_long_rest_is_ended_in_time(
    client: Timed, handler: tuple[Callable[[object], object], threading.Event]
) -> None:
    """The first message after it has the watch look at its manager again, at the time when the run is over."""
    hang, begun = handler
    with contextlib.ExitStack() as stack:
        managers = [
            stack.enter_context(
                TaskManager(client, hang, f"q-{n}", "d", max_retries=0, task_timeout=400.0, max_workers=2)
            )
            for n in range(MANY)
        ]
        wait_for(lambda: all(map(at_rest, managers)), 20.0, "they do not rest")
        client.send("q-3", 1)
        assert begun.wait(10)
        wait_for(lambda: looked_at_in(managers[3]) < 1.5, 10.0, "nobody looks after it")
        assert all(at_rest(manager) for manager in managers if manager is not managers[3])
        for manager in managers:
            manager.stop(now=True)


def test_g6_a_suspect_ends_the_rest() -> None:
    """The watch looks after the thread that runs it in a child process."""
    with CountingClient() as client, contextlib.ExitStack() as stack:
        managers = [
            stack.enter_context(TaskManager(client, work, f"q-{n}", "d", task_timeout=400.0, max_workers=1))
            for n in range(MANY)
        ]
        wait_for(lambda: all(map(at_rest, managers)), 20.0, "they do not rest")
        client.send("q-2.suspects", {"id": "suspect"})
        wait_for(lambda: looked_at_in(managers[2]) < 1.5, 30.0, "nobody looks after it")
        wait_for(lambda: client.stats("q-2.suspects").in_flight == client.stats("q-2.suspects").ready == 0, 20.0)
