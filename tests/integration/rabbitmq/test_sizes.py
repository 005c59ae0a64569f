"""Messages at the limits of what AMQP and the broker carry: none of them ends a connection or is stuck."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pika
import pytest

from integration.rabbitmq.conftest import MakeClient
from qbridge_core import (
    ConstantBackoff,
    Failure,
    Message,
    MessageTooLargeError,
    QueueStats,
    Reason,
    TaskManager,
)
from qbridge_rabbitmq import RabbitMQClient
from qbridge_rabbitmq.amqp import headers
from qbridge_rabbitmq.publish.publisher import Publication
from support.brokers import RabbitMQBroker
from support.wait import wait_for

Foreign = Callable[[str, bytes, dict[str, Any]], None]
FULL = 130_900
"""With this length of one header a message just fits into a frame."""


@pytest.fixture
def foreign(channel: Any) -> Foreign:
    """Publish as another program does, with headers of any size."""
    channel.confirm_delivery()

    def publish(queue: str, body: bytes, given: dict[str, Any]) -> None:
        channel.basic_publish("", queue, body, pika.BasicProperties(delivery_mode=2, headers=given), mandatory=True)

    return publish


def publishing_connection(client: RabbitMQClient) -> object:
    """The connection that the client publishes on."""
    assert client._broker is not None
    return client._broker.publisher._connection


def test_g19_headers_that_fill_a_frame_end_in_a_letter_and_no_connection(
    client: RabbitMQClient, foreign: Foreign, unique_name: str
) -> None:
    """A foreign message without room for a retry becomes a dead letter with what fits, which says what is missing."""
    dead = f"{unique_name}.dead"
    client.declare(unique_name, dead)
    foreign(unique_name, b"not json", {"h": "x" * FULL, "tenant": "blue"})
    foreign(unique_name, b'{"payload": 1}', {"h": "x" * FULL, "tenant": "red"})
    before = publishing_connection(client)

    def fail(payload: object) -> None:
        raise ValueError("its own text")

    report = TaskManager(client, fail, unique_name, dead, max_workers=2, backoff=ConstantBackoff(0.1)).run_until_idle(
        30
    )
    assert report.dead_lettered == 2
    letters = {letter.reason: letter for letter in client.dead_letters(dead)}
    for reason, tenant in ((Reason.MALFORMED, "blue"), (Reason.FAILED, "red")):
        assert letters[reason].headers == {"tenant": tenant}
        assert "headers left out because they do not fit into a frame: 'h' (13" in letters[reason].exception_message
    assert letters[Reason.FAILED].exception_message.startswith("its own text; it cannot be retried")
    assert (letters[Reason.FAILED].attempts, letters[Reason.FAILED].source_queue) == (1, unique_name)
    assert publishing_connection(client) is before
    assert client.replay(dead) == 2
    assert client.stats(unique_name).ready == 2


def test_g19_a_foreign_letter_that_fills_a_frame_goes_back(
    client: RabbitMQClient, foreign: Foreign, unique_name: str
) -> None:
    """Where there is no room to count that it was sent back, it is sent back uncounted."""
    dead = f"{unique_name}.dead"
    client.declare(unique_name, dead)
    foreign(dead, b"x", {"h": "x" * (FULL + 120)})
    (letter,) = client.dead_letters(dead)
    assert client.replay(dead, target=unique_name, letters=[letter]) == 1
    (delivery,) = client.receive(unique_name, 1, 10.0)
    assert (len(delivery.headers["h"]), dict(delivery.meta)) == (FULL + 120, {})


def test_g19_what_publish_accepts_goes_every_way(client: RabbitMQClient, unique_name: str) -> None:
    """The largest headers that ``publish`` takes: retried, delayed, dead-lettered with a full explanation, replayed."""
    dead = f"{unique_name}.dead"
    client.declare(unique_name, dead)
    size = _largest_accepted(client, unique_name)
    with pytest.raises(MessageTooLargeError, match="headers"):
        client.publish(unique_name, b"x", headers={"h": "x" * (size + 1)}, delay=0.1)
    for attempt in (1, 2):
        (delivery,) = client.receive(unique_name, 1, 10.0)
        client.reject(delivery, delay=0.2 * (attempt - 1), failure=Failure(Reason.FAILED, attempts=attempt))
    (delivery,) = client.receive(unique_name, 1, 10.0)
    wide = "\U0001f600"
    longest = Failure(
        Reason.FAILED, 3, 1, "E" * 255, wide * 1_000, wide * 8_000, 1e9, 1e9, unique_name, wide * 255, "w" * 200
    )
    client.reject(delivery, requeue=False, failure=longest)
    (letter,) = client.dead_letters(dead)
    assert (letter.exception_message, letter.traceback) == (wide * 1_000, wide * 8_000)
    assert letter.headers == {"h": "x" * size}
    assert client.replay(dead) == 1
    (again,) = client.receive(unique_name, 1, 10.0)
    assert (again.headers, again.attempts) == ({"h": "x" * size}, 0)


def _largest_accepted(client: RabbitMQClient, queue: str) -> int:
    """Publish a message whose one header is as long as possible; its length."""
    low, high = 1_000, 131_072
    while high - low > 1:
        middle = (low + high) // 2
        try:
            client.publish(queue, b"x", headers={"h": "x" * middle})
        except MessageTooLargeError:
            high = middle
        else:
            low = middle
            client.purge(queue)
    client.publish(queue, b"x", headers={"h": "x" * low})
    return low


def test_g19_the_negotiated_size_of_a_frame_counts(
    make_client: MakeClient, amqp_url: str, unique_name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With frames of 8 KiB smaller headers are refused, and a longer explanation is cut to what fits."""
    monkeypatch.setattr("qbridge_rabbitmq.connection.options.FRAME_MAX", 8_192)
    client = make_client(amqp_url)
    client.declare(unique_name)
    before = publishing_connection(client)
    with pytest.raises(MessageTooLargeError):
        client.publish(unique_name, b"x", headers={"h": "x" * 5_000})
    client.publish(unique_name, b"x", headers={"h": "x" * 4_000})
    (delivery,) = client.receive(unique_name, 1, 10.0)
    failure = Failure(Reason.FAILED, 1, exception_message="m" * 1_000, traceback="t" * 8_000, source_queue=unique_name)
    client.reject(delivery, requeue=False, failure=failure)
    (letter,) = client.dead_letters(f"{unique_name}.dead")
    assert (letter.headers, letter.exception_message) == ({"h": "x" * 4_000}, "m" * 1_000)
    assert 1_000 < len(letter.traceback) < 3_000
    assert publishing_connection(client) is before


