"""``manager.health()``: what hangs for good is red and named; what is replaced, rests or has no broker is not."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from qbridge_core import BrokerUnavailableError, Delivery, Health, QBridgeError, QueueStats, TaskManager, hookimpl
from qbridge_core.runtime.logs import flush
from qbridge_core.telemetry.health import say_dead
from qbridge_core.work import coroutinewatch
from qbridge_memory import MemoryClient
from support import handlers
from support.suspects import CountingClient, suspected_once
from support.wait import wait_for

STALL = 0.3
PATIENT = 1.5
"""What is not stuck has turned in that time on a busy machine, too."""


def manager_of(client: MemoryClient, handler: object = print, **settings: object) -> TaskManager:
    """With two threads, which stops soon."""
    given = {"max_workers": 2, "grace_period": 0.2, "task_timeout": 60.0, **settings}
    return TaskManager(client, handler, "q", "d", **given)  # type: ignore[arg-type]


def red(manager: TaskManager) -> Health:
    """Wait until it is not alive."""
    return wait_for(lambda: None if (health := manager.health(stall=STALL)).alive else health, 20, "it is alive")


def stays_alive(manager: TaskManager) -> None:
    """Check that it is alive for longer than anything may be overdue."""
    until = time.monotonic() + PATIENT + 1.0
    while time.monotonic() < until:
        health = manager.health(stall=PATIENT)
        assert health.alive, health
        time.sleep(0.02)


def test_it_is_ready_while_it_works_and_alive_before_and_after(client: MemoryClient) -> None:
    """Not started, at work, stopping, stopped: alive always, ready at work only; the reason names the queue."""
    entered, leave = threading.Event(), threading.Event()

    def handler(_: object) -> None:
        entered.set()
        leave.wait(60)

    manager = manager_of(client, handler, grace_period=30.0)
    assert manager.health() == Health(True, False, "the worker of 'q' takes nothing: it does not run")
    thread = threading.Thread(target=manager.start)
    thread.start()
    wait_for(lambda: manager.health() == Health(True, True), 20)
    client.send("q", 1)
    assert entered.wait(20)
    stopping = threading.Thread(target=manager.stop)
    stopping.start()
    wait_for(lambda: manager.health().reason == "the worker of 'q' takes nothing: it stops (stop() was called)", 20)
    assert manager.health().alive
    leave.set()
    stopping.join(30)
    thread.join(30)
    assert manager.health() == Health(True, False, "the worker of 'q' takes nothing: it does not run")


def test_a_worker_that_has_ended_by_itself_is_not_alive(client: MemoryClient) -> None:
    """Also in a program that goes on: the reason is the error."""
    manager = manager_of(client)
    with pytest.raises(QBridgeError), manager:  # noqa: PT012 - the block is what is tested
        client.disconnect()
        assert manager.wait(20)
        health = manager.health()
    assert (health.alive, health.ready) == (False, False)
    assert health.reason.startswith("the worker of 'q' has ended: NotConnectedError: ")


def test_g20_a_leaked_lock_is_red_and_names_where(client: MemoryClient) -> None:
    """A handler that never gives back a lock of the client: nothing is acknowledged or received any more."""
    lock = client._broker._lock

    def handler(_: object) -> None:
        lock.acquire()

    manager = manager_of(client, handler)
    with manager:
        client.send("q", 1)
        health = red(manager)
        lock.release()
    assert not health.ready
    assert "has not turned for" in health.reason
    assert "qbridge_memory" in health.stack


def test_g20_a_thread_that_settles_for_ever_is_red(client: MemoryClient, release: threading.Event) -> None:
    """The one worker hangs in an acknowledgement, while the others receive as ever."""
    ack = client.ack

    def hanging(delivery: object) -> None:
        release.wait(60)
        ack(delivery)  # type: ignore[arg-type]

    client.ack = hanging  # type: ignore[method-assign]
    manager = manager_of(client, lambda _: None)
    with manager:
        client.send("q", 1)
        health = red(manager)
        assert health.reason.startswith("the worker of 'q' hangs: a thread that settles tasks has not turned for")
        assert "in hanging" in health.stack
        release.set()
        wait_for(lambda: manager.health(stall=PATIENT) == Health(True, True), 20, "it has gone on")


def test_g20_nobody_who_reads_is_red(client: MemoryClient) -> None:
    """The right to read was not given back: the workers wait for ever."""

    def handler(_: object) -> None:
        manager._current.session._job.dispatcher._reading.acquire()  # type: ignore[union-attr]

    manager = manager_of(client, handler, max_workers=1)
    with manager:
        client.send("q", 1)
        health = red(manager)
        manager._current.session._job.dispatcher._reading.release()  # type: ignore[union-attr]
    assert "the lock of those who read messages has not turned" in health.reason


def test_g20_a_watch_that_hangs_is_red_and_names_where(client: MemoryClient) -> None:
    """The watch over timeouts waits for a lock that nobody gives back."""
    manager = manager_of(client)
    with manager:
        wait_for(lambda: manager.health().ready, 20)
        with manager._current.session._pool._lock:  # type: ignore[union-attr]
            health = red(manager)
        assert "the watch over running tasks has not turned" in health.reason
        assert "_snapshot" in health.stack


def test_g20_a_blocked_event_loop_is_red_until_it_is_replaced(
    client: MemoryClient, release: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A coroutine that blocks its loop, within its timeout, keeps all others from running: the stack names it."""
    monkeypatch.setattr(coroutinewatch, "_ASK_EVERY", 0.1)

    async def blocking(payload: object) -> None:
        if payload == "block":
            release.wait(60)

    manager = manager_of(client, blocking)
    with manager:
        client.send("q", "go")
        wait_for(lambda: manager.report().succeeded, 20)
        client.send("q", "block")
        health = red(manager)
        assert "the event loop of the handlers has not turned" in health.reason
        assert "in blocking" in health.stack
        release.set()
        wait_for(lambda: manager.health(stall=PATIENT).ready, 20, "it has gone on")


