"""Dead letters on RabbitMQ: complete, in order, and sent back as they were."""

from __future__ import annotations

import struct
import time
from typing import Any

import pika
import pytest

from integration.rabbitmq.conftest import MakeClient
from integration.rabbitmq.managed import ManagedRabbitMQ
from integration.rabbitmq.test_headers import EVERY_TYPE, MILLISECONDS, entry, properties
from qbridge_core import AuthenticationError, Failure, Message, QBridgeError, Reason, UnroutableError
from qbridge_rabbitmq import RabbitMQClient
from qbridge_rabbitmq.amqp import headers
from qbridge_rabbitmq.amqp.connection import RawProperties
from support.wait import wait_for


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
    assert (second.attempts, third.attempts, third.meta["x-qbridge-replays"]) == (1, 0, 1)
    assert third.meta.keys() == {"x-qbridge-replays", "x-qbridge-due-at-ms"}


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
    received: list[bytes] = []
    while len(received) < len(bodies) and (some := client.receive(dead, len(bodies) - len(received), 10.0)):
        received += [delivery.body for delivery in some]  # at once is what came in time, which may be fewer
    assert received == bodies


def test_listing_keeps_the_order_on_a_server_that_counts_failures_only(
    client: RabbitMQClient, unique_name: str
) -> None:
    """A server of 4.3, as this one pretends to be, keeps the order of a queue without a limit for a closed channel."""
    dead = f"{unique_name}-dead"
    client.declare(unique_name, dead)
    bodies = [b"%d" % n for n in range(6)]
    client.publish_many(dead, [Message(body) for body in bodies])
    client._declarations.server_version = (4, 3)
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


def bury(client: RabbitMQClient, queue: str, sources: list[str]) -> None:
    """Dead-letter a message for each source queue, numbered in their order."""
    client.publish_many(queue, [Message(b"%d" % n, message_id=f"m{n}") for n in range(len(sources))])
    for source in sources:
        (delivery,) = client.receive(queue, 1, 10.0)
        client.reject(delivery, requeue=False, failure=Failure(Reason.FAILED, attempts=1, source_queue=source))


@pytest.mark.parametrize("kind", ["quorum", "classic"])
@pytest.mark.parametrize("looked", [0, 2, 5], ids=["fresh", "some listed", "all listed"])
def test_g13_a_letter_that_cannot_be_replayed_changes_no_order(
    client: RabbitMQClient, channel: Any, unique_name: str, kind: str, looked: int
) -> None:
    """What is before it goes back, and it and the rest stay as they were, however often the queue was looked at."""
    dead = f"{unique_name}.dead"
    if kind == "classic":
        channel.queue_declare(dead, durable=True)
    client.declare(unique_name, dead)
    bury(client, unique_name, [unique_name, f"{unique_name}.gone", *[unique_name] * 3])
    if looked:
        client.dead_letters(dead, looked)
    for expected in (1, 0):
        with pytest.raises(UnroutableError, match="gone"):
            client.replay(dead)
        assert client.stats(unique_name).ready == 1, expected
        assert [letter.body for letter in client.dead_letters(dead)] == [b"1", b"2", b"3", b"4"]
    assert client.replay(dead, limit=2, target=unique_name) == 2
    assert client.replay(dead) == 2
    assert [one.body for one in client.receive(unique_name, 10, 5.0)] == [b"0", b"1", b"2", b"3", b"4"]


def test_g19_a_letter_with_a_name_that_is_none_stays(client: RabbitMQClient, channel: Any, unique_name: str) -> None:
    """A foreign letter that claims to come from a queue with an impossible name is an error, and ends no channel."""
    dead = f"{unique_name}.dead"
    client.declare(unique_name, dead)
    channel.basic_publish("", dead, b"x", pika.BasicProperties(headers={"x-qbridge-source-queue": "q" * 300}))
    wait_for(lambda: client.stats(dead).ready == 1, 10.0)
    with pytest.raises(QBridgeError, match="longer than 255"):
        client.replay(dead)
    assert client.replay(dead, target=unique_name) == 1


def test_g12_a_letter_of_the_broker_says_why(client: RabbitMQClient, channel: Any, unique_name: str) -> None:
    """What the broker itself dead-letters is explained by what it wrote: the reason in words, the queue, the time."""
    dead = f"{unique_name}.dead"
    client.declare(unique_name, dead)
    causes = {
        "limited": {"x-queue-type": "quorum", "x-delivery-limit": 0},
        "expiring": {"x-message-ttl": 1},
        "full": {"x-max-length": 1},
        "plain": {},
    }
    for name, arguments in causes.items():
        route = {"x-dead-letter-exchange": "", "x-dead-letter-routing-key": dead}
        channel.queue_declare(f"{unique_name}.{name}", durable=True, arguments=arguments | route)
        client.publish(f"{unique_name}.{name}", name.encode())
    client.publish(f"{unique_name}.full", b"second")
    for name in ("limited", "plain"):
        method, _, _ = channel.basic_get(f"{unique_name}.{name}")
        channel.basic_reject(method.delivery_tag, requeue=name == "limited")
    wait_for(lambda: client.stats(dead).ready >= 4 or channel.basic_get(f"{unique_name}.limited")[0], 20.0)
    wait_for(lambda: client.stats(dead).ready == 4, 20.0, "all four arrive")
    letters = {letter.body.decode(): letter for letter in client.dead_letters(dead)}
    words = {
        "limited": "delivery-limit", "expiring": "time to live", "full": "length limit", "plain": "rejected it",
    }  # fmt: skip
    for name, word in words.items():
        letter = letters[name]
        assert word in letter.exception_message
        assert f"'{unique_name}.{name}'" in letter.exception_message
        assert (letter.reason, letter.source_queue) == (Reason.REJECTED, f"{unique_name}.{name}")
        assert letter.last_failed_at is not None
        assert abs(letter.last_failed_at - time.time()) < 60


def test_g12_a_dead_letter_queue_refuses_rather_than_drops(
    client: RabbitMQClient, channel: Any, unique_name: str
) -> None:
    """Ours are declared so that a length limit refuses; one of an older release is used as it is."""
    new, old = f"{unique_name}.new", f"{unique_name}.old"
    limit = {"x-delivery-limit": -1} if client._declarations.server_version >= (4,) else {}
    channel.queue_declare(old, durable=True, arguments={"x-queue-type": "quorum"} | limit)
    for dead in (new, old):
        client.declare(unique_name, dead)
        assert client._declarations.is_unlimited(dead)
    expected = {"x-queue-type": "quorum", "x-overflow": "reject-publish"} | limit
    channel.queue_declare(new, durable=True, arguments=expected)  # others would be refused


def test_letters_that_the_user_may_not_read_are_an_error(
    managed: ManagedRabbitMQ, make_client: MakeClient, unique_name: str
) -> None:
    """Listing, replaying and deleting them says which right is missing, and not that there are none."""
    dead = f"{unique_name}-dead"
    owner = make_client(managed.url)
    owner.declare(unique_name, dead)
    owner.publish(dead, b"a letter")
    client = make_client(managed.add_user(unique_name, configure=".*", write=".*", read=f"^{unique_name}$"))
    began = time.monotonic()
    for look in (client.dead_letters, client.replay, client.delete_letters):
        with pytest.raises(AuthenticationError, match=f"read on queue '{dead}'"):
            look(dead, **({"letters": ["1-1"]} if look == client.delete_letters else {}))
    assert time.monotonic() - began < 10.0
    assert len(owner.dead_letters(dead)) == 1
