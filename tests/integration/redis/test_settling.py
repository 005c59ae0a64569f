"""Acknowledging and rejecting: atomic, owner-checked, and nothing left behind."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest

from integration.redis.helpers import Cli, MakeClient, failure, take
from qbridge_core import BrokerBlockedError, DeliveryLostError, Message, QueueMismatchError
from qbridge_redis import RedisClient
from support.brokers import RedisBroker
from support.wait import wait_for


def _steal(cli: Cli, queue: str) -> None:
    """Give everything that is pending to another consumer, as a takeover after a lost lease does."""
    for row in cli("XPENDING", queue, "qbridge", "-", "+", 100):  # type: ignore[union-attr]
        cli("XCLAIM", queue, "qbridge", "thief", 0, row[0])  # type: ignore[index,arg-type]


def test_g4_acknowledged_entries_leave_the_stream(client: RedisClient, cli: Cli, queue: str) -> None:
    """After a thousand messages the stream is as short as before."""
    client.publish_many(queue, [Message(b"%d" % i) for i in range(1000)])
    done = 0
    while done < 1000:
        for delivery in client.receive(queue, 100, 5.0):
            client.ack(delivery)
            done += 1
    assert client.flush()
    assert cli("XLEN", queue) == 0
    assert cli("XPENDING", queue, "qbridge")[0] == 0  # type: ignore[index]


def test_an_ack_is_sent_without_another_read(client: RedisClient, cli: Cli, queue: str) -> None:
    """When nobody reads or flushes, it reaches the server within milliseconds all the same."""
    client.publish(queue, b"x")
    client.ack(take(client, queue))
    wait_for(lambda: cli("XLEN", queue) == 0, 2.0, "the acknowledgement is not sent")


def test_acks_from_many_threads_all_arrive(client: RedisClient, cli: Cli, queue: str) -> None:
    """Eight threads acknowledge at once while a ninth reads."""
    client.publish_many(queue, [Message(b"x") for _ in range(2000)])
    with ThreadPoolExecutor(8) as threads:
        received = 0
        while received < 2000:
            batch = client.receive(queue, 50, 5.0)
            received += len(batch)
            for delivery in batch:
                threads.submit(client.ack, delivery)
    assert client.flush()
    assert cli("XLEN", queue) == 0


def test_a_retry_is_one_atomic_step(client: RedisClient, cli: Cli, queue: str) -> None:
    """After it there is one entry, with a new id, and nothing pending."""
    client.publish(queue, b"x")
    client.reject(take(client, queue), failure=failure(queue, attempts=1))
    assert cli("XLEN", queue) == 1
    assert cli("XPENDING", queue, "qbridge")[0] == 0  # type: ignore[index]
    assert take(client, queue).attempts == 1


def test_a_reject_of_a_lost_delivery_makes_no_copy(client: RedisClient, cli: Cli, queue: str, dead: str) -> None:
    """When another worker holds the entry, the late reject is refused and changes nothing."""
    client.publish_many(queue, [Message(b"a"), Message(b"b"), Message(b"c")])
    first, second, third = client.receive(queue, 3, 5.0)
    _steal(cli, queue)
    with pytest.raises(DeliveryLostError):
        client.reject(first)
    with pytest.raises(DeliveryLostError):
        client.reject(second, failure=failure(queue))
    with pytest.raises(DeliveryLostError):
        client.reject(third, requeue=False)
    assert cli("XLEN", queue) == 3
    assert cli("XLEN", dead) == 0


def test_g3_a_late_ack_counts(client: RedisClient, cli: Cli, queue: str) -> None:
    """Work that is done is done, whoever holds the entry now: nobody has to do it again."""
    client.publish(queue, b"x")
    delivery = take(client, queue)
    _steal(cli, queue)
    client.ack(delivery)
    assert client.flush()
    assert cli("XLEN", queue) == 0


def test_g12_a_dead_letter_queue_that_is_no_stream_loses_nothing(
    client: RedisClient, cli: Cli, queue: str, dead: str
) -> None:
    """A script does not roll back; the message stays pending, and the reject works once the key is gone."""
    client.publish(queue, b"precious")
    delivery = take(client, queue)
    cli("DEL", dead)
    cli("SET", dead, "not a stream")
    with pytest.raises(QueueMismatchError):
        client.reject(delivery, requeue=False, failure=failure(queue))
    assert client.stats(queue).in_flight == 1
    cli("DEL", dead)
    client.reject(delivery, requeue=False, failure=failure(queue))
    assert [letter.body for letter in client.dead_letters(dead)] == [b"precious"]
    assert cli("XLEN", queue) == 0


def test_g14_a_full_server_can_be_drained(own_client: RedisClient, broker: RedisBroker, queue: str, dead: str) -> None:
    """Out of memory, publishing is refused while receiving and every kind of settlement go on."""
    own_client.publish_many(queue, [Message(b"%d" % i) for i in range(4)])
    broker.cli("CONFIG", "SET", "maxmemory", "1mb")
    with pytest.raises(BrokerBlockedError):
        own_client.publish(queue, b"x")
    with pytest.raises(BrokerBlockedError):
        own_client.publish(queue, b"x", delay=1.0)
    first, second, third, fourth = own_client.receive(queue, 4, 5.0)
    own_client.ack(first)
    own_client.reject(second, requeue=False, failure=failure(queue))
    own_client.reject(third, failure=failure(queue), delay=60.0)
    own_client.reject(fourth)
    own_client.ack(take(own_client, queue))
    assert own_client.flush()
    assert own_client.stats(queue).delayed == 1
    assert own_client.stats(dead).ready == 1
    broker.cli("CONFIG", "SET", "maxmemory", "0")
    own_client.publish(queue, b"again")


def test_a_server_that_cannot_write_its_disk_refuses_for_now(
    own_client: RedisClient, broker: RedisBroker, queue: str
) -> None:
    """Without enough replicas (as with a full disk) a settlement is refused, kept, and works later."""
    own_client.publish(queue, b"x")
    delivery = take(own_client, queue)
    broker.cli("CONFIG", "SET", "min-replicas-to-write", 1)
    with pytest.raises(BrokerBlockedError):
        own_client.reject(delivery)
    broker.cli("CONFIG", "SET", "min-replicas-to-write", 0)
    own_client.reject(delivery)
    assert take(own_client, queue).body == b"x"


def test_unsettled_deliveries_are_free_at_once_after_a_disconnect(
    make_client: MakeClient, client: RedisClient, cli: Cli, queue: str
) -> None:
    """They need not wait for the lease, nothing is counted, and the consumer is forgotten."""
    other = make_client(lease=600.0)
    client.publish(queue, b"x", message_id="m")
    take(other, queue)
    other.disconnect()
    delivery = take(client, queue, 2.0)
    assert (delivery.attempts, delivery.crashes, delivery.redelivered) == (0, 0, True)
    assert len(cli("XINFO", "CONSUMERS", queue, "qbridge")) == 1  # type: ignore[arg-type]