@pytest.fixture
def suspecting() -> Iterator[CountingClient]:
    """A client by whom each task may have killed its worker when it comes first."""
    with CountingClient() as client:
        client.declare("q", "d")
        client.deaths["q"] = suspected_once(b"")
        yield client


def test_g20_a_thread_that_runs_suspects_is_red_when_it_hangs(
    suspecting: CountingClient, release: threading.Event
) -> None:
    """Its child process has done the task, and the acknowledgement never returns."""
    ack = suspecting.ack

    def hanging(delivery: Delivery) -> None:
        release.wait(60)
        ack(delivery)

    suspecting.ack = hanging  # type: ignore[method-assign]
    suspecting.patience = STALL
    manager = manager_of(suspecting, handlers.work)
    with manager:
        suspecting.send("q", {})
        health = wait_for(lambda: None if (now := manager.health(stall=PATIENT)).alive else now, 60, "it is alive")
        release.set()
    assert "a thread for tasks that may have killed their worker has not turned" in health.reason
    assert "in hanging" in health.stack


def test_a_suspect_that_takes_long_is_green(suspecting: CountingClient, tmp_path: Path) -> None:
    """Its child may take as long as the task may."""
    manager = manager_of(suspecting, handlers.work)
    with manager:
        suspecting.send("q", {"file": str(tmp_path / "runs"), "do": "sleep"})
        wait_for(lambda: handlers.notes(tmp_path / "runs"), 60, "the suspect runs")
        stays_alive(manager)


def test_g20_a_thread_that_counts_suspects_is_red_when_it_hangs(
    suspecting: CountingClient, release: threading.Event
) -> None:
    """The workers are about to run suspects themselves, and would never know of one."""
    count = suspecting.count

    def hanging(queue: str) -> QueueStats:
        if queue == "q.suspects":
            release.wait(60)
        return count(queue)

    suspecting.count = hanging  # type: ignore[method-assign]
    suspecting.patience = STALL
    manager = manager_of(suspecting, lambda _: None)
    with manager:
        suspecting.send("q", 1)
        health = red(manager)
        release.set()
    assert "the thread that counts tasks which may have killed their worker has not turned" in health.reason


