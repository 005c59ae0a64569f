"""``qbridge doctor`` as a process: what it prints, and its exit codes."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import pytest

from integration.cli.conftest import QBridge
from qbridge_core import connect
from qbridge_core.backend import suspects_queue
from support.brokers import free_port

PROGRAM = '''
from functools import partial
from qbridge_core import TaskManager, connect

def handler(payload):
    """Works."""

def build(handler=handler, url="memory://here", **options):
    client = connect(url)
    client.declare("mails", "letters")
    return TaskManager(client, handler, "mails", "letters", grace_period=20.0, **options)

def local():
    return build(lambda payload: None)

def in_processes():
    return build(lambda payload: None, executor="process")

def without_a_broker():
    return build(url="redis://user:secret@127.0.0.1:1/0")

def leaving():
    raise SystemExit(7)

def broken():
    raise RuntimeError("no settings")

manager = build()
nothing = 7
'''


@pytest.fixture
def program(tmp_path: Path) -> None:
    """A module of the user's in the current directory."""
    (tmp_path / "app.py").write_text(PROGRAM)


def test_a_queue_that_is_well_is_exit_code_0(qbridge: QBridge, shared_url: str, unique_name: str) -> None:
    """What is missing is told with the command that makes it; after that command nothing is found."""
    for found in (True, False):
        done = qbridge("doctor", unique_name, "--url", shared_url, code=1 if found else 0)
        lines = [line for line in done.stdout.splitlines() if line.startswith(("warning", "problem"))]
        assert len(lines) == (2 if found else 0), done.stdout
        if found:
            assert lines[0].startswith(f"warning      queue of {unique_name}: there is no queue {unique_name!r}")
            command = next(line for line in done.stdout.splitlines() if "→ qbridge declare" in line)
            qbridge(*shlex.split(command.partition("→ qbridge ")[2]), QBRIDGE_URL=shared_url)
    assert done.stdout.splitlines()[-1].startswith("0 problems, 0 warnings, ")
    assert "ok           server: R" in done.stdout


def test_findings_are_an_array_for_programs(qbridge: QBridge, shared_url: str, unique_name: str) -> None:
    """Each finding has the same fields, and the exit code says the same."""
    done = qbridge("doctor", unique_name, "--dead", f"{unique_name}-letters", "--json", code=1, QBRIDGE_URL=shared_url)
    found = json.loads(done.stdout)
    assert {tuple(each) for each in found} == {("check", "status", "text", "mend", "queue")}
    assert {each["status"] for each in found} <= {"ok", "warning", "problem", "not checked"}
    assert f"{unique_name}-letters" in next(each["text"] for each in found if each["check"] == "dead-letter queue")


def test_tasks_that_wait_to_run_apart_are_found(qbridge: QBridge, shared_url: str, unique_name: str) -> None:
    """The side queue of a queue is not empty; they stay there."""
    side = suspects_queue(unique_name)
    with connect(shared_url) as client:
        client.declare(unique_name, f"{unique_name}.dead")
        client.declare(side, f"{unique_name}.dead")
        client.send_many(side, [1, 2])
        done = qbridge("doctor", unique_name, "--url", shared_url, code=1)
        assert f"warning      suspects of {unique_name}: 2 tasks that may have killed their worker wait" in done.stdout
        assert client.stats(side).ready == 2
        assert not any(each.redelivered for each in client.receive(side, 1, 10.0))


@pytest.mark.parametrize("scheme", ["redis", "amqp"])
def test_a_broker_that_is_away_is_exit_code_3(qbridge: QBridge, scheme: str) -> None:
    """With the reason, without the password; what needs no broker is looked at all the same."""
    url = f"{scheme}://user:secret@127.0.0.1:{free_port()}/0"
    done = qbridge("doctor", "mails", "--termination-grace", "5", "--json", code=3, QBRIDGE_URL=url)
    found = {each["check"]: each for each in json.loads(done.stdout)}
    assert found["server"]["status"] == found["grace period"]["status"] == "problem"
    assert "nothing listens" in found["server"]["text"]
    assert "secret" not in done.stdout + done.stderr


