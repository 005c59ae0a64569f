"""Publishing: confirmed, or a typed error in bounded time."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import pika
import pytest

from integration.rabbitmq.conftest import MakeClient
from qbridge_core import (
    BrokerBlockedError,
    BrokerUnavailableError,
    ConfigurationError,
    IdleTimeoutError,
    Message,
    MessageTooLargeError,
    PublishUnconfirmedError,
    QueueFullError,
    TaskManager,
    TransientError,
    UnroutableError,
)
from qbridge_rabbitmq import RabbitMQClient
from qbridge_rabbitmq.amqp.connection import AmqpConnection, raw_properties
from qbridge_rabbitmq.publish.publisher import Batch, Publication
from support.brokers import RabbitMQBroker
from support.proxy import TCPProxy
from support.wait import wait_for


def test_messages_are_persistent(client: RabbitMQClient, channel: Any, unique_name: str) -> None:
    """A plain consumer sees delivery mode 2, so that a classic queue keeps the message over a restart."""
    client.declare(unique_name)
    client.publish(unique_name, b"x")
    _, properties, _ = channel.basic_get(unique_name, auto_ack=True)
    assert properties.delivery_mode == 2


def test_only_the_missing_queue_is_blamed(client: RabbitMQClient, unique_name: str) -> None:
    """An unroutable message does not make others fail that are under way at the same time."""
    client.declare(unique_name)
    for _ in range(20):
        with pytest.raises(UnroutableError):
            client.publish_many(f"{unique_name}-missing", [Message(b"%d" % n) for n in range(50)])
        client.publish_many(unique_name, [Message(b"%d" % n) for n in range(50)])
    assert client.stats(unique_name).ready == 1000


def test_a_full_queue_is_an_error(client: RabbitMQClient, channel: Any, unique_name: str) -> None:
    """What a queue with a length limit refuses is not taken for published."""
    channel.queue_declare(unique_name, durable=True, arguments={"x-max-length": 2, "x-overflow": "reject-publish"})
    client.publish_many(unique_name, [Message(b"1"), Message(b"2")])
    with pytest.raises(QueueFullError):
        client.publish(unique_name, b"3")
    assert client.stats(unique_name).ready == 2


def test_a_message_over_the_brokers_limit_is_named_and_the_others_go_on(
    make_client: MakeClient, private_rabbitmq: RabbitMQBroker, unique_name: str
) -> None:
    """The broker closes the channel for a message that is too large; only its sender learns of it."""
    client = make_client(private_rabbitmq.url)
    client.declare(unique_name)
    with private_rabbitmq.with_settings(max_message_size=5_000_000):
        with pytest.raises(MessageTooLargeError, match="5000001"):
            client.publish(unique_name, b"x" * 5_000_001)
        client.publish(unique_name, b"x" * 4_900_000)
        client.publish(unique_name, b"small")
    assert [len(client.receive(unique_name, 1, 5.0)[0].body) for _ in range(2)] == [4_900_000, 5]


def test_headers_that_do_not_fit_into_a_frame_are_an_error(client: RabbitMQClient, unique_name: str) -> None:
    """The broker would close the connection for them, so they are refused before."""
    client.declare(unique_name)
    with pytest.raises(MessageTooLargeError):
        client.publish(unique_name, b"x", headers={"h": "x" * 128_000})
    client.publish(unique_name, b"x", headers={"h": "x" * 90_000})
    assert len(client.receive(unique_name, 1, 5.0)[0].headers["h"]) == 90_000


@pytest.mark.parametrize("name", ["", "x" * 256, 7])
def test_a_name_that_cannot_be_one_is_an_error(client: RabbitMQClient, name: Any) -> None:
    """A queue's name is checked before it could end a channel."""
    with pytest.raises(ConfigurationError):
        client.publish(name, b"x")
    with pytest.raises(ConfigurationError):
        client.declare(name)


