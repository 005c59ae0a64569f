"""The health of ``qbridge worker``: its pages and its file, with and without a supervisor."""

from __future__ import annotations

import os
import signal
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from qbridge_core import connect
from support.brokers import free_port
from support.programs import children_of
from support.wait import wait_for
from support.worker_command import Worker

TASKS = """
import os
import threading
import time
from pathlib import Path
from qbridge_core import TaskManager, connect

go = Path(__file__).parent / "go"
client = None

def handle(payload):
    if payload == "leak":
        client._broker._lock.acquire()
    while payload == "wait" and not go.exists():
        time.sleep(0.02)
    while payload == "burn" and not go.exists():
        pass

def leaking():
    global client
    client = connect("memory://")
    client.declare("jobs", "jobs.dead")
    client.send("jobs", os.environ.get("TASK", "nothing"))
    return TaskManager(client, handle, "jobs", "jobs.dead", max_workers=2, task_timeout=600, grace_period=1)

def acquired_for_ever(delivery):
    threading.Event().wait()

def stuck():
    manager = build()
    manager.queue_client.declare(manager.input_queue)
    manager.queue_client.send(manager.input_queue, 1)
    manager.queue_client.ack = acquired_for_ever
    return manager

def build():
    queue = os.environ["QUEUE"]
    return TaskManager(connect(os.environ["QBRIDGE_URL"]), handle, queue, queue + ".dead", task_timeout=600)
"""
Answer = tuple[int, str]


class Pages:
    """The pages of a worker."""

    def __init__(self, port: int) -> None:
        self._port = port

    def read(self, path: str) -> Answer:
        """Status and text; status 0 where nobody listens."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self._port}/{path}", timeout=30) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as exc:
            with exc:
                return exc.code, exc.read().decode()
        except OSError:
            return 0, ""

    def becomes(self, path: str, status: int, *words: str) -> str:
        """Wait until a page has a status, and these words; return it."""

        def found() -> str | None:
            now, text = self.read(path)
            return text if now == status and all(word in text for word in words) else None

        return wait_for(found, 60, f"/{path} does not become {status} {words}: {self.read(path)}")


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., tuple[Worker, Pages]]]:
    """Start ``qbridge worker`` with a port for health, and with these arguments and variables."""
    workers: list[Worker] = []
    (tmp_path / "tasks.py").write_text(TASKS)

    def start(*args: str, **variables: str) -> tuple[Worker, Pages]:
        port = free_port()
        workers.append(Worker(tmp_path, (*args, "--health-port", str(port)), variables))
        return workers[-1], Pages(port)

    yield start
    for worker in workers:
        worker.close()


Start = Callable[..., tuple[Worker, Pages]]


def test_one_process_is_green_also_while_its_handler_takes_the_interpreter(start: Start, tmp_path: Path) -> None:
    """Alive and ready, on the pages and in the file; after SIGTERM not ready, and at last no file."""
    file = tmp_path / "health"
    worker, pages = start("tasks:leaking", "--health-file", str(file), TASK="burn")
    assert pages.becomes("readyz", 200) == "ready\n"
    assert pages.becomes("livez", 200) == "alive\n"
    assert "/livez and /readyz are shown at http://127.0.0.1:" in worker.log
    wait_for(lambda: file.read_text() == "ready\n", 30)
    worker.process.send_signal(signal.SIGTERM)
    assert worker.process.wait(60) == 0
    assert not file.exists()


def test_a_deadlock_is_red_with_its_stack_and_in_the_log(start: Start, tmp_path: Path) -> None:
    """A handler has taken a lock for ever: /livez says where others wait for it, and the file is gone."""
    file = tmp_path / "health"
    worker, pages = start("tasks:leaking", "--health-stall", "1", "--health-file", str(file), TASK="leak")
    text = pages.becomes("livez", 503, "not alive: the worker of 'jobs' hangs: ")
    assert "qbridge_memory" in text
    pages.becomes("readyz", 503, "not alive: ")
    wait_for(lambda: not file.exists(), 30)
    assert "the worker of 'jobs' hangs: " in worker.log


def test_a_broker_that_is_not_up_yet_is_no_reason_to_be_dead(start: Start) -> None:
    """While the worker waits for it, it is alive and not ready."""
    nobody = f"redis://127.0.0.1:{free_port()}/0"
    worker, pages = start("tasks:build", "--start-timeout", "600", QBRIDGE_URL=nobody, QUEUE="q")
    assert pages.becomes("readyz", 503) == "not ready: the worker starts\n"
    assert pages.becomes("livez", 200) == "alive\n"
    assert worker.end() == 0


def test_a_supervisor_tells_of_its_processes(start: Start, redis_url: str, unique_name: str, tmp_path: Path) -> None:
    """Ready; red while one process is frozen, and green when another one is killed; not ready while it stops."""
    file = tmp_path / "health"
    worker, pages = start(
        "tasks:build", "--processes", "2", "--health-stall", "3", "--health-file", str(file),
        QBRIDGE_URL=redis_url, QUEUE=unique_name,
    )  # fmt: skip
    pages.becomes("readyz", 200)
    wait_for(lambda: file.read_text() == "ready\n", 30)
    frozen, killed = wait_for(lambda: sorted(children_of(worker.process.pid))[:2], 30)
    wait_for(lambda: worker.log.count("consumes") >= 2, 60)  # it has said something
    os.kill(frozen, signal.SIGSTOP)
    pages.becomes("livez", 503, f"not alive: worker process {frozen} has said nothing for ")
    pages.becomes("readyz", 503, "not alive")
    wait_for(lambda: not file.exists(), 30)
    os.kill(frozen, signal.SIGCONT)
    pages.becomes("livez", 200)
    assert worker.log.count(f"worker process {frozen} has said nothing for") == 1  # by whomever it was noticed
    assert worker.log.count("/livez and /readyz are shown at http://127.0.0.1:") == 1
    os.kill(killed, signal.SIGKILL)
    wait_for(lambda: f"{killed} died of SIGKILL" in worker.log, 30)
    assert pages.read("livez")[0] == 200
    pages.becomes("readyz", 200)
    with connect(redis_url) as client:
        client.send(unique_name, "wait")
        wait_for(lambda: client.stats(unique_name).in_flight, 30)
    worker.process.send_signal(signal.SIGTERM)
    assert pages.becomes("readyz", 503) == "not ready: the supervisor stops\n"
    assert pages.becomes("livez", 200) == "alive\n"
    (tmp_path / "go").touch()
    assert worker.process.wait(60) == 0
    assert not file.exists()


def test_a_deadlock_in_a_process_is_told_with_its_stack(start: Start, redis_url: str, unique_name: str) -> None:
    """What hangs below a supervisor is red there, with the number of the process."""
    url = f"{redis_url}?publish_timeout=0.5&connect_timeout=0.5&socket_timeout=0.5"
    _, pages = start("tasks:stuck", "--processes", "2", "--health-stall", "1", QBRIDGE_URL=url, QUEUE=unique_name)
    assert "in acquired_for_ever" in pages.becomes("livez", 503, "not alive: worker process ", " hangs: ")


def test_two_ports_are_one_too_many(start: Start) -> None:
    """The port for metrics shows the same pages."""
    worker, _ = start("tasks:leaking", "--metrics-port", "1")
    assert worker.process.wait(60) == 2
    assert "--metrics-port shows the pages of --health-port, too" in " ".join(worker.log.split())
