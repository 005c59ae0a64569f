"""Coroutines share one loop: nothing that waits for the broker or for a user's code may hold it up."""

from __future__ import annotations

import asyncio
import contextvars
import logging
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from qbridge_core import ConfigurationError, Delivery, Failure, Outcome, TaskManager, current_task, hookimpl
from qbridge_core.execute.loopthread import LoopThread
from qbridge_core.runtime.clock import monotonic
from qbridge_core.work import coroutinewatch
from qbridge_memory import MemoryClient
from support.wait import wait_for


class Slow(MemoryClient):
    """A client of which some calls wait until ``go`` is set, and which notes where it was called."""

    capabilities = replace(MemoryClient.capabilities, instant_ack=False)

    def __init__(self, **slow: bool) -> None:
        super().__init__()
        self.go = threading.Event()
        self.waiting = threading.Semaphore(0)
        self.flushed_with: list[int] = []
        self.acked_in: list[str] = []
        self._slow = slow

    def ack(self, delivery: Delivery) -> None:
        """Wait if asked for, then acknowledge."""
        self.acked_in.append(threading.current_thread().name)
        self._wait("ack")
        super().ack(delivery)

    def reject(
        self,
        delivery: Delivery,
        requeue: bool = True,
        *,
        delay: float = 0.0,
        failure: Failure | None = None,
        queue: str | None = None,
    ) -> None:
        """Wait if asked for, then reject."""
        self._wait("reject")
        super().reject(delivery, requeue, delay=delay, failure=failure, queue=queue)

    def flush(self, timeout: float = 5.0) -> bool:
        """Note how many are not settled."""
        self.flushed_with.append(self.stats("q").in_flight)
        return super().flush(timeout)

    def _wait(self, name: str) -> None:
        if self._slow.get(name):
            self.waiting.release()
            assert self.go.wait(30.0)


class Instant(Slow):
    """The same, with an ``ack`` that never waits."""

    capabilities = replace(Slow.capabilities, instant_ack=True)


def connected(kind: Callable[..., Slow], **slow: bool) -> Slow:
    """A client with the queues ``q`` and ``d``."""
    client = kind(**slow)
    client.connect()
    client.declare("q", "d")
    return client


@pytest.mark.parametrize(("kind", "thread"), [(Slow, "qbridge-settling"), (Instant, "qbridge-asyncio")])
def test_the_loop_acknowledges_only_where_that_never_waits(kind: Callable[..., Slow], thread: str) -> None:
    """Without the client's promise a thread does it."""

    async def handler(payload: object) -> None:
        await asyncio.sleep(0)

    client = connected(kind)
    client.send_many("q", range(20))
    assert TaskManager(client, handler, "q", "d", max_workers=4).run_until_idle(20.0).succeeded == 20
    assert set(client.acked_in) == {thread}


@pytest.mark.parametrize("what", ["ack", "reject"])
def test_a_broker_that_is_slow_to_settle_does_not_hold_the_loop_up(what: str) -> None:
    """While one task waits to be settled, others run; its slot is taken until it is."""
    runs: list[str] = []

    async def handler(payload: str) -> None:
        runs.append(payload)
        await asyncio.sleep(0)
        if payload == "first" and what == "reject":
            raise ValueError(payload)

    client = connected(Slow, **{what: True})
    manager = TaskManager(client, handler, "q", "d", max_retries=0, max_workers=2)
    with manager:
        client.send("q", "first")
        assert client.waiting.acquire(timeout=10.0)
        client.send_many("q", ["second", "third"] if what == "ack" else ["second"])
        wait_for(lambda: len(runs) == 2, 10.0, "another task runs meanwhile")
        if what == "ack":
            assert client.waiting.acquire(timeout=10.0)
            assert client.stats("q").ready == 1, "no slot is free for the third"
        client.go.set()
        wait_for(lambda: len(runs) == (3 if what == "ack" else 2), 10.0)
        manager.run_until_idle(10.0)


def test_g16_stopping_waits_for_what_is_being_settled() -> None:
    """What a coroutine has left to the threads is settled before the last flush."""

    async def handler(payload: object) -> None:
        raise ValueError(payload)

    client = connected(Slow, reject=True)
    client.send_many("q", range(3))
    with TaskManager(client, handler, "q", "d", max_retries=0, max_workers=3) as manager:
        for _ in range(3):
            assert client.waiting.acquire(timeout=10.0)
        threading.Timer(0.3, client.go.set).start()
    assert client.flushed_with == [0]
    assert manager.report()[Outcome.FAILED] == 3


