"""The prefetch follows the speed of the tasks."""

from __future__ import annotations

import threading
import time
from types import SimpleNamespace
from typing import cast

import pytest
from pika.channel import Channel

from integration.rabbitmq.conftest import MakeClient
from qbridge_core import Message
from qbridge_core.work.readahead import ReadAhead
from qbridge_rabbitmq import RabbitMQClient
from qbridge_rabbitmq.amqp.connection import AmqpConnection
from qbridge_rabbitmq.connection.io_thread import IOThread
from qbridge_rabbitmq.consume import getting
from qbridge_rabbitmq.consume.consumer import Consumer
from qbridge_rabbitmq.consume.consumer_tags import ConsumerTags
from qbridge_rabbitmq.consume.prefetch import AdaptivePrefetch
from qbridge_rabbitmq.consume.queue_check import Restore
from qbridge_rabbitmq.consume.states import State
from qbridge_rabbitmq.state.in_flight import DeliveryChannel
from support.wait import wait_for


def settle(
    adaptive: AdaptivePrefetch, rate: float, seconds: float, start: tuple[int, float] = (0, 100.0)
) -> tuple[int, float]:
    """Let messages be settled at a rate for some time, looked at twice a second."""
    settled, now = start
    for _ in range(int(seconds * 2)):
        now += 0.5
        settled += int(rate / 2)
        adaptive.look(settled, now)
    return settled, now


def test_quick_tasks_raise_it_to_a_quarter_of_a_second_of_work() -> None:
    """At 400 messages a second 100 are held, and never more than 300."""
    adaptive = AdaptivePrefetch(10)
    state = settle(adaptive, 400, 3)
    assert adaptive.prefetch == 100
    settle(adaptive, 100_000, 3, state)
    assert adaptive.prefetch == 300


def test_quick_tasks_raise_it_at_once() -> None:
    """A worker with quick tasks waits for the broker no longer than it takes to see that they are quick."""
    adaptive = AdaptivePrefetch(10)
    adaptive.hurry(0, 100.0)
    adaptive.hurry(25, 100.01)
    assert adaptive.prefetch == 10, "too soon to tell"
    adaptive.hurry(50, 100.03)
    assert adaptive.prefetch == 300


def test_long_tasks_that_end_together_raise_nothing() -> None:
    """Ten tasks of half a second that end in one moment are no quick tasks."""
    adaptive = AdaptivePrefetch(10)
    adaptive.hurry(0, 100.0)
    for done, now in ((10, 100.03), (20, 100.46), (30, 100.5)):
        adaptive.hurry(done, now)
    assert adaptive.prefetch == 10


def test_slow_tasks_and_silence_bring_it_back() -> None:
    """When the rate falls, no more is held than the workers want at once."""
    adaptive = AdaptivePrefetch(10)
    state = settle(adaptive, 10_000, 3)
    settle(adaptive, 5, 3, state)
    assert adaptive.prefetch == 10


def test_small_changes_are_left_alone() -> None:
    """A rate that moves a little does not renew the consumer each time."""
    adaptive = AdaptivePrefetch(10)
    state = settle(adaptive, 400, 3)
    for rate in (300, 500, 350, 700):
        state = settle(adaptive, rate, 2, state)
        assert adaptive.prefetch == 100


def test_no_consumer_is_retired_while_messages_are_on_their_way() -> None:
    """The broker would deliver them again: all that may be held is here before, or the queue is empty."""
    consumer = Consumer("q", cast(IOThread, None), cast(Restore, None))
    channel = DeliveryChannel(cast(AmqpConnection, None), cast(Channel, SimpleNamespace(is_open=True)), "q")
    held: list[int] = []
    consumer.subscribe(10, fixed=False)
    consumer.state = State.CONSUMING
    consumer.channel, consumer._tags = (
        channel,
        cast(ConsumerTags, SimpleNamespace(held=300, ready=True, hold=held.append)),
    )
    assert consumer.adapt(), "nothing was settled, so little should be held; the queue is asked for its count"
    consumer.drained(5)
    assert held == []
    consumer.drained(0)
    assert held == [10]
    channel.unsettled.update(dict.fromkeys(range(300)))
    assert not consumer.adapt()
    assert held == [10, 10]


