"""``qbridge declare``, ``purge``, ``pause``, ``resume`` and ``stats`` as processes, on real brokers."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from typing import Any

import pytest

from integration.cli.conftest import OpenTerminal, QBridge, StartQBridge
from qbridge_core import QueueClient, connect


@pytest.fixture
def client(shared_url: str, unique_name: str) -> Iterator[QueueClient]:
    """A client of the broker that the command looks at, with the test's queue."""
    with connect(shared_url) as client:
        client.declare(unique_name)
        yield client


def tells(client: QueueClient, *fields: str) -> bool:
    """Whether the broker of the test says so much."""
    return {*fields} <= client.capabilities.details


def test_a_queue_is_declared_and_purged(qbridge: QBridge, shared_url: str, unique_name: str) -> None:
    """What waits, and what is delayed, is deleted when it is confirmed, and the log says who did it."""
    dead, url = f"{unique_name}-letters", {"QBRIDGE_URL": shared_url}
    assert dead in qbridge("declare", unique_name, "--dead", dead, **url).stdout
    with connect(shared_url) as client:
        client.send_many(unique_name, [1, 2, 3])
        client.send(unique_name, 4, delay=3600)
        assert "--yes" in qbridge("purge", unique_name, code=2, **url).stderr
        assert client.stats(unique_name).ready == 3
        done = qbridge("purge", unique_name, "--yes", **url)
        assert done.stdout == f"deleted 3 messages of {unique_name}\n"
        assert f"purged {unique_name}: 3 messages deleted, by " in done.stderr
        assert (client.stats(unique_name).ready, client.stats(unique_name).delayed) == (0, 1)
        done = qbridge("purge", unique_name, "--delayed", "--yes", **url)
        assert done.stdout == f"deleted 1 delayed message of {unique_name}\n"
        assert client.stats(unique_name).delayed == 0


def test_who_deletes_on_a_terminal_is_asked(open_terminal: OpenTerminal, redis_url: str, unique_name: str) -> None:
    """And nothing is deleted without a yes."""
    with connect(redis_url) as client:
        client.declare(unique_name)
        client.send_many(unique_name, [1, 2])
        for answer, code, left in (("n", 1, 2), ("y", 0, 0)):
            terminal = open_terminal("purge", unique_name, QBRIDGE_URL=redis_url)
            terminal.wait_for(f"Delete the 2 messages that wait in {unique_name}? [y/N]:")
            terminal.type(f"{answer}\r")
            assert terminal.ended() == code
            assert client.stats(unique_name).ready == left


def test_queues_are_counted(qbridge: QBridge, client: QueueClient, shared_url: str, unique_name: str) -> None:
    """As a table and as JSON, with a question mark and null for what the broker does not tell."""
    client.send_many(unique_name, [1, 2, 3])
    client.send(unique_name, 4, delay=3600)
    (delivery,) = client.receive(unique_name, 1, 5.0)
    client.reject(delivery, requeue=False)
    client.flush()
    told = stats(qbridge, shared_url, unique_name)
    expected = {
        "queue": unique_name, "dead_letter_queue": None, "ready": 2, "delayed": 1, "dead": 1,
        "in_flight": 0 if tells(client, "unsettled") else None, "in_rate": None, "out_rate": None, "paused": False,
    }  # fmt: skip
    age, consumers = told.pop("oldest_age"), told.pop("consumers")
    assert told == expected
    assert consumers in {0, 1}  # Redis counts for a while who has received
    assert (age is not None) == tells(client, "oldest_age")
    head, row = qbridge("stats", unique_name, QBRIDGE_URL=shared_url).stdout.splitlines()
    assert head.split() == [
        "queue",
        "ready",
        "in",
        "flight",
        "delayed",
        "dead",
        "oldest",
        "consumers",
        "in/s",
        "out/s",
        "paused",
    ]
    flight = "0" if tells(client, "unsettled") else "?"
    oldest = row.split()[5:7] if tells(client, "oldest_age") else ["?"]
    assert row.split() == [unique_name, "2", flight, "1", "1", *oldest, *row.split()[-3:-2], "?", "?"]


def stats(qbridge: QBridge, url: str, queue: str) -> dict[str, Any]:
    """What ``stats --json`` says of a queue."""
    (row,) = json.loads(qbridge("stats", queue, "--json", QBRIDGE_URL=url).stdout)
    assert isinstance(row, dict)
    return row


def test_a_broker_that_lists_its_queues_shows_all(
    qbridge: QBridge, amqp_url: str, redis_url: str, unique_name: str
) -> None:
    """Redis does, without dead-letter queues, and knows one that does not exist; RabbitMQ by itself cannot."""
    with connect(redis_url) as client:
        client.declare(unique_name, f"{unique_name}.dead")
    rows = json.loads(qbridge("stats", "--json", QBRIDGE_URL=redis_url).stdout)
    found = {row["queue"]: row["dead_letter_queue"] for row in rows}
    assert found[unique_name] == f"{unique_name}.dead"
    assert f"{unique_name}.dead" not in found
    with connect(redis_url) as client:
        client.declare(f"{unique_name}-other", f"{unique_name}-other.failed")
    assert qbridge("stats", f"{unique_name}-other", QBRIDGE_URL=redis_url).stderr == "", "it is listed, so it is there"
    done = qbridge("stats", unique_name, f"{unique_name}-typo", QBRIDGE_URL=redis_url, code=1)
    assert done.stderr == f"Error: there is no queue '{unique_name}-typo'\n"
    done = qbridge("stats", "--json", QBRIDGE_URL=amqp_url, code=1)
    assert (json.loads(done.stdout), "management_url" in done.stderr) == ([], True)


