"""Several managers as one worker: one signal, one error, one end."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from qbridge_core import (
    ConfigurationError,
    NotConnectedError,
    QueuePausedError,
    TaskManager,
    TooManyStuckTasksError,
    run_workers,
)
from qbridge_core.contract.names import suspects_queue
from qbridge_memory import MemoryClient
from support.wait import wait_for

PROGRAM = """
import threading, time
from qbridge_core import TaskManager, run_workers
from qbridge_memory import MemoryClient

client = MemoryClient()
client.connect()
for queue in ("a", "b"):
    client.declare(queue, "dead")
    client.send_many(queue, range(3))
both = threading.Barrier(2)

def say(text):
    print(text, flush=True)

def short(payload):
    if both.wait() == 0:
        say("started")
    time.sleep(1)

def stuck(payload):
    short(payload)
    time.sleep(3600)

{setup}
a = TaskManager(client, handler, "a", "dead", max_workers=1, task_timeout=600.0)
b = TaskManager(client, handler, "b", "dead", max_workers=1, task_timeout=600.0)
run_workers(a, b)
say(f"stopped {{a.report()}}, {{b.report()}}; {{client.stats('a').ready}}, {{client.stats('b').ready}} ready")
"""


class Program:
    """A worker program in a process of its own."""

    def __init__(self, setup: str) -> None:
        code = PROGRAM.format(setup=textwrap.dedent(setup))
        self.process = subprocess.Popen(
            [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )

    def read(self) -> str:
        """The next line of its output."""
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def finish(self) -> tuple[int, list[str], str]:
        """Wait for its end; return the exit code, the other lines of its output, and its errors."""
        out, err = self.process.communicate(timeout=30)
        return self.process.returncode, out.splitlines(), err


@pytest.fixture
def program() -> Iterator[Callable[[str], Program]]:
    """Start a program; it is killed at the end of the test."""
    programs: list[Program] = []

    def start(setup: str) -> Program:
        programs.append(Program(setup))
        return programs[-1]

    yield start
    for each in programs:
        each.process.kill()
        each.process.communicate()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_g16_one_signal_stops_all_gracefully(program: Callable[[str], Program], number: int) -> None:
    """What runs ends and is acknowledged, the rest stays in its queue, and the program goes on behind the call."""
    worker = program("handler = short")
    assert worker.read() == "started"
    worker.process.send_signal(number)
    code, lines, errors = worker.finish()
    assert (code, lines) == (0, ["stopped 1 succeeded, 1 succeeded; 2, 2 ready"]), errors


def test_g16_a_second_signal_ends_all_grace_periods(program: Callable[[str], Program]) -> None:
    """What still runs goes back uncounted, in all queues."""
    worker = program("handler = stuck")
    assert worker.read() == "started"
    worker.process.send_signal(signal.SIGTERM)
    with contextlib.suppress(subprocess.TimeoutExpired):
        worker.process.wait(0.5)  # signals that wait together count as one
    assert worker.process.poll() is None
    worker.process.send_signal(signal.SIGTERM)
    code, lines, errors = worker.finish()
    assert (code, lines) == (0, ["stopped 1 handed back, 1 handed back; 3, 3 ready"]), errors


def test_g16_a_third_signal_ends_the_process(program: Callable[[str], Program]) -> None:
    """Where a stop hangs altogether, the process ends with 128 and the signal's number."""
    worker = program("""
        handler = stuck
        def hang(queues=None):
            time.sleep(3600)
        client.hand_back = client.flush = client.unsubscribe = hang
    """)
    assert worker.read() == "started"
    while worker.process.poll() is None:
        worker.process.send_signal(signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            worker.process.wait(0.1)
    assert worker.process.returncode == 128 + signal.SIGTERM


def test_g16_a_signal_during_the_start_is_not_lost(program: Callable[[str], Program]) -> None:
    """A broker that does not answer while the queues are declared keeps nobody: no task is taken."""
    worker = program("""
        handler = short
        declare = client.declare
        def slow(queue, dead_letter_queue=None):
            declare(queue, dead_letter_queue)
            if queue == "b":
                say("declares")
                time.sleep(3600)
        client.declare = slow
    """)
    assert worker.read() == "declares"
    worker.process.send_signal(signal.SIGTERM)
    code, lines, errors = worker.finish()
    assert (code, lines) == (0, ["stopped nothing happened, nothing happened; 3, 3 ready"]), errors


# ---------------------------------------------------------------------- in this process


@pytest.fixture
def client() -> Iterator[MemoryClient]:
    """A broker of this test alone."""
    client = MemoryClient()
    client.connect()
    for queue in ("a", "b"):
        client.declare(queue, "dead")
    yield client
    client.disconnect()


class Runner:
    """Calls ``run_workers`` in a thread, and keeps what it raises."""

    def __init__(self, *managers: TaskManager, **options: Any) -> None:
        self.managers = managers
        self.raised: list[BaseException] = []
        self.thread = threading.Thread(target=self._run, kwargs=options)
        self.thread.start()

    def _run(self, **options: Any) -> None:
        try:
            run_workers(*self.managers, **options)
        except BaseException as exc:
            self.raised.append(exc)

    def end(self) -> list[BaseException]:
        """Wait for its end, at which nobody works any more; what it raised."""
        self.thread.join(30)
        assert not self.thread.is_alive()
        assert not any(manager.running for manager in self.managers)
        return self.raised


def test_stopping_one_stops_all(client: MemoryClient) -> None:
    """A handler that stops its own manager ends the worker; what the others run is finished first."""
    runs, finished = threading.Event(), threading.Event()

    def long(payload: object) -> None:
        runs.set()
        time.sleep(0.5)
        finished.set()

    def stopping(payload: object) -> None:
        runs.wait(30)
        managers[1].stop()

    managers = [TaskManager(client, long, "a", "dead"), TaskManager(client, stopping, "b", "dead")]
    client.send("a", 1)
    client.send("b", 1)
    assert Runner(*managers).end() == []
    assert finished.is_set()
    assert all(manager.error is None for manager in managers)


def test_g20_an_error_of_one_stops_the_others_and_is_raised(client: MemoryClient) -> None:
    """The first error comes out with a note that names its queue, and what others run is finished."""
    runs, finished = threading.Event(), threading.Event()

    def long(payload: object) -> None:
        runs.set()
        time.sleep(0.5)
        finished.set()

    def stuck(payload: object) -> None:
        runs.wait(30)
        while not finished.is_set():
            time.sleep(0.01)

    good = TaskManager(client, long, "a", "dead")
    bad = TaskManager(client, stuck, "b", "dead", task_timeout=0.1, max_abandoned=1, max_retries=0, interrupt=False)
    client.send("a", 1)
    client.send_many("b", [1, 2, 3])
    (raised,) = Runner(good, bad).end()
    assert isinstance(raised, TooManyStuckTasksError)
    assert raised.__notes__ == ["this ended the worker of 'b'; the others were stopped"]
    assert finished.is_set()
    assert (good.report().succeeded, good.error, bad.error) == (1, None, raised)


def test_g20_a_lifespan_that_cannot_be_entered_ends_all(client: MemoryClient) -> None:
    """Whatever it raises is raised."""

    @contextlib.contextmanager
    def broken() -> Iterator[None]:
        raise OSError("no pool")
        yield

    managers = TaskManager(client, print, "a", "dead"), TaskManager(client, print, "b", "dead", lifespan=broken)
    (raised,) = Runner(*managers).end()
    assert str(raised) == "no pool"


def test_none_starts_when_one_cannot(client: MemoryClient) -> None:
    """Queues are declared before any task is taken; the managers can be started afterwards."""
    other = MemoryClient()
    other.connect()
    first, second = TaskManager(client, print, "a", "dead"), TaskManager(other, print, "b", "dead")
    client.send("a", 1)
    other.disconnect()
    (raised,) = Runner(first, second).end()
    assert isinstance(raised, NotConnectedError)
    assert client.stats("a").ready == 1
    other.connect()
    assert Runner(first, second, until_idle=True).end() == []
    assert first.report().succeeded == 1


def test_until_idle_waits_for_all_queues(client: MemoryClient) -> None:
    """A task of one queue may send to the other one, and back; the job ends when both are empty."""

    def pass_on(queue: str) -> Callable[[int], None]:
        def handler(payload: int) -> None:
            time.sleep(0.1)
            if payload:
                client.send(queue, payload - 1)

        return handler

    managers = TaskManager(client, pass_on("b"), "a", "dead"), TaskManager(client, pass_on("a"), "b", "dead")
    client.send("a", 6)
    assert Runner(*managers, until_idle=True).end() == []
    assert [manager.report().succeeded for manager in managers] == [4, 3]


def test_until_idle_does_not_wait_for_a_queue_that_is_paused(client: MemoryClient) -> None:
    """Nobody does its work before somebody resumes it: that is an error, and no silence for ever."""
    for queue in ("a", "b"):
        client.declare(queue, "dead")
        client.send(queue, 1)
    client.pause("b")
    managers = [TaskManager(client, print, queue, "dead", max_workers=1) for queue in ("a", "b")]
    (raised,) = Runner(*managers, until_idle=True).end()
    assert isinstance(raised, QueuePausedError)
    assert (client.stats("a").ready, client.stats("b").ready) == (0, 1)


def test_until_idle_fails_when_nobody_can_tell(client: MemoryClient, monkeypatch: pytest.MonkeyPatch) -> None:
    """An error of the broker that will not pass ends the job with that error."""

    def refuse(queue: str) -> None:
        raise NotConnectedError("gone")

    manager = TaskManager(client, print, "a", "dead")
    monkeypatch.setattr(client, "count", refuse)
    (raised,) = Runner(manager, until_idle=True).end()
    assert str(raised) == "gone"


def test_g16_all_stop_at_the_same_time(client: MemoryClient) -> None:
    """Ten managers with stuck tasks stop within the grace period of one, and not one after the other."""
    began, over = threading.Semaphore(0), threading.Event()

    def stuck(payload: object) -> None:
        began.release()
        over.wait(60)

    managers = []
    for number in range(10):
        queue = f"q{number}"
        client.declare(queue, "dead")
        client.send(queue, 1)
        managers.append(
            TaskManager(client, stuck, queue, "dead", max_workers=1, task_timeout=60, grace_period=1, interrupt=False)
        )
    runner = Runner(*managers)
    for _ in managers:
        assert began.acquire(timeout=30)
    begin = time.monotonic()
    managers[0].stop()
    assert runner.end() == []
    assert time.monotonic() - begin < 8, "ten times a second is more"
    over.set()
    assert sum(client.stats(manager.input_queue).ready for manager in managers) == 10


def test_a_stop_while_it_starts_is_not_lost(client: MemoryClient, monkeypatch: pytest.MonkeyPatch) -> None:
    """A manager that is asked to stop before the others are declared ends them all, and takes nothing."""
    managers = TaskManager(client, print, "a", "dead"), TaskManager(client, print, "b", "dead")
    declare, begun, go = client.declare, threading.Event(), threading.Event()

    def slow(queue: str, dead_letter_queue: str | None = None) -> None:
        if queue == "b":
            begun.set()
            assert go.wait(30)
        declare(queue, dead_letter_queue)

    monkeypatch.setattr(client, "declare", slow)
    client.send("b", 1)
    runner = Runner(*managers)
    assert begun.wait(30)
    stopper = threading.Thread(target=managers[0].stop)
    stopper.start()
    wait_for(lambda: managers[0]._current.session is None or managers[0]._current.session.stop_requests == 1, 10)
    go.set()
    assert runner.end() == []
    stopper.join(10)
    assert not stopper.is_alive()


def test_signals_are_left_alone_in_another_thread(client: MemoryClient) -> None:
    """Only the main thread can handle them; a program that handles its own goes on doing so."""
    before = signal.getsignal(signal.SIGTERM)
    manager = TaskManager(client, print, "a", "dead")
    runner = Runner(manager)
    wait_for(lambda: manager.running, 10)
    assert signal.getsignal(signal.SIGTERM) is before
    manager.stop()
    assert runner.end() == []


def test_the_handlers_of_signals_come_back(client: MemoryClient) -> None:
    """After the call a signal does what it did before."""
    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    run_workers(TaskManager(client, print, "a", "dead"), until_idle=True)
    assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)) == before


