"""G10, G20: foreign code around a run that hangs (hooks, ``redact``, backoffs) holds no slot and loses no message."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from qbridge_core import Reason, TaskManager, TooManyStuckTasksError, hookimpl
from qbridge_core.execute.executor import Executor
from qbridge_core.runtime.clock import monotonic
from qbridge_core.task import foreign
from qbridge_core.task.run import Run
from qbridge_core.work.workerpool import WorkerPool
from qbridge_memory import MemoryClient
from support.handlers import notes, work
from support.wait import wait_for


class Gate:
    """Where the foreign code of a test waits, for the bad tasks or for each."""

    def __init__(self) -> None:
        self.released = threading.Event()
        self.entered = threading.Semaphore(0)
        self.left = threading.Semaphore(0)

    def wait(self) -> None:
        """Hang until the end of the test."""
        self.entered.release()
        self.released.wait(20)
        self.left.release()


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> Iterator[Gate]:
    """Closed during the test."""
    monkeypatch.setattr(foreign, "SHORTEST", 0.2)
    monkeypatch.setattr("qbridge_core.task.hookorder._LONGEST_WAIT", 0.2)
    gate = Gate()
    yield gate
    gate.released.set()


def handler(payload: str) -> None:
    """Fail with the bad ones."""
    if payload == "late":
        threading.Event().wait(0.3)
    if payload.startswith("bad"):
        raise ValueError("no good")


def _hanging_hook(name: str, gate: Gate, payload: str) -> object:
    """A plugin whose hook of this name hangs once."""
    first = threading.Lock()

    def hook(self: object, task_id: str) -> None:
        if task_id == payload and first.acquire(blocking=False):
            gate.wait()

    return type("Plugin", (), {name: hookimpl(hook)})()


def consume(client: MemoryClient, gate: Gate, *payloads: str, **options: Any) -> TaskManager:
    """Work these and one more off while the gate is closed, then wait until those that hung have come back."""
    for payload in payloads:
        client.send("q", payload, task_id=payload)
    options = {"max_workers": 1, "max_retries": 1, "task_timeout": 0.15, **options}
    before = set(threading.enumerate())
    manager = TaskManager(client, handler, "q", "d", **options)
    with manager:
        manager.run_until_idle(15)
        client.send("q", "after")  # the slot is free again, also when the last one of the others has hung in its hook
        manager.run_until_idle(15)
        assert gate.entered.acquire(blocking=False), "nothing has hung"
        gate.released.set()
    wait_for(
        lambda: not [each for each in set(threading.enumerate()) - before if each.name == "qbridge-worker"],
        10,
        "the threads that hung have ended",
    )
    return manager


@pytest.mark.parametrize(
    ("name", "payload"),
    [
        ("qbridge_task_started", "bad"),
        ("qbridge_task_failed", "bad"),
        ("qbridge_task_retried", "bad"),
        ("qbridge_task_dead_lettered", "bad"),
        ("qbridge_task_timed_out", "late"),
        ("qbridge_task_succeeded", "fine"),
    ],
)
def test_g20_a_hook_that_hangs_holds_no_slot(
    client: MemoryClient, gate: Gate, caplog: pytest.LogCaptureFixture, name: str, payload: str
) -> None:
    """The only slot goes on, each task is settled once, and one line names the hook."""
    manager = consume(client, gate, payload, "good", plugins=[_hanging_hook(name, gate, payload)])
    report = manager.report()
    letters = [letter.task_id for letter in client.dead_letters("d")]
    assert letters == ([] if payload == "fine" else [payload])
    assert report.dead_lettered == len(letters)
    assert report.succeeded == 3 - len(letters)
    assert report.retried == len(letters)
    said = [text for text in caplog.messages if name in text]
    assert len(said) == 1, caplog.text


def test_g20_a_redact_that_hangs_holds_no_slot_and_shows_nothing(client: MemoryClient, gate: Gate) -> None:
    """Nothing of the text that it was asked about is shown, and it is not asked again about this failure."""
    asked: list[str] = []

    def redact(text: str) -> str:
        asked.append(text)
        gate.wait()
        return text

    manager = consume(client, gate, "bad", "good", redact=redact, max_retries=0)
    (letter,) = client.dead_letters("d")
    assert (letter.reason, letter.exception_type) == (Reason.FAILED, "ValueError")
    assert "could not be redacted" in letter.exception_message
    assert "could not be redacted" in letter.traceback
    assert len(asked) == 1
    assert manager.report().succeeded == 2


def test_g20_a_redact_that_hangs_at_a_malformed_message_holds_no_slot(client: MemoryClient, gate: Gate) -> None:
    """Here nothing ran before."""
    client.publish("q", b"{")

    def redact(text: str) -> str:
        gate.wait()
        return text

    manager = consume(client, gate, "good", redact=redact)
    (letter,) = client.dead_letters("d")
    assert letter.reason == Reason.MALFORMED
    assert manager.report().succeeded == 2


def test_g20_a_backoff_that_hangs_holds_no_slot(client: MemoryClient, gate: Gate) -> None:
    """The task is retried at once."""

    class Backoff:
        def delay(self, attempt: int) -> float:
            gate.wait()
            return 60.0

    manager = consume(client, gate, "bad", "good", backoff=Backoff())
    report = manager.report()
    assert (report.succeeded, report.retried, report.dead_lettered) == (2, 1, 1)


def test_g20_what_has_returned_is_not_called_again_when_the_rest_is_done(client: MemoryClient, gate: Gate) -> None:
    """Of one failure each hook hears once, although a call after it has hung; a context variable is still there."""
    heard: list[str] = []

    class Plugin:
        @hookimpl
        def qbridge_task_failed(self, task_id: str) -> None:
            heard.append(f"failed {task_id}")

        @hookimpl
        def qbridge_task_dead_lettered(self, task_id: str) -> None:
            heard.append(f"dead {task_id}")

    def redact(text: str) -> str:
        gate.wait()
        return text

    consume(client, gate, "bad", redact=redact, plugins=[Plugin()], max_retries=0)
    assert heard == ["failed bad", "dead bad"]


def test_g20_each_call_that_hangs_is_given_up(client: MemoryClient, gate: Gate) -> None:
    """Also those of the thread that does the rest."""
    failed = _hanging_hook("qbridge_task_failed", gate, "bad")
    told = _hanging_hook("qbridge_task_dead_lettered", gate, "bad")

    def redact(text: str) -> str:
        gate.wait()
        return text

    manager = consume(client, gate, "bad", "good", redact=redact, plugins=[failed, told], max_retries=0)
    assert (manager.report().succeeded, manager.report().dead_lettered) == (2, 1)
    assert [gate.entered.acquire(blocking=False) for _ in range(3)] == [True, True, False]


async def fail_later(payload: str) -> None:
    """The same as a coroutine."""
    handler(payload)


@pytest.mark.parametrize("call", [handler, fail_later], ids=["function", "coroutine"])
@pytest.mark.parametrize("name", ["qbridge_task_started", "qbridge_task_failed", "qbridge_task_retried"])
def test_g10_threads_that_hang_in_hooks_are_counted(
    client: MemoryClient, gate: Gate, call: Callable[[str], Any], name: str
) -> None:
    """With more than `max_abandoned` of them the worker ends, whatever kind of handler it has."""

    def hook(self: object) -> None:
        gate.wait()

    plugin = type("Plugin", (), {name: hookimpl(hook)})()
    client.send_many("q", ["bad"] * 4)
    manager = TaskManager(
        client, call, "q", "d", max_workers=1, task_timeout=0.1, max_abandoned=1, plugins=[plugin], grace_period=0.5
    )
    with pytest.raises(TooManyStuckTasksError):
        manager.run_until_idle(15)


def test_g15_a_slow_broker_is_no_foreign_code(
    client: MemoryClient, gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A settlement that takes longer than a hook may keeps its thread."""
    threads: list[int] = []
    reject = client.reject

    def slow(*arguments: Any, **options: Any) -> None:
        threads.append(threading.get_ident())
        gate.released.wait(0.6)
        reject(*arguments, **options)

    monkeypatch.setattr(client, "reject", slow)
    client.send("q", "bad")
    with TaskManager(client, handler, "q", "d", max_workers=1, max_retries=1, task_timeout=0.1) as manager:
        report = manager.run_until_idle(15)
    assert (report.retried, report.dead_lettered) == (1, 1)
    assert len(threads) == 2
    assert len(set(threads)) == 1


