"""Two versions at once: the first one and today's, from wheels in environments of their own, share a queue.

The older one comes from the history of this repository. Where its commit is missing (a shallow clone), the tests are
skipped, and fail when ``QBRIDGE_REQUIRE_HISTORY=1``.
"""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
import tarfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest

from qbridge_core import QueueClient, connect
from support.packages import ROOT, build_wheels, make_environment, run
from support.wait import wait_for
from support.worker_process import quick

pytestmark = [pytest.mark.packaging, pytest.mark.faults]
BEFORE = "2647540"
"""The commit of version 0.1, before the packages were rearranged."""
NEEDED = ("qbridge_core", "qbridge_rabbitmq", "qbridge_redis")
THREADS = 4  # of each worker
_OFFER_AFTER = 5.0
_PROGRAM = Path(__file__).with_name("versions_program.py")
OLD_AND_NEW = [("old", "new"), ("new", "old")]


def _archive_of(commit: str) -> bytes:
    done = subprocess.run(["git", "archive", commit], cwd=ROOT, capture_output=True, check=False)
    if done.returncode == 0:
        return done.stdout
    why = f"NO HISTORY: commit {commit} is not in this clone (git fetch --unshallow brings it); two versions do not run"
    if os.environ.get("QBRIDGE_REQUIRE_HISTORY") == "1":
        pytest.fail(f"{why}\n{done.stderr.decode()}", pytrace=False)
    pytest.skip(why)


@pytest.fixture(scope="session")
def pythons(once: Callable[..., Path], wheels: dict[str, Path]) -> dict[str, Path]:
    """The interpreters of the environments of both versions."""
    archive = _archive_of(BEFORE)

    def install(directory: Path, built: list[Path]) -> None:
        python = make_environment(directory / "venv")
        run(sys.executable, "-m", "uv", "pip", "install", "--quiet", "--python", python, *built)

    def build_old(directory: Path) -> None:
        with tarfile.open(fileobj=BytesIO(archive)) as tree:
            tree.extractall(directory / "source", filter="data")
        build_wheels(directory / "source", directory / "wheels")
        install(directory, [next((directory / "wheels").glob(f"{name}-*.whl")) for name in NEEDED])

    old = once("old-version", build_old)
    new = once("new-version", lambda directory: install(directory, [wheels[name] for name in NEEDED]))
    return {"old": old / "venv/bin/python", "new": new / "venv/bin/python"}


