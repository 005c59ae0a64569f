"""Several queues in one worker program, and in each process of a supervisor, on real brokers."""

from __future__ import annotations

import contextlib
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from qbridge_core import QueueClient, QueueStats, TaskManager, connect
from support.handlers import notes
from support.programs import TESTS, Programs, children_of, is_alive
from support.threads import NewThreads
from support.wait import wait_for

pytestmark = pytest.mark.faults
PROGRAM = """
import logging
import sys
sys.path.insert(0, {tests!r})
from qbridge_core import Supervisor, TaskManager, connect, run_workers
from support.handlers import work

def build(queue):
    logging.basicConfig(level=logging.INFO)
    return TaskManager(connect({url!r}), work, queue, queue + "-dead", max_workers=2, task_timeout=600.0)

def first():
    return build({queue!r} + "-a")

def second():
    return build({queue!r} + "-b")

if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO)
    {run}
"""
done: list[object] = []


async def keep(payload: object) -> None:
    """A handler that child processes could import."""
    done.append(payload)


TOGETHER = "run_workers(first(), second())"
SUPERVISED = "Supervisor([first, 'several_queues:second'], processes=2).run()"
TWICE = "Supervisor([first, first], processes=2).run()"


@pytest.fixture
def queues(shared_url: str, unique_name: str) -> Iterator[tuple[QueueClient, list[str]]]:
    """A client that has declared the two queues, and their names."""
    names = [f"{unique_name}-{letter}" for letter in "ab"]
    with connect(shared_url) as client:
        for name in names:
            client.declare(name, f"{name}-dead")
        yield client, names


@pytest.fixture
def start(programs: Programs, shared_url: str, unique_name: str) -> Callable[[str], subprocess.Popen[bytes]]:
    """Start a program that consumes both queues; everything is killed after the test."""

    def start(run: str) -> subprocess.Popen[bytes]:
        code = PROGRAM.format(tests=TESTS, url=shared_url, queue=unique_name, run=run)
        return programs.start(code, "several_queues.py")

    return start


@pytest.mark.parametrize("run", [TOGETHER, SUPERVISED])
def test_g16_one_signal_ends_the_work_on_all_queues(
    queues: tuple[QueueClient, list[str]], start: Callable[[str], subprocess.Popen[bytes]], run: str, tmp_path: Path
) -> None:
    """What runs is finished and acknowledged in each queue, the rest waits there, and the status is 0."""
    client, names = queues
    journal, go = tmp_path / "journal", tmp_path / "go"
    for name in names:
        client.send_many(name, [{"do": "wait for a file", "file": str(journal), "until": str(go)}] * 10)
    slots = 4 if run == TOGETHER else 8
    program = start(run)
    wait_for(lambda: len(notes(journal)) == slots, 60, "tasks of both queues run")
    children = children_of(program.pid)
    program.send_signal(signal.SIGTERM)
    go.touch()
    assert program.wait(60) == 0
    assert not any(map(is_alive, children))
    lines = notes(journal)
    begun = [line for line in lines if not line.startswith("finished")]
    assert len(lines) == 2 * len(begun), "each task that began was finished"
    left = sum(client.stats(name).ready for name in names)
    assert left == 20 - len(begun)
    assert all(client.stats(f"{name}-dead") == QueueStats(0, 0, 0) for name in names)


def test_two_builds_of_one_queue_end_the_supervisor_at_once(
    queues: tuple[QueueClient, list[str]], start: Callable[[str], subprocess.Popen[bytes]], tmp_path: Path
) -> None:
    """Another start would change nothing about a mistake in the program, so there is none."""
    assert start(TWICE).wait(60) == 1
    log = (tmp_path / "log").read_text()
    assert "another one starts" not in log
    assert log.splitlines()[-1].startswith("qbridge_core.errors.WorkerStartError: two TaskManagers have the queue")


def test_what_side_queues_have_is_told_at_once(queues: tuple[QueueClient, list[str]]) -> None:
    """What is ready, and what is in flight; what is settled is there no more."""
    client, names = queues
    assert client._occupied(names) == set()
    client.publish(names[1], b"x")
    assert client._occupied(names) == {names[1]}
    delivery = client.receive(names[1], 1, 20.0)[0]
    assert client._occupied(names) == {names[1]}
    client.ack(delivery)
    client.flush()
    wait_for(lambda: client._occupied(names) == set(), 10.0)


def test_idle_coroutines_are_waited_for_together(
    queues: tuple[QueueClient, list[str]], monkeypatch: pytest.MonkeyPatch, new_threads: NewThreads
) -> None:
    """By one thread; what comes runs at once, a stop ends the wait, and no message is left with anybody."""
    monkeypatch.setattr("qbridge_core.work.session.MANY", 1)
    monkeypatch.setattr("qbridge_core.work.rest.IDLE_AFTER", 0.1)
    client, names = queues
    done.clear()
    with contextlib.ExitStack() as stack:
        managers = [stack.enter_context(TaskManager(client, keep, name, f"{name}-dead")) for name in names]
        for turn in range(2):
            wait_for(lambda: new_threads.count("qbridge-idle-reader") == 1, 30.0)
            wait_for(lambda: new_threads.count("qbridge-feeder") == 0, 30.0)
            for name in names:
                client.send_many(name, range(20))
            wait_for(lambda turn=turn: len(done) == 40 * (turn + 1), 30.0)  # type: ignore[misc]
        wait_for(lambda: new_threads.count("qbridge-feeder") == 0, 30.0)
        managers[0].stop()
        client.send_many(names[1], range(20))
        wait_for(lambda: len(done) == 100, 30.0)
    assert [client.count(name).ready + client.count(name).in_flight for name in names] == [0, 0]