def test_g20_a_hook_of_the_start_that_hangs_does_not_keep_the_worker_from_its_tasks(
    client: MemoryClient, gate: Gate, caplog: pytest.LogCaptureFixture
) -> None:
    """It is waited for as long as for a handler, and then the worker begins."""

    class Plugin:
        @hookimpl
        def qbridge_worker_started(self) -> None:
            gate.wait()

    client.send("q", "good")
    with TaskManager(client, handler, "q", "d", task_timeout=0.1, plugins=[Plugin()]) as manager:
        assert manager.run_until_idle(15).succeeded == 1
        gate.released.set()
    assert "qbridge_worker_started has not returned" in caplog.text


def test_g20_a_backoff_that_ends_the_program_does_not_end_the_worker(client: MemoryClient) -> None:
    """Whatever it raises, the task is retried."""

    class Backoff:
        def delay(self, attempt: int) -> float:
            raise SystemExit(3)

    client.send("q", "bad")
    manager = TaskManager(client, handler, "q", "d", max_workers=1, max_retries=1, backoff=Backoff())
    assert manager.run_until_idle(15).dead_lettered == 1


def test_g20_a_worker_whose_executor_cannot_be_released_is_not_lost_in_silence(
    client: MemoryClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The pool learns that the thread has ended, and why; the manager ends with that instead of working with less."""

    def broken(self: Executor, ident: int | None = None) -> None:
        raise OSError(24, "Too many open files")

    monkeypatch.setattr(Executor, "release", broken)
    manager = TaskManager(client, handler, "q", "d", max_workers=1, grace_period=5.0)
    began = monotonic()
    with pytest.raises(OSError, match="Too many open files"), manager:
        manager.stop()
    assert monotonic() - began < 4.0, "the stop has waited for a worker that has ended"


def test_a_worker_that_ends_before_it_is_counted_as_abandoned_is_not_counted(
    client: MemoryClient, gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its run is taken over, its thread ends, and only then does the watch come to note that it was abandoned."""
    cancel = Run.cancel
    pools: list[WorkerPool] = []

    def cancel_and_let_it_end(run: Run) -> bool:
        taken = cancel(run)
        gate.released.set()
        wait_for(lambda: not pools[0].alive, 10, "its thread has ended")
        return taken

    def made(*arguments: Any) -> WorkerPool:
        pools.append(WorkerPool(*arguments))
        return pools[0]

    monkeypatch.setattr(Run, "cancel", cancel_and_let_it_end)
    monkeypatch.setattr("qbridge_core.work.session.WorkerPool", made)
    client.send("q", "slow")
    manager = TaskManager(
        client, lambda _: gate.wait(), "q", "d", max_workers=1, max_retries=0, task_timeout=0.1, interrupt=False
    )
    with manager:
        assert manager.run_until_idle(15).dead_lettered == 1
        assert pools[0]._abandoned == set()


def test_g20_a_hook_that_hangs_holds_no_child_process(client: MemoryClient, gate: Gate, tmp_path: Path) -> None:
    """The process in which its task has run ends, and the one of the thread in its place does the next task."""
    hook = _hanging_hook("qbridge_task_succeeded", gate, "first")
    journal = tmp_path / "journal"
    manager = TaskManager(client, work, "q", "d", executor="process", max_workers=1, task_timeout=2.0, plugins=[hook])
    client.send("q", {"file": str(journal)}, task_id="first")
    with manager:
        assert gate.entered.acquire(timeout=30)
        client.send("q", {"file": str(journal)})
        assert manager.run_until_idle(30).succeeded == 2
        first, second = (int(line.split()[1]) for line in notes(journal))
        assert first != second
        wait_for(lambda: not Path(f"/proc/{first}").exists(), 10, "the process of the thread that hangs has ended")
        gate.released.set()
