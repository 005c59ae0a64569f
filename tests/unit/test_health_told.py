"""How a worker's health reaches probes: over a page, a file, and the line from a worker process to its supervisor."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from qbridge_core import ConfigurationError, Health, Supervisor, TaskManager, run_workers
from qbridge_core.supervise import beats as beating
from qbridge_core.supervise.beats import Beats
from qbridge_core.supervise.vitals import Vitals
from qbridge_core.telemetry import healthfile
from qbridge_core.telemetry.healthfile import HealthFile
from qbridge_core.telemetry.healthpages import add_health
from qbridge_core.telemetry.pages import Pages
from qbridge_memory import MemoryClient
from support.wait import wait_for

READY = Health(True, True)
SILENT = Health(True, False, "the broker has not answered for 31 s")
STUCK = Health(False, False, "the watch has not turned for 31 s", '  File "a.py", line 1, in stuck\n')


@pytest.mark.parametrize(
    ("health", "livez", "readyz"),
    [
        (READY, (200, "alive\n"), (200, "ready\n")),
        (SILENT, (200, "alive\n"), (503, f"not ready: {SILENT.reason}\n")),
        (STUCK, (503, f"not alive: {STUCK.reason}\n{STUCK.stack}"), (503, f"not alive: {STUCK.reason}\n")),
    ],
)
def test_the_pages_are_green_or_say_why_not(
    health: Health, livez: tuple[int, str], readyz: tuple[int, str], caplog: pytest.LogCaptureFixture
) -> None:
    """200, or 503 with the reason, and the stack of what hangs; that is an ERROR in the log as well, once."""
    pages = Pages()
    add_health(pages, lambda: health)
    for path, wanted in (("/livez", livez), ("/readyz", readyz), ("/livez", livez)):
        page = pages.visit(path)
        assert (page.status, page.body.decode()) == wanted
    errors = [record.getMessage() for record in caplog.records if record.name == "qbridge.health"]
    assert len(errors) == (not health.alive)
    assert all("in stuck" in error for error in errors)


# ---------------------------------------------------------------------- the file


@pytest.fixture
def every_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    """No turn comes too soon."""
    monkeypatch.setattr(healthfile, "EVERY", 0.0)


@pytest.mark.usefixtures("every_turn")
def test_the_file_is_young_while_alive_says_whether_ready_and_is_gone_otherwise(tmp_path: Path) -> None:
    """From its making on; it comes again when the worker has recovered, and goes at the end."""
    path = tmp_path / "health"
    file = HealthFile(path)
    assert path.read_text() == "not ready: the worker starts\n"
    for health in (READY, SILENT, READY):
        os.utime(path, (0, 0))
        file.turn(lambda health=health: health)  # type: ignore[misc]
        assert path.read_text() == f"{health}\n"
        assert time.time() - path.stat().st_mtime < 60
    os.utime(path, (0, 0))
    file.turn(lambda: READY)
    assert time.time() - path.stat().st_mtime < 60
    file.turn(lambda: STUCK)
    assert not path.exists()
    file.turn(lambda: READY)
    assert path.read_text() == "ready\n"
    path.unlink()
    file.turn(lambda: READY)
    assert path.read_text() == "ready\n"
    file.remove()
    assert os.listdir(tmp_path) == []


@pytest.mark.usefixtures("every_turn")
def test_a_file_that_cannot_be_written_is_said_and_hurts_nobody(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Where it cannot be made it is an error at once; what goes wrong later is a line in the log, once a minute."""
    with pytest.raises(ConfigurationError, match=r"missing/health cannot be written: No such file.*; choose a path"):
        HealthFile(tmp_path / "missing" / "health")
    folder = tmp_path / "folder"
    folder.mkdir()
    file = HealthFile(folder / "health")
    (folder / "health").unlink()
    folder.rmdir()
    for _ in range(3):
        file.turn(lambda: READY)
    assert caplog.text.count("cannot be written, so that probes find none") == 1
    folder.mkdir()
    file.turn(lambda: READY)
    assert (folder / "health").read_text() == "ready\n"


def test_a_file_is_touched_every_other_second_only(tmp_path: Path) -> None:
    """Whoever calls it at each turn pays for a look at the clock."""
    file, asked = HealthFile(tmp_path / "health"), []

    def ask() -> Health:
        asked.append(None)
        return READY

    for _ in range(100):
        file.turn(ask)
    assert len(asked) == 1


