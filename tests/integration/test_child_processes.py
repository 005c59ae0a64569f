"""Whole worker programs whose handlers run in child processes: killed, stopped, crashing, and written wrongly."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path

import pytest

from qbridge_core import Delivery, Message, Reason, RetryPolicy, connect
from qbridge_core.execute.processes.child import Child
from qbridge_core.execute.processes.children import Program
from qbridge_core.task.run import Run
from qbridge_core.task.terms import Terms
from support.handlers import notes, work
from support.programs import TESTS, Programs, children_of, is_alive
from support.wait import wait_for

pytestmark = pytest.mark.faults
PROGRAM = """
import sys
sys.path.insert(0, {tests!r})
from qbridge_core import TaskManager, connect
from support.handlers import work

def main():
    with connect({url!r}) as client:
        TaskManager(
            client, work, {queue!r}, {dead!r}, executor="process", max_workers=2, task_timeout=600.0, grace_period=20.0
        ).start()

if __name__ == "__main__":
    main()
"""


def pids(journal: Path) -> list[int]:
    """The processes that wrote to the journal, in order."""
    return [int(line.split()[1]) for line in notes(journal)]


Start = Callable[..., subprocess.Popen[bytes]]


@pytest.fixture
def journal(tmp_path: Path) -> Path:
    """The file that the handlers of a test write to."""
    return tmp_path / "journal"


@pytest.fixture
def start(programs: Programs, unique_name: str) -> Start:
    """Start a worker program on the test's queue; it is killed after the test."""
    names = {"tests": TESTS, "queue": unique_name, "dead": f"{unique_name}-dead"}
    return lambda url, code=PROGRAM: programs.start(code.format(url=url, **names))


@pytest.mark.timeout(360)
@pytest.mark.parametrize("deed", ["sleep", "be stubborn", "hold the interpreter", "start a process"])
def test_g10_a_killed_worker_leaves_no_orphans(
    redis_url: str, unique_name: str, journal: Path, start: Start, deed: str
) -> None:
    """SIGKILL of the worker ends its child processes at once, idle ones and those that C code holds included."""
    with connect(redis_url) as client:
        client.declare(unique_name, f"{unique_name}-dead")
        client.send(unique_name, {"file": str(journal)})
        worker = start(redis_url)
        wait_for(lambda: notes(journal), 60, "the first task runs")
        client.send(unique_name, {"do": deed, "file": str(journal)})
        wait_for(lambda: len(notes(journal)) >= (3 if deed == "start a process" else 2), 60, "the second task runs")
        wait_for(lambda: len(children_of(worker.pid)) == 2, 60, "there is a child for each worker thread")
        children = children_of(worker.pid)
        if deed == "start a process":
            children.append(pids(journal)[-1])
        worker.kill()
        worker.wait()
        wait_for(lambda: not any(map(is_alive, children)), 60, "no child is left")


def test_g10_a_child_that_starts_while_its_worker_dies_loads_nothing() -> None:
    """The kernel tells of no death that came before it was asked to; such a child looks by itself."""
    code = """
import os
from qbridge_core.execute.processes.program import main

lifeline, workers = os.pipe()
if {dead}:
    os.close(workers)
try:
    main(-1, lifeline, -1)
except (OSError, ValueError):  # there is no such socket
    print("it goes on", flush=True)
"""
    for dead, printed in ((False, "it goes on\n"), (True, "")):
        child = subprocess.run(
            [sys.executable, "-c", code.format(dead=dead)],
            capture_output=True, text=True, check=False,
            start_new_session=True,  # the kernel signals its process group
        )  # fmt: skip
        assert child.stdout == printed, child.stderr


def test_g6_a_segfault_harms_nobody_else(
    shared_url: str, unique_name: str, journal: Path, start: Start, tmp_path: Path
) -> None:
    """On both brokers: a task that kills its process is dead-lettered after 3 deaths, and the worker goes on."""
    dead = f"{unique_name}-dead"
    with connect(shared_url) as client:
        client.declare(unique_name, dead)
        client.send_many(unique_name, [{"id": n, "file": str(journal)} for n in range(100)])
        client.send(unique_name, {"id": "pill", "do": "segfault", "file": str(journal)})
        client.send_many(unique_name, [{"id": n, "file": str(journal)} for n in range(100, 200)])
        worker = start(shared_url)

        def over() -> bool:
            return len(notes(journal)) >= 203 and client.stats(dead).ready == 1

        wait_for(over, 90, "every task has run")
        wait_for(lambda: client.stats(unique_name).in_flight == client.stats(unique_name).ready == 0, 30)
        (letter,) = client.dead_letters(dead)
        assert worker.poll() is None, "the worker lives"
    assert (letter.reason, letter.crashes, letter.attempts) == (Reason.CRASHED, 3, 0)
    assert letter.exception_message == "the process that ran it died of SIGSEGV"
    names = [line.split()[0] for line in notes(journal)]
    assert names.count("pill") == 3
    assert len(names) == 203


def test_g16_a_signal_to_everybody_stops_gracefully(
    redis_url: str, unique_name: str, journal: Path, start: Start
) -> None:
    """A service manager may signal the children as well: what runs is finished all the same, and the exit code is 0."""
    with connect(redis_url) as client:
        client.declare(unique_name, f"{unique_name}-dead")
        client.send(unique_name, {"do": "wait for a file", "file": str(journal), "until": f"{journal}.go"})
        worker = start(redis_url)
        wait_for(lambda: notes(journal), 60, "the task runs")
        children = children_of(worker.pid)
        for pid in children:
            os.kill(pid, signal.SIGINT)
            os.kill(pid, signal.SIGTERM)
        worker.send_signal(signal.SIGTERM)
        Path(f"{journal}.go").touch()
        assert worker.wait(30) == 0
        assert client.stats(unique_name).ready == client.stats(unique_name).in_flight == 0
        assert notes(journal)[-1].startswith("finished")
    assert not any(map(is_alive, children))


def test_g10_a_program_without_a_guard_is_told_so(
    redis_url: str, unique_name: str, journal: Path, start: Start, tmp_path: Path
) -> None:
    """A main program that starts its manager whenever it is imported ends with an error that says what to change."""
    unguarded = textwrap.dedent(PROGRAM).replace('if __name__ == "__main__":\n    main()', "main()")
    worker = start(redis_url, unguarded)
    assert worker.wait(60) == 1
    log = (tmp_path / "log").read_text()
    assert "if __name__ == '__main__'" in log.splitlines()[-1]


def test_g10_a_child_that_hears_first_that_its_worker_is_gone_ends_what_it_has_started(journal: Path) -> None:
    """The connection may end before the pipe that has the kernel signal the group, and which only the child holds."""
    child = Child()
    child.load(Program.of(work, RetryPolicy()).setup())
    message, _ = Message.for_task({"do": "start a process", "file": str(journal)})
    child.begin([Run(Delivery(message.body, "q"), "task", Terms(600.0, RetryPolicy()))])
    wait_for(lambda: len(notes(journal)) == 2, 60, "it has started another one")
    started = pids(journal)[-1]
    assert is_alive(started)
    child._link.close()
    wait_for(lambda: not is_alive(started), 20, "what it has started has ended")
    child.end(0.0)
