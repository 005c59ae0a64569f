"""Messages of other programs, and messages that kombu itself would change."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path

import pytest
from kombu import Connection, Queue

from integration.kombu.conftest import MakeClient
from qbridge_core import Outcome, TaskManager

AS_CELERY = {
    "correlation_id": "id-1",
    "timestamp": 1_700_000_000,
    "headers": {"lang": "py", "task": "tasks.add", "id": "id-1", "retries": 0, "eta": None, "timelimit": [None, None]},
}  # fmt: skip


def as_celery(queue: str) -> Queue:
    """A queue as Celery declares it."""
    return Queue(queue, routing_key=queue)


def publish_as_celery(connection: Connection, queue: str, body: object) -> None:
    """Publish as Celery does."""
    with connection:
        producer = connection.Producer(serializer="json")
        producer.publish(body, exchange="", routing_key=queue, declare=[as_celery(queue)], **AS_CELERY)


def test_a_foreign_message_goes_through_retry_and_letters_unchanged(
    make_client: MakeClient, amqp_url: str, amqp: str, queue: str
) -> None:
    """Body, headers of any type and properties, its timestamp too: after a replay its own program can read it again."""
    body = [[1, 2], {}, {"callbacks": None}]
    publish_as_celery(Connection(amqp_url), queue, body)
    client = make_client(amqp)
    client.declare(queue, f"{queue}-dead")
    first = client.receive(queue, 1, 10.0)[0]
    assert json.loads(first.body) == body
    assert first.headers["task"] == "tasks.add"
    assert first.headers["timelimit"] == [None, None]
    assert first.sent_at == datetime.fromtimestamp(1_700_000_000, UTC)
    client.reject(first, requeue=False)
    assert client.replay(f"{queue}-dead") == 1
    client.flush()
    with Connection(amqp_url) as connection:
        message = as_celery(queue)(connection).get()
        assert message.payload == body
        assert message.headers.pop("x-qbridge-due-at-ms") > 1_700_000_000_000
        assert message.headers.pop("x-qbridge-sent-at-ms") == 1_700_000_000_000
        assert message.headers == {**AS_CELERY["headers"], "x-qbridge-replays": 1}
        assert (message.properties["correlation_id"], message.content_encoding) == ("id-1", "utf-8")
        message.ack()


def test_a_program_of_kombu_reads_what_was_sent(make_client: MakeClient, amqp_url: str, amqp: str, queue: str) -> None:
    """The body is bytes to it, and the producer's headers are headers."""
    client = make_client(amqp)
    client.declare(queue)
    client.send(queue, {"n": 1}, task_id="t-1", headers={"tenant": "a"})
    with Connection(amqp_url) as connection:
        message = as_celery(queue)(connection).get(accept=None)
        assert json.loads(message.body)["payload"] == {"n": 1}
        assert message.headers.pop("x-qbridge-sent-at-ms")
        assert message.headers == {"tenant": "a"}
        message.ack()


def test_a_program_of_kombu_decodes_a_body_whose_header_says_what_it_is(
    make_client: MakeClient, amqp_url: str, amqp: str, queue: str
) -> None:
    """It is the property that kombu chooses a decoder by."""
    client = make_client(amqp)
    client.declare(queue)
    client.publish(queue, b'{"n": 1}', headers={"content-type": "application/json"})
    with Connection(amqp_url) as connection:
        message = as_celery(queue)(connection).get()
        assert message.payload == {"n": 1}
        message.ack()


@pytest.mark.parametrize("where", ["folder_url", "file_url"])
def test_a_header_named_compression_unpacks_nothing(
    make_client: MakeClient, request: pytest.FixtureRequest, where: str, queue: str
) -> None:
    """kombu takes that header for its own, and would try to unpack the body."""
    client = make_client(request.getfixturevalue(where))
    client.declare(queue)
    client.publish(queue, b"not packed", headers={"compression": "zlib"})
    delivery = client.receive(queue, 1, 10.0)[0]
    assert (delivery.body, dict(delivery.headers)) == (b"not packed", {"compression": "zlib"})


def test_headers_that_the_broker_would_obey_are_the_producers(make_client: MakeClient, amqp: str, queue: str) -> None:
    """With ``CC`` RabbitMQ would send copies elsewhere, and with a text in it end the channel."""
    client = make_client(amqp)
    client.declare(queue)
    client.declare(f"{queue}-other")
    headers = {"CC": f"{queue}-other", "BCC": "x", "x-death": "mine", "x-delivery-count": "7", "plain": "p"}
    client.publish(queue, b"x", headers=headers)
    delivery = client.receive(queue, 1, 10.0)[0]
    assert dict(delivery.headers) == headers
    assert client.stats(f"{queue}-other").ready == 0


def test_what_is_no_message_of_kombus_in_a_folder_is_malformed(
    make_client: MakeClient, folder_url: str, queue: str, tmp_path: Path
) -> None:
    """kombu would lose the file and raise an error; here the worker gets what is in it."""
    client = make_client(folder_url)
    client.declare(queue)
    (tmp_path / "queues" / "messages" / f"1_x.{queue}.msg").write_bytes(b"\xff no JSON")
    assert [delivery.body for delivery in client.receive(queue, 2, 10.0)] == [b"\xff no JSON"]


def test_what_is_no_message_of_kombus_in_a_table_is_dead_lettered(
    make_client: MakeClient, file_url: str, queue: str, tmp_path: Path
) -> None:
    """A row that somebody has written stops nobody: it is malformed, and its letter has its text."""
    import sqlite3

    client = make_client(file_url)
    client.declare(queue, f"{queue}-dead")
    with sqlite3.connect(tmp_path / "queues.db") as database:
        row = database.execute("select id from kombu_queue where name = ?", (queue,)).fetchone()[0]
        database.execute(
            "insert into kombu_message (visible, payload, version, queue_id) values (1, 'no JSON', 1, ?)", (row,)
        )
    database.close()
    client.send(queue, 1)
    report = TaskManager(client, lambda payload: None, queue, f"{queue}-dead", max_workers=1).run_until_idle(20.0)
    assert (report.succeeded, report[Outcome.MALFORMED]) == (1, 1)
    assert [letter.body for letter in client.dead_letters(f"{queue}-dead")] == [b"no JSON"]