@pytest.mark.usefixtures("every_turn")
def test_run_workers_keeps_a_file(client: MemoryClient, tmp_path: Path) -> None:
    """Ready while it works, not ready while it stops, gone at the end."""
    path, entered, leave, seen = tmp_path / "health", threading.Event(), threading.Event(), list[str]()

    def handler(_: object) -> None:
        entered.set()
        leave.wait(60)

    manager = TaskManager(client, handler, "q", "d", max_workers=1, task_timeout=60.0)
    thread = threading.Thread(target=run_workers, args=(manager,), kwargs={"health_file": path})
    thread.start()
    wait_for(lambda: path.exists() and path.read_text() == "ready\n", 20)
    client.send("q", 1)
    assert entered.wait(20)
    stopping = threading.Thread(target=manager.stop)
    stopping.start()
    wait_for(lambda: seen.append(path.read_text()) or "it stops (stop() was called)" in seen[-1], 20)
    leave.set()
    thread.join(30)
    stopping.join(30)
    assert not path.exists()


# ---------------------------------------------------------------------- the line to the supervisor


class Line:
    """Takes what is said, as long as there is room."""

    def __init__(self) -> None:
        self.said: list[list[Any]] = []
        self.room = True

    def say(self, told: list[Any]) -> None:
        """Take it."""
        self.said.append(told)


def test_a_process_says_it_now_and_then_and_never_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Once in so many seconds, sooner while it is not ready, and nothing while the supervisor does not read."""
    now = [100.0]
    monkeypatch.setattr(beating, "monotonic", lambda: now[0])
    line, health = Line(), [SILENT]
    beats = Beats(line.say, lambda: line.room, lambda: health[0], 30.0)
    for at, said in ((0.0, 1), (0.1, 1), (0.6, 2), (0.7, 2)):
        now[0] = 100.0 + at
        beats.turn()
        assert len(line.said) == said
    health[0] = READY
    for at, said in ((1.2, 3), (1.8, 3), (3.3, 4)):
        now[0] = 100.0 + at
        beats.turn()
        assert len(line.said) == said
    line.room = False
    now[0] = 200.0
    beats.turn()
    assert len(line.said) == 4
    assert line.said[0] == [True, False, SILENT.reason, ""]
    assert line.said[-1] == [True, True, "", ""]


class Process:
    """A worker process, as a supervisor sees it."""

    def __init__(self, pid: int) -> None:
        self.process = SimpleNamespace(pid=pid)
        self.health: Health | None = None
        self.heard_at = 0.0
        self.deaf = False


def test_a_supervisor_is_alive_when_all_are_and_ready_when_one_is(caplog: pytest.LogCaptureFixture) -> None:
    """Nobody, one that has begun, two of whom one has no broker, one that hangs: the reason names its process."""
    vitals, one, other = Vitals(30.0), Process(1), Process(2)
    both: Any = [one, other]
    assert vitals.health([], "") == Health(True, False, "no worker process has begun")
    vitals.turn(both)
    assert vitals.health(both, "") == Health(True, False, "no worker process has begun")
    vitals.hear(both[0], [True, False, SILENT.reason, ""])
    assert vitals.health(both, "") == SILENT
    vitals.hear(both[1], [True, True, "", ""])
    assert vitals.health(both, "") == READY
    assert vitals.health(both, "the supervisor stops") == Health(True, False, "the supervisor stops")
    vitals.hear(both[0], ["nonsense"])
    assert vitals.health(both, "") == READY
    vitals.hear(both[1], [False, False, STUCK.reason, STUCK.stack])
    assert vitals.health(both, "") == Health(False, False, f"worker process 2: {STUCK.reason}", STUCK.stack)
    for _ in range(3):
        vitals.turn(both)
    assert caplog.text.count(f"worker process 2: {STUCK.reason}") == 1
    assert vitals.health(both[:1], "").alive  # it was replaced


def test_a_process_that_says_nothing_more_and_a_supervisor_that_hangs_are_red() -> None:
    """After the stall; one that nobody listens to any more is not judged."""
    vitals, one = Vitals(0.2), Process(1)
    workers: Any = [one]
    vitals.turn(workers)
    vitals.hear(workers[0], [True, True, "", ""])
    time.sleep(0.3)
    health = vitals.health([], "")
    assert not health.alive
    assert health.reason.startswith("the supervisor has not turned for ")
    vitals.end()
    assert vitals.health(workers, "").reason.startswith("worker process 1 has said nothing for ")
    one.deaf = True
    assert vitals.health(workers, "").alive


def test_a_supervisor_that_does_not_run_is_alive_and_not_ready(tmp_path: Path) -> None:
    """Before it begins; its arguments are checked at once."""
    assert Supervisor("a:b", 1).health() == Health(True, False, "the supervisor does not run")
    with pytest.raises(ConfigurationError, match="stall"):
        Supervisor("a:b", 1, stall=0)
    with pytest.raises(ConfigurationError, match="cannot be written"):
        Supervisor("a:b", 1, health_file=tmp_path / "missing" / "health")
