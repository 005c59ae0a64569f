"""Messages that may have killed a worker, on real brokers and with real deaths: found, and nobody waits for it."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from qbridge_core import AttemptOutcome, QueueClient, Reason, TransientError
from support.handlers import notes
from support.programs import TESTS, Programs
from support.wait import wait_for

pytestmark = pytest.mark.faults
PROGRAM = """
import logging, os, sys
sys.path.insert(0, {tests!r})
from qbridge_core import TaskManager, connect
from support.handlers import set_up, work, work_where_set_up

os.environ["WORKER"] = str(os.getpid())
set_up.add("here")
logging.basicConfig(level=logging.INFO)
with connect({url!r}) as client:  # not guarded: a suspect's child must not run this again
    TaskManager(client, {handler}, {queue!r}, {dead!r}, max_workers=4, task_timeout=600.0, grace_period=1.0).start()
"""
Start = Callable[..., subprocess.Popen[bytes]]


@pytest.fixture
def url(counting_url: str) -> str:
    """Redis with a short lease, RabbitMQ with each queue type; what takes a worker for dead does so soon."""
    return counting_url if counting_url.startswith("redis") else f"{counting_url}&reconnect_delay_max=0.4"


@pytest.fixture
def journal(tmp_path: Path) -> Path:
    """The file that the handlers of a test write to."""
    return tmp_path / "journal"


@pytest.fixture
def start(programs: Programs, unique_name: str, url: str) -> Start:
    """Start a worker on the test's queue; it is killed after the test."""
    names = {"tests": TESTS, "queue": unique_name, "dead": f"{unique_name}-dead"}
    return lambda handler="work": programs.start(PROGRAM.format(url=url, handler=handler, **names))


def kill(process: subprocess.Popen[bytes]) -> None:
    """SIGKILL."""
    process.kill()
    process.wait()


def runs(journal: Path, task: str) -> list[int]:
    """The processes that ran a task, in order."""
    return [int(line.split()[1]) for line in notes(journal) if line.split()[0] == task]


def is_empty(client: QueueClient, queue: str) -> bool:
    """True when nothing is left in a queue and its side queue; False while the broker cannot say."""
    try:
        stats = [client.stats(name) for name in (queue, f"{queue}.suspects")]
    except TransientError:
        return False
    return all(each.ready == each.in_flight == each.delayed == 0 for each in stats)


def waiting(journal: Path, name: str) -> dict[str, object]:
    """A task that runs until a file is there."""
    return {"id": name, "do": "wait for a file", "until": f"{journal}.{name}", "file": str(journal)}


def test_g15_the_tasks_of_a_killed_worker_do_not_wait_for_a_long_task(
    client: QueueClient, unique_name: str, journal: Path, start: Start
) -> None:
    """They run beside it, in a child process, while other tasks go on; then nothing is left and nobody is charged."""
    client.send_many(unique_name, [waiting(journal, f"task-{n}") for n in range(4)])
    victim = start()
    wait_for(lambda: len(notes(journal)) == 4, 60, "the first worker holds four tasks")
    client.send(unique_name, waiting(journal, "long"))
    other = start()
    wait_for(lambda: runs(journal, "long"), 60, "the long task runs elsewhere")
    for n in range(4):
        Path(f"{journal}.task-{n}").touch()
        if n == 0:
            kill(victim)  # with three tasks, or four
    client.send_many(unique_name, [{"id": f"quick-{n}", "file": str(journal)} for n in range(50)])
    names = lambda: {line.split()[0] for line in notes(journal)}  # noqa: E731
    wait_for(lambda: sum(name.startswith("quick-") for name in names()) == 50, 20, "other tasks go on")

    def come_back() -> bool:
        return all(set(runs(journal, f"task-{n}")) - {victim.pid} for n in range(1, 4))

    wait_for(come_back, 60, "the tasks of the killed worker have run")
    assert not {victim.pid, other.pid} & {runs(journal, f"task-{n}")[-1] for n in range(1, 4)}, "in a child process"
    assert other.poll() is None
    Path(f"{journal}.long").touch()
    wait_for(lambda: is_empty(client, unique_name), 30, "nothing is left")
    assert client.stats(f"{unique_name}-dead").ready == 0