def test_g19_one_message_that_cannot_be_sent_fails_alone(client: RabbitMQClient, unique_name: str) -> None:
    """Of a batch, what is over the size of a frame or has a name that is too long is an error, the others are sent."""
    client.declare(unique_name)
    broker = client._broker
    assert broker is not None
    good = headers.fresh({}, None)
    batch = [
        Publication("", unique_name, good, b"1"),
        Publication("", unique_name, headers.fresh({"h": "x" * 131_072}, None), b"2"),
        Publication("", "q" * 256, good, b"3"),
        Publication("", unique_name, good, b"4"),
    ]
    failed = broker.sender.send_each(batch, 10.0)
    assert {position: type(error) for position, error in failed.items()} == {
        1: MessageTooLargeError,
        2: MessageTooLargeError,
    }
    assert [delivery.body for delivery in client.receive(unique_name, 10, 5.0)] == [b"1", b"4"]


def test_g19_a_hand_back_that_cannot_be_copied_goes_back_all_the_same(
    client: RabbitMQClient, foreign: Foreign, unique_name: str
) -> None:
    """A worker that stops returns a foreign message without room for a mark, and what lies beside it, once each."""
    client.declare(unique_name)
    for number in range(3):
        foreign(unique_name, b"%d" % number, {"h": "x" * (FULL + 80 if number == 1 else 10)})
    client.subscribe(unique_name, 3)
    wait_for(lambda: client.stats(unique_name).in_flight == 3, 10.0, "all are held")
    client.unsubscribe(unique_name)
    wait_for(lambda: client.stats(unique_name) == QueueStats(3, 0, 0), 10.0, "all are back")
    assert sorted(one.body for one in client.receive(unique_name, 9, 5.0)) == [b"0", b"1", b"2"]


def test_g19_a_limit_that_was_lowered_loses_and_stops_nothing(
    make_client: MakeClient, private_rabbitmq: RabbitMQBroker, unique_name: str
) -> None:
    """A message over today's ``max_message_size`` cannot be copied: the broker dead-letters it, the others go on."""
    client = make_client(private_rabbitmq.url)
    dead = f"{unique_name}.dead"
    client.declare(unique_name, dead)
    large = b'{"payload": "' + b"x" * 3_000_000 + b'"}'
    client.publish_many(unique_name, [Message(large), Message(b'{"payload": "small"}')])

    def fail(payload: object) -> None:
        raise ValueError

    with private_rabbitmq.with_settings(max_message_size=1_000_000):
        client.disconnect()
        client.connect()  # the setting is read for each new channel
        report = TaskManager(client, fail, unique_name, dead, max_retries=1, max_workers=2).run_until_idle(60.0)
        assert report.dead_lettered == 2
        letters = client.dead_letters(dead)
        assert sorted(len(letter.body) for letter in letters) == [20, len(large)]
        (moved,) = [letter for letter in letters if letter.body == large]
        assert (moved.reason, moved.source_queue) == (Reason.REJECTED, unique_name)
        assert "rejected it without requeue" in moved.exception_message
        with pytest.raises(MessageTooLargeError, match="max_message_size is 1000000"):
            client.publish(unique_name, large)  # known by now, so it closes no channel
        with pytest.raises(MessageTooLargeError):
            client.publish_many(unique_name, [Message(b"1"), Message(large), Message(b"2")])
        assert client.stats(unique_name).ready == 2