@dataclass
class Versions:
    """Programs of both versions on one queue."""

    pythons: dict[str, Path]
    url: str
    queue: str
    journal: Path
    workers: list[tuple[str, subprocess.Popen[bytes]]] = field(default_factory=list)
    gone: dict[int, str] = field(default_factory=dict)

    @property
    def dead(self) -> str:
        """The dead-letter queue."""
        return f"{self.queue}.dead"

    def command(self, version: str, command: str, *args: str) -> list[str]:
        """The command line of one program."""
        return [str(self.pythons[version]), "-I", str(_PROGRAM), command, self.url, self.queue, *args]

    def start_worker(self, version: str) -> subprocess.Popen[bytes]:
        """Start a worker of this version."""
        with self.journal.with_name(f"{version}-{len(self.gone)}.log").open("wb") as log:
            process = subprocess.Popen(self.command(version, "work", str(self.journal)), stdout=log, stderr=log)
        self.workers.append((version, process))
        return process

    def replace_dead_workers(self) -> None:
        """Do what a service manager does: start a worker of the same version for each that was killed."""
        for version, process in list(self.workers):
            if process.poll() is not None:
                assert process.returncode == -9, f"a worker of the {version} version has ended by itself"
                self.workers.remove((version, process))
                self.gone[process.pid] = version
                self.start_worker(version)

    def start_sending(self, version: str, tasks: list[dict[str, Any]]) -> subprocess.Popen[bytes]:
        """Start a producer of this version."""
        process = subprocess.Popen(self.command(version, "send"), stdin=subprocess.PIPE, stderr=subprocess.PIPE)
        assert process.stdin is not None
        with process.stdin as given:
            given.write(json.dumps(tasks).encode())
        return process

    def send(self, version: str, tasks: list[dict[str, Any]]) -> None:
        """Publish with this version."""
        producer = self.start_sending(version, tasks)
        assert producer.stderr is not None
        with producer.stderr as told:
            text = told.read().decode()
        assert producer.wait(60) == 0, text

    def wait_for_the_end(self, client: QueueClient, good: set[str], bad: set[str]) -> None:
        """Replace who dies until all tasks have come to their end."""

        def is_reached() -> bool:
            self.replace_dead_workers()
            # What another client holds RabbitMQ does not tell, so an empty queue says nothing.
            return self.done() >= good and {letter.task_id for letter in client.dead_letters(self.dead, 1_000)} >= bad

        wait_for(is_reached, 150, "each task is done, or a dead letter", interval=0.3)

    def letters(self, version: str) -> dict[str, dict[str, Any]]:
        """The dead letters as this version lists them, by task.

        What a worker was writing when it was killed may be there twice, as G2 says.
        """
        told = json.loads(run(*self.command(version, "letters")))
        found = {letter["task_id"]: letter for letter in told}
        assert len(told) - len(found) <= len(self.gone) * THREADS, "letters are there twice"
        return found

    def replay(self, version: str) -> int:
        """Send the dead letters back with this version."""
        return int(run(*self.command(version, "replay")))

    def events(self, kind: str) -> list[tuple[str, int, int]]:
        """What the handlers noted: task, attempt and process."""
        if not self.journal.exists():
            return []
        lines = (line.split() for line in self.journal.read_text().splitlines())
        return [(task, int(attempt), int(pid)) for event, task, attempt, pid in lines if event == kind]

    def kill_worker(self, version: str, kind: str, offer: Callable[[], None]) -> int:
        """Kill the worker of this version when it runs a task of a kind; return its process id.

        The other one may have taken all there were: ``offer`` sends some more.
        """
        (process,) = (process for own, process in self.workers if own == version)
        offered = time.monotonic()

        def is_reached() -> bool:
            nonlocal offered
            if any(kind in task and by == process.pid for task, _, by in self.events("start")):
                return True
            if time.monotonic() > offered + _OFFER_AFTER:
                offer()
                offered = time.monotonic()
            return False

        wait_for(is_reached, 60, f"the {version} worker runs a task of the kind {kind}")
        process.kill()
        process.wait()
        return process.pid

    def done(self) -> set[str]:
        """The tasks that were done."""
        return {task for task, _, _ in self.events("done")}

    def cut_short(self, killed: list[int]) -> set[str]:
        """Tasks whose outcome a kill may have come before: the next attempt's copy can be there beside the original.

        So it is for what the killed workers had begun and not done, and for what a child process ran, which notes what
        it has done before its worker, which may be killed first, tells the broker.
        """
        workers = {process.pid for _, process in self.workers} | self.gone.keys()
        ended = set(self.events("done"))
        return {
            task
            for task, attempt, pid in self.events("start")
            if pid not in workers or (pid in killed and (task, attempt, pid) not in ended)
        }

    def versions_of(self, pids: set[int]) -> set[str]:
        """The versions of the workers among these processes."""
        alive = {process.pid: version for version, process in self.workers}
        return {version for pid, version in {**alive, **self.gone}.items() if pid in pids}

    def close(self) -> None:
        """End what runs."""
        for _, process in self.workers:
            process.kill()
            process.wait()


@pytest.fixture(params=["rabbitmq", "redis"])
def url(request: pytest.FixtureRequest) -> str:
    """The run's brokers, where what takes a worker for dead does so soon."""
    if request.param == "redis":
        return quick(request.getfixturevalue("redis_url"))
    return f"{request.getfixturevalue('amqp_url')}?reconnect_delay_max=0.4"


@pytest.fixture
def versions(pythons: dict[str, Path], url: str, unique_name: str, tmp_path: Path) -> Iterator[Versions]:
    """Both versions on the test's queue."""
    versions = Versions(pythons, url, unique_name, tmp_path / "journal")
    yield versions
    versions.close()


@pytest.fixture
def client(url: str) -> Iterator[QueueClient]:
    """A client that looks at the queues."""
    with connect(url) as client:
        yield client


def tasks(sender: str, count: int, **payload: Any) -> list[dict[str, Any]]:
    """So many tasks of a kind."""
    kind = str(payload["do"]).replace(" ", "-")
    delay = payload.pop("delay", 0.0)
    return [{"payload": {"id": f"{sender}-{kind}-{delay}-{n}", **payload}, "delay": delay} for n in range(count)]


def ids(given: list[dict[str, Any]]) -> set[str]:
    """The ids of tasks."""
    return {task["id"] if "body" in task else task["payload"]["id"] for task in given}


