"""The whole stop of a worker program, its client's disconnect included, fits into ``grace_period`` and 3 s."""

from __future__ import annotations

import itertools
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

import pytest

from qbridge_core import connect
from support.brokers import Broker
from support.wait import wait_for

pytestmark = pytest.mark.faults
GRACE = 1.0
TASKS = 20
SLACK = 1.5  # for the end of the interpreter
TRIES = 3  # a machine that is busy may keep some of them from being in time
PROGRAM = """
import sys, threading, time
from qbridge_core import TaskManager, connect

url, queue = sys.argv[1:]
begun = threading.Semaphore(0)

def handler(payload):
    begun.release()
    time.sleep(3600)

def tell():
    for _ in range({tasks}):
        begun.acquire()
    print("begun", flush=True)

threading.Thread(target=tell, daemon=True).start()
with connect(url) as client:
    TaskManager(
        client, handler, queue, f"{{queue}}.dead", max_workers={tasks}, task_timeout=600, grace_period={grace}
    ).start()
"""


@pytest.fixture
def worker() -> Iterator[Any]:
    """Start the program; it is killed after the test."""
    processes: list[subprocess.Popen[str]] = []

    def start(url: str, queue: str) -> subprocess.Popen[str]:
        code = PROGRAM.format(tasks=TASKS, grace=GRACE)
        command = [sys.executable, "-c", code, url, queue]
        processes.append(subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True))
        return processes[-1]

    yield start
    for process in processes:
        process.kill()
        process.communicate()


@pytest.fixture(params=["rabbitmq", "redis"])
def private_broker(request: pytest.FixtureRequest) -> Broker:
    """A server of this test alone."""
    broker: Broker = request.getfixturevalue(f"private_{request.param}")
    return broker


@pytest.mark.timeout(300)
def test_g16_the_whole_stop_is_in_time_with_a_broker_that_is_silent(
    private_broker: Broker, unique_name: str, worker: Any
) -> None:
    """A suspended server cannot keep a worker with stuck tasks; one that answers gets them all back, sooner."""
    names = (f"{unique_name}-{n}" for n in itertools.count())  # what came back once would be suspected
    with connect(private_broker.url) as client:
        for silent in (False, True):
            for left in reversed(range(TRIES)):
                queue = next(names)
                client.declare(queue, f"{queue}.dead")
                client.send_many(queue, range(TASKS))
                process = worker(private_broker.url, queue)
                took, errors = _stop(process, private_broker if silent else None)
                if not silent:
                    # At least once: an acknowledgement that came too late leaves a copy and its original.
                    wait_for(lambda: client.stats(queue).ready >= TASKS, 30, "all are back")  # noqa: B023 - at once
                all_given_back = silent or errors.count("it goes back to the queue") == TASKS
                if process.returncode == 0 and took <= GRACE + 3 + SLACK and all_given_back:
                    break
                assert left, f"{took:.1f} s, status {process.returncode}: {errors}"
            assert took >= GRACE


def _stop(process: subprocess.Popen[str], silent: Broker | None) -> tuple[float, str]:
    """Stop a worker that runs all tasks; how many seconds it took, and what it has logged."""
    assert process.stdout is not None
    assert process.stdout.readline() == "begun\n", process.communicate()
    if silent:
        silent.suspend()
    try:
        began = time.monotonic()
        process.send_signal(signal.SIGTERM)
        _, errors = process.communicate(timeout=60)
        took = time.monotonic() - began
    finally:
        if silent:
            silent.resume()
    return took, errors
