"""What one quick task costs, in counts that do not depend on the machine."""

from __future__ import annotations

import asyncio
import sys
import threading
from collections import Counter
from types import FrameType
from typing import Any

import pytest

from qbridge_core import TaskManager, connect
from qbridge_core.task.lifecycle import Lifecycle
from qbridge_core.work.readahead import ReadAhead
from support.threads import NewThreads
from support.wait import wait_for

TASKS = 500
_AT_ONCE = 20
_OF_A_SLOW_STOP = ("qbridge-unsubscribe", "qbridge-return")


def consume(handler: Any) -> None:
    """Work off so many tasks in one thread."""
    with connect("memory://") as client:
        client.declare("q", "d")
        client.send_many("q", range(TASKS))
        TaskManager(client, handler, "q", "d", max_workers=1).run_until_idle(120.0)


def test_few_functions_are_called_for_a_task(monkeypatch: pytest.MonkeyPatch) -> None:
    """In the worker's thread a task that succeeds costs at most 30 calls of Python functions, all layers included.

    How many tasks share a request for messages follows the speed of the machine, so it is fixed here.
    """
    monkeypatch.setattr(ReadAhead, "more", lambda self, done, now: _AT_ONCE)
    calls: Counter[str] = Counter()

    def profile(frame: FrameType, event: str, argument: object) -> None:
        if event == "call":
            calls[frame.f_code.co_qualname] += 1

    def handler(payload: object) -> None:
        if payload == 0:
            calls.clear()
            sys.setprofile(profile)  # in this thread
        elif payload == TASKS - 1:
            sys.setprofile(None)

    consume(handler)
    per_task = sum(calls.values()) / TASKS
    assert per_task <= 30, calls.most_common(40)


def test_no_thread_and_no_timer_is_made_for_a_task(monkeypatch: pytest.MonkeyPatch) -> None:
    """The threads of a worker are started once, however many tasks they run."""
    started: list[str] = []
    start = threading.Thread.start

    def counted(thread: threading.Thread) -> None:
        started.append(thread.name)
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", counted)
    consume(lambda _: None)
    # Of the session, from start to stop, and the client's look-out. A slow machine adds some that a stop asks the
    # broker with once more.
    usual = [name for name in started if name not in _OF_A_SLOW_STOP]
    assert len(usual) <= 8, Counter(started)
    assert len(started) <= 11, Counter(started)


def test_a_hook_that_nobody_implements_is_not_called() -> None:
    """A pluggy call costs more than the rest of a short task."""
    lifecycle = Lifecycle([])
    hooks = [value for name, value in vars(lifecycle).items() if not name.startswith("_")]
    assert len(hooks) == 14
    assert {hook.__module__ for hook in hooks} == {"qbridge_core.task.lifecycle"}
    assert {hook.__name__ for hook in hooks} == {"_nothing"}


def test_one_wake_up_of_the_event_loop_starts_all_waiting_coroutines(monkeypatch: pytest.MonkeyPatch) -> None:
    """While the loop is busy, ten tasks that come wake it once, and not once each."""
    wakes: Counter[bool] = Counter()
    busy, release = threading.Event(), threading.Event()

    def counted_wake(loop: asyncio.AbstractEventLoop, *args: Any, **kwargs: Any) -> None:
        wakes[busy.is_set()] += 1
        wake(loop, *args, **kwargs)

    wake = asyncio.BaseEventLoop.call_soon_threadsafe
    monkeypatch.setattr(asyncio.BaseEventLoop, "call_soon_threadsafe", counted_wake)

    async def handler(payload: object) -> None:
        if payload == 0:
            busy.set()
            release.wait(30)
            busy.clear()

    with connect("memory://") as client:
        client.declare("q", "d")
        # A task whose time is over would have the loop that it blocks replaced, by one that is woken, too.
        with TaskManager(client, handler, "q", "d", max_workers=11, task_timeout=120) as manager:
            client.send("q", 0)
            assert busy.wait(30)
            client.send_many("q", range(1, 11))
            wait_for(lambda: wakes[True] and client.stats("q").in_flight == 11, 30.0, "all tasks have come")
            release.set()
            assert manager.run_until_idle(30).succeeded == 11
    assert wakes[True] == 1


def test_no_thread_is_made_for_a_coroutine(new_threads: NewThreads) -> None:
    """A thousand coroutines that wait together need one thread for reading and one for their loop."""
    most: list[str] = []
    all_here = asyncio.Barrier(1_000)

    async def handler(payload: object) -> None:
        nonlocal most
        await all_here.wait()
        most = max(most, new_threads.names(), key=len)

    with connect("memory://") as client:
        client.declare("q", "d")
        client.send_many("q", range(1_000))
        assert TaskManager(client, handler, "q", "d", max_workers=1_000).run_until_idle(60.0).succeeded == 1_000
    # Beside the two the client's look-out, the watch that all managers share, and this one's own until it is idle.
    expected = {"qbridge-asyncio", "qbridge-feeder", "qbridge-lookout", "qbridge-manager", "qbridge-watch"}
    assert len(set(most)) == len(most), most
    assert set(most) <= expected
