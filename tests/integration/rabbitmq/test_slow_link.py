"""A broker that is far away: whatever needs a round trip for each message makes progress all the same."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from integration.rabbitmq.conftest import MakeClient
from qbridge_core import Message
from qbridge_rabbitmq import RabbitMQClient
from support.proxy import TCPProxy

LATENCY = 0.03
COUNT = 50  # asking for each of them takes longer than the client waits for a page


@pytest.fixture
def far_client(make_client: MakeClient, amqp_url: str) -> Iterator[RabbitMQClient]:
    """A client with a slow link to the run's broker."""
    with TCPProxy.to(amqp_url) as proxy:
        client = make_client(proxy.through(amqp_url))
        proxy.slow_down(LATENCY)
        yield client
        client.disconnect()


def test_receive_takes_what_comes(client: RabbitMQClient, far_client: RabbitMQClient, unique_name: str) -> None:
    """More messages than can be asked for within the timeout are received by and by, each of them once."""
    client.declare(unique_name)
    client.send_many(unique_name, range(COUNT))
    bodies: list[bytes] = []
    for _ in range(COUNT):
        batch = far_client.receive(unique_name, COUNT, 0.5)
        assert batch, "what was ready did not come"
        for delivery in batch:
            assert not delivery.redelivered, "it was given back and delivered again"
            far_client.ack(delivery)
        bodies += [delivery.body for delivery in batch]
        if len(bodies) == COUNT:
            break
    assert len(set(bodies)) == len(bodies) == COUNT


def test_g12_replay_burns_no_letter(
    client: RabbitMQClient, far_client: RabbitMQClient, channel: Any, unique_name: str
) -> None:
    """Replaying again and again empties somebody else's queue that drops what was delivered too often."""
    dead = f"{unique_name}-dead"
    channel.queue_declare(dead, durable=True, arguments={"x-queue-type": "quorum", "x-delivery-limit": 2})
    client.declare(unique_name, dead)
    client.publish_many(dead, [Message(b"%d" % number) for number in range(COUNT)])
    replayed = 0
    for _ in range(COUNT):
        progress = far_client.replay(dead, target=unique_name)
        replayed += progress
        if replayed >= COUNT:
            break
        assert progress or client.stats(dead).ready == COUNT - replayed, "letters are lost"
    assert (replayed, client.stats(dead).ready, client.stats(unique_name).ready) == (COUNT, 0, COUNT)