def test_g19_tasks_that_cannot_be_settled_do_not_stop_those_behind_them() -> None:
    """However long the broker takes for some, there are threads for others, though not one for each."""
    before = threading.active_count()

    async def handler(payload: object) -> None:
        if payload != "good":
            raise ValueError(payload)

    client = connected(Slow, reject=True)
    client.send_many("q", range(12))
    manager = TaskManager(client, handler, "q", "d", max_retries=0, max_workers=100)
    with manager:
        for _ in range(12):
            assert client.waiting.acquire(timeout=30.0), "more threads come when some have to wait"
        client.send_many("q", ["good"] * 10)
        wait_for(lambda: manager.report().succeeded == 10, 30.0, "others are acknowledged")
        assert threading.active_count() - before < 40
        client.go.set()
        manager.run_until_idle(10.0)


def test_a_hook_that_waits_does_not_hold_the_loop_up(client: MemoryClient) -> None:
    """Hooks are called in threads; the coroutines of other tasks go on."""
    go, told = threading.Event(), threading.Event()
    ticks: list[object] = []

    class Plugin:
        @hookimpl
        def qbridge_task_started(self, task_id: str) -> None:
            if task_id == "slow":
                told.set()
                go.wait(30.0)

    async def handler(payload: object) -> None:
        await asyncio.sleep(0)
        ticks.append(payload)

    client.send("q", 0, task_id="slow")
    manager = TaskManager(client, handler, "q", "d", max_workers=3, task_timeout=60.0, plugins=[Plugin()])
    with manager:
        assert told.wait(10.0)
        client.send_many("q", range(1, 6))
        wait_for(lambda: len(ticks) == 5, 10.0, "the others run")
        go.set()
        assert manager.run_until_idle(10.0).succeeded == 6


def test_the_hooks_of_a_quick_coroutine_are_called_one_after_the_other(client: MemoryClient) -> None:
    """They share a context, which one thread has left before another one enters it, however soon the task ends."""
    told: list[str] = []

    class Plugin:
        @hookimpl
        def qbridge_task_started(self, task_id: str) -> None:
            told.append(task_id)

        @hookimpl
        def qbridge_task_succeeded(self, task_id: str) -> None:
            told.append(task_id)

    async def handler(payload: object) -> None: ...

    client.send_many("q", range(3_000))
    manager = TaskManager(client, handler, "q", "d", max_workers=20, plugins=[Plugin()])
    assert manager.run_until_idle(60.0).succeeded == 3_000
    assert len(told) == 6_000


def test_g10_who_blocks_the_loop_is_named_and_charged_alone(
    client: MemoryClient, caplog: pytest.LogCaptureFixture
) -> None:
    """The log shows where it is; the tasks beside it run again on a new loop, and no attempt of theirs is counted."""
    release, started = threading.Event(), threading.Semaphore(0)
    attempts: dict[object, list[int]] = {}
    blocks_now = threading.Event()

    def wait_in_a_library() -> None:
        blocks_now.set()
        release.wait(60.0)

    async def handler(payload: str) -> None:
        attempts.setdefault(payload, []).append(current_task().attempt)
        started.release()
        if payload != "blocks":
            await asyncio.sleep(3600 if len(attempts[payload]) == 1 else 0)
        elif current_task().attempt == 1:
            await asyncio.sleep(0.05)
            wait_in_a_library()

    neighbours = [f"beside-{number}" for number in range(5)]
    for name in ("blocks", *neighbours):
        client.send("q", name, task_id=f"task {name}")
    manager = TaskManager(client, handler, "q", "d", max_retries=3, task_timeout=0.5, max_workers=6)
    try:
        with manager:
            wait_for(lambda: manager.report().succeeded == 6, 30.0, "every task is done")
    finally:
        release.set()
    assert attempts["blocks"] == [1, 2]
    assert {name: attempts[name] for name in neighbours} == {name: [1, 1] for name in neighbours}
    assert manager.report()[Outcome.RETRIED] == 1
    said = [record for record in caplog.records if "is blocked by task task blocks" in record.getMessage()]
    assert len(said) == 1
    assert said[0].levelno == logging.ERROR
    assert "wait_in_a_library" in said[0].getMessage()
    assert "coroutinepool.py" not in said[0].getMessage()  # from the handler inwards


