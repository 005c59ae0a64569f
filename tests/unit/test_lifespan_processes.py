"""``lifespan`` with ``executor="process"``: each child process has its own, and none of its tasks is lost."""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from qbridge_core import ConfigurationError, Outcome, TaskManager, hookimpl
from qbridge_memory import MemoryClient
from support import lifespans
from support.lifespans import JOURNAL, events, events_of, work, work_on_loop
from support.wait import wait_for


@pytest.fixture(autouse=True)
def journal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The file that handlers and lifespans of a test write to."""
    monkeypatch.setenv(JOURNAL, str(tmp_path / "journal"))
    return str(tmp_path / "journal")


@pytest.fixture(autouse=True)
def nothing_is_left() -> Iterator[None]:
    """No test leaves a child process or a thread behind."""
    children, threads = _children(), threading.active_count()
    yield
    wait_for(lambda: _children() <= children, 10.0, "the child processes are gone")
    wait_for(lambda: threading.active_count() <= threads, 10.0, "the threads have ended")


def _children() -> set[str]:
    children: set[str] = set()
    for task in Path("/proc/self/task").iterdir():
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # a thread that has just ended
            children |= set((task / "children").read_text().split())
    return children


def manager(client: MemoryClient, handler: Any, lifespan: Any, **arguments: Any) -> TaskManager:
    """A manager of the queue ``q`` with one child process."""
    arguments = {"max_workers": 1, "max_retries": 0, **arguments}
    return TaskManager(client, handler, "q", "d", lifespan=lifespan, executor="process", **arguments)


def processes() -> list[int]:
    """The child processes that entered a lifespan, in order."""
    return [pid for event, pid in events() if event == "enter"]


@pytest.mark.parametrize("handler", [work, work_on_loop])
@pytest.mark.parametrize("lifespan", [lifespans.plain, lifespans.with_loop])
def test_each_child_enters_it_before_its_first_task_and_leaves_it_at_its_end(
    client: MemoryClient, handler: Any, lifespan: Any
) -> None:
    """A sync one in the thread of functions, an async one on the loop of coroutines; the handlers check that."""
    client.send_many("q", [{"id": "x"} for _ in range(20)])
    assert manager(client, handler, lifespan, max_workers=2).run_until_idle(60.0).succeeded == 20
    assert 1 <= len(processes()) <= 2
    assert os.getpid() not in processes()
    assert sum(event == "task x" for event, _ in events()) == 20
    for pid in processes():
        first, *tasks, last = events_of(pid)
        assert (first, set(tasks) - {"task x"}, last) == ("enter", set(), "leave")


@pytest.mark.parametrize("handler", [work, work_on_loop])
def test_a_child_that_is_replaced_leaves_it(client: MemoryClient, handler: Any) -> None:
    """The next one enters it anew; however long the leaving takes, tasks do not wait for it."""
    client.send_many("q", [{"id": n} for n in range(4)])
    assert manager(client, handler, lifespans.slow_to_leave, max_tasks_per_child=2).run_until_idle(60.0).succeeded == 4
    assert len(processes()) >= 2
    assert [events_of(pid) for pid in processes()][:2] == [
        ["enter", "task 0", "task 1", "leave"], ["enter", "task 2", "task 3", "leave"]
    ]  # fmt: skip


@pytest.mark.parametrize("how", ["start", "with", "run_until_idle"])
def test_what_entering_raises_ends_the_start(client: MemoryClient, how: str) -> None:
    """Its text is raised; nothing was taken from the queue, and no hook heard of a start."""
    started: list[str] = []

    class Plugin:
        @hookimpl
        def qbridge_worker_started(self, worker: str) -> None:
            started.append(worker)

    client.send("q", {"id": 1})
    failing = manager(client, work, lifespans.broken, max_workers=2, plugins=[Plugin()])
    with pytest.raises(ConfigurationError, match="could not enter the lifespan: OSError: no database"):
        {"start": failing.start, "with": failing.__enter__, "run_until_idle": failing.run_until_idle}[how]()
    assert client.stats("q").ready == 1
    assert started == []


@pytest.mark.parametrize("lifespan", [lifespans.never_yields, lifespans.never_yields_on_loop])
def test_g18_a_lifespan_that_never_yields_is_named(client: MemoryClient, lifespan: Any) -> None:
    """By the start, as without child processes."""
    with pytest.raises(ConfigurationError, match=rf"must yield once, and {lifespan.__name__} does not"):
        manager(client, work, lifespan).start()


def test_a_later_child_that_cannot_enter_it_is_tried_again(
    client: MemoryClient, caplog: pytest.LogCaptureFixture
) -> None:
    """Each failure is an error in the log, and no task is lost."""
    client.send_many("q", [{"id": n} for n in range(3)])
    running = manager(client, work, lifespans.broken_for_a_while, max_tasks_per_child=2)
    assert running.run_until_idle(60.0).succeeded == 3
    assert [event for event, _ in events() if event != "enter"] == ["task 0", "task 1", "task 2"]
    assert caplog.text.count("could not enter the lifespan: OSError: no database; next try in 0") == 2


@pytest.mark.parametrize("handler", [work, work_on_loop])
def test_g10_a_child_is_killed_when_its_task_is_too_late(client: MemoryClient, handler: Any) -> None:
    """A coroutine is cancelled before; the lifespan is not left, and the next process enters it."""
    client.send_many("q", [{"id": 1, "do": "sleep"}, {"id": 2}])
    report = manager(client, handler, lifespans.with_loop, task_timeout=0.5).run_until_idle(60.0)
    assert (report[Outcome.TIMED_OUT], report.succeeded) == (1, 1)
    first, second = processes()
    assert events_of(first) == ["enter", "task 1", *(["cancelled"] if handler is work_on_loop else [])]
    assert events_of(second) == ["enter", "task 2", "leave"]


def test_g6_a_child_that_is_killed_is_replaced_by_one_that_enters_it(client: MemoryClient) -> None:
    """SIGKILL leaves no lifespan, and is charged to its task alone."""
    client.send_many("q", [{"id": 1, "do": "kill"}, {"id": 2}])
    report = manager(client, work_on_loop, lifespans.with_loop, max_crashes=2).run_until_idle(60.0)
    assert (report[Outcome.CRASHED], report.succeeded) == (1, 1)
    assert [events_of(pid)[0] for pid in processes()] == ["enter"] * 3
    assert events_of(processes()[-1])[-1] == "leave"


def test_g13_what_a_coroutine_raises_there_explains_itself(client: MemoryClient) -> None:
    """The traceback begins with the handler."""
    client.send("q", {"id": 1, "do": "raise"})
    manager(client, work_on_loop, lifespans.with_loop).run_until_idle(60.0)
    (letter,) = client.dead_letters("d")
    assert (letter.exception_type, letter.exception_message) == ("LookupError", "no such thing")
    assert "in work_on_loop" in letter.traceback.splitlines()[1]


def test_a_stop_waits_until_it_is_left(client: MemoryClient) -> None:
    """As long as the grace period lasts, and not longer than it takes."""
    begin = time.monotonic()
    with manager(client, work, lifespans.slow_to_leave, grace_period=30.0, max_workers=2) as running:
        wait_for(lambda: len(processes()) == 2, 30.0, "both children are there")
        begin = time.monotonic()
        running.stop()
        seconds = time.monotonic() - begin
    assert 1.5 <= seconds < 20.0
    assert [event for event, _ in events()] == ["enter", "enter", "leave", "leave"]


@pytest.mark.parametrize("now", [False, True])
def test_a_child_that_never_leaves_it_is_killed(
    client: MemoryClient, caplog: pytest.LogCaptureFixture, now: bool
) -> None:
    """The stop does not take longer than it may."""
    with manager(client, work, lifespans.never_left, grace_period=60.0 if now else 0.1) as running:
        begin = time.monotonic()
        running.stop(now=now)
        seconds = time.monotonic() - begin
    assert seconds < (1.3 if now else 2.6)
    assert "the lifespan was not left in time" in caplog.text


def test_a_child_whose_lifespan_ends_too_early_is_replaced(
    client: MemoryClient, journal: str, capfd: pytest.CaptureFixture[str]
) -> None:
    """It says why, and its next task runs in a process that has one."""
    client.send("q", {"id": 1})
    with manager(client, work, lifespans.with_a_task_that_fails) as running:
        running.run_until_idle(30.0)
        (first,) = processes()
        Path(f"{journal}.fail").touch()
        wait_for(lambda: " Z " in Path(f"/proc/{first}/stat").read_text(), 10.0, "the child has ended")
        client.send("q", {"id": 2})
        assert running.run_until_idle(30.0).succeeded == 2
    first, second = processes()
    assert (events_of(first), events_of(second)) == (["enter", "task 1"], ["enter", "task 2", "leave"])
    assert "the lifespan has ended too early" in capfd.readouterr().err
