"""``qbridge worker`` as a process: on memory, RabbitMQ and Redis, stopped, failing and reloading."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from integration.cli.conftest import QBridge
from qbridge_core import QueueClient, Reason, connect
from support.brokers import Broker
from support.handlers import notes
from support.programs import children_of, is_alive
from support.wait import wait_for
from support.worker_command import Worker

pytestmark = pytest.mark.faults
TASKS = """
import os
import threading
import time
from pathlib import Path
from qbridge_core import TaskManager, connect

here = Path(__file__).parent

def note(text):
    with (here / "journal").open("a") as journal:
        journal.write(f"{text}\\n")

def handle(payload):
    note(f"began {payload}")
    if payload == "bad":
        raise ValueError(payload)
    while payload == "wait" and not (here / "go").exists():
        time.sleep(0.02)
    note(f"finished {payload}")

def build(letter):
    queue = os.environ["QUEUE"] + "-" + letter
    client = connect(os.environ["QBRIDGE_URL"])
    return TaskManager(client, handle, queue, queue + ".dead", max_workers=1, task_timeout=600)

def first():
    return build("a")

def second():
    return build("b")

def jobs(executor="thread"):
    client = connect("memory://jobs")
    client.declare("jobs", "jobs.dead")
    client.send_many("jobs", ["one", "two", "bad"])
    return TaskManager(client, handle, "jobs", "jobs.dead", max_retries=1, executor=executor, max_workers=2)

def in_processes():
    return jobs("process")

def stuck(payload):
    while not (here / "go").exists():
        time.sleep(0.02)
    note(f"finished {payload}")

def lasting():
    client = connect("memory://jobs")
    client.declare("lasting", "jobs.dead")
    client.send("lasting", "long")
    return TaskManager(client, stuck, "lasting", "jobs.dead", task_timeout=600)

def too_many_stuck():
    client = connect("memory://jobs")
    client.declare("stuck", "jobs.dead")
    client.send_many("stuck", [1, 2, 3])
    return TaskManager(
        client, stuck, "stuck", "jobs.dead", max_retries=0, task_timeout=0.1, max_abandoned=1, interrupt=False
    )

def hanging():
    note("builds")
    threading.Event().wait()
