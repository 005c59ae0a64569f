"""The hooks that tell how deliveries have ended: of each one, and of many together."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping, Sequence
from typing import Any

import pytest

from qbridge_core import (
    BrokerUnavailableError,
    ConstantBackoff,
    Delivery,
    Reason,
    Reject,
    Snooze,
    TaskManager,
    hookimpl,
)
from qbridge_core.hookspecs import Settlement
from qbridge_core.task.lifecycle import Lifecycle
from qbridge_core.work.settle.settler import Settler
from qbridge_memory import MemoryClient
from support.wait import wait_for


class Each:
    """Remembers each settlement."""

    def __init__(self) -> None:
        self.calls: list[dict[str, Any]] = []

    @hookimpl
    def qbridge_task_settled(
        self,
        queue: str,
        task_id: str,
        attempt: int,
        outcome: str,
        reason: Reason | None,
        wait: float | None,
        duration: float | None,
        settling: float,
        system: str,
        server: object,
    ) -> None:
        """Remember."""
        told = {"queue": queue, "task_id": task_id, "attempt": attempt, "outcome": outcome, "reason": reason}
        self.calls.append(
            {**told, "wait": wait, "duration": duration, "settling": settling, "system": system, "server": server}
        )


class Many:
    """Remembers what comes together."""

    def __init__(self) -> None:
        self.settlements: list[Settlement] = []
        self.running: list[int] = []
        self.threads: set[str] = set()

    @hookimpl
    def qbridge_settlements(self, queue: str, settlements: Sequence[Settlement], running: int) -> None:
        """Remember."""
        assert queue == "q"
        self.settlements += settlements
        self.running.append(running)
        self.threads.add(threading.current_thread().name)


def work_off(client: MemoryClient, handler: Any, *plugins: object, **options: Any) -> None:
    """Run what is in the queue."""
    TaskManager(client, handler, "q", "d", max_workers=1, plugins=plugins, **options).run_until_idle(20.0)


def outcomes(each: Each) -> list[tuple[object, ...]]:
    """What was told, without times."""
    return [(call["task_id"], call["attempt"], call["outcome"], call["reason"]) for call in each.calls]


def test_a_success_is_settled_with_its_times(client: MemoryClient) -> None:
    """How long it waited, ran and took to be settled, beside what was settled, where and for which kind of broker."""
    each = Each()
    before = time.time()
    client.send("q", 1, task_id="t")
    began: list[float] = []

    def handler(_: object) -> None:
        began.append(time.time())
        time.sleep(0.05)

    work_off(client, handler, each)
    (call,) = each.calls
    assert 0.0 <= call.pop("wait") <= began[0] - before + 0.002
    assert call.pop("duration") >= 0.05
    assert call.pop("settling") >= 0.0
    task = {"queue": "q", "task_id": "t", "attempt": 1}
    assert call == {**task, "outcome": "succeeded", "reason": None, "system": "memory", "server": None}


def test_each_failed_attempt_is_settled_with_its_reason(client: MemoryClient) -> None:
    """First as retried, and in the end as dead-lettered."""
    each = Each()
    client.send("q", 1, task_id="t")

    def handler(_: object) -> None:
        raise ValueError

    work_off(client, handler, each, max_retries=1)
    assert outcomes(each) == [("t", 1, "retried", Reason.FAILED), ("t", 2, "dead-lettered", Reason.FAILED)]


def test_the_wait_of_a_retry_begins_when_it_is_due(client: MemoryClient) -> None:
    """The delay that was asked for is no waiting time, nor is that of a delayed send."""
    each = Each()
    starts = [time.time()]

    def handler(_: object) -> None:
        starts.append(time.time())
        raise ValueError

    client.send("q", 1, delay=0.6)
    work_off(client, handler, each, max_retries=1, backoff=ConstantBackoff(0.6))
    for call, before, start in zip(each.calls, starts, starts[1:], strict=False):
        assert 0.0 <= call["wait"] <= start - before - 0.6 + 0.002


def test_a_message_from_the_future_has_not_waited(client: MemoryClient, monkeypatch: pytest.MonkeyPatch) -> None:
    """The producer's clock may be ahead: a wait is never negative."""
    each = Each()
    ahead = round(time.time() * 1000) + 60_000
    monkeypatch.setattr(Delivery, "sent_at_ms", property(lambda _: ahead))
    client.send("q", 1)
    work_off(client, lambda _: None, each)
    assert [call["wait"] for call in each.calls] == [0.0]


