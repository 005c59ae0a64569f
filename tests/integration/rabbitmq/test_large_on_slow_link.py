"""A line on which one message takes seconds: it arrives all the same, and no delivery of it is wasted."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import pytest

from integration.rabbitmq.conftest import MakeClient
from integration.rabbitmq.test_crashes import take, with_suspect
from qbridge_core import BrokerUnavailableError, TransientError
from qbridge_core.contract.names import suspects_queue
from qbridge_rabbitmq import RabbitMQClient
from support.proxy import TCPProxy
from support.wait import wait_for

BYTES_PER_SECOND = 500_000
# Takes longer than a listing waits for a letter that may not come, and longer than a request for a silent broker.
LARGE = b'{"payload": "' + b"x" * 1_700_000 + b'"}'
QUICK = {"reconnect_delay_max": 0.4}  # a lock that is missing for 0.6 s will not come back


@pytest.fixture
def proxy(amqp_url: str) -> Iterator[TCPProxy]:
    """A thin line to the run's broker."""
    with TCPProxy.to(amqp_url) as proxy:
        proxy.throttle(BYTES_PER_SECOND)
        yield proxy


@pytest.fixture
def slow_client(make_client: MakeClient, proxy: TCPProxy, amqp_url: str) -> Iterator[RabbitMQClient]:
    """A client at the end of it."""
    client = make_client(proxy.through(amqp_url), request_timeout=3.0, **QUICK)
    yield client
    client.disconnect()


@pytest.fixture
def letters(channel: Any, client: RabbitMQClient, unique_name: str) -> str:
    """Somebody else's dead-letter queue, which drops what comes back more than twice, with one large letter."""
    dead = f"{unique_name}-dead"
    channel.queue_declare(dead, durable=True, arguments={"x-queue-type": "quorum", "x-delivery-limit": 2})
    client.publish(dead, LARGE)
    return dead


def test_g13_listing_shows_a_large_letter_again_and_again(
    client: RabbitMQClient, slow_client: RabbitMQClient, letters: str
) -> None:
    """However long a letter takes it is listed, and looking at it never uses it up."""
    for _ in range(2):
        assert [letter.body for letter in slow_client.dead_letters(letters)] == [LARGE]
    assert client.stats(letters).ready == 1


def test_g13_letters_that_are_ready_and_do_not_come_are_no_empty_list(
    make_client: MakeClient, proxy: TCPProxy, amqp_url: str, letters: str
) -> None:
    """When the line falls silent in the middle of a letter, that is an error and not the end of the list."""
    mute = make_client(proxy.through(amqp_url), request_timeout=1.0, heartbeat=60)
    session = mute._broker
    assert session is not None

    def silence() -> None:
        before = session.connections.consuming.received
        assert before is not None
        wait_for(
            lambda: (now := session.connections.consuming.received) is None or now[1] > before[1] + 300_000,
            20.0,
            interval=0.01,
        )
        proxy.blackhole()

    thread = threading.Thread(target=silence)
    thread.start()
    with pytest.raises(BrokerUnavailableError):
        mute.dead_letters(letters)
    thread.join()


def test_g12_replay_sends_a_large_letter_back(
    client: RabbitMQClient, slow_client: RabbitMQClient, unique_name: str, letters: str
) -> None:
    """Replaying waits for a letter that takes longer than a request may, and does not say that the broker is away."""
    client.declare(unique_name)
    assert slow_client.replay(letters, target=unique_name) == 1
    assert (client.stats(letters).ready, client.stats(unique_name).ready) == (0, 1)


def test_a_message_that_was_late_comes_with_a_later_receive(
    client: RabbitMQClient, make_client: MakeClient, proxy: TCPProxy, amqp_url: str, unique_name: str
) -> None:
    """A receive that has waited in vain gives nothing back: the next ones hand the same delivery out."""
    client.declare(unique_name)
    client.publish(unique_name, LARGE)
    hasty = make_client(proxy.through(amqp_url), request_timeout=1.0)
    assert hasty.receive(unique_name, 1, 0.0) == []
    (delivery,) = wait_for(lambda: hasty.receive(unique_name, 1, 0.0), 20.0, "it arrives")
    assert (len(delivery.body), delivery.redelivered) == (len(LARGE), False)
    hasty.ack(delivery)
    assert hasty.flush()
    assert client.stats(unique_name).ready == 0


def test_g6_a_large_suspect_runs(
    client: RabbitMQClient, make_client: MakeClient, proxy: TCPProxy, amqp_url: str, unique_name: str
) -> None:
    """A suspect that arrives later than its worker waits for it is run, and charged nothing."""
    side = suspects_queue(unique_name)
    client.declare(unique_name)
    client.declare(side)
    client.publish(side, LARGE)
    slow = make_client(proxy.through(amqp_url), request_timeout=1.0)
    crashes: list[int] = []
    slow.declare(unique_name)
    slow.declare(side)

    def receive() -> bool:
        crashes.extend(delivery.crashes for delivery in slow.receive(side, 1, 0.0))
        return bool(crashes)

    wait_for(receive, 20.0, "the suspect is handed out")
    assert crashes == [0]


@pytest.mark.parametrize("stays", [True, False], ids=["asks again", "disconnects"])
def test_g6_a_suspect_that_was_fetched_and_not_run_is_charged_nothing(
    make_client: MakeClient, proxy: TCPProxy, amqp_url: str, unique_name: str, stays: bool
) -> None:
    """Bytes stand still while a worker fetches a suspect: whoever gets it afterwards, nobody has died of it."""
    other = make_client(amqp_url, **QUICK)
    side = suspects_queue(unique_name)
    client = make_client(proxy.through(amqp_url), heartbeat=60, **QUICK)
    for one in (client, other):
        one.declare(unique_name)
        one.declare(side)
    assert client.receive(side, 1, 0.0) == []  # its channel is open
    with_suspect(other, unique_name)
    proxy.blackhole()
    with pytest.raises(BrokerUnavailableError):
        client.receive(side, 1, 0.0)
    proxy.pass_through()
    if stays:
        delivery = take(client, side)
        assert (delivery.crashes, delivery.redelivered) == (0, False)
    else:
        wait_for(lambda: in_flight(client, side) == 1, 20.0, "it has come meanwhile")
        client.disconnect()
        assert take(other, side).crashes == 0


def in_flight(client: RabbitMQClient, queue: str) -> int:
    """How many messages of the queue the client has; -1 while the broker cannot say."""
    try:
        return client.stats(queue).in_flight
    except TransientError:
        return -1
