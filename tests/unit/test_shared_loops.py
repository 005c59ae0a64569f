"""The managers of a process share a few event loops: what one of them does there costs the others nothing."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable, Iterator

import pytest

from qbridge_core import Outcome, TaskManager, TooManyStuckTasksError, current_task
from qbridge_memory import MemoryClient
from support.threads import NewThreads
from support.wait import wait_for


@pytest.fixture
def client() -> Iterator[MemoryClient]:
    """A connected client with the queues ``q`` and ``r``."""
    with MemoryClient() as client:
        for queue in ("q", "r"):
            client.declare(queue, "d")
        yield client


@pytest.fixture
def one_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two managers share a loop."""
    monkeypatch.setattr("qbridge_core.execute.loops._MOST", 1)


def make_loop() -> asyncio.AbstractEventLoop:
    """Not what makes the other loops."""
    return asyncio.new_event_loop()


async def sleep_long(payload: object) -> None:
    """Go on until somebody ends it."""
    await asyncio.sleep(3600)


def test_many_managers_have_few_loops(client: MemoryClient, new_threads: NewThreads) -> None:
    """Four for all whose loops are made alike; when all managers have stopped no thread of theirs is left."""
    seen: set[object] = set()

    async def handler(payload: object) -> None:
        seen.add(asyncio.get_running_loop())

    with contextlib.ExitStack() as stack:
        for number in range(50):
            client.declare(f"q{number}", "d")
            client.send(f"q{number}", number)
            factory = None if number % 2 else make_loop
            stack.enter_context(TaskManager(client, handler, f"q{number}", "d", loop_factory=factory))
        wait_for(lambda: not any(client.stats(f"q{number}").in_flight for number in range(50)), 30.0)
        wait_for(lambda: len(seen) == 8, 30.0, "each loop has run something")
        assert new_threads.count("qbridge-asyncio") == 8
    wait_for(lambda: not new_threads.names("qbridge-asyncio"), 10.0, "the loops have ended")


def test_a_few_managers_share_nothing(client: MemoryClient) -> None:
    """As long as there are enough loops for all, what blocks one of them holds up one manager."""
    release, blocks = threading.Event(), threading.Event()

    async def block(payload: object) -> None:
        blocks.set()
        release.wait(60.0)

    async def handler(payload: object) -> None:
        await asyncio.sleep(0)

    try:
        with TaskManager(client, block, "q", "d"), TaskManager(client, handler, "r", "d") as other:
            client.send("q", 1)
            assert blocks.wait(10.0)
            client.send("r", 1)
            wait_for(lambda: other.report().succeeded == 1, 10.0)
            release.set()
    finally:
        release.set()


@pytest.mark.usefixtures("one_loop")
def test_g10_who_blocks_a_shared_loop_is_charged_alone(client: MemoryClient, caplog: pytest.LogCaptureFixture) -> None:
    """The log names it; what ran out of time by it in another manager runs again on a new loop, uncounted."""
    release, blocks = threading.Event(), threading.Event()
    attempts: list[int] = []

    async def block(payload: object) -> None:
        if current_task().attempt == 1:
            blocks.set()
            release.wait(60.0)

    async def handler(payload: object) -> None:
        attempts.append(current_task().attempt)
        await asyncio.sleep(3600 if len(attempts) <= 3 else 0)

    blocking = TaskManager(client, block, "q", "d", max_retries=1, task_timeout=3.0)
    waiting = TaskManager(client, handler, "r", "d", max_retries=0, task_timeout=1.0)
    try:
        with blocking, waiting:
            client.send_many("r", range(3))
            wait_for(lambda: len(attempts) == 3, 10.0, "all of them run")
            client.send("q", 1, task_id="blocks")
            assert blocks.wait(10.0)
            wait_for(lambda: waiting.report().succeeded == 3, 20.0, "they have run again")
            assert blocking.report().retried == 0, "it has its own time"
            wait_for(lambda: blocking.report().succeeded == 1, 20.0, "it was late, and has run again")
    finally:
        release.set()
    assert attempts == [1] * 6
    assert blocking.report()[Outcome.RETRIED] == 1
    assert "is blocked by task blocks of q" in caplog.text