@pytest.mark.parametrize("kind", ["thread", "coroutine"])
def test_idle_and_long_tasks_are_green(client: MemoryClient, release: threading.Event, kind: str) -> None:
    """Nothing comes, or all slots are busy, for longer than the stall: both are as it should be."""

    async def coroutine(_: object) -> None:
        await asyncio.to_thread(release.wait, 60)

    handler = coroutine if kind == "coroutine" else lambda _: release.wait(60)
    manager = manager_of(client, handler)
    with manager:
        stays_alive(manager)
        client.send_many("q", range(5))
        wait_for(lambda: client.stats("q").in_flight >= 2, 20)
        stays_alive(manager)
        assert manager.health().ready
        release.set()


def test_what_is_replaced_is_green(client: MemoryClient, release: threading.Event) -> None:
    """A hook and a handler that hang past their time lose their threads, and cost no life."""

    class Hanging:
        @hookimpl
        def qbridge_task_succeeded(self, task_id: str) -> None:
            if task_id == "hook":
                release.wait(60)

    manager = manager_of(
        client, lambda payload: payload == "hang" and release.wait(60), plugins=[Hanging()], task_timeout=0.5,
        max_retries=0, max_workers=1,
    )  # fmt: skip
    with manager:
        client.send("q", "x", task_id="hook")
        client.send("q", "hang")
        stays_alive(manager)
        release.set()


def test_a_paused_queue_is_green_and_ready(client: MemoryClient) -> None:
    """Its workers rest because somebody wants it."""
    manager = manager_of(client)
    client.pause("q")
    with manager:
        wait_for(lambda: manager.paused and manager.health().ready, 20)
        stays_alive(manager)
        assert manager.health().ready


def test_a_broker_that_is_away_is_green_and_not_ready(client: MemoryClient, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever receives, settles or looks for pauses is told so again and again; when it is back, all is ready."""
    manager = manager_of(client, lambda _: None)
    down = threading.Event()

    def away(name: str) -> None:
        method = getattr(client, name)

        def call(*args: object, **kwargs: object) -> object:
            if down.is_set():
                raise BrokerUnavailableError("the cable is out")
            return method(*args, **kwargs)

        monkeypatch.setattr(client, name, call)

    for name in ("receive", "ack", "reject", "paused"):
        away(name)
    with manager:
        wait_for(lambda: manager.health().ready, 20)
        down.set()
        client.send("q", 1)  # somebody may have it by now, and cannot acknowledge it
        health = wait_for(lambda: None if (now := manager.health(silence=1.0)).ready else now, 20)
        assert health.alive
        assert "the cable is out" in health.reason
        stays_alive(manager)
        down.clear()
        wait_for(lambda: manager.health(silence=3.0).ready, 20, "it is back")


def test_a_call_may_take_as_long_as_the_clients_timeouts_say(client: MemoryClient, release: threading.Event) -> None:
    """A broker that is silent keeps a caller waiting for ``publish_timeout``: that hangs only after it."""
    client.patience = 60.0
    ack = client.ack
    client.ack = lambda delivery: (release.wait(60), ack(delivery))[1]  # type: ignore[method-assign]
    manager = manager_of(client, lambda _: None)
    with manager:
        client.send("q", 1)
        stays_alive(manager)
        release.set()


def test_asking_takes_no_lock(client: MemoryClient) -> None:
    """A probe is answered while the locks of everybody are held."""
    manager = manager_of(client)
    with manager:
        wait_for(lambda: manager.health().ready, 20)
        session = manager._current.session
        assert session is not None
        with client._broker._lock, session._pool._lock, session._job.dispatcher._idle._lock:  # type: ignore[attr-defined]
            answers: list[Health] = []
            asking = threading.Thread(target=lambda: answers.append(manager.health()))
            asking.start()
            asking.join(20)
            assert answers


def test_where_a_thread_hangs_is_said_in_the_one_line_of_its_record(caplog: pytest.LogCaptureFixture) -> None:
    """A log has a line for each record; pages have the stack as Python shows it."""
    stack = (
        '  File "/srv/shop.py", line 12, in send\n    wait()\n  File "/srv/mail.py", line 3, in wait\n    sleep(60)\n'
    )
    say_dead(Health(alive=False, ready=False, reason="the thread of this test has not turned for 5 s", stack=stack))
    flush()
    (said,) = [each.getMessage() for each in caplog.records if "of this test" in each.getMessage()]
    assert said.endswith("has not turned for 5 s; it is at /srv/shop.py:12 in send, /srv/mail.py:3 in wait")