def mixture(sender: str) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Tasks that are done in the end, and tasks that are not."""
    good = [
        *tasks(sender, 60, do="succeed", sleep=0.01), *tasks(sender, 20, do="fail once"),
        *tasks(sender, 10, do="later", seconds=0.5), *tasks(sender, 10, do="succeed", delay=1.0),
        *tasks(sender, 12, do="hold", sleep=0.3),
    ]  # fmt: skip
    broken = [{"id": f"{sender}-broken-{n}", "body": "{}"} for n in range(3)]
    return good, [*tasks(sender, 5, do="fail"), *broken]


@pytest.mark.timeout(240)
def test_workers_and_producers_of_two_versions_share_a_queue(versions: Versions, client: QueueClient) -> None:
    """Each task is done or a dead letter, whoever sent it and whoever is killed; only what that one had runs twice."""
    all_good, all_bad, killed = set(), set(), []
    offers = itertools.count()

    def offer() -> None:
        more = tasks(f"more{next(offers)}-{len(killed)}", 2 * THREADS, do="hold", sleep=0.3)
        all_good.update(ids(more))
        for task in more:
            client.send(versions.queue, task["payload"], task_id=task["payload"]["id"])

    for round_, victim in enumerate(("old", "new")):
        for sender in ("old", "new"):
            good, bad = mixture(f"{sender}{round_}")
            all_good |= ids(good)
            all_bad |= ids(bad)
            versions.send(sender, good + bad)
        if not versions.workers:
            for version in ("old", "new"):
                versions.start_worker(version)
        killed.append(versions.kill_worker(victim, f"{round_}-hold", offer))
        versions.replace_dead_workers()
    versions.wait_for_the_end(client, all_good, all_bad)

    assert versions.done() == all_good
    seen = versions.letters("old")
    assert seen == versions.letters("new")
    assert seen.keys() == all_bad
    for task, letter in seen.items():
        assert (letter["reason"], letter["attempts"]) == (("malformed", 0) if "broken" in task else ("failed", 4))
        assert letter["source_queue"] == versions.queue
    for kind in ("succeed", "fail", "fail-once", "later", "hold"):
        worked = {pid for task, _, pid in versions.events("start") if f"-{kind}-" in task}
        assert versions.versions_of(worked) == {"old", "new"}, kind
    others = Counter((task, attempt) for task, attempt, pid in versions.events("done") if pid not in killed)
    twice = {task for (task, _), count in others.items() if count > 1}
    assert twice <= versions.cut_short(killed), "what no killed worker had runs once"


@pytest.mark.timeout(240)
@pytest.mark.parametrize(("first", "then"), OLD_AND_NEW)
def test_what_one_version_leaves_the_other_finishes(
    versions: Versions, client: QueueClient, first: str, then: str
) -> None:
    """Waiting and delayed tasks and retries, dead letters, and tasks that killed their worker, and their replay."""
    good = [
        *tasks("a", 5, do="fail once"), *tasks("a", 5, do="later", seconds=3.0),
        *tasks("a", 5, do="succeed", delay=3.0), *tasks("a", 1, do="die once"),
    ]  # fmt: skip
    failing, deadly = tasks("a", 3, do="fail"), tasks("a", 1, do="die")
    broken = [{"id": "broken", "body": "[]"}]
    versions.send(first, [*good, *failing, *broken, *deadly, *tasks("b", 20, do="succeed")])
    assert versions.start_worker(first).wait(60) == -9, "one of the tasks kills the worker"
    versions.workers.clear()
    versions.start_worker(then)
    lost = ids(failing) | ids(broken) | ids(deadly)
    versions.wait_for_the_end(client, ids(good), lost)
    seen = versions.letters(then)
    assert seen == versions.letters(first)
    assert seen.keys() == lost
    (crashed,) = ids(deadly)
    assert (seen[crashed]["reason"], seen[crashed]["crashes"]) == ("crashed", 3)
    assert {seen[task]["attempts"] for task in ids(failing)} == {4}
    assert {seen[task]["headers"]["from"] for task in ids(failing)} == {"ö"}

    Path(f"{versions.journal}.mended").touch()
    before = len(versions.events("start"))
    assert versions.replay(first) >= len(seen)
    versions.wait_for_the_end(client, ids(failing), set())
    attempts = {attempt for task, attempt, _ in versions.events("start")[before:] if task in ids(failing)}
    assert attempts == {1}, "the counts begin anew"