@pytest.mark.usefixtures("one_loop")
def test_g9_what_blocked_a_shared_loop_goes_on_when_it_does_so_no_more(client: MemoryClient) -> None:
    """The loop that was replaced does not end before it, though others have nothing there any more."""
    release, blocks, ended = threading.Event(), threading.Event(), threading.Event()

    async def block(payload: object) -> None:
        blocks.set()
        release.wait(60.0)
        await asyncio.sleep(0.2)
        ended.set()

    runs: list[object] = []

    async def handler(payload: object) -> None:
        runs.append(payload)
        await asyncio.sleep(3600 if len(runs) == 1 else 0)

    blocking = TaskManager(client, block, "q", "d", max_retries=0, task_timeout=30.0)
    waiting = TaskManager(client, handler, "r", "d", max_retries=0, task_timeout=1.0)
    try:
        with blocking, waiting:
            client.send("r", 1)
            wait_for(lambda: runs, 10.0)
            client.send("q", 1)
            assert blocks.wait(10.0)
            wait_for(lambda: waiting.report().succeeded == 1, 20.0, "it has run again elsewhere")
            release.set()
            wait_for(lambda: blocking.report().succeeded == 1, 10.0)
    finally:
        release.set()
    assert ended.is_set()


@pytest.mark.usefixtures("one_loop")
def test_g16_the_end_of_one_manager_ends_nothing_of_another(client: MemoryClient) -> None:
    """What its handlers have started goes with them; the loop, and what others run there, goes on."""
    cancelled: list[str] = []
    started = threading.Semaphore(0)

    async def beside(name: str) -> None:
        started.release()
        try:
            await asyncio.sleep(3600)
        finally:
            cancelled.append(name)

    kept: list[object] = []

    def of(name: str) -> Callable[[object], object]:
        async def handler(payload: object) -> None:
            kept.append(asyncio.create_task(beside(f"beside {name}")))
            await beside(name)

        return handler

    with TaskManager(client, of("other"), "r", "d", grace_period=0.1):
        with TaskManager(client, of("one"), "q", "d", grace_period=0.1):
            for queue in ("q", "r"):
                client.send(queue, 1)
            for _ in range(4):
                assert started.acquire(timeout=10.0)
        assert sorted(cancelled) == ["beside one", "one"]
        assert client.stats("q").ready == 1
    assert sorted(cancelled) == ["beside one", "beside other", "one", "other"]


@pytest.mark.usefixtures("one_loop")
def test_g10_what_hangs_on_a_shared_loop_counts_for_its_own_manager(client: MemoryClient) -> None:
    """Coroutines that ignore their cancellation, and blocking calls that nobody waits for any more."""
    release = threading.Event()

    async def hang(payload: object) -> None:
        while not release.is_set():
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.sleep(0.02)

    async def handler(payload: int) -> None:
        await asyncio.to_thread(release.wait, 0.001 * payload)

    hanging = TaskManager(client, hang, "q", "d", max_retries=0, task_timeout=0.05, max_abandoned=2)
    try:
        with TaskManager(client, handler, "r", "d", max_abandoned=1) as other:
            client.send_many("q", range(4))
            with pytest.raises(TooManyStuckTasksError):
                hanging.run_until_idle(20.0)
            client.send_many("r", range(20))
            wait_for(lambda: other.report().succeeded == 20, 10.0)
            assert other.running
    finally:
        release.set()


@pytest.mark.usefixtures("one_loop")
def test_a_coroutine_stops_another_manager_of_its_loop(client: MemoryClient) -> None:
    """It asks for that and does not wait, which would keep the loop from ending the other one's coroutines."""
    ended = threading.Event()

    async def stop_the_other(payload: object) -> None:
        other.stop()
        ended.set()

    other = TaskManager(client, sleep_long, "q", "d", grace_period=0.2)
    with other, TaskManager(client, stop_the_other, "r", "d"):
        client.send("q", 1)
        wait_for(lambda: client.stats("q").in_flight == 1, 10.0)
        client.send("r", 1)
        assert ended.wait(5.0)
        assert other.wait(10.0)
    assert client.stats("q").ready == 1
