"""Consuming and settling: the right message, once, from any thread, on the channel that delivered it."""

from __future__ import annotations

import contextlib
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from integration.rabbitmq.conftest import MakeClient
from qbridge_core import (
    BrokerUnavailableError,
    Delivery,
    DeliveryLostError,
    Failure,
    Message,
    NotConnectedError,
    QueueMismatchError,
    Reason,
)
from qbridge_rabbitmq import RabbitMQClient
from support.proxy import TCPProxy
from support.wait import wait_for


def drain(client: RabbitMQClient, queue: str, count: int, timeout: float = 10.0) -> list[Delivery]:
    """Receive this many messages."""
    received: list[Delivery] = []
    deadline = time.monotonic() + timeout
    while len(received) < count and time.monotonic() < deadline:
        with contextlib.suppress(BrokerUnavailableError):  # it is connected again later
            received += client.receive(queue, count - len(received), 0.5)
    assert len(received) == count
    return received


def test_threads_that_wait_for_the_broker_at_the_same_time_all_have_their_answer(
    client: RabbitMQClient, unique_name: str
) -> None:
    """A round trip that is asked for during another one is made too, also when it is the last."""
    client.declare(unique_name)
    client.subscribe(unique_name, 1)
    with ThreadPoolExecutor(4) as pool:
        flushed = list(pool.map(lambda _: client.flush(10.0), range(40)))
    assert all(flushed)


def test_concurrent_acks_in_any_order_settle_exactly_their_messages(
    make_client: MakeClient, client: RabbitMQClient, amqp_url: str, unique_name: str
) -> None:
    """Many threads acknowledge two of three messages in wild order; the third ones come back, and no other."""
    client.declare(unique_name)
    client.send_many(unique_name, range(3000))
    client.subscribe(unique_name, 300)
    kept: set[bytes] = set()
    lock = threading.Lock()
    turn = threading.Semaphore(1)
    seen = Counter[bytes]()

    def work(number: int) -> None:
        while True:
            with turn:
                batch = client.receive(unique_name, 7, 0.3)
            if not batch:
                return
            for position, delivery in enumerate(reversed(batch)):
                with lock:
                    seen[delivery.body] += 1
                    keep = len(kept) < 100 and (position + number) % 3 == 0
                    if keep:
                        kept.add(delivery.body)
                if not keep:
                    client.ack(delivery)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(seen) == 3000
    assert client.flush()
    client.disconnect()
    back = {delivery.body for delivery in drain(make_client(amqp_url), unique_name, len(kept))}
    assert back == kept


def test_a_later_subscription_with_a_smaller_prefetch_leaves_the_rest_to_others(
    client: RabbitMQClient, make_client: MakeClient, amqp_url: str, unique_name: str
) -> None:
    """What is held beyond it goes back, also when the first one has begun to consume."""
    client.declare(unique_name)
    client.subscribe(unique_name, 12)
    client.send_many(unique_name, range(20))
    wait_for(lambda: client.stats(unique_name).in_flight == 12, 10.0, "it reads ahead")
    client.subscribe(unique_name, 3)
    assert len(drain(make_client(amqp_url), unique_name, 17)) == 17


def test_a_delivery_of_a_lost_connection_never_settles_another(
    make_client: MakeClient, amqp_url: str, unique_name: str
) -> None:
    """After a reconnect an old tag is not used on the new channel; without a message id the delivery is lost."""
    with TCPProxy.to(amqp_url) as proxy:
        client = make_client(proxy.through(amqp_url))
        client.declare(unique_name)
        client.publish_many(unique_name, [Message(b"1"), Message(b"2")])
        client.subscribe(unique_name, 10)
        old = drain(client, unique_name, 2)
        proxy.reset()
        new = drain(client, unique_name, 2)
        for settle in (client.ack, client.reject, lambda d: client.reject(d, requeue=False)):
            for delivery in old:
                with pytest.raises(DeliveryLostError):
                    settle(delivery)
        assert client.flush()
        assert client.stats(unique_name).in_flight == 2
        assert all(delivery.redelivered for delivery in new)
        for delivery in new:
            client.ack(delivery)
        assert client.flush()
        assert client.stats(unique_name).ready == client.stats(unique_name).in_flight == 0


def test_a_subscribed_client_survives_many_resets(make_client: MakeClient, amqp_url: str, unique_name: str) -> None:
    """With the connection reset again and again every message still arrives."""
    with TCPProxy.to(amqp_url) as proxy:
        client = make_client(proxy.through(amqp_url), reconnect_delay_max=0.3)
        client.declare(unique_name)
        client.send_many(unique_name, range(200))
        client.subscribe(unique_name, 10)
        seen: set[bytes] = set()
        deadline = time.monotonic() + 40.0
        resets = 0
        while len(seen) < 200 and time.monotonic() < deadline:
            for delivery in client.receive(unique_name, 5, 5.0):
                try:
                    client.ack(delivery)
                except DeliveryLostError:
                    continue
                seen.add(delivery.body)
            if len(seen) > 30 * (resets + 1):
                resets += 1
                proxy.reset()
        assert len(seen) == 200
        assert resets >= 4