def test_g6_a_pill_kills_one_worker_and_then_child_processes_only(
    client: QueueClient, unique_name: str, journal: Path, start: Start
) -> None:
    """After the first death the second worker survives: the letter counts its children, and neighbours go free."""
    client.send_many(unique_name, [{"id": n, "file": str(journal)} for n in range(50)])
    client.send(unique_name, {"id": "pill", "do": "kill", "file": str(journal)})
    client.send_many(unique_name, [{"id": n, "file": str(journal)} for n in range(50, 100)])
    assert start().wait(60) == -signal.SIGKILL
    second = start()
    wait_for(lambda: client.stats(f"{unique_name}-dead").ready == 1, 60, "the pill is found")
    wait_for(lambda: is_empty(client, unique_name), 60, "everything else is done")
    assert second.poll() is None
    assert set(map(str, range(100))) <= {line.split()[0] for line in notes(journal)}
    pids = runs(journal, "pill")
    assert len(pids) == 3
    assert second.pid not in pids
    (letter,) = client.dead_letters(f"{unique_name}-dead")
    assert (letter.reason, letter.crashes, letter.attempts) == (Reason.CRASHED, 3, 0)
    assert letter.exception_message.endswith(f":{pids[-1]}, died of SIGKILL")
    # Of the worker's death nobody knows more than that; that of the children this worker has seen.
    assert [attempt.outcome for attempt in letter.history] == [AttemptOutcome.CRASHED] * 3
    assert [attempt.began_at is None for attempt in letter.history] == [True, False, False]
    assert [attempt.worker.rpartition(":")[2] for attempt in letter.history] == ["", str(second.pid), str(second.pid)]
    assert letter.sent_at is not None


@pytest.mark.parametrize("counting_url", ["redis"], indirect=True)
def test_g6_a_suspect_that_needs_the_main_program_runs_in_a_worker(
    client: QueueClient, unique_name: str, journal: Path, start: Start
) -> None:
    """What the child lacks costs no attempt; the main program, which is not guarded, is not run by the child."""
    task = {**waiting(journal, "task"), "without": "raise", "what": "OSError"}
    client.send(unique_name, task)
    victim = start("work_where_set_up")
    wait_for(lambda: runs(journal, "task"), 60, "it runs")
    kill(victim)
    Path(f"{journal}.task").touch()
    worker = start("work_where_set_up")
    wait_for(lambda: len(runs(journal, "task")) == 3, 60, "it runs in a child and in the worker")
    wait_for(lambda: is_empty(client, unique_name), 30, "nothing is left")
    assert worker.pid == runs(journal, "task")[-1]
    assert client.stats(f"{unique_name}-dead").ready == 0


@pytest.mark.parametrize("counting_url", ["redis"], indirect=True)
def test_g6_kills_from_outside_convict_nobody(
    client: QueueClient, unique_name: str, journal: Path, start: Start
) -> None:
    """A task whose worker is killed three times, twice with the child that runs it, is done by the fourth worker."""
    client.send(unique_name, waiting(journal, "task"))
    for times in range(1, 4):
        victim = start()
        wait_for(lambda: len(runs(journal, "task")) == times, 60, "it runs")  # noqa: B023 - called at once
        kill(victim)
    Path(f"{journal}.task").touch()
    start()
    wait_for(lambda: is_empty(client, unique_name) and len(notes(journal)) == 5, 60, "it is done")
    assert client.stats(f"{unique_name}-dead").ready == 0


@pytest.mark.parametrize("counting_url", ["redis"], indirect=True)
def test_g6_a_task_that_takes_its_worker_along_is_found(
    client: QueueClient, unique_name: str, journal: Path, start: Start
) -> None:
    """Each death of worker and child together only suspects; after ``max_crashes`` of them one death alone convicts."""
    client.send(unique_name, {"id": "pill", "do": "kill the worker", "file": str(journal)})
    worker = start()

    def found() -> bool:
        nonlocal worker
        if worker.poll() is not None:
            worker = start()
        return client.stats(f"{unique_name}-dead").ready == 1

    wait_for(found, 120, "the pill is found", interval=0.1)
    assert len(runs(journal, "pill")) == 5
    assert worker.poll() is None
    (letter,) = client.dead_letters(f"{unique_name}-dead")
    assert (letter.reason, letter.crashes, letter.attempts) == (Reason.CRASHED, 3, 0)
    assert {attempt.outcome for attempt in letter.history} == {AttemptOutcome.CRASHED}
    wait_for(lambda: is_empty(client, unique_name), 30, "nothing is left")


@pytest.mark.parametrize("counting_url", ["redis"], indirect=True)
def test_g16_a_signal_to_everybody_stops_a_suspect_gracefully(
    client: QueueClient, unique_name: str, journal: Path, start: Start
) -> None:
    """SIGTERM to worker and child: the worker exits 0 after its grace period, and the suspect comes back uncounted."""
    client.send(unique_name, waiting(journal, "task"))
    victim = start()
    wait_for(lambda: runs(journal, "task"), 60, "it runs")
    kill(victim)
    worker = start()
    wait_for(lambda: len(runs(journal, "task")) == 2, 60, "it runs in a child process")
    os.kill(runs(journal, "task")[-1], signal.SIGTERM)
    worker.send_signal(signal.SIGTERM)
    assert worker.wait(30) == 0
    assert client.stats(f"{unique_name}.suspects").ready == 1
    Path(f"{journal}.task").touch()
    start()
    wait_for(lambda: is_empty(client, unique_name), 60, "the next worker does it")
    assert client.stats(f"{unique_name}-dead").ready == 0
