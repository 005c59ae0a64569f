"""The blocking calls of coroutines: ``asyncio.to_thread`` and what else asyncio gives to its default executor."""

from __future__ import annotations

import asyncio
import gc
import socket
import subprocess
import sys
import textwrap
import threading
import weakref
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from qbridge_core import Outcome, TaskManager, TooManyStuckTasksError, current_task
from qbridge_memory import MemoryClient
from support.handlers import leave_a_thread_behind
from support.wait import wait_for

HANGS = 40


async def in_a_thread(call: Callable[[], object]) -> None:
    """The usual way."""
    await asyncio.to_thread(call)


async def in_the_default_executor(call: Callable[[], object]) -> None:
    """The older way."""
    await asyncio.get_running_loop().run_in_executor(None, call)


async def for_a_host_name(call: Callable[[], object]) -> None:
    """What every client of asyncio does before it connects; the test lets the look-up make the call."""
    await asyncio.get_running_loop().getaddrinfo(call, 80)  # type: ignore[arg-type]


async def shielded(call: Callable[[], object]) -> None:
    """A call that does not hear of the cancellation."""
    await asyncio.shield(asyncio.to_thread(call))


async def in_a_task_of_its_own(call: Callable[[], object]) -> None:
    """``asyncio.wait`` leaves what it waits for alone when it is cancelled."""
    await asyncio.wait([asyncio.create_task(asyncio.to_thread(call))])


async def given_up_before(call: Callable[[], object]) -> None:
    """A handler with a timeout of its own."""
    try:
        await asyncio.wait_for(asyncio.to_thread(call), 0.1)
    except TimeoutError:
        raise ValueError("given up") from None


WAYS = [in_a_thread, in_the_default_executor, for_a_host_name, shielded, in_a_task_of_its_own, given_up_before]


@pytest.mark.parametrize("way", WAYS, ids=lambda way: str(way.__name__))
def test_g10_calls_that_hang_leave_threads_to_the_others(
    client: MemoryClient, release: threading.Event, monkeypatch: pytest.MonkeyPatch, way: Callable[..., Any]
) -> None:
    """However a coroutine makes a blocking call, and however many of them hang: later ones run."""
    done: list[object] = []
    monkeypatch.setattr(socket, "getaddrinfo", lambda host, *_: host())

    async def handler(payload: int) -> None:
        await way(release.wait if payload < HANGS else lambda: done.append(payload))

    client.send_many("q", range(HANGS + 20))
    manager = TaskManager(client, handler, "q", "d", max_retries=0, task_timeout=1.0, max_workers=HANGS)
    report = manager.run_until_idle(30.0)
    assert (report.succeeded, report.dead_lettered) == (20, HANGS)
    assert sorted(done, key=str) == list(range(HANGS, HANGS + 20))


def test_g10_as_many_calls_run_at_once_as_there_are_workers(client: MemoryClient) -> None:
    """Each task can have a thread, however few processors there are."""
    all_here = threading.Barrier(36)

    async def handler(payload: object) -> None:
        await asyncio.to_thread(all_here.wait, 20)

    client.send_many("q", range(36))
    manager = TaskManager(client, handler, "q", "d", max_retries=0, task_timeout=30.0, max_workers=36)
    assert manager.run_until_idle(30.0).succeeded == 36


@pytest.mark.parametrize("way", [in_a_thread, given_up_before], ids=lambda way: str(way.__name__))
def test_g10_threads_that_hang_are_counted(
    client: MemoryClient, release: threading.Event, way: Callable[..., Any]
) -> None:
    """More of them than ``max_abandoned`` end the manager, also when the tasks themselves have ended."""

    async def handler(payload: object) -> None:
        await way(release.wait)

    client.send_many("q", range(HANGS))
    manager = TaskManager(client, handler, "q", "d", max_retries=0, task_timeout=0.2, max_workers=4, max_abandoned=5)
    with pytest.raises(TooManyStuckTasksError):
        manager.run_until_idle(30.0)


def test_g10_threads_that_end_later_are_not_counted(client: MemoryClient) -> None:
    """What was given up and ends all the same frees its thread: no number of such calls ends the manager."""

    async def handler(payload: object) -> None:
        slow = threading.Event()
        try:
            await asyncio.wait_for(asyncio.to_thread(slow.wait, 30), 0.01)
        except TimeoutError:
            slow.set()

    client.send_many("q", range(HANGS))
    manager = TaskManager(client, handler, "q", "d", max_retries=0, max_workers=4, max_abandoned=1)
    assert manager.run_until_idle(30.0).succeeded == HANGS


