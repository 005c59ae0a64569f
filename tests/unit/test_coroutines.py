"""``async def`` handlers: awaited, cancelled, and never able to stop the others for good."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import gc
import sys
import threading
import weakref
from collections.abc import Iterator
from typing import Any

import pytest

from qbridge_core import Outcome, Reason, TaskManager, TooManyStuckTasksError, current_task
from qbridge_memory import MemoryClient
from support.wait import wait_for

done: list[object] = []


async def remember(payload: object, where: list[object] = done) -> None:
    """Note the payload after a turn of the loop."""
    await asyncio.sleep(0)
    where.append(payload)


class Remembering:
    """A callable object whose call is a coroutine."""

    def __init__(self, where: list[object]) -> None:
        self.where = where

    async def __call__(self, payload: object) -> None:
        """Note the payload."""
        await remember(payload, self.where)


@pytest.fixture
def client() -> Iterator[MemoryClient]:
    """A connected client with the queues ``q`` and ``dead``."""
    with MemoryClient() as client:
        client.declare("q", "dead")
        yield client


@pytest.mark.parametrize("kind", ["partial", "object", "method"])
def test_g10_every_kind_of_coroutine_function_is_awaited(client: MemoryClient, kind: str) -> None:
    """Partials, callable objects and their bound calls do their work, like plain ``async def`` functions."""
    where: list[object] = []
    handlers: dict[str, Any] = {
        "partial": functools.partial(remember, where=where),
        "object": Remembering(where),
        "method": Remembering(where).__call__,
    }
    client.send("q", kind)
    assert TaskManager(client, handlers[kind], "q", "dead", max_workers=1).run_until_idle(10.0).succeeded == 1
    assert where == [kind]


def test_g10_a_coroutine_sees_its_task(client: MemoryClient) -> None:
    """``current_task`` works inside a coroutine, also after it has awaited something."""
    seen: list[str] = []

    async def handler(payload: object) -> None:
        await asyncio.sleep(0.001)
        seen.append(current_task().task_id)

    client.send("q", 1, task_id="mine")
    TaskManager(client, handler, "q", "dead", max_workers=1).run_until_idle(10.0)
    assert seen == ["mine"]


def test_g10_a_coroutine_that_is_too_late_is_cancelled(client: MemoryClient) -> None:
    """The timeout ends the coroutine itself, so no thread and no task is left behind."""
    cancelled = threading.Event()

    async def handler(payload: object) -> None:
        try:
            await asyncio.sleep(3600)
        finally:
            cancelled.set()

    client.send("q", 1)
    before = threading.active_count()
    manager = TaskManager(client, handler, "q", "dead", max_retries=0, task_timeout=0.1, max_workers=1)
    assert manager.run_until_idle(10.0)[Outcome.TIMED_OUT] == 1
    assert client.dead_letters("dead")[0].exception_type == "TimeoutError"
    assert cancelled.wait(10.0)
    wait_for(lambda: threading.active_count() <= before)


def test_g10_coroutines_that_are_too_late_together_are_not_stuck(client: MemoryClient) -> None:
    """When what all of them wait for hangs, all are cancelled, and the manager goes on."""

    async def handler(payload: object) -> None:
        await asyncio.sleep(3600)

    client.send_many("q", range(120))
    manager = TaskManager(
        client, handler, "q", "dead", max_retries=0, task_timeout=0.5, max_workers=40, max_abandoned=1
    )
    assert manager.run_until_idle(60.0)[Outcome.TIMED_OUT] == 120


def test_g10_a_coroutine_that_cancels_itself_has_failed(client: MemoryClient) -> None:
    """A ``CancelledError`` that nobody asked for is an exception like any other."""

    async def handler(payload: object) -> None:
        raise asyncio.CancelledError

    client.send("q", 1)
    report = TaskManager(client, handler, "q", "dead", max_retries=0, max_workers=1).run_until_idle(10.0)
    assert report[Outcome.FAILED] == 1
    assert client.dead_letters("dead")[0].reason is Reason.FAILED


def test_g10_a_coroutine_that_blocks_the_loop_does_not_stop_the_others_for_good(client: MemoryClient) -> None:
    """A blocking call in one coroutine costs its own task; later tasks get a loop that works."""
    release = threading.Event()

    async def handler(payload: str) -> None:
        if payload == "blocks" and current_task().attempt == 1:
            release.wait(30.0)
        await asyncio.sleep(0)

    client.send_many("q", ["blocks", *(f"good-{n}" for n in range(10))])
    manager = TaskManager(client, handler, "q", "dead", max_retries=20, task_timeout=0.3, max_workers=1)
    try:
        with manager:
            wait_for(lambda: manager.report().succeeded == 11, 20.0, "every task is done")
    finally:
        release.set()


@pytest.mark.parametrize("how", ["returns", "raises", "is too late"])
@pytest.mark.usefixtures("forgotten_records")
def test_nothing_of_a_coroutine_waits_for_the_garbage_collector(client: MemoryClient, how: str) -> None:
    """What a coroutine held is free as soon as it has ended, however it ends."""
    held: list[weakref.ref[object]] = []

    async def handler(payload: object) -> None:
        large = threading.Event()  # anything that a weak reference can point to
        held.append(weakref.ref(large))
        await asyncio.sleep(3600 if how == "is too late" else 0)
        if how == "raises":
            raise ValueError(payload)

    client.send_many("q", range(5))
    seconds = 0.2 if how == "is too late" else 60.0
    manager = TaskManager(client, handler, "q", "dead", max_retries=0, task_timeout=seconds, max_workers=5)
    gc.disable()
    try:
        manager.run_until_idle(30.0)
        wait_for(lambda: held and not any(one() for one in held), 10.0, "nothing holds it")
    finally:
        gc.enable()


@pytest.mark.parametrize("deed", ["stop", "exit in a task", "exit in a callback"])
def test_g10_a_coroutine_that_ends_the_loop_ends_nothing(client: MemoryClient, deed: str) -> None:
    """The loop belongs to all handlers: it goes on after ``stop`` and ``sys.exit``, and the other tasks with it."""
    waiting, go = asyncio.Event(), asyncio.Event()

    async def leave() -> None:
        sys.exit(3)

    def leave_in_a_task() -> None:
        task = asyncio.get_running_loop().create_task(leave())
        task.add_done_callback(asyncio.Task.exception)  # looked at, so that nothing is logged when it is collected

    async def handler(payload: str) -> None:
        if payload == "waits":
            waiting.set()
            await go.wait()
        elif payload == "ends the loop":
            await waiting.wait()
            loop = asyncio.get_running_loop()
            deeds = {"stop": loop.stop, "exit in a task": leave_in_a_task}
            loop.call_soon(deeds.get(deed, sys.exit))
            await asyncio.sleep(0.01)
            go.set()

    client.send_many("q", ["waits", "ends the loop", *map(str, range(50))])
    manager = TaskManager(client, handler, "q", "dead", max_retries=0, task_timeout=60.0, max_workers=3)
    assert manager.run_until_idle(30.0).succeeded == 52


def test_g16_stopping_cancels_what_does_not_end_in_time(client: MemoryClient) -> None:
    """A coroutine that is still running after the grace period is cancelled, and its message handed back."""
    started, cancelled = threading.Event(), threading.Event()

    async def handler(payload: object) -> None:
        started.set()
        try:
            await asyncio.sleep(3600)
        finally:
            cancelled.set()

    client.send("q", 1)
    with TaskManager(client, handler, "q", "dead", max_workers=1, task_timeout=60.0, grace_period=0.1):
        assert started.wait(10.0)
    assert cancelled.wait(10.0)
    assert client.stats("q").ready == 1


def test_g16_stopping_cancels_a_coroutine_once(client: MemoryClient) -> None:
    """What it does to clean up is not cut short by a second cancellation."""
    started = threading.Semaphore(0)
    cleaned: list[object] = []

    async def handler(payload: object) -> None:
        started.release()
        try:
            await asyncio.sleep(3600)
        finally:
            for _ in range(10):
                await asyncio.sleep(0.01)
            cleaned.append(payload)

    client.send_many("q", range(20))
    with TaskManager(client, handler, "q", "dead", max_workers=20, task_timeout=600.0, grace_period=0.1):
        for _ in range(20):
            assert started.acquire(timeout=10.0)
    wait_for(lambda: len(cleaned) == 20, 10.0, "all have cleaned up")


@pytest.mark.parametrize("deed", ["stop", "exit"])
def test_g16_a_coroutine_that_stops_the_loop_at_the_end_leaves_the_others_time(client: MemoryClient, deed: str) -> None:
    """When all are cancelled, each may clean up, whatever one of them does to the loop meanwhile."""
    all_here = asyncio.Barrier(3)
    started = threading.Event()
    cleaned: list[object] = []

    async def handler(payload: object) -> None:
        await all_here.wait()
        started.set()
        try:
            await asyncio.sleep(3600)
        finally:
            loop = asyncio.get_running_loop()
            if payload == 1:
                loop.call_soon(loop.stop if deed == "stop" else sys.exit)
            await asyncio.sleep(0.05)
            cleaned.append(payload)

    client.send_many("q", range(3))
    with TaskManager(client, handler, "q", "dead", max_workers=3, task_timeout=600.0, grace_period=0.1):
        assert started.wait(10.0)
    wait_for(lambda: sorted(map(str, cleaned)) == ["0", "1", "2"], 10.0, "all have cleaned up")


def test_g16_no_worker_waits_for_a_loop_that_is_blocked_when_it_stops(client: MemoryClient) -> None:
    """The workers end with the manager, also when nothing can cancel what they wait for."""
    all_here = asyncio.Barrier(3)
    blocked, release = threading.Event(), threading.Event()

    async def handler(payload: object) -> None:
        await all_here.wait()
        if payload == 2:
            blocked.set()
            release.wait(60.0)
        await asyncio.sleep(3600)

    def workers() -> int:
        return sum(thread.name == "qbridge-worker" for thread in threading.enumerate())

    before = workers()
    client.send_many("q", range(3))
    try:
        with TaskManager(client, handler, "q", "dead", max_workers=3, task_timeout=600.0, grace_period=0.1):
            assert blocked.wait(10.0)
        wait_for(lambda: workers() <= before, 10.0, "the workers have ended")
    finally:
        release.set()
    assert client.stats("q").ready == 3


def test_coroutines_run_at_once_up_to_max_workers(client: MemoryClient) -> None:
    """Waiting coroutines overlap: five of them can wait for one another, and a sixth does not start."""
    all_here = asyncio.Event()
    together = 0
    most = 0

    async def handler(payload: object) -> None:
        nonlocal together, most
        together += 1
        most = max(most, together)
        if together == 5:
            all_here.set()
        await asyncio.wait_for(all_here.wait(), 10.0)
        together -= 1

    client.send_many("q", range(10))
    assert TaskManager(client, handler, "q", "dead", max_workers=5).run_until_idle(30.0).succeeded == 10
    assert most == 5


def test_g10_a_task_factory_without_a_context_is_no_obstacle(client: MemoryClient) -> None:
    """A handler may give the loop a task factory of the older kind, ``factory(loop, coroutine)``."""
    seen: list[str] = []

    async def handler(payload: object) -> None:
        loop = asyncio.get_running_loop()
        loop.set_task_factory(lambda loop, coroutine: asyncio.Task(coroutine, loop=loop))
        await asyncio.sleep(0)
        seen.append(current_task().task_id)

    for number in range(3):
        client.send("q", number, task_id=f"task-{number}")
    assert TaskManager(client, handler, "q", "dead", max_retries=0, max_workers=1).run_until_idle(10.0).succeeded == 3
    assert seen == ["task-0", "task-1", "task-2"]


def test_g10_a_task_factory_that_raises_fails_the_task_alone(client: MemoryClient) -> None:
    """What the loop cannot start is a failure of that task; the worker and the loop go on."""

    def factory(loop: asyncio.AbstractEventLoop, coroutine: Any, **kwargs: Any) -> asyncio.Task[Any]:
        loop.set_task_factory(None)
        raise RuntimeError("no more tasks")

    async def handler(payload: object) -> None:
        if payload == "breaks":
            asyncio.get_running_loop().set_task_factory(factory)

    client.send_many("q", ["breaks", "meets it", "good"])
    report = TaskManager(client, handler, "q", "dead", max_retries=0, max_workers=1).run_until_idle(10.0)
    assert (report.succeeded, report[Outcome.FAILED]) == (2, 1)
    assert client.dead_letters("dead")[0].exception_message == "no more tasks"


async def ignore_the_cancellation(release: threading.Event) -> None:
    """Go on, however often somebody cancels."""
    while not release.is_set():
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.sleep(0.02)


@pytest.mark.parametrize("rounds", [1, 20])
def test_g10_coroutines_that_ignore_their_cancellation_are_counted(client: MemoryClient, rounds: int) -> None:
    """More than ``max_abandoned`` of them end the manager with an error, however soon it stops afterwards."""
    release = threading.Event()

    async def handler(payload: object) -> None:
        await ignore_the_cancellation(release)

    client.send_many("q", range(6 * rounds))
    manager = TaskManager(
        client, handler, "q", "dead", max_retries=0, task_timeout=0.05, max_workers=6, max_abandoned=5
    )
    try:
        with pytest.raises(TooManyStuckTasksError):
            manager.run_until_idle(20.0)
    finally:
        release.set()
    assert manager.report()[Outcome.TIMED_OUT] < 120


@pytest.mark.parametrize("kind", ["coroutine", "function"])
def test_g10_what_goes_on_after_its_time_is_named(
    client: MemoryClient, caplog: pytest.LogCaptureFixture, kind: str
) -> None:
    """The log says which task it is, once; of one that ends in time it says nothing."""
    release = threading.Event()

    async def coroutine(payload: str) -> None:
        if payload == "goes on":
            await ignore_the_cancellation(release)
        await asyncio.sleep(3600)

    def function(payload: str) -> None:
        release.wait(0.3 if payload == "ends" else 60.0)  # in C, where it is not reached

    for name in ("goes on", "ends"):
        client.send("q", name, task_id=name)
    handler = coroutine if kind == "coroutine" else function
    manager = TaskManager(client, handler, "q", "dead", max_retries=0, task_timeout=0.1, max_workers=2)
    said = "goes on: what it does changes nothing any more"
    try:
        with manager:
            wait_for(lambda: said in caplog.text, 10.0)
    finally:
        release.set()
    (record,) = [record for record in caplog.records if said in record.getMessage()]
    assert record.getMessage().startswith("task goes on of q, attempt 1, was to end when its 0.1 s were over")


def test_g10_a_coroutine_that_ends_after_its_cancellation_is_not_counted(client: MemoryClient) -> None:
    """Cleaning up may take its time: what has ended is not counted, and what goes on is, up to ``max_abandoned``."""
    cleaned: list[object] = []

    async def handler(payload: object) -> None:
        try:
            await asyncio.sleep(3600)
        finally:
            await asyncio.sleep(0.3)
            cleaned.append(payload)

    client.send_many("q", range(12))
    manager = TaskManager(client, handler, "q", "dead", max_retries=0, task_timeout=0.4, max_workers=3, max_abandoned=4)
    assert manager.run_until_idle(20.0)[Outcome.TIMED_OUT] == 12
    assert len(cleaned) >= 9


def test_g16_coroutines_that_ignore_the_stop_are_no_error(client: MemoryClient) -> None:
    """What a stop cancels has not hung past its timeout, whatever it does about it."""
    release, started = threading.Event(), threading.Semaphore(0)

    async def handler(payload: object) -> None:
        started.release()
        await ignore_the_cancellation(release)

    client.send_many("q", range(3))
    try:
        with TaskManager(client, handler, "q", "dead", max_workers=3, max_abandoned=1, grace_period=0.05):
            for _ in range(3):
                assert started.acquire(timeout=10)
    finally:
        release.set()
    assert client.stats("q").ready == 3
