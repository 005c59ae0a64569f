"""The demonstration: it succeeds on every broker, and it notices when something is wrong."""

from __future__ import annotations

import importlib.util
import json
import re
import socket
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from qbridge_core import DeadLetter, QueueStats, Reason, connect
from support.brokers import Broker
from support.wait import wait_for

DEMO = Path(__file__).parents[2] / "examples" / "demo.py"
EMPTY = QueueStats(0, 0, 0)
Perfect = tuple[Any, dict[str, int], list[DeadLetter]]


def run_demo(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the demonstration as a user does, without a terminal."""
    command = [sys.executable, "-W", "error", str(DEMO), *arguments]
    return subprocess.run(command, capture_output=True, text=True, encoding="utf-8", timeout=90, check=False)


def cells(output: str) -> list[list[str]]:
    """The lines of the tables, split at their gaps."""
    return [re.split(r"\s{2,}", line.strip()) for line in output.splitlines()]


@pytest.fixture(scope="session")
def demo() -> ModuleType:
    """The demonstration as a module."""
    spec = importlib.util.spec_from_file_location("qbridge_demo", DEMO)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def letter(task_id: str, reason: Reason, attempts: int, body: bytes) -> DeadLetter:
    """A dead letter with what the accounting looks at."""
    return DeadLetter(body, {}, reason, "", "", "", attempts, 0, None, None, "q", task_id, "")


@pytest.fixture
def perfect(demo: ModuleType) -> Perfect:
    """A plan, and what was done and dead-lettered when all went well."""
    plan = demo.Plan.make()
    done = {task_id: 1 for task_id, kind in plan.kinds.items() if kind.reason is None}
    letters = [
        letter(task_id, kind.reason, kind.attempts, plan.bodies[task_id])
        for task_id, kind in plan.kinds.items()
        if kind.reason is not None
    ]
    return plan, done, letters


@pytest.mark.parametrize("broker", ["memory", "rabbitmq", "redis", "sqs"])
def test_the_demo_accounts_for_every_task(request: pytest.FixtureRequest, broker: str) -> None:
    """On every broker the demo exits with 0, with each kind of task where it belongs, and prints no control codes."""
    fixtures = {"rabbitmq": "amqp_url", "redis": "redis_url"}
    if broker == "sqs":
        url = request.getfixturevalue("sqs_server").url
    else:
        url = request.getfixturevalue(fixtures[broker]) if broker in fixtures else "memory://demo"
    result = run_demo(url)
    assert result.returncode == 0, result.stdout + result.stderr
    lines = cells(result.stdout)
    assert ["good", "takes a few ms", "500 done", "500 done"] in lines
    assert ["flaky", "raises once", "60 done", "60 done"] in lines
    assert ["failing", "raises always", "8 dead: failed x4", "8 dead: failed x4"] in lines
    assert ["hanging", "takes over 0.5 s", "4 dead: timed out x4", "4 dead: timed out x4"] in lines
    assert ["malformed", "is not a task", "6 dead: malformed", "6 dead: malformed"] in lines
    assert ["hanging-004", "timed out", "4", "the handler ran longer than 0.5 s"] in lines
    assert "All 578 tasks are accounted for" in result.stdout
    assert "\x1b" not in result.stdout
    assert result.stderr == ""


@pytest.mark.faults
def test_the_demo_survives_a_crash_of_the_broker(private_redis: Broker, tmp_path: Path) -> None:
    """Redis is killed and restarted in the middle of the demo: still every task is accounted for."""
    log, output = tmp_path / "log", tmp_path / "output"
    command = [sys.executable, str(DEMO), private_redis.url, "--log", str(log)]
    with output.open("w") as stdout, subprocess.Popen(command, stdout=stdout, stderr=stdout) as process:
        try:
            wait_for(lambda: log.exists() and "dead-lettered" in log.read_text("utf-8"), 30, "the demo gets going")
            private_redis.kill()
            wait_for(lambda: "no connection" in log.read_text("utf-8"), 30, "the worker notices")
            private_redis.start()
            assert process.wait(90) == 0, output.read_text("utf-8")
        finally:
            process.kill()
    assert "All 578 tasks are accounted for" in output.read_text("utf-8")


@pytest.mark.parametrize("scheme", ["amqp", "redis"])
def test_an_unreachable_broker_is_one_line(scheme: str) -> None:
    """Nothing listens at the URL: exit status 2 and one line of explanation."""
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))  # bound and not listening: connections are refused, and nobody else gets the port
        port = unused.getsockname()[1]
        result = run_demo(f"{scheme}://guest:s3cret@127.0.0.1:{port}/")
    assert result.returncode == 2, result.stdout + result.stderr
    assert result.stderr.startswith("error: ")
    assert len(result.stderr.splitlines()) == 1
    assert f"127.0.0.1:{port}" in result.stderr
    assert "s3cret" not in result.stderr + result.stdout


@pytest.mark.parametrize("url", ["nothing", "carrier-pigeon://coop", "memory://demo?speed=11"])
def test_a_wrong_url_is_one_line(url: str) -> None:
    """A URL that cannot be used: exit status 2 and one line of explanation."""
    result = run_demo(url)
    assert result.returncode == 2
    assert result.stderr.startswith("error: ")
    assert len(result.stderr.splitlines()) == 1


def test_the_accounting_is_content_when_all_went_well(demo: ModuleType, perfect: Perfect) -> None:
    """A perfect run has no problems."""
    assert demo.account(*perfect, EMPTY) == []


def test_the_accounting_notices_a_lost_task(demo: ModuleType, perfect: Perfect) -> None:
    """A good task that was never done, and a bad one without a dead letter, are named."""
    plan, done, letters = perfect
    del done["good-007"]
    problems = demo.account(plan, done, [each for each in letters if each.task_id != "hanging-002"], EMPTY)
    assert sorted(problems) == [
        "good-007: LOST, it was never done",
        "hanging-002: LOST, 0 dead letters instead of 1",
    ]


@pytest.mark.parametrize(
    "change",
    [
        {"reason": Reason.REJECTED},
        {"attempts": 3},
        {"body": b"changed"},
        {"task_id": "stranger"},
        {"task_id": "good-001"},
    ],
    ids=lambda change: next(iter(change)),
)
def test_the_accounting_notices_a_wrong_dead_letter(
    demo: ModuleType,
    perfect: Perfect,
    change: dict[str, object],
) -> None:
    """A dead letter with another reason, count, body or task is a problem."""
    plan, done, letters = perfect
    wrong = [replace(each, **change) if each.task_id == "failing-001" else each for each in letters]
    assert demo.account(plan, done, wrong, EMPTY)


@pytest.mark.parametrize("left", [QueueStats(1, 0, 0), QueueStats(0, 1, 0), QueueStats(0, 0, 1)])
def test_the_accounting_notices_leftovers(demo: ModuleType, perfect: Perfect, left: QueueStats) -> None:
    """A queue that still holds something is a problem, and the first that is told."""
    plan, done, letters = perfect
    assert len(demo.account(plan, done, letters, left)) == 1
    del done["good-007"]
    assert demo.account(plan, done, letters, left)[0].startswith("the queue is not empty")


def test_the_demo_waits_for_a_slow_broker(demo: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    """It gives up when nothing ends any more, however long the whole takes."""
    kinds = tuple(kind for kind in demo.KINDS if kind.name == "good")
    plan = demo.Plan.make(kinds)
    monkeypatch.setattr(demo.Plan, "make", lambda: plan)
    seconds = sum(json.loads(body)["payload"]["seconds"] for body in plan.bodies.values()) / demo.WORKERS
    monkeypatch.setattr(demo, "GIVE_UP_AFTER", seconds * 0.9)
    with connect("memory://") as client:
        assert demo.show(client, demo.Console()) == 0


def test_the_accounting_notices_a_second_dead_letter(demo: ModuleType, perfect: Perfect) -> None:
    """Two dead letters of one task are a problem."""
    plan, done, letters = perfect
    assert demo.account(plan, done, [*letters, letters[0]], EMPTY)


def test_a_lost_task_makes_the_demo_fail(
    demo: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The demo exits with 1 and names the task when a message vanishes on its way."""
    kinds = tuple(replace(kind, count=2) for kind in demo.KINDS if kind.name in ("good", "failing"))
    whole = demo.Plan.make(kinds)
    lossy = demo.Plan(whole.messages[1:], whole.kinds, whole.bodies)
    monkeypatch.setattr(demo.Plan, "make", lambda: lossy)
    with connect("memory://") as client:
        assert demo.show(client, demo.Console()) == 1
    assert "LOST" in capsys.readouterr().out
