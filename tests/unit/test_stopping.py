"""Stopping a ``TaskManager``: gracefully, and from anywhere."""

from __future__ import annotations

import os
import signal
import threading
import time
import warnings
from typing import Any

import pytest

from qbridge_core import Outcome, QBridgeError, TaskManager, hookimpl
from qbridge_memory import MemoryClient
from support.threads import NewThreads
from support.wait import wait_for


def test_signals_are_not_touched_outside_the_main_thread(client: MemoryClient) -> None:
    """A manager in another thread leaves the process's signal handlers alone."""
    before = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]
    manager = TaskManager(client, print, "q", "d", max_workers=1)
    thread = threading.Thread(target=manager.start, daemon=True)
    thread.start()
    wait_for(lambda: manager._current.session is not None, 5.0)
    assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)] == before
    wait_for(lambda: manager.stop() or not thread.is_alive(), 5.0)


def test_stop_waits_for_the_end(client: MemoryClient) -> None:
    """When ``stop`` returns in another thread, the running task is done and settled."""
    running = threading.Event()
    done = []

    def handler(payload: object) -> None:
        running.set()
        time.sleep(0.2)
        done.append(payload)

    client.send("q", 1)
    manager = TaskManager(client, handler, "q", "d", max_workers=1)
    thread = threading.Thread(target=manager.start, daemon=True)
    thread.start()
    assert running.wait(5)
    manager.stop()
    assert done == [1]
    assert client.stats("q").in_flight == 0
    thread.join(5)
    assert not thread.is_alive()


def test_a_stop_ends_with_the_last_thing_that_it_waits_for(
    client: MemoryClient, monkeypatch: pytest.MonkeyPatch, new_threads: NewThreads
) -> None:
    """Whatever is last, it rings: the look from time to time is for what nobody tells."""
    monkeypatch.setattr("qbridge_core.work.stopping._POLL", 60.0)

    class Plugin:
        @hookimpl
        def qbridge_worker_stopping(self) -> None:
            wait_for(lambda: not new_threads.count("qbridge-worker"), 10.0)

    client.send("q", 1)
    began = time.monotonic()
    manager = TaskManager(client, print, "q", "d", max_workers=1, task_timeout=60, grace_period=60, plugins=[Plugin()])
    assert manager.run_until_idle(60).succeeded == 1
    assert time.monotonic() - began < 30


def test_a_manager_may_start_again_as_soon_as_stop_returns(client: MemoryClient) -> None:
    """Also while the thread that ran it has not returned from ``start`` yet."""
    manager = TaskManager(client, print, "q", "d", max_workers=1)
    for _ in range(20):
        thread = threading.Thread(target=manager.start, daemon=True)
        thread.start()
        wait_for(
            lambda: manager._current.session is not None and not manager._current.session.stopped.is_set(),
            5.0,
            interval=0.001,
        )
        manager.stop()
        with manager:
            thread.join(5)
            client.send("q", 1)
            manager.run_until_idle(5)


def test_stop_in_a_forked_process_does_nothing(client: MemoryClient) -> None:
    """The copy of a running manager has no threads that could stop, and leaves the one of the parent alone."""
    with TaskManager(client, print, "q", "d", max_workers=1) as manager:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # forking with threads is just what is tested
            pid = os.fork()
        if pid == 0:
            manager.stop()
            os._exit(0)
        try:
            wait_for(lambda: os.waitpid(pid, os.WNOHANG)[0] == pid, 10.0)
        except BaseException:
            os.kill(pid, signal.SIGKILL)
            raise
        client.send("q", 1)
        assert manager.run_until_idle(10).succeeded == 1


def test_stop_of_a_manager_that_does_not_run_does_nothing(client: MemoryClient) -> None:
    """Before the start, and a second time after the end."""
    manager = TaskManager(client, print, "q", "d", max_workers=1)
    manager.stop()
    with manager:
        manager.stop()
        manager.stop()
    manager.stop()


def test_a_handler_may_stop_its_manager(client: MemoryClient) -> None:
    """``stop`` inside a handler does not wait for itself; its own task is acknowledged."""
    client.send_many("q", range(50))
    manager = TaskManager(client, lambda _: manager.stop(), "q", "d", max_workers=1)
    manager.start()
    assert set(manager.report().counts) == {Outcome.SUCCEEDED}
    assert (client.stats("q").in_flight, client.stats("q").ready) == (0, 50 - manager.report().succeeded)


