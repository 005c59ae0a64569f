"""The hooks about one task are called in the order of what they tell, however slow they are."""

from __future__ import annotations

import threading
import time
from typing import Any

import pytest

from qbridge_core import Snooze, TaskManager, hookimpl
from qbridge_core.task.hookorder import HookOrder
from qbridge_core.task.lifecycle import Lifecycle
from qbridge_memory import MemoryClient
from support.wait import wait_for


class Slow:
    """Notes each call at its end, which comes late."""

    def __init__(self, *slow: str) -> None:
        self.calls: list[tuple[str, int]] = []
        self._slow = slow
        self._attempt: dict[str, int] = {}

    def _note(self, name: str, attempt: int) -> None:
        try:
            if name in self._slow:
                time.sleep(0.05)  # the subject of the test: a hook that takes its time
        finally:
            self.calls.append((name, attempt))

    @hookimpl
    def qbridge_worker_started(self) -> None:
        """Note."""
        self._note("worker started", 0)

    @hookimpl
    def qbridge_task_started(self, attempt: int) -> None:
        """Note."""
        self._note("started", attempt)

    @hookimpl
    def qbridge_task_succeeded(self, attempt: int) -> None:
        """Note."""
        self._note("succeeded", attempt)

    @hookimpl
    def qbridge_task_failed(self, attempt: int) -> None:
        """Note."""
        self._note("failed", attempt)

    @hookimpl
    def qbridge_task_timed_out(self, attempt: int) -> None:
        """Note."""
        self._note("timed out", attempt)

    @hookimpl
    def qbridge_task_retried(self, attempt: int) -> None:
        """Note."""
        self._note("retried", attempt)

    @hookimpl
    def qbridge_task_dead_lettered(self, task_id: str) -> None:
        """Note."""
        self._note("dead-lettered", 0)


@pytest.mark.parametrize("slow", ["worker started", "started", "failed", "retried"])
def test_the_hooks_of_attempts_come_in_their_order(client: MemoryClient, slow: str) -> None:
    """``retried`` of one attempt is over before the next one is told, though its message is there before."""

    def handler(payload: object) -> None:
        raise ValueError("x")

    plugin = Slow(slow)
    client.send("q", 1)
    TaskManager(client, handler, "q", "d", max_retries=2, max_workers=4, plugins=[plugin]).run_until_idle(20.0)
    expected = [("worker started", 0)]
    for attempt in (1, 2, 3):
        expected += [("started", attempt), ("failed", attempt)]
        expected.append(("retried", attempt) if attempt < 3 else ("dead-lettered", 0))
    assert plugin.calls == expected


def test_a_timeout_is_told_after_the_start(client: MemoryClient) -> None:
    """A start that takes longer to tell than the task may run is told first, and the next attempt after the retry."""
    plugin = Slow("started", "timed out", "retried")
    release = threading.Event()
    client.send("q", 1)
    manager = TaskManager(
        client,
        lambda _: release.wait(20.0),
        "q",
        "d",
        max_retries=1,
        max_workers=4,
        task_timeout=0.02,
        plugins=[plugin],
    )
    manager.run_until_idle(20.0)
    release.set()
    told = [("started", 1), ("timed out", 1), ("retried", 1), ("started", 2), ("timed out", 2), ("dead-lettered", 0)]
    assert plugin.calls[1:] == told


def test_a_replayed_task_is_told_after_its_dead_letter(client: MemoryClient) -> None:
    """A letter that goes back at once begins only when its end has been told, in another manager too."""
    plugin = Slow("dead-lettered")
    failing = threading.Event()
    failing.set()

    def handler(payload: object) -> None:
        if failing.is_set():
            raise ValueError("x")

    client.send("q", 1)
    with TaskManager(client, handler, "q", "d", max_retries=0, max_workers=2, plugins=[plugin]):
        wait_for(lambda: client.stats("d").ready == 1, 10.0)
        failing.clear()
        with TaskManager(client, handler, "q", "d", max_workers=2, plugins=[plugin]):
            assert client.replay("d") == 1
            wait_for(lambda: ("succeeded", 1) in plugin.calls, 10.0)
    tasks = [call for call in plugin.calls if call[0] != "worker started"]
    assert tasks == [("started", 1), ("failed", 1), ("dead-lettered", 0), ("started", 1), ("succeeded", 1)]


def test_a_snoozed_task_is_told_in_order(client: MemoryClient) -> None:
    """Each start of a task that asks for later is told, one after the other."""
    seen: list[object] = []

    def handler(payload: object) -> None:
        seen.append(payload)
        if len(seen) < 3:
            raise Snooze(0.0)

    plugin = Slow("started")
    client.send("q", 1)
    TaskManager(client, handler, "q", "d", max_workers=4, plugins=[plugin]).run_until_idle(20.0)
    assert plugin.calls[1:] == [("started", 1)] * 3 + [("succeeded", 1)]


def test_a_hook_that_hangs_holds_its_task_up_for_a_bounded_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """After some seconds the next attempt begins all the same, and other tasks never wait."""
    monkeypatch.setattr("qbridge_core.task.hookorder._LONGEST_WAIT", 0.1)
    order = HookOrder()
    told = order.begin("t")
    began = time.monotonic()
    order.wait("t")
    assert 0.1 <= time.monotonic() - began < 5.0
    began = time.monotonic()
    order.wait("other")
    assert time.monotonic() - began < 0.1
    order.end("t", told)
    order.wait("t")
    assert not order._telling


def test_nobody_pays_for_an_order_that_nobody_sees() -> None:
    """Without a hook about tasks there is nothing to keep in order."""

    class Elsewhere:
        @hookimpl
        def qbridge_worker_started(self) -> None: ...

    plugins: list[list[Any]] = [[], [Elsewhere()]]
    assert [Lifecycle(each).order for each in plugins] == [None, None]
    assert Lifecycle([Slow()]).order is not None