def test_the_wait_of_a_message_without_a_date_is_unknown(client: MemoryClient, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody knows when it was sent, so nothing is made up."""
    each = Each()
    monkeypatch.setattr(Delivery, "sent_at_ms", property(lambda _: 0))
    client.send("q", 1)
    work_off(client, lambda _: None, each)
    assert [call["wait"] for call in each.calls] == [None]


def test_what_never_ran_has_no_times(client: MemoryClient) -> None:
    """A message that is no task is dead-lettered, and nothing has run."""
    each = Each()
    client.publish("q", b"{", message_id="m")
    work_off(client, lambda _: None, each)
    assert outcomes(each) == [("m", 0, "dead-lettered", Reason.MALFORMED)]
    assert (each.calls[0]["wait"], each.calls[0]["duration"]) == (None, None)


def test_a_settlement_shows_the_message_of_its_producer(client: MemoryClient) -> None:
    """Its id and headers, of each attempt, and also where nothing has run."""
    shown: list[tuple[str | None, dict[str, Any]]] = []

    class Plugin:
        @hookimpl
        def qbridge_task_settled(self, message_id: str | None, headers: Mapping[str, Any]) -> None:
            shown.append((message_id, dict(headers)))

    def handler(_: object) -> None:
        raise ValueError

    client.publish("q", b'{"payload": 1}', message_id="run", headers={"a": "b"})
    client.publish("q", b"{", message_id="malformed", headers={"c": "d"})
    work_off(client, handler, Plugin(), max_retries=1)
    run = ("run", {"a": "b"})
    assert shown == [run, ("malformed", {"c": "d"}), run]


def test_rejected_snoozed_and_late_ones_are_told_apart(client: MemoryClient) -> None:
    """Each has its outcome and its reason."""
    each, release = Each(), threading.Event()
    seen: list[object] = []

    def handler(payload: object) -> None:
        seen.append(payload)
        if payload == "reject":
            raise Reject("no")
        if payload == "snooze" and seen.count(payload) == 1:
            raise Snooze(0.01)
        if payload == "late":
            release.wait(30)

    for payload in ("reject", "snooze", "late"):
        client.send("q", payload, task_id=payload)
    work_off(client, handler, each, max_retries=0, task_timeout=0.3)
    release.set()
    assert sorted(outcomes(each), key=str) == [
        ("late", 1, "dead-lettered", Reason.TIMED_OUT),
        ("reject", 1, "dead-lettered", Reason.REJECTED),
        ("snooze", 1, "snoozed", None),
        ("snooze", 1, "succeeded", None),
    ]


def test_many_settlements_come_together_and_none_is_missing(client: MemoryClient) -> None:
    """In few calls, in a thread of their own; the last ones before the worker has ended, and then nothing runs."""
    many = Many()
    client.send_many("q", range(2_000))
    work_off(client, lambda _: None, many)
    assert sum(settlement.times for settlement in many.settlements) == 2_000
    assert len({settlement.task_id for settlement in many.settlements}) == len(many.settlements)
    assert {settlement.outcome for settlement in many.settlements} == {"succeeded"}
    assert len(many.running) < 200
    assert many.running[-1] == 0
    assert many.threads == {"qbridge-settlements"}


@pytest.mark.parametrize("is_async", [False, True], ids=["function", "coroutine"])
def test_those_who_count_learn_how_many_handlers_run(client: MemoryClient, is_async: bool) -> None:
    """Also while nothing ends."""
    many, release = Many(), threading.Event()

    def function(_: object) -> None:
        release.wait(30)

    async def coroutine(payload: object) -> None:
        import asyncio

        await asyncio.to_thread(function, payload)

    client.send_many("q", range(3))
    manager = TaskManager(client, coroutine if is_async else function, "q", "d", max_workers=3, plugins=[many])
    with manager:
        wait_for(lambda: 3 in many.running)
        assert not many.settlements
        release.set()
        wait_for(lambda: many.running[-1] == 0 and len(many.settlements) == 3)


def test_counting_keeps_no_task_from_the_quick_way(client: MemoryClient) -> None:
    """A plugin that hears of many together needs no hook in order, so coroutines are acknowledged on their loop."""
    assert Lifecycle([Many()]).order is None
    assert Lifecycle([Each()]).order is not None
    at_once: list[bool] = []
    acknowledge = Settler.acknowledge

    def seen(self: Settler, *args: Any, **kwargs: Any) -> bool:
        at_once.append(kwargs.get("at_once", False))
        return acknowledge(self, *args, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Settler, "acknowledge", seen)

        async def handler(_: object) -> None: ...

        client.send_many("q", range(10))
        work_off(client, handler, Many())
    assert at_once == [True] * 10


def test_what_goes_back_uncounted_is_told(client: MemoryClient) -> None:
    """A run that the stop has interrupted, and what nobody has begun, each with its task's id."""
    handed_back: list[tuple[str, str]] = []

    class Plugin:
        @hookimpl
        def qbridge_task_handed_back(self, queue: str, task_id: str) -> None:
            handed_back.append((queue, task_id))

    began, release = threading.Event(), threading.Event()

    def handler(_: object) -> None:
        began.set()
        release.wait(30)

    client.send("q", 1, task_id="t")
    with TaskManager(client, handler, "q", "d", max_workers=1, grace_period=0.1, plugins=[Plugin()]):
        assert began.wait(10)
    release.set()
    assert handed_back == [("q", "t")]


def test_each_repetition_of_a_settlement_is_told(client: MemoryClient, monkeypatch: pytest.MonkeyPatch) -> None:
    """The broker is away for two tries; the third one is the second repetition."""
    repeated: list[str] = []

    class Plugin:
        @hookimpl
        def qbridge_settlement_repeated(self, queue: str) -> None:
            repeated.append(queue)

    tries = iter([BrokerUnavailableError("away"), BrokerUnavailableError("away")])
    reject = MemoryClient.reject

    def failing(self: MemoryClient, *args: Any, **kwargs: Any) -> None:
        if error := next(tries, None):
            raise error
        reject(self, *args, **kwargs)

    def handler(_: object) -> None:
        raise ValueError

    monkeypatch.setattr(MemoryClient, "reject", failing)
    client.send("q", 1)
    work_off(client, handler, Plugin(), max_retries=0)
    assert repeated == ["q", "q"]