def test_wrong_use_is_told(client: MemoryClient) -> None:
    """Each slip has a sentence that says what to write instead."""
    a, b = TaskManager(client, print, "a", "dead"), TaskManager(client, print, "b", "dead")
    named = [MemoryClient("memory://run-workers"), MemoryClient("memory://run-workers")]
    for each in named:
        each.connect()
    twins = [TaskManager(each, print, "a", "dead") for each in named]
    other = TaskManager(named[0], print, "b", "dead")
    wrong: list[tuple[tuple[Any, ...], str]] = [
        ((), "a TaskManager for each queue"),
        (([a, b],), r"run_workers\(\*managers\)"),
        ((a, client), "not a MemoryClient"),
        ((a, a), "'a' is given twice"),
        ((a, TaskManager(client, repr, "a", "dead")), "have the queue 'a'"),
        (tuple(twins), "have the queue 'a'"),
    ]
    for managers, said in wrong:
        with pytest.raises(ConfigurationError, match=said):
            run_workers(*managers)
    with pytest.raises(ConfigurationError, match="poll_timeout"):
        run_workers(a, b, poll_timeout=0)
    with a, pytest.raises(ConfigurationError, match="running already"):
        run_workers(b, a)
    run_workers(a, other, b, until_idle=True)


@pytest.mark.parametrize("routes", [{"a": "b", "b": "a"}, {"x": "a", "a": "b", "b": "c", "c": "a"}])
def test_g18_dead_letters_that_would_go_round_are_refused(client: MemoryClient, routes: dict[str, str]) -> None:
    """A task that always fails would run for ever; the text names the queues, and says what to do."""
    managers = [TaskManager(client, print, queue, dead) for queue, dead in routes.items()]
    with pytest.raises(ConfigurationError, match=r"go round, 'a' -> 'b'.* -> 'a'.*give one of these queues"):
        run_workers(*managers)


