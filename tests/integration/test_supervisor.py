"""A supervisor and its worker processes on a real broker: killed, stopped, and built wrongly."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from qbridge_core import ConfigurationError, QueueClient, QueueStats, Reason, Supervisor, connect
from support.brokers import Broker
from support.handlers import notes
from support.programs import TESTS, Programs, children_of, is_alive
from support.wait import wait_for

pytestmark = pytest.mark.faults
PROGRAM = """
import logging
import sys
import time
sys.path.insert(0, {tests!r})
from qbridge_core import Supervisor, TaskManager, connect
from support.handlers import note, work

def build():
    logging.basicConfig(level=logging.INFO)
    return TaskManager(
        connect({url!r}), work, {queue!r}, {dead!r}, max_workers=4, task_timeout=600.0, grace_period={grace}
    )

def raising(*args, **kwargs):
    raise KeyError("task_id")

def with_raising_factory():
    logging.basicConfig(level=logging.INFO)
    logging.setLogRecordFactory(raising)
    return TaskManager(connect({url!r}), work, {queue!r}, {dead!r}, max_workers=2, max_retries=1)

def with_raising_filter():
    logging.basicConfig(level=logging.INFO)
    for name in ("manager", "worker", "redis", "supervisor"):
        logging.getLogger("qbridge." + name).addFilter(raising)
    return TaskManager(connect({url!r}), work, {queue!r}, {dead!r}, max_workers=2, max_retries=1)

def broken():
    raise OSError("no configuration")

def refused():
    logging.basicConfig(level=logging.INFO)
    return TaskManager(connect({url!r}), work, "too-long-on-rabbitmq" * 12, {dead!r})

def without_handler():
    return TaskManager(connect({url!r}), late, {queue!r}, {dead!r}, executor="process")

def late(payload):
    pass

if "qbridge_core.execute.processes.program" in sys.orig_argv[-1]:
    del late  # the handler's own process cannot find it

def hanging():
    note({journal!r}, "builds")
    time.sleep(3600)

if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO)
    Supervisor({build}, processes={processes}, start_timeout={start_timeout}).run()
"""
Start = Callable[..., subprocess.Popen[bytes]]


@pytest.fixture(params=["redis"])
def url(request: pytest.FixtureRequest) -> str:
    """The URL of a shared broker: Redis with a short lease, or RabbitMQ with one of its queue types."""
    if request.param == "redis":
        return f"{request.getfixturevalue('redis_url')}?lease=2"
    return f"{request.getfixturevalue('amqp_url')}?queue_type={request.param}"


@pytest.fixture
def journal(tmp_path: Path) -> Path:
    """The file that the handlers of a test write to."""
    return tmp_path / "journal"


@pytest.fixture
def start(programs: Programs, unique_name: str, url: str, journal: Path) -> Start:
    """Start a program with a supervisor on the test's queue; everything is killed after the test."""
    names = {"tests": TESTS, "queue": unique_name, "dead": f"{unique_name}-dead", "journal": str(journal)}

    def start(
        build: str = "build", processes_: int = 2, grace: float = 20.0, url_: str = url, start_timeout: float = 60.0
    ) -> subprocess.Popen[bytes]:
        values: dict[str, Any] = {"build": build, "processes": processes_, "grace": grace, "url": url_}
        code = PROGRAM.format(start_timeout=start_timeout, **values, **names)
        return programs.start(code, "supervised_program.py")

    return start


