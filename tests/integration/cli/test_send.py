"""``qbridge send`` as a process, on real brokers."""

from __future__ import annotations

import json
import re
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from integration.cli.conftest import OpenTerminal, QBridge, StartQBridge
from qbridge_core import QueueClient, TaskManager, connect
from support.proxy import TCPProxy
from support.wait import wait_for


@pytest.fixture
def client(shared_url: str, unique_name: str) -> Iterator[QueueClient]:
    """A client of the broker that the command writes to, with the test's queue."""
    with connect(shared_url) as client:
        client.declare(unique_name)
        yield client


def taken(client: QueueClient, queue: str) -> list[dict[str, object]]:
    """The tasks that wait, in their order; they are gone then."""
    found = []
    while deliveries := client.receive(queue, 1000, 0.5):
        for delivery in deliveries:
            found.append({**json.loads(delivery.body), "headers": dict(delivery.headers)})
            client.ack(delivery)
    client.flush()
    return found


def test_one_task_is_sent(qbridge: QBridge, client: QueueClient, shared_url: str, unique_name: str) -> None:
    """With its payload, id and headers; the output has its id."""
    url = {"QBRIDGE_URL": shared_url}
    options = ("--task-id", "mail-7", "--header", "tenant=a=b", "--header", "n=1")
    assert qbridge("send", unique_name, '{"to": "änn"}', *options, **url).stdout == f"sent to {unique_name}: mail-7\n"
    told = json.loads(qbridge("send", unique_name, "null", "--json", **url).stdout)
    first, second = taken(client, unique_name)
    assert first == {"payload": {"to": "änn"}, "task_id": "mail-7", "retry": 0, "headers": {"tenant": "a=b", "n": "1"}}
    assert second["payload"] is None
    assert told == {"queue": unique_name, "sent": 1, "lines": 0, "task_id": second["task_id"]}


def test_a_task_of_an_app_is_sent_by_its_name(
    qbridge: QBridge, client: QueueClient, shared_url: str, unique_name: str
) -> None:
    """One, and those of lines."""
    url = {"QBRIDGE_URL": shared_url}
    qbridge("send", unique_name, '{"to": "ann"}', "--task", "shop.tasks.mail", **url)
    qbridge("send", unique_name, "--task", "shop.tasks.mail", stdin='{"to": "bob"}\n', **url)
    found = taken(client, unique_name)
    assert [(task["task"], task["payload"]) for task in found] == [
        ("shop.tasks.mail", {"to": "ann"}),
        ("shop.tasks.mail", {"to": "bob"}),
    ]


def test_a_task_can_expire(qbridge: QBridge, client: QueueClient, shared_url: str, unique_name: str) -> None:
    """One, and those of lines, so many seconds after each was sent; what makes no sense is refused before."""
    url = {"QBRIDGE_URL": shared_url}
    begin = time.time()
    qbridge("send", unique_name, "1", "--expires", "60", **url)
    qbridge("send", unique_name, "--expires", "60", stdin="2\n", **url)
    refused = qbridge("send", unique_name, "3", "--expires", "1", "--delay", "5", code=None, **url)
    assert refused.returncode != 0
    assert "may run in 5 s and expires before that would never run" in refused.stderr
    found = taken(client, unique_name)
    assert [task["payload"] for task in found] == [1, 2]
    assert all(begin + 59.9 < float(str(task["expires_at"])) < time.time() + 60.1 for task in found)


def test_expired_letters_are_found_by_their_reason(
    qbridge: QBridge, client: QueueClient, shared_url: str, unique_name: str
) -> None:
    """And told of in words."""
    client.send(unique_name, 1, task_id="late", expires=0.05)
    client.send(unique_name, "odd", task_id="odd")
    time.sleep(0.1)
    TaskManager(client, int, unique_name, f"{unique_name}.dead", max_retries=0).run_until_idle(30.0)
    url = {"QBRIDGE_URL": shared_url}
    listed = qbridge("dlq", "list", unique_name, "--reason", "expired", "--json", **url).stdout
    (letter,) = json.loads(listed)
    assert (letter["task_id"], letter["reason"]) == ("late", "expired")
    shown = qbridge("dlq", "show", unique_name, letter["id"], **url).stdout
    assert "its time was over before a worker could begin it" in shown


