"""What released versions have left in the brokers (tests/corpus): today's code reads all of it."""

from __future__ import annotations

import logging
import os
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from corpus.reader import VERSIONS, Reader, Recording
from corpus.states import BROKEN_BODIES, DELAYS, HEADERS, PAYLOADS
from qbridge_core import QueueClient, Reason, TaskManager, connect
from support.versions import amqp_version
from support.wait import wait_for

FOREIGN = {
    "rabbitmq": {
        "number": "-7", "large": "1099511627776", "yes": "True", "nothing": "None", "list": "[1, 'two', [3]]",
        "bytes": r"b'\xff\x00'", "table": "{'inner': 'Zoë'}", "price": "Decimal('9.9')", "CC": "['nobody']",
    },
    "redis": {"tenant": "'2'", "bytes": r"b'\xff\x00'"},
}  # fmt: skip


@pytest.fixture(params=[f"{version}-{kind}" for version in VERSIONS for kind in ("quorum", "classic", "redis")])
def recording(request: pytest.FixtureRequest) -> Recording:
    """What each version has left on each broker, to be put into the run's server under names of this test."""
    version, kind = request.param.rsplit("-", 1)
    token = uuid.uuid4().hex[:8]
    if kind == "redis":
        return Recording(version, kind, f"{request.getfixturevalue('redis_url')}?lease=2", token)
    url = f"{request.getfixturevalue('amqp_url')}?queue_type={kind}&reconnect_delay_max=0.4"
    return Recording(version, kind, url, token)


@pytest.fixture
def client(recording: Recording) -> Iterator[QueueClient]:
    """A client of today."""
    with connect(recording.url) as client:
        yield client


@pytest.fixture
def reader(tmp_path: Path) -> Reader:
    """A handler that notes what it gets."""
    return Reader(tmp_path / "runs")


def work(client: QueueClient, reader: Reader, queue: str, dead: str = "", **options: Any) -> TaskManager:
    """Work a queue off."""
    manager = TaskManager(client, reader, queue, dead or f"{queue}.dead", max_workers=2, **options)
    manager.run_until_idle(60.0)
    return manager


def as_noted(headers: dict[str, str]) -> dict[str, str]:
    """Headers as the handler notes them."""
    return {name: repr(value) for name, value in headers.items()}


def test_messages_arrive_as_they_were_sent(recording: Recording, client: QueueClient, reader: Reader) -> None:
    """Payloads of all kinds, task ids and headers of messages that nobody had looked at; each is a first attempt."""
    queue = recording.restore("ready")
    assert work(client, reader, queue).report().succeeded == len(PAYLOADS) + 7
    runs = {run["task_id"]: run for run in reader.runs()}
    assert {name: runs[name]["payload"] for name in PAYLOADS} == PAYLOADS
    assert {run["attempt"] for run in runs.values()} == {1}
    for name in ("with headers", "only a message id", "of publish_many"):
        assert runs[name]["headers"] == as_noted(HEADERS)
    payloads = [run["payload"] for run in runs.values()]
    assert all({"number": number} in payloads for number in range(3)), "those of send_many have random ids"


def test_g5_attempts_are_counted_on(recording: Recording, client: QueueClient, tmp_path: Path) -> None:
    """A retry of the older version is the second attempt, and a letter of today knows when the first one failed."""
    queue = recording.restore("retried")
    reader = Reader(tmp_path / "runs", fails=True)
    work(client, reader, queue, max_retries=1)
    runs = {run["task_id"]: run for run in reader.runs()}
    assert len(runs) == len(reader.runs()) == 3
    assert {run["attempt"] for run in runs.values()} == {2}
    assert runs["retried with headers"]["headers"] == as_noted(HEADERS)
    letters = {letter.task_id: letter for letter in client.dead_letters(f"{queue}.dead")}
    assert letters.keys() == runs.keys()
    assert {(letter.reason, letter.attempts) for letter in letters.values()} == {(Reason.FAILED, 2)}
    for task_id, letter in letters.items():
        first = int(recording.headers("retried", task_id)["x-qbridge-first-failed-at-ms"]) / 1000
        assert letter.first_failed_at == first
    (foreign,) = (run for run in runs.values() if run["payload"].get("customer") == "foreign")
    expected = FOREIGN["redis" if recording.kind == "redis" else "rabbitmq"]
    assert foreign["headers"].items() >= expected.items()