@pytest.mark.parametrize("url", ["redis", "quorum", "classic"], indirect=True)
def test_g6_a_pill_is_found_and_its_letter_says_how_the_worker_died(
    client: QueueClient, unique_name: str, journal: Path, start: Start
) -> None:
    """One pill among 500 tasks: all others are done, and after 3 deaths the letter names the signal and the worker."""
    dead = f"{unique_name}-dead"
    client.send_many(unique_name, [{"id": n, "file": str(journal)} for n in range(250)])
    client.send(unique_name, {"id": "pill", "do": "kill", "file": str(journal)})
    client.send_many(unique_name, [{"id": n, "file": str(journal)} for n in range(250, 500)])
    supervisor = start(processes_=3)
    names = lambda: [line.split()[0] for line in notes(journal)]  # noqa: E731
    wait_for(lambda: len(set(names())) == 501 and client.stats(dead).ready == 1, 100, "everything is done or dead")
    (letter,) = client.dead_letters(dead)
    assert (letter.reason, letter.crashes) == (Reason.CRASHED, 3)
    victim = [line.split()[1] for line in notes(journal) if line.startswith("pill ")]
    assert len(victim) == 3
    assert letter.exception_message.startswith(
        "3 worker processes died while they ran this task; the last one, worker "
    )
    assert letter.exception_message.endswith(f":{victim[-1]}, died of SIGKILL")
    supervisor.send_signal(signal.SIGTERM)
    assert supervisor.wait(60) == 0


def test_g14_a_killed_worker_is_replaced(client: QueueClient, unique_name: str, journal: Path, start: Start) -> None:
    """SIGKILL of one worker in the middle of the work: another one takes its place, and every task is done."""
    client.send_many(unique_name, [{"id": n, "file": str(journal)} for n in range(500)])
    supervisor = start()
    wait_for(lambda: len(notes(journal)) > 10, 60, "the workers get going")
    first = children_of(supervisor.pid)
    assert len(first) == 2
    os.kill(first[0], signal.SIGKILL)
    wait_for(lambda: len({line.split()[0] for line in notes(journal)}) == 500, 60, "every task is done")

    def replaced() -> bool:
        now = children_of(supervisor.pid)
        return len(now) == 2 and first[0] not in now and first[1] in now

    wait_for(replaced, 60, "another worker has started")


@pytest.mark.parametrize("build", ["with_raising_factory", "with_raising_filter"])
def test_g20_logging_that_raises_neither_ends_nor_restarts_a_worker(
    client: QueueClient, unique_name: str, journal: Path, start: Start, build: str
) -> None:
    """Its tasks are done, retried and dead-lettered by the worker that was started, and SIGTERM ends all with 0."""
    dead = f"{unique_name}-dead"
    client.send_many(unique_name, [{"id": "good", "file": str(journal)}, {"do": "fail", "file": str(journal)}])
    supervisor = start(build, processes_=1)
    wait_for(lambda: client.stats(dead).ready == 1, 60, "the bad one is dead-lettered")
    wait_for(lambda: client.stats(unique_name) == QueueStats(0, 0, 0), 10, "the good one is done")
    lines = [line.split() for line in notes(journal)]
    assert sorted(name for name, _ in lines) == ["-", "-", "good"]
    assert {int(pid) for _, pid in lines} == set(children_of(supervisor.pid))
    supervisor.send_signal(signal.SIGTERM)
    assert supervisor.wait(60) == 0


def test_g16_sigterm_stops_everybody_gracefully(
    client: QueueClient, unique_name: str, journal: Path, start: Start
) -> None:
    """What runs is finished though workers get signals of their own too; the supervisor exits 0 and leaves nobody."""
    go = Path(f"{journal}.go")
    client.send_many(unique_name, [{"do": "wait for a file", "file": str(journal), "until": str(go)}] * 8)
    supervisor = start()
    wait_for(lambda: len(notes(journal)) == 8, 60, "all tasks run")
    children = children_of(supervisor.pid)
    supervisor.send_signal(signal.SIGTERM)
    for pid in children:
        os.kill(pid, signal.SIGTERM)
    go.touch()
    assert supervisor.wait(60) == 0
    assert not any(map(is_alive, children))
    assert sum(line.startswith("finished") for line in notes(journal)) == 8
    assert client.stats(unique_name).ready == client.stats(unique_name).in_flight == 0


