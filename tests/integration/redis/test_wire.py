"""The fields of stream entries: what other programs write and read."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from integration.redis.helpers import Cli, MakeClient, failure, take
from qbridge_redis import RedisClient


def test_a_message_of_redis_cli_is_like_any_other(client: RedisClient, cli: Cli, queue: str) -> None:
    """`XADD queue * body ...` is delivered with its other fields as headers."""
    cli("XADD", queue, "*", "body", '{"payload":1}', "tenant", "blue")
    delivery = take(client, queue)
    assert delivery.body == b'{"payload":1}'
    assert delivery.headers == {"tenant": "blue"}
    assert (delivery.message_id, delivery.attempts, delivery.crashes, delivery.redelivered) == (None, 0, 0, False)
    assert delivery.sent_at is not None


def test_entries_from_before_the_group_are_delivered(client: RedisClient, cli: Cli, queue: str) -> None:
    """A stream that a producer made before any worker came is read from its beginning, declared or not."""
    other = f"{queue}-early"
    cli("XADD", other, "*", "body", "early")
    assert take(client, other).body == b"early"


def test_an_entry_without_a_body_is_delivered_with_an_empty_one(client: RedisClient, cli: Cli, queue: str) -> None:
    """What is no message is not skipped in silence: it can be dead-lettered with its fields."""
    cli("XADD", queue, "*", "what", "ever")
    delivery = take(client, queue)
    assert (delivery.body, delivery.headers) == (b"", {"what": "ever"})


def test_bytes_that_are_no_text_come_as_bytes(client: RedisClient, cli: Cli, queue: str) -> None:
    """A foreign header that is not UTF-8 keeps its bytes, through a dead letter and its replay too."""
    cli("XADD", queue, "*", "body", b"\x00\xff", "raw", b"\xfe")
    client.reject(take(client, queue), requeue=False)
    assert client.replay(f"{queue}.dlq") == 1
    delivery = take(client, queue)
    assert (delivery.body, delivery.headers) == (b"\x00\xff", {"raw": b"\xfe"})


def test_headers_named_like_fields_survive(client: RedisClient, queue: str) -> None:
    """A producer's header may be called `body` or `message_id`, also after a retry, a dead letter and a replay."""
    headers = {"body": "b", "message_id": "m", "plain": "ä"}
    client.publish(queue, b"real", headers=headers, message_id="id-1")
    client.reject(take(client, queue), failure=failure(queue))
    client.reject(take(client, queue), requeue=False)
    assert client.dead_letters(f"{queue}.dlq")[0].headers == headers
    client.replay(f"{queue}.dlq")
    delivery = take(client, queue)
    assert (delivery.body, delivery.headers, delivery.message_id) == (b"real", headers, "id-1")


def test_others_can_read_what_is_published(client: RedisClient, cli: Cli, queue: str) -> None:
    """The entry of a plain message has the fields `body` and `message_id` and nothing else but its headers."""
    client.publish(queue, b"hello", headers={"h": "1"}, message_id="m")
    assert cli("XRANGE", queue, "-", "+")[0][1] == ["body", "hello", "message_id", "m", "h", "1"]  # type: ignore[index]


def test_a_copy_of_a_message_without_id_gets_the_task_id(client: RedisClient, cli: Cli, queue: str) -> None:
    """So that the attempts of one foreign message can be recognised as one task."""
    cli("XADD", queue, "*", "body", "x")
    client.reject(take(client, queue), failure=failure(queue))
    assert take(client, queue).message_id == "task-1"


@pytest.mark.parametrize("entry_id", ["1700000000123-7", "5-1"])
def test_the_id_of_an_entry_tells_when_it_was_sent(client: RedisClient, cli: Cli, queue: str, entry_id: str) -> None:
    """Its copies say so in a field, whichever way they take; an id that somebody has chosen may be no time."""
    sent = datetime(2023, 11, 14, 22, 13, 20, 123_000, UTC) if len(entry_id) > 5 else None
    cli("XADD", queue, entry_id, "body", "x", "x-qbridge-header-body", "h")
    client.reject(take(client, queue))
    delivery = take(client, queue)
    assert (delivery.sent_at, delivery.headers) == (sent, {"body": "h"})
    client.reject(delivery, requeue=False)
    assert [letter.sent_at for letter in client.dead_letters(f"{queue}.dlq")] == [sent]
    assert client.replay(f"{queue}.dlq") == 1
    delivery = take(client, queue)
    assert delivery.sent_at == sent
    client.reject(delivery, requeue=False)
    (letter,) = client.dead_letters(f"{queue}.dlq")
    assert client.replay(f"{queue}.dlq", letters=[letter], body=b"new") == 1
    assert take(client, queue).sent_at == sent


def test_a_letter_of_another_program_was_sent_when_it_was_added(client: RedisClient, cli: Cli, queue: str) -> None:
    """Sent back by the script or edited, it keeps that time; one that QBridge has copied without a time has none."""
    cli("XADD", f"{queue}.dlq", "1700000000123-1", "body", "1")
    cli("XADD", f"{queue}.dlq", "1700000000123-2", "body", "2")
    cli("XADD", f"{queue}.dlq", "1700000000123-3", "body", "3", "x-qbridge-attempts", "2")
    first, second, third = client.dead_letters(f"{queue}.dlq")
    assert (first.sent_at is None, second.sent_at is None, third.sent_at) == (False, False, None)
    assert client.replay(f"{queue}.dlq", letters=[first, third], target=queue) == 2
    assert client.replay(f"{queue}.dlq", letters=[second], target=queue, body=b"new") == 1
    assert [take(client, queue).sent_at for _ in range(3)] == [first.sent_at, None, first.sent_at]


def test_the_prefix_comes_before_every_key(make_client: MakeClient, cli: Cli, queue: str) -> None:
    """With a prefix, two installations on one server do not meet."""
    client = make_client(prefix=f"{queue}/")
    client.declare("q")
    client.publish("q", b"x")
    assert cli("XLEN", f"{queue}/q") == 1
    client.reject(take(client, "q"), requeue=False)
    assert cli("XLEN", f"{queue}/q.dead") == 1


def test_nonsense_in_the_own_fields_does_no_harm(client: RedisClient, cli: Cli, queue: str) -> None:
    """Anybody can write `x-qbridge-` fields; what is no number counts as none."""
    cli("XADD", queue, "*", "body", "x", "x-qbridge-attempts", "many", "x-qbridge-crashes", b"\xff")
    delivery = take(client, queue)
    assert (delivery.attempts, delivery.crashes) == (0, 0)