"""


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Worker]]:
    """Start ``qbridge worker`` with these arguments and variables; it is killed after the test."""
    workers: list[Worker] = []

    def start(*args: str, **variables: str) -> Worker:
        workers.append(Worker(tmp_path, args, variables))
        return workers[-1]

    yield start
    for worker in workers:
        worker.close()


@pytest.fixture(autouse=True)
def tasks(tmp_path: Path) -> Path:
    """A module with targets, in the folder where the command runs."""
    module = tmp_path / "tasks.py"
    module.write_text(TASKS)
    return module


def journal(folder: Path, word: str) -> list[str]:
    """What the handlers have noted with this word."""
    return [line for line in notes(folder / "journal") if line.startswith(word)]


# ---------------------------------------------------------------------- jobs


def test_a_job_ends_when_its_queue_is_empty(qbridge: QBridge) -> None:
    """It prints what was done, and logs to standard error."""
    done = qbridge("worker", "tasks:jobs", "--until-idle")
    assert done.stdout == "jobs: 2 succeeded, 1 retried, 1 dead-lettered (failed)\n"
    assert " INFO qbridge.manager: worker " in done.stderr
    assert " consumes jobs" in done.stderr
    assert "consumes jobs" not in qbridge("worker", "tasks:jobs", "--until-idle", "--log-level", "error").stderr


@pytest.mark.parametrize("processes", ["1", "2"])
def test_the_log_can_be_json(start: Callable[..., Worker], processes: str, redis_url: str, unique_name: str) -> None:
    """An object in each line, in each process, with what stopped it."""
    arguments = "tasks:first", "--log-format", "json", "--processes", processes
    worker = start(*arguments, QUEUE=unique_name, QBRIDGE_URL=redis_url)
    wait_for(lambda: worker.log.count(f"consumes {unique_name}-a") == int(processes), 60.0)
    assert worker.end() == 0
    told = [json.loads(line) for line in worker.log.splitlines()]
    assert {"level", "logger", "message", "process", "time"} <= set.intersection(*map(set, told))
    stops = [each for each in told if "is to stop" in each["message"]]
    assert [each["queue"] for each in stops] == [f"{unique_name}-a"] * int(processes)
    if processes == "1":
        assert ": SIGTERM;" in stops[0]["message"]
    else:
        assert "the supervisor stops its workers: SIGTERM" in {each["message"] for each in told}


def test_child_processes_find_the_handler(qbridge: QBridge, tmp_path: Path) -> None:
    """They can import what the command can, whichever way it was called."""
    assert "2 succeeded" in qbridge("worker", "tasks:in_processes", "--until-idle").stdout
    command = Path(sys.executable).with_name("qbridge")
    done = subprocess.run(
        [command, "worker", "tasks:in_processes", "--until-idle"],
        cwd=tmp_path, capture_output=True, text=True, timeout=60, check=True,
    )  # fmt: skip
    assert "2 succeeded" in done.stdout


def test_a_handler_is_a_worker_with_options(
    qbridge: QBridge, shared_url: str, unique_name: str, tmp_path: Path
) -> None:
    """Flags, variables and pyproject.toml make its TaskManager; what fails is in the dead-letter queue."""
    (tmp_path / "pyproject.toml").write_text('[tool.qbridge.worker]\nmax-retries = 0\nbackoff = "linear:1"\n')
    dead = f"{unique_name}-letters"
    with connect(shared_url) as client:
        client.declare(unique_name, dead)
        client.send_many(unique_name, ["one", "two", "bad"])
        done = qbridge(
            "worker", "tasks:handle", "--queue", unique_name, "-c", "2", "--until-idle",
            QBRIDGE_URL=shared_url, QBRIDGE_WORKER_DEAD=dead,
        )  # fmt: skip
        assert done.stdout == f"{unique_name}: 2 succeeded, 1 dead-lettered (failed)\n"
        (letter,) = client.dead_letters(dead)
        assert (letter.reason, letter.attempts) == (Reason.FAILED, 1)


# ---------------------------------------------------------------------- several queues


@pytest.fixture
def queues(shared_url: str, unique_name: str) -> Iterator[tuple[QueueClient, list[str]]]:
    """A client that has declared the two queues of ``first`` and ``second``, and their names."""
    names = [f"{unique_name}-{letter}" for letter in "ab"]
    with connect(shared_url) as client:
        for name in names:
            client.declare(name, f"{name}.dead")
        yield client, names


@pytest.mark.parametrize("processes", [1, 2])
def test_g16_one_signal_stops_several_targets(
    start: Callable[..., Worker],
    queues: tuple[QueueClient, list[str]],
    shared_url: str,
    unique_name: str,
    processes: int,
    tmp_path: Path,
) -> None:
    """One process works on both queues, with others beside it where that is asked for; what runs is finished."""
    client, names = queues
    for name in names:
        client.send_many(name, ["wait"] * 5)
    worker = start(
        "tasks:first", "tasks:second", "--processes", str(processes), QBRIDGE_URL=shared_url, QUEUE=unique_name
    )
    wait_for(lambda: len(journal(tmp_path, "began")) == 2 * processes, 60, "each process runs a task of each queue")
    children = children_of(worker.process.pid)
    assert len(children) == (0 if processes == 1 else processes)
    worker.process.send_signal(signal.SIGTERM)
    (tmp_path / "go").touch()
    assert worker.process.wait(60) == 0, worker.log
    assert not any(map(is_alive, children))
    done = len(journal(tmp_path, "finished"))
    assert done == len(journal(tmp_path, "began"))
    assert sum(client.stats(name).ready for name in names) == 10 - done


def test_g20_a_target_that_ends_with_an_error_ends_all(start: Callable[..., Worker], tmp_path: Path) -> None:
    """The exit code is 1, the last line says why and on which queue; what others run is finished first."""
    worker = start("tasks:lasting", "tasks:too_many_stuck")
    wait_for(lambda: "the worker of stuck stops: TooManyStuckTasksError" in worker.log, 60, "one target fails")
    (tmp_path / "go").touch()
    assert worker.process.wait(60) == 1
    assert journal(tmp_path, "finished long")
    assert worker.log.splitlines()[-1] == "this ended the worker of 'stuck'; the others were stopped"
    assert "Traceback" not in worker.log


# ---------------------------------------------------------------------- start


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (("tasks:handle",), "say which queue with --queue"),
        (("tasks:handle", "--queue", "mails"), "Give --url"),
        (("tasks:nowhere",), "nothing called 'nowhere'"),
        (("tasks:nowhere", "--processes", "2"), "nothing called 'nowhere'"),
        (("tasks.py:jobs",), "tasks:jobs"),
        (("tasks:jobs", "tasks:jobs"), "have the queue 'jobs'"),
        (("tasks:jobs", "tasks:lasting", "--queue", "mails"), "for one handler"),
        (("tasks:jobs", "-c", "2"), "leave out --concurrency"),
        (("tasks:jobs", "--processes", "2"), "are in the memory of one process"),
        (("tasks:jobs", "--until-idle", "--processes", "2"), "--until-idle is for one process"),
        (("tasks:jobs", "--reload-dir", "."), "add --reload"),
        (("tasks:jobs", "--reload", "--reload-dir", "nowhere"), "nowhere is no folder"),
        (("tasks:handle", "--queue", "mails", "--backoff", "slowly"), "'slowly' is no backoff"),
        (("tasks:jobs", "--health-host", "0.0.0.0"), "shows nothing without --health-port or --metrics-port"),
        (("tasks:jobs", "--metrics-host", "0.0.0.0", "--health-file", "health"), "shows nothing without --health-port"),
        (("tasks:jobs", "--health-stall", "9"), "--health-stall is for --health-port, --metrics-port or --health-file"),
    ],
)
def test_wrong_use_is_exit_code_2(qbridge: QBridge, args: tuple[str, ...], said: str) -> None:
    """At once, with a sentence and without a traceback, also where other processes would find it out."""
    done = qbridge("worker", *args, code=2)
    assert said in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("processes", ["1", "2"])
def test_a_module_that_cannot_be_imported_is_shown(qbridge: QBridge, processes: str, tmp_path: Path) -> None:
    """The place of the mistake is there, whichever process has found it, and nothing of QBridge's own stack."""
    (tmp_path / "slip.py").write_text("import tasks\ntasks.nothing_of_that_name\n")
    done = qbridge("worker", "slip:build", "--processes", processes, code=2)
    assert "slip cannot be imported: AttributeError: module 'tasks' has no attribute" in done.stderr
    assert 'slip.py", line 2, in <module>' in done.stderr
    assert "importlib" not in done.stderr