@pytest.mark.parametrize("way", ["callback", "task of its own"])
def test_g10_who_blocks_the_loop_is_found_behind_what_it_has_started(
    client: MemoryClient, caplog: pytest.LogCaptureFixture, way: str
) -> None:
    """A callback and a task that a handler starts run in a copy of its context, which says whose they are."""
    release = threading.Event()

    async def block() -> None:
        release.wait(60.0)

    async def handler(payload: str) -> None:
        if payload == "blocks" and current_task().attempt == 1:
            loop = asyncio.get_running_loop()
            if way == "callback":
                loop.call_soon(release.wait, 60.0)
            else:
                async with asyncio.TaskGroup() as group:
                    group.create_task(block())
            await asyncio.sleep(3600)
        await asyncio.sleep(0.1)

    for name in ("blocks", "beside"):
        client.send("q", name, task_id=name)
    manager = TaskManager(client, handler, "q", "d", max_retries=1, task_timeout=0.5, max_workers=2)
    try:
        with manager:
            wait_for(lambda: manager.report().succeeded == 2, 30.0, "every task is done")
    finally:
        release.set()
    assert manager.report()[Outcome.RETRIED] == 1
    assert "is blocked by task blocks" in caplog.text


@pytest.mark.parametrize("hooked", [False, True], ids=["bare", "with a hook at the start"])
def test_g9_the_time_of_a_coroutine_begins_with_its_first_step(client: MemoryClient, hooked: bool) -> None:
    """Those that wait while others compute have not begun, be it for longer than a run may take; none is charged."""
    ended: list[int] = []
    took: list[float] = []

    class Durations:
        @hookimpl
        def qbridge_task_succeeded(self, duration: float) -> None:
            took.append(duration)

    class Starts(Durations):
        @hookimpl
        def qbridge_task_started(self, task_id: str) -> None: ...

    async def handler(payload: int) -> None:
        time.sleep(0.05)  # computes  # noqa: ASYNC251
        ended.append(payload)

    client.send_many("q", range(30))
    manager = TaskManager(
        client, handler, "q", "d", max_retries=0, task_timeout=0.7, plugins=[Starts() if hooked else Durations()]
    )
    assert manager.run_until_idle(60.0)[Outcome.SUCCEEDED] == 30
    assert sorted(ended) == list(range(30))
    assert len(took) == 30
    assert sum(took) < 2 * 30 * 0.05 + max(took)  # each its own time, and not that of those before it


