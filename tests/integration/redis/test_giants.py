"""Messages with very many or very large fields can be settled like any other."""

from __future__ import annotations

import struct
from collections.abc import Callable

import pytest

from integration.redis.helpers import Cli, MakeClient, failure, take
from qbridge_core import Message, MessageTooLargeError, QueueStats
from qbridge_redis import RedisClient
from support.brokers import RedisBroker
from support.wait import wait_for

MOST = {f"h{i}": "" for i in range(20_000)}
FOREIGN = 25_100  # more than a script copies


def _add_foreign(cli: Cli, key: str, count: int = FOREIGN) -> None:
    """Write an entry with so many fields, as any program can."""
    cli("XADD", key, "*", "body", '{"payload": 1}', *(part for i in range(count) for part in (f"f{i}", "v")))


def test_g19_what_publish_takes_can_be_retried_delayed_dead_lettered_listed_and_replayed(
    client: RedisClient, queue: str, dead: str
) -> None:
    """A message with as many headers as are allowed goes every way, with the longest explanation, and stays whole."""
    client.publish(queue, b"x", headers=MOST, message_id="m", delay=0.05)
    client.reject(take(client, queue), failure=failure(queue, 1), delay=0.05)
    client.reject(take(client, queue), failure=failure(queue, 2))
    client.reject(take(client, queue))
    client.reject(take(client, queue), requeue=False, failure=failure(queue, 3, text="é" * 20_000))
    (letter,) = client.dead_letters(dead)
    assert (letter.headers, letter.attempts) == (MOST, 3)
    assert client.replay(dead) == 1
    delivery = take(client, queue)
    assert (delivery.headers, delivery.message_id, delivery.attempts) == (MOST, "m", 0)
    client.ack(delivery)
    assert client.flush()
    assert client.stats(queue) == client.stats(dead) == QueueStats(0, 0, 0)


@pytest.mark.parametrize("delay", [0.0, 1.0])
def test_g19_publish_refuses_what_could_not_be_settled(client: RedisClient, queue: str, delay: float) -> None:
    """More headers than a script can copy are a clear error, and nothing is published."""
    with pytest.raises(MessageTooLargeError, match="20,000"):
        client.publish(queue, b"x", headers={**MOST, "more": ""}, delay=delay)
    with pytest.raises(MessageTooLargeError):
        client.publish_many(queue, [Message(b"x", {**MOST, "more": ""})])
    assert client.stats(queue) == QueueStats(0, 0, 0)


@pytest.mark.parametrize(
    "settle",
    [
        lambda client, delivery, queue: client.reject(delivery),
        lambda client, delivery, queue: client.reject(delivery, failure=failure(queue, 2)),
        lambda client, delivery, queue: client.reject(delivery, failure=failure(queue, 2), delay=60.0),
        lambda client, delivery, queue: client.reject(delivery, requeue=False, failure=failure(queue, 2)),
    ],
    ids=["back", "retry", "later", "dead"],
)
def test_g19_a_foreign_entry_with_too_many_fields_for_a_script_is_settled(
    client: RedisClient, cli: Cli, queue: str, dead: str, settle: Callable[..., None]
) -> None:
    """It is carried whole: to another attempt at once, or to the dead letters, from where it can be replayed."""
    _add_foreign(cli, queue)
    delivery = take(client, queue)
    assert len(delivery.headers) == FOREIGN
    settle(client, delivery, queue)
    if client.stats(dead).ready:
        assert [len(letter.headers) for letter in client.dead_letters(dead)] == [FOREIGN]
        assert client.replay(dead) == 1
    again = take(client, queue)
    assert len(again.headers) == FOREIGN
    client.ack(again)
    assert client.flush()
    wait_for(lambda: client.stats(queue) == QueueStats(0, 0, 0), 5.0)


def test_g19_a_delayed_message_that_cannot_be_delivered_stops_no_other(
    client: RedisClient, cli: Cli, queue: str
) -> None:
    """What anybody wrote among the delayed ones comes as a body, and those behind it on time."""
    giant = b"\x92\xa1x\xdd" + struct.pack(">I", 2 * FOREIGN) + b"\xa1f\xa1v" * FOREIGN
    odd = ("no MessagePack", b"\x92\xa1x\x93\xa1a\xa1b\xa1c", b"\x92\xa1x\x92\x90\x80", giant)
    cli("ZADD", f"{queue}:delayed", *(part for number, member in enumerate(odd, 1) for part in (number, member)))
    client.publish(queue, b"behind", delay=0.05)
    bodies: list[bytes] = []
    wait_for(lambda: bodies.extend(d.body for d in client.receive(queue, 10, 0.5)) or len(bodies) == 5, 5.0)
    assert bodies[-1] == b"behind"


def test_g19_a_letter_that_a_script_cannot_copy_stops_no_other(client: RedisClient, cli: Cli, queue: str) -> None:
    """Replay takes giants and small ones alike."""
    _add_foreign(cli, f"{queue}.dlq")
    cli("XADD", f"{queue}.dlq", "*", "body", "small")
    assert client.replay(f"{queue}.dlq", target=queue) == 2
    assert client.stats(queue).ready == 2


def test_g19_a_message_that_fills_the_servers_limits_can_be_settled(
    broker: RedisBroker, make_client: MakeClient, queue: str, dead: str
) -> None:
    """Where an operator has lowered them, ``publish`` refuses by them, and too large a copy is cut."""
    broker.cli("CONFIG", "SET", "proto-max-bulk-len", 1024 * 1024)
    broker.cli("CONFIG", "SET", "client-query-buffer-limit", 2 * 1024 * 1024)
    client = make_client(broker.url)
    client.declare(queue, dead)
    for headers in ({"h": "x" * (1024 * 1024 + 1)}, dict.fromkeys("hij", "x" * 900_000)):
        with pytest.raises(MessageTooLargeError):
            client.publish(queue, b"x", headers=headers)
    client.publish(queue, b"x" * 1024 * 1024)
    client.reject(take(client, queue), requeue=False, failure=failure(queue))
    assert client.replay(dead) == 1
    client.ack(take(client, queue))
    _add_foreign(broker.cli, queue, 40_000)
    foreign = take(client, queue)
    broker.cli("CONFIG", "SET", "client-query-buffer-limit", 1024 * 1024)
    fresh = make_client(broker.url, lease=1.0)
    fresh.declare(queue, dead)
    client.disconnect()
    again = take(fresh, queue)
    assert len(again.headers) == len(foreign.headers)
    fresh.reject(again, requeue=False, failure=failure(queue))
    (letter,) = fresh.dead_letters(dead)
    assert letter.body == b'{"payload": 1}'
    assert "left out" in letter.exception_message
