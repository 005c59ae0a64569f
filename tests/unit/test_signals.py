"""Signals stop a worker program: gracefully, then at once; each program is a process of its own."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator

import pytest

PROGRAM = """
import signal, sys, threading, time
from qbridge_core import TaskManager
from qbridge_memory import MemoryClient

client = MemoryClient()
client.connect()
client.declare("q", "d")
client.send_many("q", range(3))
started = threading.Event()

def say(text):
    print(text, flush=True)

{setup}
manager = TaskManager(client, handler, "q", "d", max_workers=1, {arguments})
threading.Thread(target=lambda: (started.wait(), say("started")), daemon=True).start()
manager.start()
say(f"stopped {{manager.report()}}; {{client.stats('q').ready}} ready")
{after}
"""


class Program:
    """A worker program in a process of its own."""

    def __init__(self, setup: str, arguments: str = "", after: str = "") -> None:
        code = PROGRAM.format(setup=textwrap.dedent(setup), arguments=arguments, after=textwrap.dedent(after))
        self.process = subprocess.Popen(
            [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )

    def read(self) -> str:
        """The next line of its output."""
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def finish(self, timeout: float) -> tuple[int, list[str], str]:
        """Wait for its end; return the exit code, the other lines of its output, and its errors."""
        out, err = self.process.communicate(timeout=timeout)
        return self.process.returncode, out.splitlines(), err


@pytest.fixture
def program() -> Iterator[Callable[..., Program]]:
    """Start a program; it is killed at the end of the test."""
    programs: list[Program] = []

    def start(setup: str, arguments: str = "", after: str = "") -> Program:
        programs.append(Program(setup, arguments, after))
        return programs[-1]

    yield start
    for each in programs:
        each.process.kill()
        each.process.communicate()


SIGNALS = [signal.SIGTERM, signal.SIGINT]
SHORT = """
def handler(payload):
    started.set()
    time.sleep(1)
"""
STUCK = """
def handler(payload):
    started.set()
    time.sleep(3600)
"""


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_stops_gracefully(program: Callable[..., Program], number: int) -> None:
    """The running task ends and is acknowledged, the others stay in the queue, and the process ends with 0."""
    worker = program(SHORT)
    assert worker.read() == "started"
    worker.process.send_signal(number)
    code, lines, errors = worker.finish(15)
    assert (code, lines) == (0, ["stopped 1 succeeded; 2 ready"]), errors


@pytest.mark.parametrize("number", SIGNALS)
def test_plugins_and_the_log_learn_of_the_signal(program: Callable[..., Program], number: int) -> None:
    """The reason of a stop is the name of the signal, even when another one follows."""
    worker = program(
        """
        import logging
        from qbridge_core import hookimpl

        logging.basicConfig(level="INFO")

        class Plugin:
            @hookimpl
            def qbridge_worker_stopping(self, reason):
                say(reason)

        def handler(payload):
            started.set()
            time.sleep(1)
        """,
        "plugins=[Plugin()]",
    )
    assert worker.read() == "started"
    worker.process.send_signal(number)
    code, lines, errors = worker.finish(15)
    name = signal.Signals(number).name
    assert (code, lines[0]) == (0, name), errors
    assert f"is to stop: {name}; the tasks of q that run get 25 s" in errors


@pytest.mark.parametrize("number", SIGNALS)
def test_an_idle_worker_stops_at_once(program: Callable[..., Program], number: int) -> None:
    """A worker that waits for messages does not wait for the end of its poll."""
    worker = program("def handler(payload):\n    client.stats('q').ready or started.set()")
    assert worker.read() == "started"
    begin = time.monotonic()
    worker.process.send_signal(number)
    code, lines, errors = worker.finish(15)
    assert (code, lines) == (0, ["stopped 3 succeeded; 0 ready"]), errors
    assert time.monotonic() - begin < 4.0


def test_a_process_that_a_handler_forks_can_be_terminated(program: Callable[..., Program]) -> None:
    """The worker's handling of signals is not inherited, which would make its children immune."""
    worker = program("""
        import multiprocessing

        context = multiprocessing.get_context("fork")

        def wait(begun):
            begun.set()
            time.sleep(30)

        def handler(payload):
            begun = context.Event()
            child = context.Process(target=wait, args=(begun,))
            child.start()
            begun.wait()  # the interpreter drops what comes in the middle of a fork
            child.terminate()
            child.join()
            say(child.exitcode)
            manager.stop()
        """)
    code, lines, errors = worker.finish(15)
    assert (code, lines) == (0, ["-15", "stopped 1 succeeded; 2 ready"]), errors


def test_g16_a_second_signal_stops_at_once(program: Callable[..., Program]) -> None:
    """The running task goes back to the queue, uncounted, and the process ends with 0 long before the grace period."""
    worker = program(STUCK, "grace_period=3600, task_timeout=3600", "say([d.attempts for d in client.receive('q', 9)])")
    assert worker.read() == "started"
    worker.process.send_signal(signal.SIGTERM)
    with contextlib.suppress(subprocess.TimeoutExpired):
        pytest.fail(f"it ended after one signal: {worker.process.wait(0.4)}")
    worker.process.send_signal(signal.SIGTERM)
    code, lines, errors = worker.finish(10)
    assert (code, lines) == (0, ["stopped 1 handed back; 3 ready", "[0, 0, 0]"]), errors