def test_g10_what_is_no_task_and_blocks_the_loop_is_left(
    client: MemoryClient, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No deadline of a task ends that, and what waits meanwhile runs on another loop."""
    monkeypatch.setattr(coroutinewatch, "_ASK_EVERY", 0.6)
    release = threading.Event()

    async def handler(payload: str) -> None:
        if payload == "leaves" and current_task().attempt == 1:
            contextvars.Context().run(asyncio.get_running_loop().call_later, 0.05, release.wait, 60.0)

    client.send("q", "leaves")
    manager = TaskManager(client, handler, "q", "d", max_retries=0, task_timeout=0.5)
    try:
        with manager:
            wait_for(lambda: manager.report().succeeded == 1, 30.0, "it is done")
            time.sleep(0.2)  # the loop is in the callback by now
            client.send_many("q", ["waits"] * 3)
            wait_for(lambda: manager.report().succeeded == 4, 30.0, "those that waited are done")
    finally:
        release.set()
    assert not client.dead_letters("d")
    assert "is blocked by something that is no task" in caplog.text


@pytest.mark.parametrize(("shortest", "patience"), [(0.1, 5.0), (60.0, 60.0)])
def test_g10_a_loop_has_five_seconds_at_least_for_what_is_no_task(shortest: float, patience: float) -> None:
    """A busy machine may not turn it for a moment, however short the time of its tasks is."""
    loop, blocks, release = LoopThread(asyncio.new_event_loop()), threading.Event(), threading.Event()
    loop.post(lambda: (blocks.set(), release.wait(60.0)))
    loop.start()
    try:
        assert blocks.wait(10.0)
        loop.ask()
        asked_at = monotonic()
        assert not coroutinewatch._is_silent(loop, shortest, asked_at + 0.9 * patience)
        assert coroutinewatch._is_silent(loop, shortest, asked_at + 1.1 * patience)
    finally:
        release.set()
        loop.close()


def test_g9_a_coroutine_that_blocks_the_loop_keeps_its_own_time(client: MemoryClient) -> None:
    """When others run out of time by it, they go elsewhere; if it ends in time after all, it has succeeded."""
    release, blocks = threading.Event(), threading.Event()
    runs: list[str] = []

    async def handler(payload: str) -> None:
        runs.append(payload)
        if payload == "blocks":
            blocks.set()
            release.wait(60.0)
        elif runs.count(payload) == 1:
            await asyncio.sleep(3600)

    manager = TaskManager(client, handler, "q", "d", max_retries=0, task_timeout=4.0, max_workers=2)
    with manager:
        client.send("q", "beside")
        wait_for(lambda: runs == ["beside"], 10.0)
        threading.Event().wait(2.0)  # the subject of the test: it has 2 s left when the other one begins
        client.send("q", "blocks")
        assert blocks.wait(10.0)
        wait_for(lambda: runs == ["beside", "blocks", "beside"], 10.0, "it has run again on a new loop")
        release.set()
        wait_for(lambda: manager.report().succeeded == 2, 10.0, "both have succeeded")
    assert manager.report().dead_lettered == 0


def test_a_coroutine_that_is_cancelled_before_its_first_step_has_failed(client: MemoryClient) -> None:
    """It cannot say so itself, and its slot is not lost."""

    async def handler(payload: str) -> None:
        if payload == "cancels":
            for task in asyncio.all_tasks() - {asyncio.current_task()}:
                task.cancel()

    client.send_many("q", ["cancels", "never starts", "good"])
    manager = TaskManager(client, handler, "q", "d", max_retries=0, max_workers=2, task_timeout=600.0)
    report = manager.run_until_idle(20.0)
    assert (report.succeeded, report[Outcome.FAILED]) == (2, 1)


@pytest.mark.skipif(sys.version_info < (3, 12), reason="asyncio has no eager tasks before 3.12")
def test_tasks_that_are_started_eagerly_do_not_pile_up(client: MemoryClient) -> None:
    """A handler may set the task factory that runs each coroutine at once: one after the other all the same."""

    async def handler(payload: object) -> None:
        asyncio.get_running_loop().set_task_factory(getattr(asyncio, "eager_task_factory", None))

    client.send_many("q", range(3_000))
    assert TaskManager(client, handler, "q", "d", max_retries=0).run_until_idle(60.0).succeeded == 3_000


def test_generators_that_are_left_are_closed_on_the_loop(client: MemoryClient) -> None:
    """An asynchronous generator that a handler does not finish runs its clean-up, in the end when the manager stops."""
    closed: list[str] = []
    kept: list[Any] = []

    async def numbers() -> Any:
        try:
            yield 1
            yield 2
        finally:
            await asyncio.sleep(0)
            closed.append(threading.current_thread().name)

    async def handler(payload: object) -> None:
        generator = numbers()
        kept.append(generator)
        async for _ in generator:
            break

    client.send("q", 1)
    assert TaskManager(client, handler, "q", "d", max_workers=1).run_until_idle(10.0).succeeded == 1
    wait_for(lambda: closed == ["qbridge-asyncio"], 10.0)


def test_a_hundred_coroutines_run_at_once_by_default(client: MemoryClient) -> None:
    """They wait for something else than a processor, so their number does not depend on those."""
    all_here = asyncio.Barrier(100)

    async def handler(payload: object) -> None:
        await all_here.wait()

    client.send_many("q", range(100))
    assert TaskManager(client, handler, "q", "d").run_until_idle(30.0).succeeded == 100


class OwnLoop(asyncio.SelectorEventLoop):
    """A loop of the user's."""


def test_the_loop_is_made_by_the_users_factory(client: MemoryClient) -> None:
    """So is the one that takes the place of a loop that is blocked."""
    release = threading.Event()
    seen: list[type] = []

    async def handler(payload: object) -> None:
        seen.append(type(asyncio.get_running_loop()))
        if len(seen) == 1:
            release.wait(60.0)

    client.send("q", 1)
    manager = TaskManager(client, handler, "q", "d", max_workers=1, task_timeout=0.2, loop_factory=OwnLoop)
    try:
        assert manager.run_until_idle(20.0).succeeded == 1
    finally:
        release.set()
    assert seen == [OwnLoop, OwnLoop]


@pytest.mark.parametrize("problem", ["raises", "no loop"])
def test_a_factory_that_makes_no_loop_ends_the_start(client: MemoryClient, problem: str) -> None:
    """What it raises is raised by ``start``."""

    def factory() -> Any:
        if problem == "raises":
            raise LookupError("no such loop")
        return 5

    async def handler(payload: object) -> None: ...

    manager = TaskManager(client, handler, "q", "d", loop_factory=factory)
    with pytest.raises(LookupError if problem == "raises" else ConfigurationError, match="loop"):
        manager.start()
