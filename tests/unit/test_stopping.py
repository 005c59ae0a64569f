"""Stopping a ``TaskManager``: gracefully, and from anywhere."""

from __future__ import annotations

import logging
import os
import signal
import threading
import time
import warnings
from typing import Any

import pytest

from qbridge_core import Outcome, QBridgeError, TaskManager, hookimpl
from qbridge_core.work.flushes import Flushes
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


def stop_together(client: MemoryClient, count: int, tasks: int) -> None:
    """Run so many managers of one client, with a queue each, until each has done its tasks; then stop them all."""
    managers = [TaskManager(client, id, f"q{number}", "d", max_workers=1) for number in range(count)]
    for manager in managers:
        manager.__enter__()
    for number in range(count * tasks):
        client.send(f"q{number % count}", number)
    wait_for(lambda: sum(manager.report().succeeded for manager in managers) == count * tasks, 20.0)
    stoppers = [threading.Thread(target=manager.stop) for manager in managers]
    for stopper in stoppers:
        stopper.start()
    for stopper in stoppers:
        stopper.join()
    for manager in managers:
        manager.__exit__(None, None, None)


def test_g16_managers_of_a_client_that_stop_together_share_flushes(
    client: MemoryClient, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """One flush is for all that wait for it: what each settled reaches the broker though they have a second each."""
    one_at_a_time, flushes = threading.Lock(), []

    def flush(timeout: float = 5.0) -> bool:
        began = time.monotonic()
        if not one_at_a_time.acquire(timeout=timeout):
            return False
        flushes.append(threading.current_thread().name)
        time.sleep(0.15)
        one_at_a_time.release()
        return time.monotonic() - began < timeout

    monkeypatch.setattr(client, "flush", flush)
    stop_together(client, 20, tasks=1)
    assert not [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    assert 1 <= len(flushes) < 20


def test_g16_a_flush_is_not_for_what_is_settled_after_its_begin() -> None:
    """Whoever asks while one is under way waits for the next one, with all others that do."""
    flushes, first, go_on = [], threading.Event(), threading.Event()

    class Client(MemoryClient):
        def flush(self, timeout: float = 5.0) -> bool:
            flushes.append(timeout)
            first.set()
            return go_on.wait(timeout)

    client, together, done = Client(), Flushes(), []

    def ask() -> None:
        done.append(together.flush(client, 20.0))

    threads = [threading.Thread(target=ask) for _ in range(5)]
    threads[0].start()
    assert first.wait(10)
    for thread in threads[1:]:
        thread.start()
    wait_for(lambda: together._next.is_led, 10.0, "another one is asked for")
    go_on.set()
    for thread in threads:
        thread.join()
    assert done == [True] * 5
    assert 2 <= len(flushes) <= 5


def test_g16_an_idle_manager_needs_no_flush(client: MemoryClient, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that has been given nothing has settled nothing."""
    flushes: list[float] = []
    monkeypatch.setattr(client, "flush", lambda timeout=5.0: flushes.append(timeout) or True)
    stop_together(client, 3, tasks=0)
    assert flushes == []


def test_g16_a_stop_says_whose_settlements_the_broker_may_not_have(
    client: MemoryClient, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The warning names the queue, and how many there were since the stop began."""
    running, go_on = threading.Event(), threading.Event()

    def handler(_: object) -> None:
        running.set()
        go_on.wait(20)

    monkeypatch.setattr(client, "flush", lambda timeout=5.0: False)
    client.declare("orders")
    client.send("orders", 1)
    manager = TaskManager(client, handler, "orders", "d", max_workers=1)
    with manager:
        assert running.wait(10)
        stopper = threading.Thread(target=manager.stop)
        stopper.start()
        session = manager._current.session
        assert session is not None
        wait_for(lambda: session._job.dispatcher.closed, 10.0, "the stop begins")
        go_on.set()
        stopper.join()
    (said,) = [record.getMessage() for record in caplog.records if "did not reach the broker" in record.getMessage()]
    assert "settlements of orders did not" in said
    assert "of 1 since" in said


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
