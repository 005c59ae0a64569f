"""Exceptions and coroutines made to break the worker that runs them: one task fails, and nothing else."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from qbridge_core import Outcome, Retry, Snooze, TaskManager, TooManyStuckTasksError
from qbridge_core.message import Delivery
from qbridge_memory import MemoryClient
from support.wait import wait_for


@pytest.fixture
def client() -> Iterator[MemoryClient]:
    """A connected client with the queues ``q`` and ``dead``."""
    with MemoryClient() as client:
        client.declare("q", "dead")
        yield client


class Text(str):
    """A text that cannot be cut."""

    __slots__ = ()

    def __getitem__(self, key: Any) -> str:
        raise ValueError("gotcha")


class BadText(Exception):
    """Its text is such a text."""

    def __str__(self) -> str:
        return Text("poison")


class BadCause(Exception):
    """Its cause cannot be asked for."""

    @property  # type: ignore[misc]
    def __cause__(self) -> BaseException | None:
        raise ValueError("gotcha")


class BadClass(Exception):
    """It lies about its class, badly."""

    @property  # type: ignore[misc]
    def __class__(self) -> type:
        raise ValueError("gotcha")


class BadRetry(Retry):
    """A request whose cause cannot be asked for."""

    @property  # type: ignore[misc]
    def __cause__(self) -> BaseException | None:
        raise ValueError("gotcha")


@pytest.mark.parametrize("poison", [BadText, BadCause, BadClass, BadRetry])
def test_g5_an_exception_that_cannot_be_described_is_a_failure(client: MemoryClient, poison: type[Exception]) -> None:
    """It is counted and dead-lettered like any other, and the worker goes on with the next task."""

    def handler(payload: str) -> None:
        if payload == "bad":
            raise poison

    client.send_many("q", ["bad", "good"])
    report = TaskManager(client, handler, "q", "dead", max_retries=1, max_workers=1).run_until_idle(10.0)
    assert (report.succeeded, report[Outcome.RETRIED], report[Outcome.FAILED]) == (1, 1, 1)
    assert client.dead_letters("dead")[0].attempts == 2


@pytest.mark.parametrize("poison", [SystemExit, KeyboardInterrupt, GeneratorExit, BadText])
def test_g10_a_coroutine_that_raises_anything_has_failed(client: MemoryClient, poison: type[BaseException]) -> None:
    """asyncio ends a loop on SystemExit and KeyboardInterrupt; here they end their own task only."""

    async def handler(payload: str) -> None:
        if payload == "bad":
            raise poison

    client.send_many("q", ["bad", "good", "good"])
    manager = TaskManager(client, handler, "q", "dead", max_retries=0, task_timeout=2.0, max_workers=2)
    report = manager.run_until_idle(10.0)
    assert (report.succeeded, report[Outcome.FAILED]) == (2, 1)


def test_g10_loops_that_stay_blocked_are_counted(client: MemoryClient) -> None:
    """Each blocked event loop holds a thread, so too many of them end the worker like stuck threads do."""
    release = threading.Event()

    async def handler(payload: object) -> None:
        release.wait(60.0)

    client.send_many("q", range(50))
    manager = TaskManager(
        client, handler, "q", "dead", max_retries=0, task_timeout=0.2, max_workers=1, max_abandoned=2, grace_period=0.1
    )
    try:
        with pytest.raises(TooManyStuckTasksError):
            manager.start()
    finally:
        release.set()


class Frozen(MemoryClient):
    """A broker that takes long to take anything back, as a half-open connection does."""

    def reject(self, delivery: Delivery, requeue: bool = True, **options: Any) -> None:
        """Wait before giving back."""
        threading.Event().wait(4.0)
        super().reject(delivery, requeue, **options)


def test_g16_slow_hand_backs_do_not_add_up(client: MemoryClient) -> None:
    """Ten tasks that cannot be handed back hold up the end no longer than one."""
    del client
    before = set(threading.enumerate())
    started = threading.Semaphore(0)
    release = threading.Event()

    def handler(payload: object) -> None:
        started.release()
        release.wait(60.0)

    with Frozen() as frozen:
        frozen.declare("q", "dead")
        frozen.send_many("q", range(10))
        manager = TaskManager(frozen, handler, "q", "dead", max_workers=10, task_timeout=60.0, grace_period=0.1)
        try:
            with manager:
                assert all(started.acquire(timeout=10.0) for _ in range(10))
                began = time.monotonic()
            ended = time.monotonic()
        finally:
            release.set()
    assert ended - began < 20.0, "one after the other they take 40 s"
    wait_for(lambda: before.issuperset(threading.enumerate()), 30.0, "threads are left over")


class ShortDelays(MemoryClient):
    """A broker that can hold a message for an hour at most."""

    capabilities = replace(MemoryClient.capabilities, max_delay=3600.0)
    delays: list[float]

    def reject(self, delivery: Delivery, requeue: bool = True, **options: Any) -> None:
        """Note the delay."""
        self.delays = [*getattr(self, "delays", []), options.get("delay", 0.0)]
        super().reject(delivery, requeue, **options)


def test_g7_a_delay_beyond_the_brokers_limit_is_cut(client: MemoryClient) -> None:
    """A snooze for a year becomes the longest the broker can do, instead of a message that nobody can settle."""
    del client

    def handler(payload: object) -> None:
        raise Snooze(365 * 86400.0)

    with ShortDelays() as short:
        short.declare("q", "dead")
        short.send("q", 1)
        with TaskManager(short, handler, "q", "dead", max_workers=1):
            wait_for(lambda: short.stats("q").delayed == 1, 10.0)
        assert short.delays == [3600.0]


def test_g16_a_system_without_threads_ends_the_worker_and_loses_nothing(
    client: MemoryClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When no replacement for a stuck worker can be started, the manager stops with that error; the task is kept."""
    started = threading.Event()

    def handler(payload: object) -> None:
        del payload
        monkeypatch.setattr(threading.Thread, "start", _no_thread)
        started.set()
        while not release.wait(0.1):
            pass

    release = threading.Event()
    client.send("q", 1)
    manager = TaskManager(client, handler, "q", "dead", task_timeout=0.2, max_workers=1, grace_period=1.0)
    try:
        with pytest.raises(RuntimeError, match="start new thread"):
            manager.start(poll_timeout=0.1)
    finally:
        release.set()
    monkeypatch.undo()
    client.disconnect()
    client.connect()
    assert client.stats("q").ready == 1


def _no_thread(thread: threading.Thread) -> None:
    raise RuntimeError("can't start new thread")