def test_lines_are_sent_in_their_order(
    qbridge: QBridge, client: QueueClient, shared_url: str, unique_name: str, tmp_path: Path
) -> None:
    """From a file and from the input, more than go into one part; empty lines are none, and a byte order mark is."""
    lines = "\n".join(map(str, range(1203)))
    (tmp_path / "tasks").write_text(f"\ufeff{lines}")
    url = {"QBRIDGE_URL": shared_url}
    assert qbridge("send", unique_name, "@tasks", **url).stdout == f"sent 1,203 tasks to {unique_name}\n"
    assert [task["payload"] for task in taken(client, unique_name)] == list(range(1203))
    done = qbridge("send", unique_name, stdin='{"n":1}\r\n\n  \n[2]', **url)
    assert (done.stdout, done.stderr) == (f"sent 2 tasks to {unique_name}\n", "")
    told = json.loads(qbridge("send", unique_name, "-", "--skip", "1", "--json", stdin="1\n2\n\n3", **url).stdout)
    assert told == {"queue": unique_name, "sent": 2, "lines": 4, "task_id": None}
    assert [task["payload"] for task in taken(client, unique_name)] == [{"n": 1}, [2], 2, 3]


def test_a_line_that_is_no_task_is_named(
    qbridge: QBridge, client: QueueClient, shared_url: str, unique_name: str
) -> None:
    """Those before it are sent, those behind it not; --skip goes on."""
    url, lines = {"QBRIDGE_URL": shared_url}, "1\n2\n{3}\n4\n"
    done = qbridge("send", unique_name, "--json", stdin=lines, code=1, **url)
    assert done.stderr == (
        "Error: line 3 is no JSON: Expecting property name enclosed in double quotes (column 2)\n"
        "2 tasks are confirmed, all up to line 2\nnothing behind that line was sent\n"
        "go on with --skip 2 when it is mended, or behind it with --skip 3\n"
    )
    assert json.loads(done.stdout) == {"queue": unique_name, "sent": 2, "lines": 2, "task_id": None}
    qbridge("send", unique_name, "--skip", "3", "--task-id", "import", stdin=lines, **url)
    tasks = taken(client, unique_name)
    assert [task["payload"] for task in tasks] == [1, 2, 4]
    assert tasks[2]["task_id"] == "import-4"


def test_what_is_wrong_is_said(qbridge: QBridge, shared_url: str, unique_name: str, tmp_path: Path) -> None:
    """No queue, no JSON, no file, nothing to skip: each has its sentence, and nothing a traceback."""
    (tmp_path / "long").write_bytes(b'"' + b"x" * 3000 + b'"')
    short = shared_url + ("&" if "?" in shared_url else "?") + "max_message_bytes=2000"
    for args, stdin, code, said in (
        (("1",), "", 1, f"there is no queue '{unique_name}'; create it with: qbridge declare {unique_name}"),
        ((), "1\n2\n", 1, f"qbridge declare {unique_name}\n0 tasks are confirmed"),
        (("hello",), "", 2, "no JSON: Expecting value (column 1); a text is '\"hello\"', a file @hello"),
        (("[NaN]",), "", 2, "NaN is not JSON"),
        (("[" * 600 + "]" * 600,), "", 2, "nested deeper than 500 levels"),
        (("@nothing",), "", 2, "'nothing' cannot be read: No such file"),
        (("@.",), "", 1, "the input cannot be read: Is a directory"),
        (("@long",), "", 1, "line 1 is longer than the 2,000 bytes"),
        (("1", "--skip", "1"), "", 2, "--skip is for lines"),
        (("--skip", "3"), "1\n2\n", 1, "there is nothing to skip: the input has 2 lines, not 3"),
        (("1", "--header", "tenant"), "", 2, "--header is NAME=VALUE, not 'tenant'"),
        (("1", "--header", "x-qbridge-a=b"), "", 2, "x-qbridge-"),
        (("1", "--delay", "-1"), "", 2, "delay"),
    ):
        done = qbridge("send", unique_name, *args, stdin=stdin, code=code, QBRIDGE_URL=short)
        assert said in done.stderr, args
        assert "Traceback" not in done.stderr