def test_a_slip_in_the_name_of_a_queue_is_told(qbridge: QBridge, shared_url: str, unique_name: str) -> None:
    """A queue that does not exist is not taken for an empty one: each command says that it may not be there."""
    typo = f"{unique_name}-typo"
    with connect(shared_url) as client:
        client.declare(unique_name, f"{unique_name}.dead")
    certain = shared_url.startswith("redis:")  # which lists its queues
    told = f"there is no queue {typo!r}" if certain else f"is there a queue {typo!r}?"
    for args in (("purge", typo, "--yes"), ("pause", typo), ("resume", typo)):
        assert told in qbridge(*args, QBRIDGE_URL=shared_url).stderr, args
    assert told in qbridge("stats", typo, QBRIDGE_URL=shared_url, code=1 if certain else 0).stderr
    done = qbridge("purge", f"{typo}.dead", "--yes", QBRIDGE_URL=shared_url)
    assert f"there is no queue '{typo}.dead'" in done.stderr
    assert qbridge("stats", unique_name, f"{unique_name}.dead", QBRIDGE_URL=shared_url).stderr == ""
    assert "no queue" not in qbridge("purge", unique_name, "--yes", QBRIDGE_URL=shared_url).stderr


def test_stats_have_room_on_a_usual_terminal(open_terminal: OpenTerminal, redis_url: str, unique_name: str) -> None:
    """In 80 columns each heading is in one piece, since only what is text may be folded."""
    with connect(redis_url) as client:
        client.declare(unique_name)
    terminal = open_terminal("stats", unique_name, size=(80, 30), QBRIDGE_URL=redis_url)
    terminal.wait_for("in flight  delayed  dead  oldest  consumers  in/s  out/s  paused")
    assert terminal.ended() == 0


def test_stats_go_on(start_qbridge: StartQBridge, client: QueueClient, shared_url: str, unique_name: str) -> None:
    """--watch prints an array in each line, with what came and went where the broker tells; Ctrl-C ends it with 0."""
    process = start_qbridge(
        "stats", unique_name, "--watch", "--interval", "0.1", "--json", QBRIDGE_URL=shared_url
    )  # fmt: skip
    assert process.stdout
    (row,) = json.loads(process.stdout.readline())
    assert row["ready"] == 0
    client.send_many(unique_name, range(7))
    rates = []
    while row["ready"] < 7:
        (row,) = json.loads(process.stdout.readline())
        rates.append(row["in_rate"])
    assert (max(rate or 0.0 for rate in rates) > 0) == tells(client, "in_rate")
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=30)
    assert (process.returncode, stderr) == (0, "")


def test_a_slip_in_the_name_of_a_queue_is_told_to_who_watches(
    start_qbridge: StartQBridge, redis_url: str, unique_name: str
) -> None:
    """Once, beside the numbers, and not at each look."""
    typo = f"{unique_name}-typo"
    with connect(redis_url) as client:
        client.declare(unique_name)
    process = start_qbridge(
        "stats", unique_name, typo, "--watch", "--interval", "0.1", "--json", QBRIDGE_URL=redis_url
    )  # fmt: skip
    assert process.stdout
    for _ in range(3):
        assert len(json.loads(process.stdout.readline())) == 2
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=30)
    assert (process.returncode, stderr) == (0, f"there is no queue {typo!r}\n")


def test_a_queue_is_paused_and_resumed(
    qbridge: QBridge, client: QueueClient, shared_url: str, unique_name: str
) -> None:
    """The mark shows, and the log says who made it."""
    done = qbridge("pause", unique_name, QBRIDGE_URL=shared_url)
    assert done.stdout == f"paused {unique_name}; qbridge resume {unique_name} lets it go on\n"
    assert f"paused {unique_name}, by " in done.stderr
    assert stats(qbridge, shared_url, unique_name)["paused"] is True
    assert qbridge("stats", unique_name, QBRIDGE_URL=shared_url).stdout.rstrip().endswith(" paused")
    assert qbridge("resume", unique_name, QBRIDGE_URL=shared_url).stdout == f"resumed {unique_name}\n"
    assert stats(qbridge, shared_url, unique_name)["paused"] is False


def test_wrong_usage_of_stats_is_said(qbridge: QBridge) -> None:
    """Names that are none, an interval that is none, and a broker in the process, which has no queues."""
    for args, code, said in (
        (("stats", ""), 2, "a queue name"),
        (("stats", "--interval", "0"), 2, "0.1"),
        (("stats",), 1, "no queues are found"),
        (("top",), 2, "stats --watch"),
        (("pause",), 2, "Missing argument"),
        (("resume", ""), 2, "a queue name"),
    ):
        done = qbridge(*args, code=code, QBRIDGE_URL="memory://")
        assert said in done.stderr, args
        assert "Traceback" not in done.stderr
