"""What RabbitMQ tells of queues, by AMQP alone and with its management API."""

from __future__ import annotations

import logging
import time
from typing import Any

import pika
import pytest

from integration.rabbitmq.conftest import MakeClient
from integration.rabbitmq.managed import ManagedRabbitMQ
from qbridge_core import BrokerUnavailableError, Message, QueueStats
from qbridge_core.runtime.logs import flush
from qbridge_rabbitmq import RabbitMQClient
from qbridge_rabbitmq.queues import comparison, declarations, describing
from qbridge_rabbitmq.queues.requests import Step
from support.brokers import free_port
from support.wait import wait_for

SECRET = "s3cret-pass"


@pytest.fixture
def client(make_client: MakeClient, managed: ManagedRabbitMQ) -> RabbitMQClient:
    """A client that may ask the management API."""
    return make_client(managed.url_for(), management_url=managed.management_url)


@pytest.fixture
def other(make_client: MakeClient, managed: ManagedRabbitMQ) -> RabbitMQClient:
    """A client of the same broker that may not."""
    return make_client(managed.url_for())


def test_rates_are_told_by_the_management_api_alone(
    client: RabbitMQClient, other: RabbitMQClient, unique_name: str
) -> None:
    """The flags say so, a quiet queue has rates of zero, and what came and went in the last seconds is measured."""
    assert client.capabilities.details - other.capabilities.details == {"in_rate", "out_rate", "unsettled"}
    client.declare(unique_name)
    quiet = client.describe(unique_name)
    assert (quiet.in_rate, quiet.out_rate, quiet.oldest_age, quiet.dead) == (0.0, 0.0, 0.0, 0)

    def both_are_told() -> bool:
        client.publish_many(unique_name, [Message(b"x")] * 20)
        for delivery in client.receive(unique_name, 10, 1.0):
            client.ack(delivery)
        told = client.describe(unique_name)
        return (told.in_rate or 0.0) > (told.out_rate or 0.0) > 0.0

    wait_for(both_are_told, 30.0, "twice as much comes as goes", interval=0.2)
    plain = other.describe(unique_name)
    assert (plain.in_rate, plain.out_rate, plain.oldest_age) == (None, None, None)


def test_what_all_clients_hold_is_told_by_the_management_api_alone(
    client: RabbitMQClient, other: RabbitMQClient, unique_name: str
) -> None:
    """It counts what others hold, too, some seconds later; AMQP tells nobody."""
    client.declare(unique_name)
    client.publish_many(unique_name, [Message(b"x")] * 3)
    (held,) = other.receive(unique_name, 1, 10.0)
    wait_for(lambda: client.describe(unique_name).unsettled == 1, 30.0, "it is told", interval=0.2)
    assert (client.describe(unique_name).in_flight, other.describe(unique_name).unsettled) == (0, None)
    other.ack(held)


def test_all_queues_of_the_virtual_host_are_listed(
    client: RabbitMQClient, other: RabbitMQClient, unique_name: str, managed: ManagedRabbitMQ
) -> None:
    """Those of others with their dead-letter queues; no delays, side queues, locks or streams; names as they are."""
    mine, theirs, odd = f"{unique_name}-mine", f"{unique_name}-theirs", f"{unique_name}-für/alle &c?"
    client.declare(mine, f"{mine}-failed")
    other.declare(theirs, f"{theirs}-failed")
    other.declare(f"{theirs}.suspects")
    other.declare(odd)
    other.publish(theirs, b"x", delay=3600)
    with pika.BlockingConnection(pika.URLParameters(managed.url_for())) as connection:
        channel = connection.channel()
        channel.queue_declare(f"{unique_name}-foreign", durable=True)
        channel.queue_declare(f"{unique_name}-locked", exclusive=True)
        channel.queue_declare(f"{unique_name}-stream", durable=True, arguments={"x-queue-type": "stream"})
        listed = {name: dead for name, dead in client.queues().items() if name.startswith(unique_name)}
    assert listed == {
        mine: f"{mine}-failed",
        f"{mine}-failed": None,
        theirs: f"{theirs}-failed",
        f"{theirs}-failed": None,
        odd: f"{odd}.dead",
        f"{unique_name}-foreign": None,
    }
    assert other.queues() == {theirs: f"{theirs}-failed", f"{theirs}-failed": None, odd: None}
    assert client.describe(odd).ready == 0


def test_the_dead_letter_queue_that_others_have_declared_is_found(
    client: RabbitMQClient, other: RabbitMQClient, unique_name: str
) -> None:
    """The queue's own arguments name it; without the API nobody knows it."""
    other.declare(unique_name, f"{unique_name}-failed")
    other.publish(f"{unique_name}-failed", b"letter")
    assert client.describe(unique_name).dead == 1
    assert other.describe(unique_name).dead == 1