def test_a_broker_in_the_process_has_no_queues(qbridge: QBridge) -> None:
    """On memory:// the command says why there is nobody to send to."""
    assert "lives in its process" in qbridge("send", "--url", "memory://", "mails", "1", code=1).stderr


def test_lines_may_be_delayed(qbridge: QBridge, client: QueueClient, shared_url: str, unique_name: str) -> None:
    """All are confirmed, and wait."""
    lines = "\n".join(map(str, range(40)))
    qbridge("send", unique_name, "--delay", "3600", stdin=lines, QBRIDGE_URL=shared_url)
    stats = client.stats(unique_name)
    assert (stats.ready, stats.delayed) == (0, 40)


def test_an_input_without_end_is_sent_as_it_comes(
    start_qbridge: StartQBridge, client: QueueClient, shared_url: str, unique_name: str
) -> None:
    """Nobody waits for more lines; SIGTERM ends it, and it says how far it came."""
    process = start_qbridge("send", unique_name, "-", QBRIDGE_URL=shared_url)
    assert process.stdin
    for number in (1, 2, 3):
        process.stdin.write(f"{number}\n")
        process.stdin.flush()
        wait_for(lambda: client.stats(unique_name).ready == number, 30)  # noqa: B023
    process.send_signal(signal.SIGTERM)
    _, stderr = process.communicate(timeout=30)
    assert process.returncode == 1
    # The third may be in the queue, and its confirmation on its way.
    told = (
        r"Error: stopped\n([23]) tasks are confirmed, all up to line \1\n(of lines 3 to 3 .*\n)?go on with --skip \1\n"
    )
    assert re.fullmatch(told, stderr)


@pytest.mark.faults
def test_a_broker_that_goes_away_leaves_a_prefix(
    qbridge: QBridge, start_qbridge: StartQBridge, client: QueueClient, shared_url: str, unique_name: str
) -> None:
    """It says how many lines are confirmed, as text and as JSON; --skip sends the others, and none is missing."""
    parts = ["".join(f"{n}\n" for n in numbers) for numbers in (range(700), range(700, 1400))]
    with TCPProxy.to(shared_url) as proxy:
        process = start_qbridge("send", unique_name, "--json", QBRIDGE_URL=proxy.through(shared_url))
        assert process.stdin
        process.stdin.write(parts[0])
        process.stdin.flush()
        wait_for(lambda: client.stats(unique_name).ready == 700, 30)
        proxy.refuse()
        proxy.reset()
        proxy.refuse()
        stdout, stderr = process.communicate(parts[1], timeout=60)
    assert process.returncode == 3, stderr
    told = json.loads(stdout)
    assert 0 <= told["lines"] <= 700
    assert f"tasks are confirmed, all up to line {told['lines']}\n" in stderr
    assert f"go on with --skip {told['lines']}" in stderr
    qbridge("send", unique_name, "--skip", str(told["lines"]), stdin="".join(parts), QBRIDGE_URL=shared_url)
    tasks = [task["payload"] for task in taken(client, unique_name)]
    assert tasks[: told["lines"]] == list(range(told["lines"]))
    assert {*tasks} == {*range(1400)}


def test_a_terminal_shows_the_progress(
    open_terminal: OpenTerminal, redis_url: str, unique_name: str, tmp_path: Path
) -> None:
    """A bar while it lasts, and at the end how quick it was."""
    with connect(redis_url) as client:
        client.declare(unique_name)
    (tmp_path / "tasks").write_text("\n".join(map(str, range(20_000))))
    terminal = open_terminal("send", unique_name, "@tasks", QBRIDGE_URL=redis_url)
    assert terminal.ended() == 0
    terminal.wait_for(f"sent 20,000 tasks to {unique_name} in ", " per second")
    assert "━" in terminal.written.decode()
    assert terminal.shows_cursor
