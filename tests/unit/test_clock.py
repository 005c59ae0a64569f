"""Waiting goes on while a test has frozen or moved the time."""

from __future__ import annotations

import asyncio
import time
import timeit
from collections.abc import Iterator
from contextlib import AbstractContextManager
from datetime import UTC, datetime
from typing import Any

import freezegun
import pytest
import time_machine

from qbridge_core import ConstantBackoff, IdleTimeoutError, Outcome, TaskManager
from qbridge_core.runtime.clock import monotonic
from qbridge_core.runtime.logs import flush
from qbridge_memory import MemoryClient

FROZEN = datetime(2001, 2, 3, tzinfo=UTC)


@pytest.fixture(params=["freezegun", "time-machine"])
def frozen(request: pytest.FixtureRequest) -> Iterator[None]:
    """The time stands still on a day long ago."""
    tools: dict[str, AbstractContextManager[Any]] = {
        "freezegun": freezegun.freeze_time(FROZEN),
        "time-machine": time_machine.travel(FROZEN, tick=False),
    }
    with tools[request.param]:
        assert datetime.now(UTC) == FROZEN
        yield
        flush(5)


def test_the_clock_is_the_one_of_the_standard_library() -> None:
    """Deadlines of tasks can be compared with ``time.monotonic()``."""
    before = time.monotonic()
    assert before <= monotonic() <= time.monotonic()


def test_the_clock_goes_on(frozen: None) -> None:
    """It is neither the frozen one nor a date."""
    before = monotonic()
    time.sleep(0.02)
    assert 0.02 <= monotonic() - before < 10


@pytest.mark.parametrize("kind", ["function", "coroutine"])
def test_tasks_run_fail_wait_and_time_out_while_the_time_is_frozen(
    client: MemoryClient, frozen: None, kind: str
) -> None:
    """A handler sees the chosen date; retries with a delay, timeouts and the end of the work come as always."""
    seen: list[datetime] = []

    def handler(payload: object) -> None:
        seen.append(datetime.now(UTC))
        if payload == "bad":
            raise ValueError
        if payload == "slow":
            while True:
                time.sleep(0.01)

    async def coroutine(payload: object) -> None:
        if payload == "slow":
            await asyncio.sleep(3600)
        await asyncio.sleep(0.01)
        handler(payload)

    client.send_many("q", ["good", "bad", "slow"])
    manager = TaskManager(
        client, handler if kind == "function" else coroutine, "q", "d", max_retries=1, max_workers=3, task_timeout=0.3,
        backoff=ConstantBackoff(0.1),
    )  # fmt: skip
    report = manager.run_until_idle(timeout=20)
    assert (report.succeeded, report.retried, report.dead_lettered) == (1, 2, 2)
    assert report[Outcome.TIMED_OUT] == 1
    assert set(seen) == {FROZEN}


def test_a_timeout_of_ours_ends_while_the_time_is_frozen(client: MemoryClient, frozen: None) -> None:
    """``run_until_idle`` gives up, and the stop does not wait for ever."""
    client.send("q", 1)
    manager = TaskManager(client, lambda _: time.sleep(1.5), "q", "d", max_workers=1, grace_period=0.1)
    with pytest.raises(IdleTimeoutError):
        manager.run_until_idle(timeout=0.2)


def test_the_clock_costs_next_to_nothing() -> None:
    """It is asked several times per task: less than a microsecond, and no call of a Python function."""
    assert min(timeit.repeat(monotonic, number=10_000, repeat=5)) / 10_000 < 1e-6
    assert not hasattr(monotonic, "__code__")