def test_g16_a_second_signal_ends_the_grace_period(
    client: QueueClient, unique_name: str, journal: Path, start: Start, tmp_path: Path
) -> None:
    """What still runs goes back uncounted, and everybody is gone long before the grace period."""
    client.send(unique_name, {"do": "sleep", "file": str(journal)})
    supervisor = start(grace=600.0)
    wait_for(lambda: notes(journal), 60, "the task runs")
    children = children_of(supervisor.pid)
    supervisor.send_signal(signal.SIGTERM)
    wait_for(lambda: sum(map(is_alive, children)) == 1, 30, "the idle worker has ended, the busy one waits")
    supervisor.send_signal(signal.SIGTERM)
    assert supervisor.wait(30) == 0
    assert not any(map(is_alive, children))
    wait_for(lambda: client.stats(unique_name).ready == 1, 10)
    (delivery,) = client.receive(unique_name, 1, 10.0)
    assert (delivery.attempts, delivery.crashes) == (0, 0)
    client.reject(delivery, requeue=True)


def test_g16_a_third_signal_ends_everybody_at_once(
    client: QueueClient, unique_name: str, journal: Path, start: Start
) -> None:
    """The workers are killed, and the supervisor ends with 128 and the signal's number, while the second one waits."""
    client.send(unique_name, {"do": "sleep", "file": str(journal)})
    supervisor = start(grace=600.0)
    wait_for(lambda: notes(journal), 60, "the task runs")
    children = children_of(supervisor.pid)
    for pid in children:
        os.kill(pid, signal.SIGSTOP)  # they do not obey
    for _ in range(3):
        assert supervisor.poll() is None
        supervisor.send_signal(signal.SIGTERM)
        time.sleep(0.2)  # signals that wait together count as one
    assert supervisor.wait(10) == 128 + signal.SIGTERM
    wait_for(lambda: not any(map(is_alive, children)), 10, "nobody is left")


def test_g16_a_third_signal_to_a_worker_ends_it(
    client: QueueClient, unique_name: str, journal: Path, start: Start
) -> None:
    """Two are requests to stop gracefully, for a service manager may send one beside the supervisor's."""
    client.send(unique_name, {"do": "sleep", "file": str(journal)})
    supervisor = start(grace=600.0, processes_=1)
    wait_for(lambda: notes(journal), 60, "the task runs")
    (worker,) = children_of(supervisor.pid)
    for _ in range(3):
        assert is_alive(worker)
        os.kill(worker, signal.SIGTERM)
        time.sleep(0.2)
    wait_for(lambda: not is_alive(worker), 10, "it has ended")


def test_queues_in_the_memory_of_one_process_are_refused(start: Start, tmp_path: Path) -> None:
    """Each worker would have queues of its own: the supervisor gives up at once, and says what to do."""
    supervisor = start(url_="memory://")
    assert supervisor.wait(60) == 1
    log = log_of(tmp_path)
    assert "another one starts" not in log
    last = log.splitlines()[-1]
    assert last.startswith("qbridge_core.errors.WorkerStartError: the queues of MemoryClient are in the memory of one")


def test_g14_workers_survive_their_supervisor_only_to_finish(
    client: QueueClient, unique_name: str, journal: Path, start: Start
) -> None:
    """SIGKILL of the supervisor: the workers finish what they run, acknowledge it and end by themselves."""
    go = Path(f"{journal}.go")
    client.send_many(unique_name, [{"do": "wait for a file", "file": str(journal), "until": str(go)}] * 8)
    supervisor = start()
    wait_for(lambda: len(notes(journal)) == 8, 60, "all tasks run")
    children = children_of(supervisor.pid)
    assert len(children) == 2
    client.send_many(unique_name, [{"file": str(journal)}] * 20)
    supervisor.kill()
    supervisor.wait()
    go.touch()
    wait_for(lambda: not any(map(is_alive, children)), 60, "no worker is left")
    assert sum(line.startswith("finished") for line in notes(journal)) == 8
    stats = client.stats(unique_name)
    assert (stats.in_flight, stats.ready) == (0, 20 + 16 - len(notes(journal)))