@pytest.mark.usefixtures("program")
def test_a_program_says_what_to_look_at(qbridge: QBridge) -> None:
    """Its queue, its client, its handler and its times; a function is called, a manager is taken as it is."""
    for target in ("app:build", "app:manager"):
        done = qbridge("doctor", "--target", target, "--termination-grace", "23")
        assert "ok           queue of mails: there is a queue 'mails'" in done.stdout
        assert "ok           handler: a child process can import the handler app.handler" in done.stdout
        assert "ok           grace period: a worker stops within grace_period + 3 s = 23 s" in done.stdout
    done = qbridge("doctor", "--target", "app:handler", code=0)
    assert "ok           handler: a child process can import" in done.stdout
    assert "not checked  server: no broker was named" in done.stdout


@pytest.mark.usefixtures("program")
@pytest.mark.parametrize(
    ("args", "said", "mend"),
    [
        (("--target", "app:local"), "warning      handler: a child process cannot run", "at the top level of a module"),
        (
            ("--target", "app:in_processes"),
            "target: app:in_processes cannot be built: ConfigurationError",
            None,
        ),
        (
            ("--target", "app:broken"),
            "target: app:broken cannot be built: RuntimeError: no settings",
            None,
        ),
        (
            ("--target", "app:build", "--termination-grace", "20"),
            "problem      grace period: a worker stops within grace_period + 3 s = 23 s, and is killed after 20 s",
            "terminationGracePeriodSeconds: 23 (Kubernetes), TimeoutStopSec=23 (systemd)",
        ),
    ],
    ids=lambda part: part[1] if isinstance(part, tuple) else "",
)
def test_what_is_wrong_with_a_program_is_found(
    qbridge: QBridge, args: tuple[str, ...], said: str, mend: str | None
) -> None:
    """A handler that no child process imports, a target that cannot be built, too little time to stop."""
    done = qbridge("doctor", *args, code=1)
    assert said in done.stdout
    assert mend is None or mend in done.stdout
    assert "Traceback" not in done.stdout + done.stderr


@pytest.mark.usefixtures("program")
def test_a_programs_own_broker_that_is_away_is_exit_code_3(qbridge: QBridge) -> None:
    """Its function raises; a broker that is typed is looked at all the same."""
    done = qbridge("doctor", "--target", "app:without_a_broker", code=3)
    assert "problem      server: no connection to redis://127.0.0.1:1" in done.stdout
    assert "secret" not in done.stdout


@pytest.mark.usefixtures("program")
@pytest.mark.parametrize(
    ("args", "said"),
    [
        ((), "which broker?"),
        (("mails", "letters", "--dead", "x", "--url", "memory://"), "--dead needs one QUEUE"),
        (("--target", "app"), "names no module and something in it"),
        (("--target", "nowhere:build"), "there is no module 'nowhere'"),
        (("--target", "app:leaving"), "ends the process"),
        (("--target", "app:nobody"), "has nothing called 'nobody'"),
        (("--target", "app:nothing"), "app:nothing is a int; a target is"),
        (("--url", "nonsense"), "scheme://"),
        (("--url", "memory://", "--termination-grace", "-1"), "termination-grace"),
        (("a\nb", "--url", "memory://"), "control characters"),
    ],
)
def test_wrong_usage_is_exit_code_2(qbridge: QBridge, args: tuple[str, ...], said: str) -> None:
    """In a line that says what is wrong."""
    done = qbridge("doctor", *args, code=2)
    assert said in done.stderr
    assert "Traceback" not in done.stderr


def test_a_server_that_no_client_works_with_is_a_finding(qbridge: QBridge, private_redis: object) -> None:
    """It answers and evicts keys: that is no wrong usage of the command."""
    broker: object = private_redis
    broker.cli("CONFIG", "SET", "maxmemory-policy", "allkeys-lru")  # type: ignore[attr-defined]
    done = qbridge("doctor", code=1, QBRIDGE_URL=broker.url)  # type: ignore[attr-defined]
    assert "problem      server: no client can work with it: " in done.stdout
    assert "CONFIG SET maxmemory-policy noeviction" in done.stdout
