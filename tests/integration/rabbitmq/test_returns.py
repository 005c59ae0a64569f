"""Messages that come back often: RabbitMQ 4 drops them after 20 returns, unless that is prevented."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Any

import pika
import pytest

from integration.rabbitmq.conftest import MakeClient
from qbridge_core import Delivery, Message, QueueStats
from qbridge_rabbitmq import RabbitMQClient
from qbridge_rabbitmq.publish.publisher import Batch
from qbridge_rabbitmq.queues.declarations import Declarations
from qbridge_rabbitmq.settle import handbacks
from support.wait import wait_for

RETURNS = 25
QUORUM = {"x-queue-type": "quorum"}


@pytest.fixture(params=["ours", "somebody else's", "somebody else's, limited"])
def queue(request: pytest.FixtureRequest, client: RabbitMQClient, channel: Any, unique_name: str) -> str:
    """A quorum queue with one message."""
    if request.param != "ours":
        limit = {"x-delivery-limit": 20} if request.param.endswith("limited") else {}
        channel.queue_declare(unique_name, durable=True, arguments=QUORUM | limit)
    client.declare(unique_name)
    client.publish(unique_name, b"precious", message_id="m", headers={"h": "1"})
    return unique_name


def take(client: RabbitMQClient, queue: str) -> Delivery:
    """The message; it is there, though it may be on its way back."""
    return wait_for(lambda: client.receive(queue, 1, 1.0), 20.0, "the message is there")[0]


def check(client: RabbitMQClient, queue: str) -> None:
    """The message is the only one, as it was, and not a dead letter."""
    delivery = take(client, queue)
    assert (delivery.body, delivery.message_id, dict(delivery.headers)) == (b"precious", "m", {"h": "1"})
    assert (delivery.attempts, delivery.crashes) == (0, 0)
    client.ack(delivery)
    wait_for(lambda: client.stats(queue) == QueueStats(0, 0, 0), 10.0, "there is no second one")
    assert client.stats(f"{queue}.dead").ready == 0


def test_g8_handing_back_has_no_limit(client: RabbitMQClient, queue: str) -> None:
    """However often a message is handed back, it is neither dropped nor dead-lettered."""
    for _ in range(RETURNS):
        client.reject(take(client, queue), requeue=True)
    check(client, queue)


def test_g2_lost_connections_use_up_no_message(
    client: RabbitMQClient, make_client: MakeClient, amqp_url: str, queue: str
) -> None:
    """However often the connection ends under a message, it is neither dropped nor dead-lettered."""
    for _ in range(RETURNS):
        holder = make_client(amqp_url)
        take(holder, queue)
        holder.disconnect()
    check(client, queue)


def test_g16_what_goes_back_together_waits_for_one_round_of_confirmations(
    client: RabbitMQClient, make_client: MakeClient, amqp_url: str, unique_name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All copies are on their way before the first one is confirmed; one that is not confirmed delays no other."""
    worker = make_client(amqp_url)
    worker.declare(unique_name)
    client.publish_many(unique_name, [Message(b"%d" % number) for number in range(20)])
    worker.subscribe(unique_name, 20)
    held: list[Delivery] = []
    wait_for(lambda: held.extend(worker.receive(unique_name, 20, 0.5)) or len(held) == 20, 20.0, "all are here")
    broker = worker._broker
    assert broker is not None
    submit, finish, steps = broker.publisher.submit, broker.acknowledgements.finish, []

    def publish(batches: Sequence[Batch]) -> None:
        for batch in batches:
            steps.append("copy")
            if steps.count("copy") != 7:  # the broker does not answer to this one
                submit([batch])

    def acknowledge(delivery: Delivery) -> None:
        steps.append("original")
        finish(delivery)

    monkeypatch.setattr(broker.publisher, "submit", publish)
    monkeypatch.setattr(broker.acknowledgements, "finish", acknowledge)
    monkeypatch.setattr("qbridge_rabbitmq.settle.handbacks._TIMEOUT", 1.0)
    worker.hand_back(held)
    assert steps == ["copy"] * 20 + ["original"] * 19
    worker.unsubscribe(unique_name)
    assert worker.flush()
    wait_for(lambda: client.stats(unique_name) == QueueStats(20, 0, 0), 20.0, "all are back, each of them once")


