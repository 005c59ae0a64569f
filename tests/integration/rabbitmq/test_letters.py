"""Dead letters on RabbitMQ: complete, in order, and sent back as they were."""

from __future__ import annotations

import struct
from typing import Any

import pika
import pytest

from integration.rabbitmq.conftest import MakeClient
from integration.rabbitmq.test_headers import EVERY_TYPE, MILLISECONDS, entry, properties
from qbridge_core import Failure, Message, Reason
from qbridge_rabbitmq import RabbitMQClient, headers
from qbridge_rabbitmq.wire import RawProperties


def table(delivery: Any) -> bytes:
    """The encoded headers of a delivery."""
    return headers.split(delivery.tag.properties)[headers.HEADERS]


@pytest.mark.parametrize("arguments", [{}, {"x-queue-type": "quorum"}], ids=["classic", "quorum"])
def test_headers_of_every_type_make_the_whole_journey(
    client: RabbitMQClient, channel: Any, unique_name: str, arguments: dict[str, object]
) -> None:
    """Retry, dead letter, replay: headers that pika cannot even decode arrive byte for byte each time."""
    dead = f"{unique_name}-dead"
    channel.queue_declare(unique_name, durable=True, arguments=arguments)
    client.declare(unique_name, dead)
    raw = properties(*(entry(name, encoded) for name, (encoded, _) in EVERY_TYPE.items()), message_id="m")
    channel.basic_publish("", unique_name, b"\x00\xff", RawProperties(raw))

    (first,) = client.receive(unique_name, 1, 10.0)
    assert first.headers["milliseconds"] == MILLISECONDS
    original = [entry(name, encoded) for name, (encoded, _) in EVERY_TYPE.items()]
    kept = [piece for piece in original if piece in table(first)]
    assert len(kept) >= len(original) - 3, "the broker itself writes a few types differently"
    client.reject(first, failure=Failure(Reason.FAILED, attempts=1, source_queue=unique_name))
    (second,) = client.receive(unique_name, 1, 10.0)
    client.reject(second, requeue=False, failure=Failure(Reason.FAILED, attempts=2, source_queue=unique_name))
    (letter,) = client.dead_letters(dead)
    assert client.replay(dead) == 1
    (third,) = client.receive(unique_name, 1, 10.0)

    for delivery in (second, third):
        assert delivery.body == b"\x00\xff"
        assert delivery.headers == first.headers
        assert delivery.message_id == "m"
        assert all(piece in table(delivery) for piece in kept)
    assert letter.headers == first.headers
    assert (second.attempts, third.attempts, dict(third.meta)) == (1, 0, {})


def test_a_letter_without_a_message_id_gets_the_task_id(client: RabbitMQClient, channel: Any, unique_name: str) -> None:
    """A copy can be told from others even if its producer gave no id."""
    client.declare(unique_name, f"{unique_name}-dead")
    channel.basic_publish("", unique_name, b"x")
    (delivery,) = client.receive(unique_name, 1, 10.0)
    client.reject(delivery, requeue=False, failure=Failure(Reason.FAILED, task_id="task-7"))
    _, found, _ = channel.basic_get(f"{unique_name}-dead", auto_ack=True)
    assert found.message_id == "task-7"


def test_a_message_expires_in_no_dead_letter_queue(client: RabbitMQClient, channel: Any, unique_name: str) -> None:
    """An expiration that the producer set ends with the work queue."""
    client.declare(unique_name, f"{unique_name}-dead")
    raw = properties(expiration="2000")
    channel.basic_publish("", unique_name, b"x", RawProperties(raw))
    (delivery,) = client.receive(unique_name, 1, 10.0)
    client.reject(delivery, requeue=False)
    _, found, _ = channel.basic_get(f"{unique_name}-dead")
    assert found.expiration is None
    assert found.headers["x-qbridge-expiration"] == "2000"


