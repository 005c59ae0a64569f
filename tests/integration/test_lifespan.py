"""Whole worker programs with a ``lifespan`` on real brokers: stopped by signals, killed, and unable to begin."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from qbridge_core import QueueClient, TaskManager, connect
from support.handlers import notes
from support.lifespans import JOURNAL, events, events_of, work
from support.programs import TESTS, Programs, children_of
from support.wait import wait_for

pytestmark = pytest.mark.faults
PROGRAM = """
import logging
import sys
sys.path.insert(0, {tests!r})
from qbridge_core import Supervisor, TaskManager, connect
from support import lifespans

def build():
    logging.basicConfig(level=logging.INFO)
    return TaskManager(
        connect({url!r}), lifespans.{handler}, {queue!r}, {dead!r}, lifespan=lifespans.{lifespan},
        executor={executor!r}, max_workers=2, task_timeout=600.0, grace_period=20.0,
    )

if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO)
    {run}
"""
Start = Callable[..., subprocess.Popen[bytes]]


@pytest.fixture(autouse=True)
def journal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file that handlers and lifespans of a test write to; the programs inherit its name."""
    monkeypatch.setenv(JOURNAL, str(tmp_path / "journal"))
    return tmp_path / "journal"


@pytest.fixture
def client(shared_url: str, unique_name: str) -> Iterator[QueueClient]:
    """A client that has declared the test's queue."""
    with connect(shared_url) as client:
        client.declare(unique_name, f"{unique_name}-dead")
        yield client


@pytest.fixture
def start(programs: Programs, unique_name: str, shared_url: str) -> Start:
    """Start a worker program on the test's queue; it is killed after the test."""
    names = {"tests": TESTS, "url": shared_url, "queue": unique_name, "dead": f"{unique_name}-dead"}

    def start(
        handler: str = "work_on_loop", lifespan: str = "with_loop", executor: str = "thread",
        run: str = "build().start()",
    ) -> subprocess.Popen[bytes]:  # fmt: skip
        return programs.start(PROGRAM.format(handler=handler, lifespan=lifespan, executor=executor, run=run, **names))

    return start


def test_nothing_is_taken_while_a_lifespan_is_entered(client: QueueClient, unique_name: str) -> None:
    """Nor when that fails: all messages are there, and a worker without that lifespan runs each for the first time."""
    seen: list[int] = []

    @contextlib.contextmanager
    def lifespan() -> Iterator[None]:
        seen.append(client.stats(unique_name).ready)
        raise LookupError("no database")
        yield

    client.send_many(unique_name, [{"id": n} for n in range(3)])
    wait_for(lambda: client.stats(unique_name).ready == 3, 10.0, "the messages are there")
    with pytest.raises(LookupError, match="no database"):
        TaskManager(client, work, unique_name, f"{unique_name}-dead", lifespan=lifespan).start()
    seen.append(client.stats(unique_name).ready)
    report = TaskManager(client, work, unique_name, f"{unique_name}-dead", max_retries=0).run_until_idle(30.0)
    assert (seen, report.succeeded) == ([3, 3], 3)


@pytest.mark.parametrize("executor", ["thread", "process"])
def test_g16_a_signal_to_everybody_leaves_the_lifespan_gracefully(
    client: QueueClient, unique_name: str, start: Start, executor: str
) -> None:
    """A service manager may signal the children as well: each process leaves what it has entered, and exits with 0."""
    client.send(unique_name, {"id": 1})
    worker = start(executor=executor)
    wait_for(lambda: "task 1" in [event for event, _ in events()], 60.0, "the task is done")
    for pid in children_of(worker.pid):
        os.kill(pid, signal.SIGTERM)
    worker.send_signal(signal.SIGTERM)
    assert worker.wait(30) == 0
    entered = [pid for event, pid in events() if event == "enter"]
    assert len(entered) == (2 if executor == "process" else 1)
    for pid in entered:
        assert [event for event in events_of(pid) if event != "task 1"] == ["enter", "leave"]


def test_g6_a_suspect_has_a_lifespan_in_the_child_that_it_runs_in(
    client: QueueClient, unique_name: str, start: Start, journal: Path
) -> None:
    """A worker is killed with its task: the next one runs that in a child, which enters the lifespan as it did."""
    client.send(unique_name, {"id": 1, "do": "sleep"})
    first = start()
    wait_for(lambda: len(events()) == 2, 60.0, "the task runs")
    first.kill()
    first.wait()
    second = start()
    wait_for(lambda: [event for event, _ in events()].count("task 1") == 2, 60.0, "the task runs again")
    entered = [pid for event, pid in events() if event == "enter"]
    assert entered[:2] == [first.pid, second.pid]
    (child,) = entered[2:]
    assert events_of(child) == ["enter", "task 1"]
    assert child in children_of(second.pid)
    second.kill()


@pytest.mark.parametrize("shared_url", ["redis"], indirect=True)
def test_below_a_supervisor_each_worker_has_its_own(client: QueueClient, start: Start) -> None:
    """One that takes the place of a dead one too; SIGTERM has all of them left."""
    supervisor = start(run="Supervisor(build, processes=2).run()")
    entered = lambda: [pid for event, pid in events() if event == "enter"]  # noqa: E731
    wait_for(lambda: len(entered()) == 2, 60.0, "both workers have entered")
    assert set(entered()) == set(children_of(supervisor.pid))
    os.kill(entered()[0], signal.SIGKILL)
    wait_for(lambda: len(entered()) == 3, 60.0, "another worker has entered")
    supervisor.send_signal(signal.SIGTERM)
    assert supervisor.wait(60) == 0
    assert [events_of(pid) for pid in entered()] == [["enter"], ["enter", "leave"], ["enter", "leave"]]


@pytest.mark.parametrize("shared_url", ["redis"], indirect=True)
def test_below_a_supervisor_a_lifespan_that_cannot_be_entered_is_told(
    client: QueueClient, unique_name: str, start: Start, tmp_path: Path
) -> None:
    """It gives up after some tries, as with each mistake at the start, and says what was raised."""
    client.send(unique_name, {"id": 1})
    supervisor = start(lifespan="broken", run="Supervisor(build, processes=2).run()")
    assert supervisor.wait(60) == 1
    assert "OSError: no database" in notes(tmp_path / "log")[-1]
    assert client.stats(unique_name).ready == 1