@pytest.mark.parametrize("length", [235, 243, 244, 246])
def test_g18_an_input_queue_that_leaves_no_room_for_its_helpers_is_an_error(
    client: RabbitMQClient, unique_name: str, length: int
) -> None:
    """A worker whose side queue or delays would have too long a name does not start, and says how long it may be."""
    manager = TaskManager(client, print, unique_name.ljust(length, "x"), f"{unique_name}-dead")
    with pytest.raises(ConfigurationError, match="input queue at most 234;"):
        manager.run_until_idle(10.0)


def test_g18_the_longest_input_queue_works(client: RabbitMQClient, unique_name: str) -> None:
    """Retries after long delays included."""
    queue = unique_name.ljust(234, "x")
    client.declare(queue)
    client.send(queue, 1)
    client.send(queue, 2, delay=6_000_000.0)
    manager = TaskManager(client, print, queue, f"{unique_name}-dead")
    with pytest.raises(IdleTimeoutError):
        manager.run_until_idle(2.0)
    assert client.stats(queue).delayed == 1


@pytest.mark.parametrize("length", [244, 255])
def test_a_dead_letter_queue_may_have_the_longest_name(client: RabbitMQClient, unique_name: str, length: int) -> None:
    """What has no delays needs no room for them."""
    dead = unique_name.rjust(length, "x")
    client.declare(unique_name, dead)
    client.send(unique_name, 1)
    (delivery,) = client.receive(unique_name, 1, 10.0)
    client.reject(delivery, requeue=False)
    assert client.stats(dead).ready == 1
    assert client.replay(dead, target=unique_name) == 1


def test_g1_a_confirmation_that_does_not_come_is_an_error_in_time(
    make_client: MakeClient, amqp_url: str, unique_name: str
) -> None:
    """When bytes vanish on the way nobody knows whether the message arrived: that is said, at the deadline."""
    with TCPProxy.to(amqp_url) as proxy:
        client = make_client(proxy.through(amqp_url))
        client.declare(unique_name)
        proxy.blackhole()
        start = time.monotonic()
        with pytest.raises(PublishUnconfirmedError):
            client.publish(unique_name, b"x", timeout=0.5)
        assert time.monotonic() - start < 2.0
        proxy.pass_through()
        wait_for(lambda: client.stats(unique_name).ready == 1, 10.0, "the message was under way")


def test_without_a_connection_publishing_fails_at_once(
    make_client: MakeClient, amqp_url: str, unique_name: str
) -> None:
    """While the connection is being rebuilt the sender is told so, and afterwards publishing works again."""
    with TCPProxy.to(amqp_url) as proxy:
        client = make_client(proxy.through(amqp_url))
        client.declare(unique_name)
        proxy.refuse()
        proxy.reset()

        def unavailable() -> bool:
            start = time.monotonic()
            try:
                client.publish(unique_name, b"x")
            except BrokerUnavailableError:
                return time.monotonic() - start < 0.5
            except TransientError:
                pass
            return False

        wait_for(unavailable, 5.0, "the loss is noticed")
        assert client.connected
        proxy.pass_through()

        def published() -> bool:
            try:
                client.publish(unique_name, b"y", timeout=1.0)
            except TransientError:
                return False
            return True

        wait_for(published, 10.0, "publishing works again")