def test_workers_that_cannot_be_built_end_the_supervisor(start: Start, tmp_path: Path) -> None:
    """After five false starts in a row it gives up with an error and a status that is not 0."""
    supervisor = start(build="broken")
    assert supervisor.wait(90) == 1
    log = (tmp_path / "log").read_text()
    assert "OSError: no configuration" in log
    assert log.splitlines()[-1] == (
        "qbridge_core.errors.WorkerStartError: 5 worker processes in a row ended before they were ready: "
        "OSError: no configuration"
    )


@pytest.mark.parametrize(
    ("url", "build", "why"),
    [
        (
            "classic",
            "refused",
            "on RabbitMQ the name of a queue must have at most",
        ),
        ("redis", "without_handler", "no child process can run the handler"),
    ],
    indirect=["url"],
)
def test_workers_that_cannot_start_end_the_supervisor(start: Start, tmp_path: Path, build: str, why: str) -> None:
    """A mistake that shows only when the manager starts, or when it makes its child processes, is one all the same.

    Another start would not mend it, so there is none.
    """
    supervisor = start(build=build, processes_=1)
    assert supervisor.wait(90) == 1
    log = (tmp_path / "log").read_text()
    assert f"the worker ends: {why}" in log
    assert "another one starts" not in log
    assert log.splitlines()[-1].startswith(f"qbridge_core.errors.WorkerStartError: {why}")


@pytest.mark.parametrize("url", ["redis", "quorum"], indirect=True)
@pytest.mark.parametrize("wrong", ["password", "database"])
def test_a_broker_that_refuses_the_workers_is_told_in_a_sentence(
    start: Start, tmp_path: Path, url: str, wrong: str
) -> None:
    """The reason and the line of the user's program are in the log, without a traceback of each worker."""
    parts = urlsplit(url)
    login = parts.netloc.rpartition("@")[2]
    address = f"{parts.scheme}://:no@{login}/" if wrong == "password" else f"{parts.scheme}://{parts.netloc}/4711"
    start(url_=address, processes_=1)
    log = tmp_path / "log"
    wait_for(lambda: "the worker cannot start: " in log.read_text(), 90, "a worker has ended")
    (told,) = [line for line in log.read_text().splitlines() if "the worker cannot start: " in line][:1]
    assert told.endswith("supervised_program.py)")
    assert "Traceback" not in log.read_text().partition("the worker cannot start: ")[0], "the supervisor's comes later"


def test_g16_a_build_that_hangs_does_not_delay_the_stop(start: Start, journal: Path) -> None:
    """Nothing can be lost while a manager is built, so the grace period is not waited for."""
    supervisor = start(build="hanging", processes_=1)
    wait_for(lambda: notes(journal), 60, "it builds")
    supervisor.send_signal(signal.SIGTERM)
    assert supervisor.wait(15) == 0, "well before the 28.5 s that the supervisor gives to workers"


def test_g14_a_build_that_hangs_ends_with_its_supervisor(start: Start, journal: Path) -> None:
    """SIGKILL of the supervisor ends a worker that is not built yet."""
    supervisor = start(build="hanging", processes_=1)
    wait_for(lambda: notes(journal), 60, "it builds")
    (worker,) = children_of(supervisor.pid)
    supervisor.kill()
    supervisor.wait()
    wait_for(lambda: not is_alive(worker), 15, "the worker has ended")


def test_a_broker_that_was_never_there_ends_the_supervisor(
    private_redis: Broker, tmp_path: Path, unique_name: str, start: Start
) -> None:
    """Where nobody answers within ``start_timeout`` the address is a mistake; the log says which address."""
    private_redis.stop()
    supervisor = start(url_=f"{private_redis.url}?connect_timeout=1", start_timeout=1.0)
    assert supervisor.wait(90) == 1
    log = (tmp_path / "log").read_text()
    assert "the worker cannot start: " in log
    (last,) = log.splitlines()[-1:]
    assert last.startswith(
        "qbridge_core.errors.WorkerStartError: no worker process could reach the broker within 1 s: "
    )