def test_a_worker_of_dead_letters_is_noted_once(client: MemoryClient, caplog: pytest.LogCaptureFixture) -> None:
    """Somebody may want to hear of letters; who has slipped with a name reads what becomes of them."""
    told: list[object] = []

    def fail(payload: object) -> None:
        raise LookupError

    client.declare("a", "a.dead")
    client.send("a", "letter")
    run_workers(
        TaskManager(client, fail, "a", "a.dead", max_retries=0),
        TaskManager(client, told.append, "a.dead", "unseen"),
        until_idle=True,
    )
    assert told == ["letter"]
    assert caplog.text.count("dead letters of a go to a.dead, from which this program takes tasks") == 1


def test_dead_letters_of_two_brokers_do_not_meet(caplog: pytest.LogCaptureFixture) -> None:
    """Queues of the same names are others there."""
    clients = [MemoryClient("memory://here"), MemoryClient("memory://there")]
    for each in clients:
        each.connect()
    run_workers(TaskManager(clients[0], print, "a", "b"), TaskManager(clients[1], print, "b", "a"), until_idle=True)
    assert "dead letters of" not in caplog.text


def test_g18_dead_letters_do_not_wait_among_suspects_of_another_queue(client: MemoryClient) -> None:
    """As those of a queue do not wait among its own."""
    managers = TaskManager(client, print, "a", suspects_queue("b")), TaskManager(client, print, "b", "dead")
    with pytest.raises(ConfigurationError, match=r"dead_letter_queue of 'a' cannot be .*; choose another name"):
        run_workers(*managers)