def test_g8_what_was_handed_back_counts_nothing(recording: Recording, client: QueueClient, reader: Reader) -> None:
    """What a stopping worker of the older version gave back runs as a first attempt, once."""
    queue = recording.restore("handed-back")
    work(client, reader, queue)
    found = sorted((run["task_id"], run["attempt"]) for run in reader.runs())
    assert found == [(f"handed back {number}", 1) for number in (1, 2, 3)]


def test_a_replayed_message_begins_anew(recording: Recording, client: QueueClient, reader: Reader) -> None:
    """What the older version has replayed is a first attempt with the producer's headers."""
    work(client, reader, recording.restore("replayed"))
    (run,) = reader.runs()
    assert (run["task_id"], run["attempt"], run["headers"]) == ("replayed", 1, as_noted(HEADERS))


def test_g7_delayed_messages_come_when_they_are_due(recording: Recording, client: QueueClient, reader: Reader) -> None:
    """Those whose time comes run, the retry as a second attempt; the others wait on, and another delay joins them."""
    queue = recording.restore("delayed")
    client.declare(queue, f"{queue}.dead")
    waiting = len(DELAYS) + 3
    assert client.stats(queue).delayed == waiting
    manager = TaskManager(client, reader, queue, f"{queue}.dead", max_workers=2)
    with manager:
        wait_for(lambda: len(reader.runs()) == 3, 20, "three tasks were due")
    attempts = {run["task_id"]: run["attempt"] for run in reader.runs()}
    assert attempts == {"delayed retry": 2, "snoozed": 1, "delayed soon": 1}
    client.send(queue, {}, delay=max(DELAYS.values()))
    wait_for(lambda: client.stats(queue).delayed == waiting - 3 + 1, 10, "the others wait")


def test_g13_dead_letters_are_understood(recording: Recording, client: QueueClient) -> None:
    """Each reason, with body, headers, explanation, times, origin and worker, as the older version wrote them."""
    queue = recording.restore("letters", "lethal")
    letters = client.dead_letters(f"{queue}.dead")
    assert [letter.body for letter in letters] == recording.bodies("letters.dead")
    found = {letter.task_id: letter for letter in letters}
    what = {name: (letter.reason, letter.attempts, letter.crashes) for name, letter in found.items()}
    assert what == {
        "failed": (Reason.FAILED, 4, 0),
        "foreign": (Reason.FAILED, 4, 0),
        "timed out": (Reason.TIMED_OUT, 4, 0),
        "rejected": (Reason.REJECTED, 1, 0),
        "crashed": (Reason.CRASHED, 0, 3),
        **{f"malformed {number}": (Reason.MALFORMED, 0, 0) for number in range(len(BROKEN_BODIES))},
    }
    for name, letter in found.items():
        written = recording.headers("letters.dead", name)
        assert letter.exception_type == written["x-qbridge-exception-type"]
        assert letter.exception_message == written["x-qbridge-exception-message"]
        assert letter.traceback == written["x-qbridge-traceback"]
        assert letter.worker == written["x-qbridge-worker"]
        assert letter.first_failed_at == int(written["x-qbridge-first-failed-at-ms"]) / 1000
        assert letter.last_failed_at == int(written["x-qbridge-last-failed-at-ms"]) / 1000
        assert letter.source_queue == recording.name("lethal" if name == "crashed" else "letters")
    assert found["failed"].headers == found["crashed"].headers == HEADERS