def test_g16_what_goes_back_waits_for_a_slow_confirmation(
    client: RabbitMQClient, make_client: MakeClient, amqp_url: str, unique_name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A broker that takes seconds for a copy is waited for: the message is there once, and no suspect."""
    monkeypatch.setattr(handbacks, "_TIMEOUT", 30.0)  # a machine that is busy besides is not what this is about
    worker = make_client(amqp_url)
    worker.declare(unique_name)
    client.publish_many(unique_name, [Message(b"%d" % number) for number in range(4)])
    worker.subscribe(unique_name, 4)
    held: list[Delivery] = []
    wait_for(lambda: held.extend(worker.receive(unique_name, 1, 0.5)) or len(held) >= 1, 20.0, "one is here")
    broker = worker._broker
    assert broker is not None
    submit, io = broker.publisher.submit, broker.io
    monkeypatch.setattr(
        broker.publisher, "submit", lambda batches: threading.Timer(2.5, io.post, [lambda: submit(batches)]).start()
    )
    worker.unsubscribe(unique_name)  # first, as a stop does: a consumer that ends may be given a copy, and never see it
    worker.hand_back(held)
    assert worker.flush()
    again: list[Delivery] = []
    client.subscribe(unique_name, 10)
    wait_for(lambda: again.extend(client.receive(unique_name, 10, 0.5)) or len(again) >= 4, 20.0, "all are back")
    assert client.receive(unique_name, 10, 0.5) == []
    assert not [delivery for delivery in again if delivery.suspected or delivery.redelivered]


def test_g16_whoever_unsubscribes_too_waits_for_what_goes_back(
    client: RabbitMQClient, make_client: MakeClient, amqp_url: str, unique_name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two threads end the consumer, and one disconnects as soon as it may: each message is there once, no suspect."""
    monkeypatch.setattr(handbacks, "_TIMEOUT", 30.0)
    worker = make_client(amqp_url)
    worker.declare(unique_name)
    client.publish_many(unique_name, [Message(b"%d" % number) for number in range(4)])
    worker.subscribe(unique_name, 4)
    broker = worker._broker
    assert broker is not None
    consumer = broker.consumers.of(unique_name)
    wait_for(lambda: consumer.in_flight == 4, 20.0, "all are here")
    submit, io, slow = broker.publisher.submit, broker.io, threading.Event()

    def submit_later(batches: Sequence[Batch]) -> None:
        slow.set()
        threading.Timer(0.5, io.post, [lambda: submit(batches)]).start()

    monkeypatch.setattr(broker.publisher, "submit", submit_later)
    first = threading.Thread(target=worker.unsubscribe, args=(unique_name,))
    first.start()
    assert slow.wait(20.0)
    worker.unsubscribe(unique_name)
    worker.disconnect()
    first.join()
    again: list[Delivery] = []
    client.subscribe(unique_name, 10)
    wait_for(lambda: again.extend(client.receive(unique_name, 10, 0.5)) or len(again) >= 4, 20.0, "all are back")
    assert client.receive(unique_name, 10, 0.5) == []
    assert not [delivery for delivery in again if delivery.suspected or delivery.redelivered]


@pytest.mark.parametrize("timeout", [0.0, 10.0])
def test_g15_a_receive_brings_what_it_renews(
    make_client: MakeClient, amqp_url: str, queue: str, timeout: float
) -> None:
    """A process that did not declare the queue gets a message that came back often, with its first call."""
    first, second = make_client(amqp_url), make_client(amqp_url)
    for _ in range(2):
        first.reject(take(first, queue), requeue=True)
    assert first.flush()
    wait_for(lambda: first.stats(queue).ready == 1, 20.0, "the broker has it back")
    (delivery,) = second.receive(queue, 1, timeout)
    assert delivery.body == b"precious"
    second.ack(delivery)
    assert second.flush()
    wait_for(lambda: second.stats(queue) == QueueStats(0, 0, 0), 20.0, "there is no second one")


def test_g6_a_message_that_is_renewed_stays_a_suspect(make_client: MakeClient, amqp_url: str, queue: str) -> None:
    """A process that did not declare the queue is told of deaths, though it gets a copy that the broker counts anew."""
    for _ in range(2):
        with pika.BlockingConnection(pika.URLParameters(amqp_url)) as dies:
            holder = dies.channel()
            wait_for(lambda held=holder: held.basic_get(queue)[0], 10.0, "the message is there")
    (delivery,) = make_client(amqp_url).receive(queue, 1, 10.0)
    assert (delivery.redelivered, delivery.suspected, delivery.crashes) == (True, True, 0)


def test_g3_a_task_outlasts_many_lost_connections(
    make_client: MakeClient, amqp_url: str, client: RabbitMQClient, unique_name: str
) -> None:
    """A task that is held while its channel ends again and again is settled in the end, as its handler wants."""
    worker = make_client(amqp_url)
    worker.declare(unique_name)
    client.publish(unique_name, b"long", message_id="m")
    worker.subscribe(unique_name, 1)
    delivery = take(worker, unique_name)
    broker = worker._broker
    assert broker is not None
    for _ in range(RETURNS):
        channel = delivery.tag.channel
        broker.io.post(channel.amqp.close)
        wait_for(_moved(delivery, channel), 20.0, "the delivery is bound to the new channel")
    worker.reject(delivery, requeue=False)
    wait_for(lambda: client.stats(f"{unique_name}.dead").ready == 1, 10.0, "it became a dead letter, once")
    assert client.dead_letters(f"{unique_name}.dead")[0].reason == "rejected"
    assert client.stats(unique_name).ready == 0


def _moved(delivery: Delivery, channel: object) -> Callable[[], bool]:
    return lambda: delivery.tag.channel is not channel


def test_g11_a_queue_from_before_an_upgrade_keeps_its_lifted_timeout(
    make_client: MakeClient, amqp_url: str, client: RabbitMQClient, channel: Any, unique_name: str
) -> None:
    """On RabbitMQ 4 a queue that QBridge declared on a server of 3.12 or later is still known as its own."""
    if client._declarations.server_version < (4,):
        pytest.skip("the queues of older servers are declared in one way only")
    older = Declarations("quorum")
    older.connected((3, 13))
    (arguments,) = older.work_arguments(unique_name, None)
    channel.queue_declare(unique_name, durable=True, arguments=arguments)
    client.declare(unique_name)
    client.check_task_timeout(unique_name, 7_200.0, 1)