@pytest.mark.parametrize("processes", ["1", "2"])
def test_a_broker_that_is_away_is_exit_code_3(qbridge: QBridge, processes: str) -> None:
    """Without a time to wait for it, at once and without the password."""
    variables = {"QBRIDGE_URL": "redis://user:secret@127.0.0.1:1/0", "QUEUE": "mails"}
    done = qbridge("worker", "tasks:first", "--processes", processes, code=3, **variables)
    assert "127.0.0.1:1" in done.stderr.splitlines()[-1]
    assert "secret" not in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("processes", ["1", "2"])
def test_g14_a_broker_that_is_not_up_yet_is_waited_for(
    start: Callable[..., Worker], private_redis: Broker, processes: str, unique_name: str, tmp_path: Path
) -> None:
    """The log says so, and the work begins when the broker is there."""
    private_redis.stop()
    worker = start(
        "tasks:first", "--start-timeout", "60", "--processes", processes,
        QBRIDGE_URL=private_redis.url, QUEUE=unique_name,
    )  # fmt: skip
    said = "tasks:first waits for its broker, for " if processes == "1" else "the workers wait for their broker, for "
    wait_for(lambda: said in worker.log, 60, "it says so")
    private_redis.start()
    with connect(private_redis.url) as client:
        client.declare(f"{unique_name}-a", f"{unique_name}-a.dead")
        client.send(f"{unique_name}-a", "one")
    wait_for(lambda: journal(tmp_path, "finished one"), 60, "the task is done")
    assert worker.end() == 0


def test_g16_a_signal_while_a_target_is_built_ends_the_command(start: Callable[..., Worker], tmp_path: Path) -> None:
    """Nothing can be lost by then, so what hangs is not waited for, and the exit code is 0."""
    worker = start("tasks:hanging")
    wait_for(lambda: journal(tmp_path, "builds"), 60, "it builds")
    assert worker.end() == 0
    assert "Traceback" not in worker.log


# ---------------------------------------------------------------------- reload


def test_reload_starts_anew_after_a_change(
    start: Callable[..., Worker], redis_url: str, unique_name: str, tasks: Path, tmp_path: Path
) -> None:
    """The old code finishes what it runs, the new code takes the rest; after a slip the next change is waited for."""
    queue = f"{unique_name}-a"
    with connect(redis_url) as client:
        client.declare(queue, f"{queue}.dead")
        client.send(queue, "wait")
        worker = start("tasks:first", "--reload", QBRIDGE_URL=redis_url, QUEUE=unique_name)
        wait_for(lambda: journal(tmp_path, "began wait"), 60, "it works")
        tasks.write_text(TASKS.replace("finished", "finished anew"))
        wait_for(lambda: "changed: " in worker.log, 60, "the change is seen")
        (tmp_path / "go").touch()
        wait_for(lambda: "exited with status 0" in worker.log, 60, "the old process has ended")
        client.send(queue, "one")
        wait_for(lambda: journal(tmp_path, "finished anew one"), 60, "the new code works")
        assert journal(tmp_path, "finished wait")
        tasks.write_text(TASKS + "\ndef broken(:\n")
        wait_for(lambda: "waiting for the next change" in worker.log, 60, "the slip is told")
        assert "SyntaxError" in worker.log
        tasks.write_text(TASKS.replace("finished", "finished at last"))
        client.send(queue, "two")
        wait_for(lambda: journal(tmp_path, "finished at last two"), 60, "the mended code works")
        assert worker.end() == 0
    assert children_of(worker.process.pid) == []


def test_reload_without_its_extra_says_what_to_install(qbridge: QBridge, tmp_path: Path) -> None:
    """The line for pip, and exit code 2."""
    (tmp_path / "sitecustomize.py").write_text(
        "import importlib.util as u\nfind = u.find_spec\n"
        "u.find_spec = lambda name, *more: None if name == 'watchfiles' else find(name, *more)\n"
    )
    path = f"{tmp_path}:{':'.join(sys.path)}"
    done = qbridge("worker", "tasks:jobs", "--reload", code=2, PYTHONPATH=path)
    assert 'pip install "./qbridge_core[reload]"' in done.stderr