def test_g14_a_supervisor_waits_for_a_broker_that_is_not_up_yet(
    private_redis: Broker, tmp_path: Path, unique_name: str, journal: Path, start: Start
) -> None:
    """Started before its broker, as after a power cut, it says what it waits for, and works when it is there."""
    private_redis.stop()
    supervisor = start(url_=private_redis.url, processes_=1)
    wait_for(lambda: "the workers wait for their broker, for " in log_of(tmp_path), 60, "it says so")
    wait_for(lambda: log_of(tmp_path).count("the worker cannot start") >= 2, 60, "it tries again")
    private_redis.start()
    with connect(private_redis.url) as client:
        client.declare(unique_name, f"{unique_name}-dead")
        client.send(unique_name, {"file": str(journal)})
    wait_for(lambda: notes(journal), 60, "the task is done")
    assert "the supervisor starts 1 worker processes of __main__:build" in log_of(tmp_path)
    supervisor.send_signal(signal.SIGTERM)
    assert supervisor.wait(60) == 0


def test_g14_a_worker_that_dies_in_an_outage_of_the_broker_costs_nobody_else(
    private_broker: Broker, unique_name: str, journal: Path, start: Start, tmp_path: Path
) -> None:
    """Its successor fails for as long as the broker is away, and works when it is back; the other worker stays."""
    with connect(private_broker.url) as client:
        client.declare(unique_name, f"{unique_name}-dead")
        client.send_many(unique_name, [{"file": str(journal)} for _ in range(20)])
    supervisor = start(url_=private_broker.url)
    wait_for(lambda: len(notes(journal)) == 20, 60, "the tasks are done")
    wait_for(lambda: log_of(tmp_path).count(" consumes ") == 2, 60, "both workers work")
    first, second = children_of(supervisor.pid)
    private_broker.stop()
    os.kill(first, signal.SIGKILL)
    wait_for(lambda: log_of(tmp_path).count("the worker cannot start") >= 6, 120, "its successors fail")
    assert supervisor.poll() is None
    assert is_alive(second)
    assert "starts in 6.4 s" not in log_of(tmp_path), "the pauses stay short, for the broker may be back any moment"
    private_broker.start()
    wait_for(lambda: log_of(tmp_path).count(" consumes ") == 3, 90, "a successor works")
    assert second in children_of(supervisor.pid)
    supervisor.send_signal(signal.SIGTERM)
    assert supervisor.wait(60) == 0


def log_of(directory: Path) -> str:
    """What the supervisor and its workers have logged."""
    return (directory / "log").read_text()


def test_a_build_function_can_be_named(client: QueueClient, unique_name: str, journal: Path, start: Start) -> None:
    """The text ``module:function`` works like the function itself."""
    client.send(unique_name, {"file": str(journal)})
    supervisor = start(build="'supervised_program:build'", processes_=1)
    wait_for(lambda: notes(journal), 60, "the task runs")
    supervisor.send_signal(signal.SIGINT)
    assert supervisor.wait(60) == 0


@pytest.mark.parametrize("build", [None, 3, "", "module", "module:", ":function", "module:a b", lambda: None])
def test_a_wrong_build_function_is_refused(build: Any) -> None:
    """Another process must be able to import it; the error says so."""
    with pytest.raises(ConfigurationError, match="build"):
        Supervisor(build, processes=1)


@pytest.mark.parametrize(
    ("name", "value"),
    [("processes", 0), ("processes", True), ("processes", "2"), ("grace_period", -1), ("start_timeout", -1)],
)
def test_a_wrong_number_is_named(name: str, value: Any) -> None:
    """Each argument is checked when the supervisor is made."""
    with pytest.raises(ConfigurationError, match=name):
        Supervisor("module:function", **{"processes": 1, name: value})