def test_dead_letters_go_back(recording: Recording, client: QueueClient, reader: Reader) -> None:
    """A replay of the older version's letters: each returns to its queue and counts anew; the broken fail again."""
    queue = recording.restore("letters", "lethal")
    assert client.replay(f"{queue}.dead") == 5 + len(BROKEN_BODIES)
    work(client, reader, queue)
    work(client, reader, recording.name("lethal"), f"{queue}.dead")
    attempts = {run["task_id"]: run["attempt"] for run in reader.runs()}
    assert attempts == dict.fromkeys(("failed", "foreign", "timed out", "rejected", "crashed"), 1)
    again = client.dead_letters(f"{queue}.dead")
    assert sorted(letter.task_id for letter in again) == [f"malformed {number}" for number in range(len(BROKEN_BODIES))]


def test_letters_of_the_broker_itself_are_understood(recording: Recording, client: QueueClient, reader: Reader) -> None:
    """What another consumer rejected, and what expired, in a queue that the older version has declared."""
    if recording.kind == "redis":
        pytest.skip("Redis makes no dead letters itself")
    queue = recording.restore("by-broker")
    by_consumer, expired = client.dead_letters(f"{queue}.dead")
    assert (by_consumer.reason, expired.reason) == (Reason.REJECTED, Reason.REJECTED)
    assert by_consumer.source_queue == expired.source_queue == queue
    assert "rejected" in by_consumer.exception_message
    assert "time to live" in expired.exception_message
    assert by_consumer.headers == HEADERS
    assert client.replay(f"{queue}.dead") == 2
    work(client, reader, queue)
    assert sorted(run["task_id"] for run in reader.runs()) == ["expired", "rejected by a consumer"]


@pytest.mark.parametrize("state", ["killed", "suspects"])
def test_g6_what_may_have_killed_its_worker_is_suspected(
    recording: Recording, client: QueueClient, reader: Reader, state: str
) -> None:
    """It runs apart, in a child process, once and as a first attempt: just after the death, or from the side queue."""
    queue = recording.restore(state)
    work(client, reader, queue)
    runs = {run["task_id"]: run for run in reader.runs()}
    assert len(reader.runs()) == 3
    assert runs.keys() == {f"{state} {number}" for number in range(3)}
    assert os.getpid() not in {run["pid"] for run in runs.values()}
    assert {run["attempt"] for run in runs.values()} == {1}
    assert runs[f"{state} 1"]["headers"] == as_noted(HEADERS)
    assert client.dead_letters(f"{queue}.dead") == []


def test_g6_crashes_are_counted_on(recording: Recording, client: QueueClient, reader: Reader) -> None:
    """Of three that have killed two workers each, the one that has killed a third is a dead letter without a run."""
    queue = recording.restore("crashing")
    work(client, reader, queue)
    killed = recording.crashes("crashing.suspects")
    assert sorted(killed.values()) == [2, 2, 3]
    (deadly,) = (task for task, workers in killed.items() if workers == 3)
    assert sorted(run["task_id"] for run in reader.runs()) == sorted(killed.keys() - {deadly})
    (letter,) = client.dead_letters(f"{queue}.dead")
    assert (letter.task_id, letter.reason, letter.crashes) == (deadly, Reason.CRASHED, 3)


def test_queues_are_used_as_they_are(
    recording: Recording, client: QueueClient, caplog: pytest.LogCaptureFixture
) -> None:
    """Declaring the older version's queues again, with all that belongs to them, is no error and no warning."""
    if recording.kind != "redis" and amqp_version(recording.url) >= "RabbitMQ 3.12":
        pytest.skip(
            "recorded on a RabbitMQ that cannot lift its consumer_timeout for a queue, which makes a difference"
        )
    caplog.set_level(logging.INFO, "qbridge")
    queue = recording.restore("delayed", "crashing")
    for state in ("crashing", "delayed"):
        name = recording.name(state)
        client.declare(name, f"{name}.dead")
        client.declare(f"{name}.suspects", f"{name}.dead")
    for delay in DELAYS.values():
        client.send(queue, {}, delay=delay)
    assert [record.getMessage() for record in caplog.records if record.levelno > logging.INFO] == []
