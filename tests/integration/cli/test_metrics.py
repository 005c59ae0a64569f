"""``qbridge worker --metrics-port``: one page for all processes, scraped while they die and are replaced."""

from __future__ import annotations

import os
import signal
import socket
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from integration.cli.conftest import QBridge
from qbridge_core import QueueClient
from support.brokers import free_port
from support.programs import children_of
from support.scrapes import Scrapes
from support.wait import wait_for
from support.worker_command import Worker

pytestmark = pytest.mark.faults
TASKS = """
import os
import time
from qbridge_core import TaskManager, connect

def handle(payload):
    if payload == "bad":
        raise ValueError(payload)
    if payload == "pass on":
        with connect(os.environ["QBRIDGE_URL"]) as client:
            client.declare(os.environ["QUEUE"] + "-next")
            client.send(os.environ["QUEUE"] + "-next", "bad")
    time.sleep(0.01)

def build():
    queue = os.environ["QUEUE"]
    return TaskManager(connect(os.environ["QBRIDGE_URL"]), handle, queue, f"{queue}-dead", max_workers=2, max_retries=1)
"""
Start = Callable[..., tuple[Worker, Scrapes]]


BOTH = pytest.mark.parametrize("url", ["redis", "amqp"], indirect=True)


@pytest.fixture
def url(request: pytest.FixtureRequest) -> str:
    """Of a shared broker; on Redis the tasks of a killed worker are taken over soon."""
    name = getattr(request, "param", "redis")
    address = str(request.getfixturevalue(f"{name}_url"))
    return f"{address}?lease=2" if name == "redis" else address


@pytest.fixture
def start(tmp_path: Path, url: str, unique_name: str) -> Iterator[Start]:
    """Start a worker whose metrics are shown; it is killed after the test."""
    (tmp_path / "tasks.py").write_text(TASKS)
    workers: list[Worker] = []

    def start(*args: str) -> tuple[Worker, Scrapes]:
        port = free_port()
        variables = {"QUEUE": unique_name, "QBRIDGE_URL": url}
        workers.append(Worker(tmp_path, ("tasks:build", "--metrics-port", str(port), *args), variables))
        return workers[-1], Scrapes(f"http://127.0.0.1:{port}/metrics")

    yield start
    for worker in workers:
        worker.close()


def test_one_process_shows_what_it_does(client: QueueClient, unique_name: str, start: Start) -> None:
    """Its tasks, its runs, what waits in its queue, and what its handlers publish with clients of their own."""
    client.send_many(unique_name, ["good", "pass on", "bad"])
    worker, page = start()
    wait_for(lambda: page.value("qbridge_tasks_total", queue=unique_name, outcome="dead-lettered") == 1, 60, worker.log)
    wait_for(lambda: page.value("qbridge_tasks_total", queue=unique_name, outcome="succeeded") == 2)
    assert page.value("qbridge_task_run_time_seconds_count", queue=unique_name) == 4
    assert page.value("qbridge_messages_published_total", queue=f"{unique_name}-next", outcome="confirmed") == 1
    wait_for(lambda: page.value("qbridge_queue_dead", queue=unique_name) == 1, 30)
    assert worker.end() == 0


@BOTH
def test_no_counter_goes_back_while_workers_are_killed(client: QueueClient, unique_name: str, start: Start) -> None:
    """Every scrape has all that was there before; what dead processes have counted stays, and each end is counted."""
    worker, page = start("--processes", "3")
    succeeded = lambda: page.value("qbridge_tasks_total", queue=unique_name, outcome="succeeded")  # noqa: E731
    client.send_many(unique_name, range(100))
    wait_for(lambda: succeeded() == 100, 60, worker.log)
    for kills in (1, 2, 3):
        client.send_many(unique_name, range(150))
        before = succeeded() or 0.0
        wait_for(lambda: (succeeded() or 0.0) > before + 20, 60)  # noqa: B023 - asked at once
        os.kill(children_of(worker.process.pid)[0], signal.SIGKILL)
        wait_for(lambda: page.value("qbridge_worker_process_exits_total", exit="SIGKILL") == kills, 60)  # noqa: B023
        wait_for(lambda: page.value("qbridge_worker_processes") == 3, 60)
    wait_for(lambda: client.stats(unique_name).ready == 0 and not page.value("qbridge_tasks_in_flight"), 60)
    assert worker.end() == 0


def test_what_an_idle_process_has_counted_outlives_it(client: QueueClient, unique_name: str, start: Start) -> None:
    """Nothing at all is lost of what was counted a second before a process dies."""
    worker, page = start("--processes", "2")
    succeeded = lambda: page.value("qbridge_tasks_total", queue=unique_name, outcome="succeeded")  # noqa: E731
    for expected in (40, 80, 120):
        client.send_many(unique_name, range(40))
        wait_for(lambda: succeeded() == expected, 60, worker.log)  # noqa: B023 - asked at once
        for pid in children_of(worker.process.pid):
            os.kill(pid, signal.SIGKILL)
        wait_for(lambda: page.value("qbridge_worker_process_exits_total", exit="SIGKILL") == expected / 20, 60)  # noqa: B023
        assert succeeded() == expected
    assert worker.end() == 0


@BOTH
def test_one_process_of_several_asks_the_broker(client: QueueClient, unique_name: str, start: Start) -> None:
    """What waits is shown once, not once for each process; when that one dies, another one asks."""
    client.pause(unique_name)
    try:
        client.send_many(unique_name, range(7))
        worker, page = start("--processes", "3")
        ready = lambda: page.value("qbridge_queue_ready", queue=unique_name)  # noqa: E731
        wait_for(lambda: ready() == 7, 60, worker.log)
        first = set(children_of(worker.process.pid))
        for pid in first:
            os.kill(pid, signal.SIGKILL)
        wait_for(lambda: page.value("qbridge_worker_process_exits_total", exit="SIGKILL") == 3, 60)
        client.send_many(unique_name, range(2))
        wait_for(lambda: ready() == 9, 60, worker.log)
        assert not first & set(children_of(worker.process.pid))
        assert page.value("qbridge_queue_paused", queue=unique_name) == 1
    finally:
        client.resume(unique_name)


@pytest.mark.parametrize("processes", ["1", "2"])
def test_a_port_that_is_taken_is_one_line(qbridge: QBridge, processes: str) -> None:
    """Exit code 2, the address, and what to do; nothing was started."""
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = str(other.getsockname()[1])
        done = qbridge("worker", "tasks:build", "--processes", processes, "--metrics-port", port, code=2)
    assert f"at 127.0.0.1:{port}: " in done.stderr
    assert "choose another port" in done.stderr
    assert "Traceback" not in done.stderr


def test_without_the_extra_it_says_what_to_install(qbridge: QBridge, tmp_path: Path) -> None:
    """The line for pip, and exit code 2."""
    (tmp_path / "sitecustomize.py").write_text(
        "import importlib.util as u\nfind = u.find_spec\n"
        "u.find_spec = lambda name, *more: None if name == 'prometheus_client' else find(name, *more)\n"
    )
    path = f"{tmp_path}:{':'.join(sys.path)}"
    for args in (("worker", "tasks:jobs", "--metrics-port", "9"), ("exporter", "q", "--url", "redis://localhost/")):
        done = qbridge(*args, code=2, PYTHONPATH=path)
        assert 'pip install "./qbridge_core[prometheus]"' in done.stderr