def test_a_change_under_load_loses_and_repeats_nothing(client: RabbitMQClient, unique_name: str) -> None:
    """While more and more is held every message comes once, and none comes back."""
    client.declare(unique_name)
    client.send_many(unique_name, range(8_000))
    client.subscribe(unique_name, 2)
    bodies = []
    highest = 0
    deadline = time.monotonic() + 30.0
    while len(bodies) < 8_000 and time.monotonic() < deadline:
        for delivery in client.receive(unique_name, 2, 5.0):
            assert not delivery.redelivered
            bodies.append(delivery.body)
            client.ack(delivery)
        if len(bodies) % 500 == 0:
            highest = max(highest, client.stats(unique_name).in_flight)
    assert len(set(bodies)) == len(bodies) == 8_000
    assert highest > 10
    assert client.flush()
    stats = client.stats(unique_name)
    assert (stats.ready, stats.in_flight) == (0, 0)

    def holds_little() -> bool:
        client.send_many(unique_name, range(8))
        held = wait_for(lambda: client.stats(unique_name).in_flight, 5.0)
        for delivery in client.receive(unique_name, 8, 1.0):
            client.ack(delivery)
        return held <= 4

    wait_for(holds_little, 20.0, "the prefetch of slow tasks is small again", interval=1.0)


def test_g2_a_consumer_that_starts_while_all_are_ended_keeps_nothing(client: RabbitMQClient, unique_name: str) -> None:
    """When more is to be held in the moment in which the worker stops, no consumer stays and no message is stranded."""
    client.declare(unique_name)
    client.send_many(unique_name, range(500))
    client.subscribe(unique_name, 2)
    broker = client._broker
    assert broker is not None
    consumer = broker.consumers.of(unique_name)
    wait_for(lambda: consumer.in_flight == 2, 10.0)
    ended = threading.Event()

    def hold_and_end() -> None:
        tags = consumer._tags
        assert tags is not None
        tags.hold(200)
        consumer.unsubscribe(ended.set)

    broker.io.post(hold_and_end)
    assert ended.wait(10.0)
    client.unsubscribe(unique_name)
    look = broker._declarations.look_at
    wait_for(lambda: broker.requests.call("queue", look(unique_name))[1] == 0, 20.0, "the broker has no consumer left")
    assert not broker.connections.consuming.connection.sinks  # type: ignore[union-attr]
    bodies: set[bytes] = set()
    while batch := client.receive(unique_name, 100, 2.0):
        for delivery in batch:
            bodies.add(delivery.body)
            client.ack(delivery)
    assert len(bodies) == 500


def test_g4_what_is_read_ahead_follows_the_size_of_the_messages() -> None:
    """Quick tasks with large messages: no more than some megabytes are held beyond one message for each worker."""
    adaptive, ahead = AdaptivePrefetch(10), ReadAhead(10)
    for at in range(1, 20):
        adaptive.look(at * 1_000, at * 0.5, 20 * 1024 * 1024)
        ahead.seen(20 * 1024 * 1024)
        assert ahead.more(at * 1_000, at * 0.5) <= 3
    assert adaptive.prefetch == 10
    for at in range(20, 40):
        adaptive.look(at * 1_000, at * 0.5, 1_000)
    assert adaptive.prefetch == 300
    adaptive.look(40_000, 20.0, 2 * 1024 * 1024)
    assert adaptive.prefetch == 32, "they have become large"


def test_g4_a_page_of_large_messages_is_short(
    make_client: MakeClient, amqp_url: str, unique_name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is asked for message by message ends when it is large enough together; the rest stays in the queue."""
    monkeypatch.setattr(getting, "PREFETCH_BYTES", 1_000_000)
    client = make_client(amqp_url)
    client.declare(unique_name)
    client.publish_many(unique_name, [Message(bytes(400_000)) for _ in range(6)])
    assert len(client.receive(unique_name, 6, 10.0)) == 3
    assert len(client.receive(unique_name, 6, 10.0)) == 3