def test_a_hand_back_burns_no_attempt_and_no_dead_letter(
    make_client: MakeClient, client: RabbitMQClient, amqp_url: str, unique_name: str
) -> None:
    """What a consumer had read ahead goes back as it was, again and again."""
    client.declare(unique_name, f"{unique_name}-dead")
    client.send_many(unique_name, range(20))
    for _ in range(5):
        client.subscribe(unique_name, 20)
        mine = drain(client, unique_name, 1)[0]
        client.unsubscribe(unique_name)
        client.reject(mine)
    other = make_client(amqp_url)
    back = drain(other, unique_name, 20)
    assert {(delivery.attempts, delivery.crashes, dict(delivery.meta) == {}) for delivery in back} == {(0, 0, True)}
    assert client.stats(f"{unique_name}-dead").ready == 0


def test_a_second_subscription_follows_the_first(client: RabbitMQClient, unique_name: str) -> None:
    """Unsubscribing and subscribing at once leaves one consumer that works."""
    client.declare(unique_name)
    for n in range(10):
        client.subscribe(unique_name, 5)
        client.unsubscribe(unique_name)
        client.subscribe(unique_name, 5)
        client.send(unique_name, n)
        client.ack(drain(client, unique_name, 1)[0])
        client.unsubscribe(unique_name)
    assert client.flush()
    stats = client.stats(unique_name)
    assert (stats.ready, stats.in_flight) == (0, 0)


def test_g4_a_prefetch_option_limits_what_is_held(
    client: RabbitMQClient, make_client: MakeClient, amqp_url: str, unique_name: str
) -> None:
    """With ``prefetch=3`` the broker never gives out more, whatever ``subscribe`` asks for."""
    client.declare(unique_name)
    client.send_many(unique_name, range(10))
    limited = make_client(f"{amqp_url}?prefetch=3")
    limited.subscribe(unique_name, 100)
    wait_for(lambda: limited.stats(unique_name).in_flight == 3, 5.0)
    assert client.stats(unique_name).ready == 7


def test_an_exclusive_queue_of_somebody_else_is_refused(client: RabbitMQClient, channel: Any, unique_name: str) -> None:
    """A queue that belongs to another connection cannot serve: declaring it says so."""
    channel.queue_declare(unique_name, exclusive=True)
    with pytest.raises(QueueMismatchError):
        client.declare(unique_name)


def test_a_queue_deleted_under_a_held_delivery_loses_no_failure(
    client: RabbitMQClient, channel: Any, unique_name: str
) -> None:
    """A task that fails after its queue was deleted is retried in a new one; its dead letter is kept as well."""
    client.declare(unique_name, f"{unique_name}-dead")
    client.send_many(unique_name, range(2))
    client.subscribe(unique_name, 2)
    retried, buried = drain(client, unique_name, 2)
    channel.queue_delete(unique_name)
    client.reject(retried, failure=Failure(Reason.FAILED, attempts=1, source_queue=unique_name))
    client.reject(buried, requeue=False)
    assert drain(client, unique_name, 1)[0].attempts == 1
    assert client.dead_letters(f"{unique_name}-dead")[0].body == buried.body


def test_receiving_wakes_within_milliseconds(client: RabbitMQClient, unique_name: str) -> None:
    """A subscribed receive that waits gets a message without a polling pause."""
    client.declare(unique_name)
    client.subscribe(unique_name, 1)
    waits = []
    for n in range(20):
        arrived: list[float] = []

        def take(arrived: list[float] = arrived) -> None:
            (delivery,) = client.receive(unique_name, 1, 10.0)
            arrived.append(time.monotonic())
            client.ack(delivery)

        thread = threading.Thread(target=take)
        thread.start()
        client.send(unique_name, n)
        sent = time.monotonic()
        thread.join()
        waits.append(arrived[0] - sent)
    assert sorted(waits)[10] < 0.02


def test_disconnect_wakes_a_subscribed_receive(client: RabbitMQClient, unique_name: str) -> None:
    """A receive that blocks on a consumer ends at once when the client is disconnected."""
    client.declare(unique_name)
    client.subscribe(unique_name, 1)
    ended: list[float] = []

    def wait() -> None:
        try:
            client.receive(unique_name, 1, 60.0)
        except NotConnectedError:
            ended.append(time.monotonic())

    thread = threading.Thread(target=wait)
    thread.start()
    wait_for(lambda: client._broker is not None and client._broker.consumers.existing(unique_name), 5.0)
    start = time.monotonic()
    client.disconnect()
    thread.join(5.0)
    assert ended
    assert ended[0] - start < 1.0