def test_a_stuck_handler_does_not_outlast_the_grace_period(program: Callable[..., Program]) -> None:
    """A handler in ``time.sleep(3600)`` cannot keep the process from ending after the grace period."""
    worker = program(STUCK, "grace_period=0.3, task_timeout=3600")
    assert worker.read() == "started"
    worker.process.send_signal(signal.SIGTERM)
    code, lines, errors = worker.finish(10)
    assert (code, lines) == (0, ["stopped 1 handed back; 3 ready"]), errors


def test_a_handler_that_timed_out_does_not_keep_the_process(program: Callable[..., Program]) -> None:
    """With a timeout of a second the stuck run ends as such within the grace period; the process ends with 0."""
    worker = program(STUCK, "task_timeout=1, max_retries=0")
    assert worker.read() == "started"
    worker.process.send_signal(signal.SIGTERM)
    code, lines, errors = worker.finish(10)
    assert (code, lines) == (0, ["stopped 1 dead-lettered (timed out); 2 ready"]), errors


def test_the_previous_signal_handlers_are_back_afterwards(program: Callable[..., Program]) -> None:
    """What the program had installed before is installed again."""
    setup = """
        def mine(number, frame): say("mine")
        signal.signal(signal.SIGTERM, mine)
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        def handler(payload): manager.stop()
    """
    after = "say(signal.getsignal(signal.SIGTERM) is mine and signal.getsignal(signal.SIGINT) is signal.SIG_IGN)"
    code, lines, errors = program(setup, after=after).finish(10)
    assert (code, lines[-1]) == (0, "True"), errors


LEAKED = """
import logging, types

client.stats = lambda queue: types.SimpleNamespace(ready=3)  # waits for no lock

def handler(payload):
    {lock}.acquire()  # as an exception between `acquire` and `try` leaves it
    started.set()
    time.sleep(3600)
"""
LOCKS = {
    "logging": "logging._lock",
    "log handler": "logging.lastResort.lock",
    "client": "client._broker._lock",
}


@pytest.mark.parametrize("lock", LOCKS.values(), ids=LOCKS)
def test_g16_a_second_signal_waits_for_no_lock(program: Callable[..., Program], lock: str) -> None:
    """A lock of logging or of the client that a handler left held delays the stop by a moment only."""
    worker = program(LEAKED.format(lock=lock), "grace_period=3600, task_timeout=3600", "import os; os._exit(7)")
    assert worker.read() == "started"
    worker.process.send_signal(signal.SIGTERM)
    with contextlib.suppress(subprocess.TimeoutExpired):
        pytest.fail(f"it ended after one signal: {worker.process.wait(0.4)}")
    begin = time.monotonic()
    worker.process.send_signal(signal.SIGTERM)
    code, _, errors = worker.finish(20)
    assert code == 7 or "a lock is never released" in errors, errors
    assert time.monotonic() - begin < 8


def test_g16_a_program_of_handlers_that_log_and_are_late_stops(program: Callable[..., Program]) -> None:
    """After many timeouts in the midst of logging nothing is locked: one signal ends the program with 0."""
    worker = program(
        """
        import io, logging
        logging.basicConfig(level=logging.INFO, stream=io.StringIO())
        client.send_many("q", range(200))
        ends, Manager = [], TaskManager

        def TaskManager(*args, **options):
            return Manager(*args, **{**options, "max_workers": 8})

        def handler(payload):
            until = time.monotonic() + 0.4
            try:
                while time.monotonic() < until:
                    time.sleep(0.001)
                    logging.info("working on %s", payload)
            finally:
                ends.append(payload)
                len(ends) < 24 or started.set()
        """,
        "task_timeout=0.05, max_retries=0, grace_period=2",
        "say(logging.getLogger().handlers[0].lock.acquire(timeout=5))",
    )
    assert worker.read() == "started"
    worker.process.send_signal(signal.SIGTERM)
    code, lines, errors = worker.finish(20)
    assert (code, lines[-1]) == (0, "True"), errors
    assert "dead-lettered (timed out)" in lines[-2]


@pytest.mark.parametrize("number", SIGNALS)
def test_g16_a_third_signal_ends_the_process(program: Callable[..., Program], number: int) -> None:
    """While the second one waits for what hangs, the third ends the process with 128 and the signal's number."""
    worker = program(LEAKED.format(lock=LOCKS["client"]), "grace_period=3600, task_timeout=3600")
    assert worker.read() == "started"
    for _ in range(3):
        time.sleep(0.1)  # signals that wait together count as one
        worker.process.send_signal(number)
    code, lines, errors = worker.finish(10)
    assert (code, lines) == (128 + number, []), errors
