"""Looking at queues, emptying them and sending dead letters back."""

from __future__ import annotations

import pytest

from integration.redis.helpers import Cli, failure, take
from qbridge_core import Message, QueueStats, Reason, UnroutableError
from qbridge_redis import RedisClient


def _fill(client: RedisClient, queue: str, count: int) -> None:
    client.publish_many(queue, [Message(b"%d" % i, message_id=f"m{i}") for i in range(count)])
    for delivery in client.receive(queue, count, 5.0):
        client.reject(delivery, requeue=False, failure=failure(queue, attempts=4))


def test_listing_is_paged_and_leaves_everything(client: RedisClient, queue: str, dead: str) -> None:
    """More letters than a page holds come in order, as many as were asked for."""
    _fill(client, queue, 250)
    assert [letter.body for letter in client.dead_letters(dead, 230)] == [b"%d" % i for i in range(230)]
    assert len(client.dead_letters(dead, 1000)) == 250
    assert client.dead_letters(dead, 0) == []
    assert client.stats(dead).ready == 250


def test_a_foreign_entry_in_a_dead_letter_queue_is_listed(client: RedisClient, cli: Cli, dead: str) -> None:
    """It is known by its message id, with the reason that says the least."""
    cli("XADD", dead, "*", "body", "x", "message_id", "m")
    (letter,) = client.dead_letters(dead)
    assert (letter.reason, letter.task_id, letter.first_failed_at) == (Reason.REJECTED, "m", None)


def test_replay_restores_exactly_what_was_published(client: RedisClient, cli: Cli, queue: str, dead: str) -> None:
    """No own field is left but how often it was, and when it was sent and sent back; the rest is kept, in its order."""
    client.publish(queue, b"a", headers={"h": "1"}, message_id="m")
    entry_id, before = cli("XRANGE", queue, "-", "+")[0]  # type: ignore[index]
    client.reject(take(client, queue), failure=failure(queue))
    client.reject(take(client, queue), requeue=False, failure=failure(queue, attempts=2))
    assert client.replay(dead) == 1
    after = cli("XRANGE", queue, "-", "+")[0][1]  # type: ignore[index]
    own = ["x-qbridge-sent-at-ms", entry_id.partition("-")[0], "x-qbridge-replays", "1", "x-qbridge-due-at-ms"]
    assert after[:-1] == [*before, *own]
    assert int(after[-1]) >= int(entry_id.partition("-")[0])
    assert cli("XLEN", dead) == 0


def test_replay_leaves_letters_that_a_consumer_holds(client: RedisClient, queue: str, dead: str) -> None:
    """Somebody who works on a letter keeps it."""
    _fill(client, queue, 3)
    held = take(client, dead)
    assert client.replay(dead) == 2
    client.ack(held)
    assert client.flush()
    assert client.stats(dead) == QueueStats(0, 0, 0)


def test_g13_letters_that_a_consumer_holds_use_up_no_limit(client: RedisClient, queue: str, dead: str) -> None:
    """Behind more of them than a page has, as many free ones go back as were asked for, the oldest first."""
    _fill(client, queue, 130)
    held = client.receive(dead, 110, 5.0)
    assert client.replay(dead, limit=5) == 5
    assert client.replay(dead, limit=1) == 1
    assert [d.body for d in client.receive(queue, 10, 5.0)] == [b"%d" % i for i in range(110, 116)]
    assert (len(held), client.stats(dead)) == (110, QueueStats(14, 110, 0))


def test_replay_of_many_goes_in_order(client: RedisClient, queue: str, dead: str) -> None:
    """A limit over the page size is kept, and the rest stays."""
    _fill(client, queue, 250)
    assert client.replay(dead, limit=220) == 220
    assert [d.body for d in client.receive(queue, 300, 5.0)] == [b"%d" % i for i in range(220)]
    assert client.stats(dead).ready == 30


def test_a_letter_whose_queue_is_gone_stays(client: RedisClient, cli: Cli, queue: str, dead: str) -> None:
    """Replaying to a queue that does not exist is an error, and makes none."""
    _fill(client, queue, 1)
    with pytest.raises(UnroutableError):
        client.replay(dead, target=f"{queue}-gone")
    assert client.stats(dead).ready == 1
    assert cli("EXISTS", f"{queue}-gone") == 0


def test_purge_leaves_what_is_held_and_what_is_delayed(client: RedisClient, queue: str) -> None:
    """Only what is ready goes, however much it is, and what comes later is not touched."""
    client.publish_many(queue, [Message(b"%d" % i) for i in range(2500)])
    held = client.receive(queue, 3, 5.0)
    client.publish(queue, b"later", delay=60.0)
    assert client.purge(queue) == 2497
    assert client.stats(queue) == QueueStats(0, 3, 1)
    for delivery in held:
        client.reject(delivery)
    assert len(client.receive(queue, 10, 5.0)) == 3


def test_stats_see_all_clients_and_missing_queues(client: RedisClient, queue: str, cli: Cli) -> None:
    """What another consumer holds is in flight too; a stream without a group is all ready; a missing one is empty."""
    client.publish_many(queue, [Message(b"x")] * 3)
    cli("XREADGROUP", "GROUP", "qbridge", "other", "COUNT", 2, "STREAMS", queue, ">")
    assert client.stats(queue) == QueueStats(1, 2, 0)
    cli("XADD", f"{queue}-plain", "*", "body", "x")
    assert client.stats(f"{queue}-plain") == QueueStats(1, 0, 0)
    assert client.stats(f"{queue}-none") == QueueStats(0, 0, 0)