def test_g16_what_a_stop_leaves_behind_is_no_error(client: MemoryClient, release: threading.Event) -> None:
    """Calls that still run when the grace period is over are handed back with their tasks, and that is all."""
    running = threading.Semaphore(0)

    def call() -> None:
        running.release()
        release.wait(30)

    async def handler(payload: object) -> None:
        await asyncio.to_thread(call)

    client.send_many("q", range(4))
    with TaskManager(client, handler, "q", "d", max_workers=4, max_abandoned=1, grace_period=0.05, task_timeout=60):
        for _ in range(4):
            assert running.acquire(timeout=10)
    assert client.stats("q").ready == 4


def test_g16_a_call_that_hangs_does_not_keep_the_process(client: MemoryClient) -> None:
    """The interpreter ends with the program, while the thread still waits."""
    program = """
        import asyncio, threading
        from qbridge_core import TaskManager, connect

        async def handler(payload):
            await asyncio.to_thread(threading.Event().wait)

        with connect("memory://") as client:
            client.declare("q", "d")
            client.send_many("q", range(3))
            manager = TaskManager(client, handler, "q", "d", max_retries=0, task_timeout=0.1, max_workers=3)
            print(manager.run_until_idle(20.0))
    """
    ended = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)], capture_output=True, text=True, timeout=60, check=True
    )
    assert ended.stdout == "3 dead-lettered (timed out)\n"


def test_a_call_in_a_thread_sees_its_task(client: MemoryClient) -> None:
    """The context goes along, as ``asyncio.to_thread`` promises."""
    seen: list[str] = []

    async def handler(payload: object) -> None:
        await asyncio.to_thread(lambda: seen.append(current_task().task_id))

    client.send("q", 1, task_id="mine")
    TaskManager(client, handler, "q", "d", max_workers=1).run_until_idle(10.0)
    assert seen == ["mine"]


def test_g10_no_handler_takes_the_threads_from_the_others(client: MemoryClient) -> None:
    """``shutdown_default_executor`` is meant for a loop of one's own, and this one belongs to all handlers."""

    async def handler(payload: object) -> None:
        await asyncio.to_thread(str, payload)
        await asyncio.get_running_loop().shutdown_default_executor()

    client.send_many("q", range(5))
    report = TaskManager(client, handler, "q", "d", max_retries=0, max_workers=1).run_until_idle(10.0)
    assert report.succeeded == 5


def test_a_default_executor_of_the_users_own_is_used(client: MemoryClient) -> None:
    """Whoever sets one wants it."""
    names: set[str] = set()

    async def handler(payload: object) -> None:
        asyncio.get_running_loop().set_default_executor(executor)
        await asyncio.to_thread(lambda: names.add(threading.current_thread().name))

    client.send("q", 1)
    with ThreadPoolExecutor(thread_name_prefix="mine") as executor:
        assert TaskManager(client, handler, "q", "d", max_workers=1).run_until_idle(10.0).succeeded == 1
    assert names == {"mine_0"}


@pytest.mark.parametrize("error", [ValueError, StopIteration, SystemExit])
@pytest.mark.usefixtures("forgotten_records")
def test_what_a_call_raises_is_raised_where_it_is_awaited(client: MemoryClient, error: type[BaseException]) -> None:
    """Any exception fails the task, and nothing of the call waits for the garbage collector."""
    held: list[weakref.ref[object]] = []

    def call() -> None:
        large = threading.Event()
        held.append(weakref.ref(large))
        raise error("no")

    async def handler(payload: object) -> None:
        await asyncio.to_thread(call)

    client.send("q", 1)
    gc.disable()
    try:
        manager = TaskManager(client, handler, "q", "d", max_retries=0, max_workers=1)
        assert manager.run_until_idle(10.0)[Outcome.FAILED] == 1
        wait_for(lambda: held[0]() is None, 10.0, "nothing holds what the call held")
    finally:
        gc.enable()


def test_no_thread_of_a_call_outlives_its_manager(client: MemoryClient) -> None:
    """The threads that wait for calls end with the manager."""
    before = threading.active_count()

    async def handler(payload: object) -> None:
        await asyncio.to_thread(str, payload)

    client.send_many("q", range(20))
    assert TaskManager(client, handler, "q", "d", max_workers=5).run_until_idle(10.0).succeeded == 20
    wait_for(lambda: threading.active_count() <= before, 10.0, "the threads have ended")


def test_g10_a_child_process_does_not_wait_for_a_thread_that_hangs(client: MemoryClient) -> None:
    """A coroutine that gave its call up is done, and its process goes on to the next task."""
    client.send_many("q", range(2))
    manager = TaskManager(
        client, leave_a_thread_behind, "q", "d", max_retries=0, task_timeout=20.0, max_workers=1, executor="process"
    )
    assert manager.run_until_idle(15.0).succeeded == 2