def test_letters_in_a_queue_of_the_usual_name_are_found_without_asking_each_time(
    make_client: MakeClient, amqp_url: str, unique_name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where it is missing nobody knows which one it is; it is looked for again after a while, one's own at once."""
    worker, looking = make_client(amqp_url), make_client(amqp_url)
    worker.declare(unique_name)
    assert (worker.describe(unique_name).dead, looking.describe(unique_name).dead) == (0, None)
    worker.publish(unique_name, b"x")
    (delivery,) = worker.receive(unique_name, 1, 10.0)
    worker.reject(delivery, requeue=False)
    assert (worker.describe(unique_name).dead, looking.describe(unique_name).dead) == (1, None)
    monkeypatch.setattr(describing, "monotonic", lambda: time.monotonic() + 11.0)
    assert looking.describe(unique_name).dead == 1


def test_who_only_counts_does_not_ask_for_letters(
    make_client: MakeClient, amqp_url: str, unique_name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """``stats`` asks for one queue more than ``count``, that of the letters; neither asks the management API."""
    client = make_client(amqp_url, management_url=f"http://127.0.0.1:{free_port()}")
    client.declare(unique_name, f"{unique_name}-failed")
    asked: list[str] = []

    def passive_queue(queue: str) -> Step:
        asked.append(queue)
        return comparison.passive_queue(queue)

    for module in (describing, declarations):
        monkeypatch.setattr(module, "passive_queue", passive_queue)
    client.count(unique_name)  # finds out that there are no delays
    asked.clear()
    assert client.count(unique_name) == QueueStats(0, 0, 0)
    assert asked == [unique_name]
    assert client.stats(unique_name).dead == 0
    assert asked == [unique_name, unique_name, f"{unique_name}-failed"]


@pytest.mark.parametrize("unit", [1, 1000])
def test_a_timestamp_of_the_first_message_tells_its_age(
    client: RabbitMQClient, managed: ManagedRabbitMQ, unique_name: str, unit: int
) -> None:
    """Of a classic queue, when its producer has set one, in seconds or, as some do, in milliseconds."""
    with pika.BlockingConnection(pika.URLParameters(managed.url_for())) as connection:
        channel = connection.channel()
        channel.queue_declare(unique_name, durable=True)
        sent = pika.BasicProperties(timestamp=(int(time.time()) - 1000) * unit, delivery_mode=2)
        channel.basic_publish("", unique_name, b"{}", sent)
        wait_for(lambda: 999 < (client.describe(unique_name).oldest_age or 0) < 1100, 30.0, "it is told", interval=0.2)


@pytest.mark.parametrize("how", ["nobody", "refused"])
def test_without_an_answer_of_the_management_api_amqp_tells_what_it_can(
    make_client: MakeClient,
    managed: ManagedRabbitMQ,
    unique_name: str,
    caplog: pytest.LogCaptureFixture,
    how: str,
) -> None:
    """One warning, no waiting again and again; the list of queues is an error, since it would not be complete."""
    places = {
        "nobody": f"http://127.0.0.1:{free_port()}",
        "refused": managed.management_url.replace("http://", f"http://guest:{SECRET}@"),
    }
    client = make_client(managed.url_for(), management_url=places[how])
    client.declare(unique_name)
    for _ in range(3):
        described = client.describe(unique_name)
        assert (described.dead, described.consumers, described.in_rate, described.unsettled) == (0, 0, None, None)
    flush()
    told = [record.message for record in caplog.records if "tells nothing of queues" in record.message]
    assert len(told) == 1, caplog.text
    with pytest.raises(BrokerUnavailableError, match="the queues cannot be listed: the management API") as caught:
        client.queues()
    assert SECRET not in caplog.text + str(caught.value)
    assert all(record.levelno <= logging.WARNING for record in caplog.records)


def test_a_description_takes_no_message(client: RabbitMQClient, unique_name: str, managed: ManagedRabbitMQ) -> None:
    """What was described as often as one likes has not been delivered before."""
    client.declare(unique_name)
    client.publish(unique_name, b"x")
    descriptions = [client.describe(unique_name) for _ in range(5)]
    assert {one.ready for one in descriptions} == {1}
    (delivery,) = client.receive(unique_name, 1, 10.0)
    assert (delivery.redelivered, delivery.suspected) == (False, False)
    rows: list[dict[str, Any]] = managed.api("GET", "queues")
    assert unique_name in {row["name"] for row in rows}
