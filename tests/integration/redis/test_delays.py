"""Delayed messages: held by the server, never early, hardly late."""

from __future__ import annotations

import random
import time

from integration.redis.helpers import Cli, MakeClient, failure, take
from qbridge_redis import RedisClient
from support.brokers import RedisBroker


def test_delayed_messages_are_never_early_and_hardly_late(
    make_client: MakeClient, client: RedisClient, queue: str
) -> None:
    """Thirty messages with random delays, published by one client and received by another."""
    other = make_client()
    due: dict[bytes, tuple[float, float]] = {}  # at the earliest and at the latest: publishing takes time
    for number in range(30):
        delay, body = random.uniform(0.05, 1.5), b"%d" % number
        begin = time.monotonic()
        other.publish(queue, body, delay=delay)
        due[body] = begin + delay, time.monotonic() + delay
    while due:
        for delivery in client.receive(queue, 1, 5.0):
            earliest, latest = due.pop(delivery.body)
            assert earliest - 0.01 < time.monotonic() < latest + 0.6
            client.ack(delivery)


def test_a_delayed_retry_waits_and_counts(client: RedisClient, cli: Cli, queue: str) -> None:
    """It is in the sorted set meanwhile, and neither ready nor in flight."""
    client.publish(queue, b"x", headers={"h": "1"}, message_id="m")
    begin = time.monotonic()
    client.reject(take(client, queue), failure=failure(queue, attempts=2), delay=0.4)
    assert cli("ZCARD", f"{queue}:delayed") == 1
    stats = client.stats(queue)
    assert (stats.ready, stats.in_flight, stats.delayed) == (0, 0, 1)
    delivery = take(client, queue)
    assert time.monotonic() - begin >= 0.4
    assert (delivery.body, delivery.headers, delivery.message_id, delivery.attempts) == (b"x", {"h": "1"}, "m", 2)


def test_equal_messages_are_not_taken_for_one(client: RedisClient, queue: str) -> None:
    """A sorted set holds each member once; two messages with the same content stay two."""
    for _ in range(5):
        client.publish(queue, b"same", delay=0.1)
    received = 0
    while batch := client.receive(queue, 10, 1.0):
        received += len(batch)
    assert received == 5


def test_g7_a_delay_survives_the_server(own_client: RedisClient, broker: RedisBroker, queue: str) -> None:
    """A killed server delivers it after its restart."""
    own_client.publish(queue, b"x", delay=0.3)
    broker.kill()
    broker.start()
    assert take(own_client, queue, 10.0).body == b"x"


def test_what_others_put_into_the_sorted_set_is_delivered(client: RedisClient, cli: Cli, queue: str) -> None:
    """A member that QBridge did not write is a body, and never blocks what is behind it."""
    cli("ZADD", f"{queue}:delayed", 1, "foreign")
    assert take(client, queue).body == b"foreign"


def test_many_due_at_once_all_come(client: RedisClient, queue: str) -> None:
    """More than one promotion holds come without a pause between them."""
    for _ in range(250):
        client.publish(queue, b"x", delay=0.05)
    begin, received = time.monotonic(), 0
    while received < 250:
        received += len(client.receive(queue, 300, 5.0))
    assert time.monotonic() - begin < 3.0