@pytest.mark.faults
def test_a_blocked_connection_refuses_at_once_and_settles_nothing_wrongly(
    make_client: MakeClient, private_rabbitmq: RabbitMQBroker, unique_name: str
) -> None:
    """Under an alarm publish and dead-lettering raise BrokerBlockedError; the delivery stays open until it is over."""
    client = make_client(private_rabbitmq.url)
    client.declare(unique_name, f"{unique_name}-dead")
    client.publish(unique_name, b"bad")
    (delivery,) = client.receive(unique_name, 1, 5.0)

    def blocked() -> bool:
        try:
            client.publish(unique_name, b"x", timeout=0.5)
        except BrokerBlockedError:
            return True
        except TransientError:
            pass
        return False

    with private_rabbitmq.out_of_memory():
        wait_for(blocked, 20.0, "the broker says that it blocks")
        with pytest.raises(BrokerBlockedError):
            client.reject(delivery, requeue=False)

    def published() -> bool:
        try:
            client.publish(unique_name, b"x", timeout=0.5)
        except TransientError:
            return False
        return True

    wait_for(published, 20.0, "the alarm is over")
    client.reject(delivery, requeue=False)
    assert [letter.body for letter in client.dead_letters(f"{unique_name}-dead")] == [b"bad"]


def test_many_messages_keep_their_order_with_very_large_ones_among_them(
    client: RabbitMQClient, unique_name: str
) -> None:
    """A message of several megabytes neither overtakes the small ones before it nor is overtaken by those behind."""
    client.declare(unique_name)
    sizes = [1, 5_000_000, 2, 3, 5_000_001, 4]
    client.publish_many(unique_name, [Message(bytes(size)) for size in sizes])
    client.subscribe(unique_name, len(sizes))
    received: list[int] = []
    while len(received) < len(sizes):
        batch = client.receive(unique_name, len(sizes), 20.0)
        assert batch
        for delivery in batch:
            received.append(len(delivery.body))
            client.ack(delivery)
    assert received == sizes


def test_what_does_not_take_off_is_told_to_its_own_thread_at_once(
    client: RabbitMQClient, unique_name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An error in the middle of what several threads have brought: what is before it goes, the rest has an error."""
    client.declare(unique_name)
    client.publish(unique_name, b"x")
    broker = client._broker
    assert broker is not None
    batches = [
        Batch([Publication(exchange, unique_name, raw_properties(pika.BasicProperties()), b"x")])
        for exchange in ("", "amq.direct", "")  # one with an exchange has a channel of its own
    ]

    def refuse(self: AmqpConnection, *args: object, **kwargs: object) -> None:
        raise RuntimeError("no channel")

    monkeypatch.setattr(AmqpConnection, "channel", refuse)
    broker.io.post(lambda: broker.publisher.submit(batches))
    assert all(batch.wait(5.0) for batch in batches)
    monkeypatch.undo()
    assert [bool(batch.errors) for batch in batches[1:]] == [True, True]
    wait_for(lambda: _is_published(client, unique_name), 20.0, "the client does not go on")
    first = 1 if not batches[0].errors else 0  # the connection may have ended before its confirmation
    wait_for(lambda: _ready(client, unique_name) >= 2 + first, 20.0, "a message is missing")


def test_g1_a_write_that_breaks_half_way_leaves_no_confirmation_to_the_wrong_message(
    client: RabbitMQClient, unique_name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody knows how much the broker has: its sender is told so, and the connection is made anew."""
    client.declare(unique_name)
    write = AmqpConnection._output_marshaled_frames

    def break_down(self: AmqpConnection, parts: Sequence[bytes]) -> None:
        write(self, parts)
        raise MemoryError

    monkeypatch.setattr(AmqpConnection, "_output_marshaled_frames", break_down)
    with pytest.raises(PublishUnconfirmedError):
        client.publish(unique_name, b"doubtful", timeout=5.0)
    monkeypatch.undo()
    wait_for(lambda: _is_published(client, unique_name), 20.0, "the client does not go on")
    with pytest.raises(UnroutableError):
        client.publish(f"{unique_name}-missing", b"x")
    wait_for(lambda: _ready(client, unique_name) >= 1, 20.0, "a message is missing")


def _ready(client: RabbitMQClient, queue: str) -> int:
    try:
        return client.stats(queue).ready
    except TransientError:
        return 0


def _is_published(client: RabbitMQClient, queue: str) -> bool:
    try:
        client.publish(queue, b"after", timeout=5.0)
    except TransientError:
        return False
    return True
