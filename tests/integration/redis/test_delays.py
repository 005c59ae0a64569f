"""Delayed messages: held by the server, never early, hardly late."""

from __future__ import annotations

import logging
import random
import time

import pytest

from integration.redis.helpers import Cli, MakeClient, failure, take
from qbridge_core import AuthenticationError, ConfigurationError, QueueMismatchError
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


def test_a_foreign_key_in_the_place_of_delayed_messages_is_refused(client: RedisClient, cli: Cli, queue: str) -> None:
    """When the queue is declared, and not when the first message is delayed; the error says which key it is."""
    cli("SET", f"{queue}:delayed", "mine")
    with pytest.raises(QueueMismatchError, match=r":delayed.* give the queue another name, or delete that key"):
        client.declare(queue)
    cli("DEL", f"{queue}:delayed")
    client.declare(queue)


def test_a_queue_cannot_be_named_like_the_delayed_messages_of_another(
    client: RedisClient, cli: Cli, queue: str
) -> None:
    """The two would share a key. Nothing is made."""
    with pytest.raises(ConfigurationError, match="must not end in ':delayed'"):
        client.declare(f"{queue}.other", f"{queue}.other:delayed")
    assert cli("EXISTS", f"{queue}.other", f"{queue}.other:delayed") == 0


def test_delayed_messages_that_have_to_wait_are_one_warning(
    client: RedisClient, cli: Cli, queue: str, caplog: pytest.LogCaptureFixture
) -> None:
    """They are tried four times a second; the log says it once a minute, in words, and they come when they can."""
    with caplog.at_level(logging.WARNING, "qbridge.redis"):
        cli("SET", f"{queue}:delayed", "foreign")
        assert client.receive(queue, 1, 1.5) == []
        cli("DEL", f"{queue}:delayed")
        client.publish(queue, b"late", delay=0.1)
        assert take(client, queue).body == b"late"
    (text,) = {record.getMessage() for record in caplog.records}
    assert len(caplog.records) == 1
    assert "have to wait" in text
    assert "@user_script" not in text


def test_what_others_put_into_the_sorted_set_can_be_listed_and_released(
    client: RedisClient, cli: Cli, queue: str
) -> None:
    """As the body that it will be delivered as; also when several are due in the same microsecond."""
    due = round((time.time() + 3600) * 1_000_000)
    for member in ("foreign", "other", "third"):
        cli("ZADD", f"{queue}:delayed", due, member)
    client.publish(queue, b"ours", delay=7200.0)
    found = client.delayed(queue)
    assert [message.body for message in found] == [b"foreign", b"other", b"third", b"ours"]
    pages = [client.delayed(queue, 1, after=message) for message in found]
    assert [page[0].body for page in pages[:-1]] == [b"other", b"third", b"ours"]
    assert pages[-1] == []
    assert client.delete_delayed(queue, messages=[found[1]]) == 1
    assert client.release_delayed(queue, messages=[found[2], found[3]]) == 2
    assert [take(client, queue).body for _ in range(2)] == [b"third", b"ours"]
    assert [message.body for message in client.delayed(queue)] == [b"foreign"]


def test_nothing_is_doubled_when_releasing_is_forbidden_half_way(
    broker: RedisBroker, make_client: MakeClient, queue: str, dead: str
) -> None:
    """Who may add to the stream and not remove from the sorted set releases nothing."""
    broker.cli("ACL", "SETUSER", "half", "on", ">secret", "~*", "+@all", "-zrem")
    client = make_client(broker.url.replace("//", "//half:secret@"))
    client.declare(queue, dead)
    client.publish(queue, b"x", delay=3600.0)
    with pytest.raises(AuthenticationError):
        client.release_delayed(queue)
    assert (client.stats(queue).ready, client.stats(queue).delayed) == (0, 1)