@pytest.mark.parametrize("hook", ["worker_started", "worker_stopping", "task_started", "task_succeeded"])
def test_a_hook_may_stop_its_manager(client: MemoryClient, hook: str) -> None:
    """``stop`` inside any hook does not wait for itself."""

    def stop() -> None:
        manager.stop()

    plugin = type("Plugin", (), {f"qbridge_{hook}": staticmethod(hookimpl(stop))})()
    client.send("q", 1)
    manager = TaskManager(client, lambda _: manager.stop(), "q", "d", max_workers=1, plugins=[plugin])
    thread = threading.Thread(target=manager.start, daemon=True)
    thread.start()
    thread.join(10)
    assert not thread.is_alive()


def test_a_handler_that_was_abandoned_may_stop_its_manager(client: MemoryClient) -> None:
    """A run that timed out long ago can still call ``stop`` without waiting for ever."""
    release, returned = threading.Event(), threading.Event()

    def handler(payload: object) -> None:
        try:
            release.wait(30)
        finally:
            manager.stop()
            returned.set()

    client.send("q", 1)
    manager = TaskManager(client, handler, "q", "d", max_retries=0, task_timeout=0.1, max_workers=1)
    with manager:
        wait_for(lambda: client.stats("d").ready == 1, 5.0)
        release.set()
        assert returned.wait(5)


def test_several_threads_may_stop_at_once(client: MemoryClient) -> None:
    """All of them return."""
    manager = TaskManager(client, print, "q", "d", max_workers=2)
    with manager:
        threads = [threading.Thread(target=manager.stop, daemon=True) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(5)
        assert not any(thread.is_alive() for thread in threads)


def test_a_task_that_outlasts_the_grace_period_is_handed_back(client: MemoryClient) -> None:
    """It costs no attempt, and what its handler does later is ignored."""
    release, running, ended = threading.Event(), threading.Event(), threading.Event()

    def handler(payload: object) -> None:
        running.set()
        try:
            release.wait(30)
        finally:
            ended.set()

    client.send("q", 1)
    with TaskManager(client, handler, "q", "d", max_workers=1, grace_period=0.1, task_timeout=30) as manager:
        assert running.wait(5)
    assert str(manager.report()) == "1 handed back"
    (delivery,) = client.receive("q", 9)
    release.set()
    assert ended.wait(5)
    assert (delivery.attempts, delivery.crashes, client.stats("d").ready) == (0, 0, 0)
    assert manager.report()[Outcome.SUCCEEDED] == 0


def test_a_stop_during_a_failure_settles_it_first(client: MemoryClient) -> None:
    """A task that fails within the grace period is retried as usual, by whoever comes next."""
    running, go_on = threading.Event(), threading.Event()

    class Plugin:
        @hookimpl
        def qbridge_worker_stopping(self) -> None:
            go_on.set()

    def handler(payload: Any) -> None:
        running.set()
        go_on.wait(10)
        raise ValueError

    client.send("q", 1)
    with TaskManager(client, handler, "q", "d", max_workers=1, plugins=[Plugin()]) as manager:
        assert running.wait(5)
    assert str(manager.report()) == "1 retried"
    assert client.receive("q")[0].attempts == 1


@pytest.mark.parametrize(
    ("owner", "name", "reason"),
    [
        ("pool", "claim_running", "the tasks that run have not been taken over: a lock is never released"),
        ("client", "hand_back", "the broker has not taken back what did not finish"),
        ("client", "flush", "the broker has not taken the last settlements"),
    ],
)
def test_g20_a_stop_that_is_late_says_what_it_waits_for(
    client: MemoryClient, monkeypatch: pytest.MonkeyPatch, owner: str, name: str, reason: str
) -> None:
    """The error of a stop that is not done in time names the step that does not end."""
    for patience in ("_SILENCE", "_HAND_BACK_TIME", "_FLUSH_TIME", "_LAST_FLUSH"):
        monkeypatch.setattr(f"qbridge_core.work.stopping.{patience}", 60.0)
    end, running, reached = threading.Event(), threading.Event(), threading.Event()

    def handler(_: object) -> None:
        running.set()
        end.wait(60)

    def hang(*_: object) -> None:
        reached.set()
        end.wait(60)

    client.send("q", 1)
    manager = TaskManager(client, handler, "q", "d", max_workers=1, task_timeout=60, grace_period=0.1)
    manager.__enter__()
    assert running.wait(5)
    session = manager._current.session
    assert session is not None
    monkeypatch.setattr({"client": client, "pool": session._pool}[owner], name, hang)
    monkeypatch.setattr(session, "_hurry", lambda: None)  # there is time, until it hangs
    stopper = threading.Thread(target=manager.stop)
    stopper.start()
    assert reached.wait(30)
    session._must_end_at = 0.0
    stopper.join(30)
    with pytest.raises(QBridgeError, match=reason):
        manager.__exit__(None, None, None)
    end.set()