def test_a_cc_header_does_not_multiply_the_message(client: RabbitMQClient, channel: Any, unique_name: str) -> None:
    """A copy goes where it is meant to go, and to no other queue that its producer named once."""
    copies = f"{unique_name}-copies"
    client.declare(unique_name, f"{unique_name}-dead")
    client.declare(copies)
    cc = b"A" + struct.pack(">I", 5 + len(copies)) + b"S" + struct.pack(">I", len(copies)) + copies.encode()
    channel.basic_publish("", unique_name, b"x", RawProperties(properties(entry("CC", cc))))
    (delivery,) = client.receive(unique_name, 1, 10.0)
    client.reject(delivery, failure=Failure(Reason.FAILED, attempts=1))
    (again,) = client.receive(unique_name, 1, 10.0)
    assert again.headers == {"CC": [copies]}
    client.reject(again, requeue=False)
    assert client.stats(copies).ready == 1


def test_listing_keeps_the_order_for_ever(client: RabbitMQClient, channel: Any, unique_name: str) -> None:
    """Looking at different numbers of letters again and again, with new ones arriving, reorders nothing."""
    dead = f"{unique_name}-dead"
    client.declare(unique_name, dead)
    bodies: list[bytes] = []
    for n in range(30):
        bodies.append(b"%d" % n)
        client.publish(unique_name, bodies[-1])
        client.reject(client.receive(unique_name, 1, 10.0)[0], requeue=False)
        limit = (n * 7) % 11 + 1
        assert [letter.body for letter in client.dead_letters(dead, limit)] == bodies[:limit]
    more = [b"%d" % n for n in range(30, 120)]
    client.publish_many(dead, [Message(body) for body in more])
    bodies += more
    for limit in (45, 120, 50):
        assert [letter.body for letter in client.dead_letters(dead, limit)] == bodies[:limit]
    assert [delivery.body for delivery in client.receive(dead, 120, 1.0)] == bodies


def test_listing_keeps_the_order_on_a_server_that_counts_failures_only(
    client: RabbitMQClient, unique_name: str
) -> None:
    """A server of 4.3, as this one pretends to be, keeps the order of a queue without a limit for a closed channel."""
    dead = f"{unique_name}-dead"
    client.declare(unique_name, dead)
    bodies = [b"%d" % n for n in range(6)]
    client.publish_many(dead, [Message(body) for body in bodies])
    client._topology.server_version = (4, 3)
    for limit in (3, 6, 2, 6):
        assert [letter.body for letter in client.dead_letters(dead, limit)] == bodies[:limit]


def test_a_listing_gives_everything_back(
    client: RabbitMQClient, make_client: MakeClient, amqp_url: str, unique_name: str
) -> None:
    """After a listing another client can have every letter."""
    dead = f"{unique_name}-dead"
    client.declare(unique_name, dead)
    client.send_many(unique_name, range(5))
    for delivery in client.receive(unique_name, 5, 10.0):
        client.reject(delivery, requeue=False)
    assert len(client.dead_letters(dead)) == 5
    assert len(make_client(amqp_url).receive(dead, 5, 0.0)) == 5


def test_a_long_failure_fits_into_the_headers(client: RabbitMQClient, channel: Any, unique_name: str) -> None:
    """The longest explanation and large headers of a foreign producer together do not end the connection."""
    dead = f"{unique_name}-dead"
    client.declare(unique_name, dead)
    channel.basic_publish("", unique_name, b"x", pika.BasicProperties(headers={"big": "x" * 120_000}))
    (delivery,) = client.receive(unique_name, 1, 10.0)
    failure = Failure(Reason.FAILED, exception_message="ü" * 5_000, traceback="ß" * 50_000, source_queue=unique_name)
    client.reject(delivery, requeue=False, failure=failure)
    (letter,) = client.dead_letters(dead)
    assert (letter.reason, letter.source_queue, len(letter.headers["big"])) == (Reason.FAILED, unique_name, 120_000)
