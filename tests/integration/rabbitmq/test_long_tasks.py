"""G11: a task may take long, and one for which the broker would not wait is refused before it starts."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pika
import pytest

from integration.rabbitmq.conftest import MakeClient
from qbridge_core import ConfigurationError, QueueStats, TaskManager, TransientError
from qbridge_rabbitmq import RabbitMQClient
from qbridge_rabbitmq.consume.prefetch import AdaptivePrefetch
from qbridge_rabbitmq.queues.declarations import Declarations
from support.brokers import RabbitMQBroker
from support.wait import wait_for


def run(client: RabbitMQClient, queue: str, **options: Any) -> None:
    """Start a worker and let it do what there is, which is nothing."""
    TaskManager(client, print, queue, f"{queue}-dead", **options).run_until_idle(20.0)


@pytest.fixture
def hurried(private_rabbitmq: RabbitMQBroker) -> Iterator[RabbitMQBroker]:
    """A broker that waits for an acknowledgement for two seconds."""
    with private_rabbitmq.with_settings(consumer_timeout=2000, channel_tick_interval=500):
        yield private_rabbitmq


def declare_as_somebody_else(url: str, queue: str, queue_type: str) -> None:
    """Create a queue for which the broker's timeout counts."""
    with pika.BlockingConnection(pika.URLParameters(url)) as connection:
        connection.channel().queue_declare(queue, durable=True, arguments={"x-queue-type": queue_type})


def test_g11_a_task_timeout_that_the_broker_does_not_bear_is_refused(
    make_client: MakeClient, amqp_url: str, channel: Any, unique_name: str
) -> None:
    """On somebody else's queue the server's timeout counts: the default is assumed unless the client is told more."""
    channel.queue_declare(unique_name, durable=True)
    with pytest.raises(ConfigurationError, match=r"is 1801 s, but after 1800 s .* consumer_timeout \(in ms\)"):
        run(make_client(amqp_url), unique_name, task_timeout=1801)
    run(make_client(amqp_url), unique_name, task_timeout=1800)
    run(make_client(amqp_url, consumer_timeout=7200), unique_name, task_timeout=7200)
    with pytest.raises(ConfigurationError, match="after 60 s"):
        run(make_client(f"{amqp_url}?consumer_timeout=60"), unique_name, task_timeout=61)


def test_g11_a_prefetch_that_lets_long_tasks_wait_is_reported(
    make_client: MakeClient, amqp_url: str, channel: Any, unique_name: str, caplog: pytest.LogCaptureFixture
) -> None:
    """A fixed prefetch is as the user wants it; that messages may wait behind long tasks for too long is logged."""
    channel.queue_declare(unique_name, durable=True)
    client = make_client(amqp_url, prefetch=10)
    run(client, unique_name, task_timeout=600, max_workers=4)
    assert "prefetch" not in caplog.text
    run(client, unique_name, task_timeout=900, max_workers=4)
    assert "a message may wait here for 2 runs of up to 900 s" in caplog.text


def test_g11_a_prefetch_that_follows_the_speed_stays_small_for_long_tasks(
    make_client: MakeClient, amqp_url: str, channel: Any, unique_name: str
) -> None:
    """However quick tasks have been, no more is held than can end in time when all take as long as they may."""
    channel.queue_declare(unique_name, durable=True)
    client = make_client(amqp_url)
    client.declare(unique_name)
    client.check_task_timeout(unique_name, 600.0, 4)
    session = client._broker
    assert session is not None
    assert session.consumers.of(unique_name).most == 12
    client.check_task_timeout(unique_name, 10.0, 4)
    assert session.consumers.of(unique_name).most == 300
    adaptive = AdaptivePrefetch(4, most=12)
    adaptive.look(0, 100.0)
    adaptive.look(100_000, 101.0)
    assert adaptive.prefetch == 12


def test_g11_a_server_that_can_is_asked_to_wait() -> None:
    """From RabbitMQ 3.12 on the queues that QBridge declares lift the limit; an older server is not asked."""
    declarations = Declarations("quorum")
    for version, asked in (((3, 10), False), ((3, 12), True), ((4, 1), True)):
        declarations.connected(version)
        assert all(("x-consumer-timeout" in way) is asked for way in declarations.work_arguments("q", "dead"))


@pytest.mark.faults
@pytest.mark.parametrize("queue_type", ["quorum", "classic"])
def test_g11_g3_a_worker_survives_the_timeout_of_the_broker(
    make_client: MakeClient, hurried: RabbitMQBroker, unique_name: str, queue_type: str
) -> None:
    """The broker closes the channel under a long task again and again: nothing runs twice, and the others go on."""
    declare_as_somebody_else(hurried.url, unique_name, queue_type)
    client = make_client(hurried.url, prefetch=6)
    started: Counter[str] = Counter()
    release = threading.Event()

    def handler(payload: str) -> None:
        started[payload] += 1
        if payload == "long":
            assert release.wait(90.0)

    dead = f"{unique_name}-dead"
    with TaskManager(client, handler, unique_name, dead, max_workers=2, task_timeout=100.0) as manager:
        client.send(unique_name, "long")
        session = client._broker
        assert session is not None
        consumer = session.consumers.of(unique_name)
        for number in range(3):
            channel = wait_for(lambda: consumer.channel, 20.0)
            wait_for(lambda channel=channel: channel.lost, 30.0, "the broker closes the channel")
            client.send(unique_name, f"short-{number}")
            wait_for(lambda number=number: started[f"short-{number}"] == 1, 20.0, "the others go on")
        release.set()

        def empty() -> bool:
            try:
                stats = client.stats(unique_name)
            except TransientError:
                return False
            return stats.ready == stats.in_flight == 0

        wait_for(empty, 30.0, "the queue is empty at the end")
        assert manager.report().succeeded == 4
    assert set(started.values()) == {1}
    assert client.stats(dead).ready == 0


@pytest.mark.faults
@pytest.mark.parametrize("queue_type", ["quorum", "classic"])
def test_g11_the_timeout_of_the_broker_spares_the_queues_of_qbridge(
    make_client: MakeClient, amqp_url: str, hurried: RabbitMQBroker, unique_name: str, queue_type: str
) -> None:
    """From RabbitMQ 3.12 on a message of such a queue may be held for longer than one of another queue."""
    if make_client(amqp_url)._declarations.server_version < (3, 12):
        pytest.skip("older servers have one timeout for all queues")
    foreign = f"{unique_name}-foreign"
    declare_as_somebody_else(hurried.url, foreign, queue_type)
    client = make_client(hurried.url, queue_type=queue_type)
    client.declare(unique_name)
    held = {}
    for queue in (unique_name, foreign):
        client.publish(queue, b"long")
        client.subscribe(queue, 1)
        (held[queue],) = client.receive(queue, 1, 10.0)
    lost = held[foreign].tag.channel
    wait_for(lambda: lost.lost, 60.0, "the broker takes the message of the other queue back")
    assert not held[unique_name].tag.channel.lost
    client.ack(held[unique_name])
    assert client.flush()
    wait_for(lambda: client.stats(unique_name) == QueueStats(0, 0, 0), 10.0, "the message is done")
