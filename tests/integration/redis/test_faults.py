"""What a client goes through without help: crashes, cuts, silence, and queues deleted under it."""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable

import pytest

from integration.redis.helpers import Background, Cli, MakeClient, failure, is_blocked, receive_calmly, take
from qbridge_core import (
    BrokerUnavailableError,
    DeliveryLostError,
    Message,
    PublishUnconfirmedError,
    QueueStats,
    TransientError,
)
from qbridge_redis import RedisClient
from support.brokers import RedisBroker
from support.proxy import TCPProxy
from support.wait import wait_for

pytestmark = pytest.mark.faults


def test_g14_a_blocked_receive_outlives_a_killed_server(
    own_client: RedisClient, broker: RedisBroker, make_client: MakeClient, queue: str
) -> None:
    """The same call goes on after the restart and gets what is published then."""
    waiting = Background(lambda: own_client.receive(queue, 1, 30.0))
    wait_for(lambda: is_blocked(broker.cli), 5.0)
    broker.kill()
    broker.start()
    make_client(broker.url).publish(queue, b"after")
    assert [d.body for d in waiting.result()] == [b"after"]


def test_g3_nothing_is_lost_or_run_twice_over_a_killed_server(
    own_client: RedisClient, broker: RedisBroker, queue: str
) -> None:
    """Acknowledgements of the outage are sent afterwards, and what is held is not handed out again."""
    own_client.publish_many(queue, [Message(b"%d" % i) for i in range(200)])
    seen: Counter[bytes] = Counter()
    held = own_client.receive(queue, 50, 5.0)
    broker.kill()
    for delivery in held[:25]:
        own_client.ack(delivery)
    assert not own_client.flush(0.2)
    with pytest.raises(BrokerUnavailableError):
        own_client.receive(queue, 1, 0.2)
    broker.start()
    seen.update(d.body for d in held)
    begin = time.monotonic()
    while sum(seen.values()) < 200:
        for delivery in receive_calmly(own_client, queue):
            seen[delivery.body] += 1
            own_client.ack(delivery)
    assert time.monotonic() - begin < 5.0
    for delivery in held[25:]:
        own_client.ack(delivery)
    assert own_client.flush()
    assert set(seen.values()) == {1}
    assert own_client.stats(queue) == QueueStats(0, 0, 0)


def test_a_restarted_server_knows_no_scripts(own_client: RedisClient, broker: RedisBroker, queue: str) -> None:
    """Every script is sent along when the server has forgotten it."""
    own_client.publish_many(queue, [Message(b"a"), Message(b"b")])
    first, second = own_client.receive(queue, 2, 5.0)
    broker.cli("SCRIPT", "FLUSH")
    own_client.ack(first)
    assert own_client.flush()
    broker.cli("SCRIPT", "FLUSH")
    own_client.reject(second, failure=failure(queue), delay=0.05)
    broker.cli("SCRIPT", "FLUSH")
    delivery = take(own_client, queue)
    broker.cli("SCRIPT", "FLUSH")
    own_client.ack(delivery)
    assert own_client.receive(queue, 1, 0.0) == []
    wait_for(lambda: own_client.stats(queue) == QueueStats(0, 0, 0), 2.0)


def test_a_message_whose_delivery_was_lost_on_the_way_is_taken_back(
    make_client: MakeClient, tcp_proxy: Callable[[str], TCPProxy], broker: RedisBroker, queue: str
) -> None:
    """The server delivered it into a dead connection: it is handed out after all, once, and nothing is counted."""
    proxy = tcp_proxy(broker.url)
    client = make_client(proxy.through(broker.url), socket_timeout=0.5, lease=60.0)
    client.declare(queue)
    direct = make_client(broker.url)
    waiting = Background(lambda: client.receive(queue, 5, 20.0))
    wait_for(lambda: is_blocked(broker.cli), 5.0)
    proxy.blackhole()
    direct.publish(queue, b"swallowed")
    wait_for(lambda: direct.stats(queue).in_flight == 1, 5.0, "the server did not deliver it")
    proxy.reset()
    proxy.pass_through()
    (delivery,) = waiting.result()
    assert (delivery.body, delivery.crashes, delivery.attempts) == (b"swallowed", 0, 0)
    client.ack(delivery)
    assert client.flush()
    assert client.receive(queue, 5, 2.5) == []
    assert direct.stats(queue) == QueueStats(0, 0, 0)


def test_g14_a_silent_connection_is_given_up(
    make_client: MakeClient, tcp_proxy: Callable[[str], TCPProxy], redis_url: str, queue: str
) -> None:
    """When bytes only vanish, the client notices by itself, reconnects, and receives again."""
    proxy = tcp_proxy(redis_url)
    client = make_client(proxy.through(redis_url), socket_timeout=0.5, connect_timeout=0.5)
    client.declare(queue)
    client.receive(queue, 1, 0.0)
    proxy.blackhole()
    with pytest.raises(BrokerUnavailableError):
        client.receive(queue, 1, 2.5)
    proxy.reset()
    proxy.pass_through()
    client.publish(queue, b"x")
    assert take(client, queue).body == b"x"


def test_g3_an_acknowledgement_whose_reply_was_lost_is_sent_again(
    make_client: MakeClient, tcp_proxy: Callable[[str], TCPProxy], redis_url: str, queue: str
) -> None:
    """It does no harm to send it twice, and the message is not delivered again."""
    proxy = tcp_proxy(redis_url)
    client = make_client(proxy.through(redis_url), socket_timeout=0.5)
    client.declare(queue)
    client.publish(queue, b"x")
    delivery = take(client, queue)
    proxy.blackhole()
    client.ack(delivery)
    assert not client.flush(0.3)
    proxy.reset()
    proxy.pass_through()
    assert client.flush(5.0)
    assert client.stats(queue) == QueueStats(0, 0, 0)
    assert client.receive(queue, 1, 0.3) == []


@pytest.mark.parametrize("requeue", [True, False])
def test_a_reject_whose_reply_was_lost_can_be_repeated(
    own_client: RedisClient, broker: RedisBroker, queue: str, dead: str, requeue: bool
) -> None:
    """The server carries it out after the client gave up; the repetition finds it done and makes no second copy."""
    own_client.publish(queue, b"x")
    own_client.reject(take(own_client, queue))  # now the server knows the script
    delivery = take(own_client, queue)
    broker.suspend()
    with pytest.raises(TransientError):
        own_client.reject(delivery, requeue=requeue, failure=failure(queue))
    broker.resume()
    target, other = (queue, dead) if requeue else (dead, queue)
    wait_for(lambda: own_client.stats(target).ready == 1, 5.0, "the server did not carry it out")
    own_client.reject(delivery, requeue=requeue, failure=failure(queue))
    own_client.reject(delivery, requeue=requeue, failure=failure(queue))
    assert own_client.stats(target) == QueueStats(1, 0, 0)
    assert own_client.stats(other) == QueueStats(0, 0, 0)


def test_a_reject_during_an_outage_is_not_done_and_can_be_repeated(
    own_client: RedisClient, broker: RedisBroker, queue: str, dead: str
) -> None:
    """The delivery stays unsettled until the server is back."""
    own_client.publish(queue, b"x")
    delivery = take(own_client, queue)
    broker.kill()
    with pytest.raises(BrokerUnavailableError):
        own_client.reject(delivery, requeue=False, failure=failure(queue))
    broker.start()
    own_client.reject(delivery, requeue=False, failure=failure(queue))
    assert [letter.body for letter in own_client.dead_letters(dead)] == [b"x"]


@pytest.mark.parametrize(
    "command", [("FLUSHALL",), ("DEL", "{queue}"), ("UNLINK", "{queue}"), ("RENAME", "{queue}", "x")]
)
def test_g14_a_queue_deleted_under_a_blocked_receive_is_made_again(
    own_client: RedisClient, broker: RedisBroker, queue: str, command: tuple[str, ...]
) -> None:
    """The same call gets what is published afterwards."""
    waiting = Background(lambda: own_client.receive(queue, 1, 20.0))
    wait_for(lambda: is_blocked(broker.cli), 5.0)
    broker.cli(*(part.format(queue=queue) for part in command))
    own_client.publish(queue, b"after")
    (delivery,) = waiting.result()
    own_client.ack(delivery)
    assert own_client.flush()
    assert own_client.stats(queue) == QueueStats(0, 0, 0)


def test_g14_a_group_deleted_under_a_worker_redelivers_only_what_it_does_not_hold(
    own_client: RedisClient, broker: RedisBroker, queue: str
) -> None:
    """The group is made again at the beginning of the stream, and what is running here is not handed out again."""
    own_client.publish_many(queue, [Message(b"held"), Message(b"failing"), Message(b"ready")])
    held, failing = own_client.receive(queue, 2, 5.0)
    broker.cli("XGROUP", "DESTROY", queue, "qbridge")
    ready = take(own_client, queue)
    assert ready.body == b"ready"
    own_client.ack(held)
    own_client.ack(ready)
    own_client.reject(failing, failure=failure(queue, attempts=3))
    assert own_client.flush()
    again = take(own_client, queue)
    assert again.attempts == 3
    own_client.ack(again)
    assert own_client.flush()
    assert own_client.stats(queue) == QueueStats(0, 0, 0)


def test_a_reject_while_the_group_is_missing_is_carried_out(
    own_client: RedisClient, broker: RedisBroker, queue: str, dead: str
) -> None:
    """Nobody reads at the moment, so nobody has made the group again: the message moves all the same."""
    own_client.publish(queue, b"x")
    delivery = take(own_client, queue)
    broker.cli("XGROUP", "DESTROY", queue, "qbridge")
    own_client.reject(delivery, requeue=False, failure=failure(queue))
    assert own_client.stats(queue).ready == 0
    assert [letter.body for letter in own_client.dead_letters(dead)] == [b"x"]


@pytest.mark.parametrize("seen_by", ["nobody", "reader", "renewal"])
def test_a_failure_after_the_queue_was_flushed_is_not_lost(
    own_client: RedisClient, broker: RedisBroker, queue: str, dead: str, seen_by: str
) -> None:
    """The worker's memory then has the only copies: a retry and a dead letter are written from it."""
    own_client.publish_many(queue, [Message(b"retry", {"h": "1"}, "m1"), Message(b"dead", {"body": "2"}, "m2")])
    retried, rejected = own_client.receive(queue, 2, 5.0)
    broker.cli("FLUSHALL")
    if seen_by == "reader":
        assert own_client.receive(queue, 1, 0.0) == []
    if seen_by == "renewal":
        wait_for(lambda: retried.tag.deleted, 5.0, "the renewal does not notice")
    own_client.reject(retried, failure=failure(queue, attempts=2))
    own_client.reject(rejected, requeue=False, failure=failure(queue, attempts=4))
    delivery = take(own_client, queue)
    assert (delivery.body, delivery.headers, delivery.message_id, delivery.attempts) == (b"retry", {"h": "1"}, "m1", 2)
    (letter,) = own_client.dead_letters(dead)
    assert (letter.body, letter.headers, letter.attempts) == (b"dead", {"body": "2"}, 4)


def test_a_failure_of_a_deleted_entry_is_not_lost(client: RedisClient, cli: Cli, queue: str, dead: str) -> None:
    """Somebody trims the stream: what was running is dead-lettered from memory, before and after the next renewal."""
    client.publish_many(queue, [Message(b"now"), Message(b"later")])
    now, later = client.receive(queue, 2, 5.0)
    cli("XTRIM", queue, "MAXLEN", 0)
    client.reject(now, requeue=False, failure=failure(queue))
    wait_for(lambda: later.tag.deleted, 5.0, "the renewal does not notice")
    client.reject(later, requeue=False, failure=failure(queue))
    assert [letter.body for letter in client.dead_letters(dead)] == [b"now", b"later"]
    assert client.stats(queue) == QueueStats(0, 0, 0)


def test_a_settled_message_is_not_written_anew(client: RedisClient, cli: Cli, queue: str) -> None:
    """When the entry is gone because another worker finished it, the late failure makes no copy."""
    client.publish(queue, b"x")
    delivery = take(client, queue)
    entry_id = cli("XPENDING", queue, "qbridge", "-", "+", 1)[0][0]  # type: ignore[index]
    cli("XACK", queue, "qbridge", entry_id)  # type: ignore[arg-type]
    cli("XDEL", queue, entry_id)  # type: ignore[arg-type]
    with pytest.raises(DeliveryLostError):
        client.reject(delivery, failure=failure(queue))
    assert cli("XLEN", queue) == 0


def test_g14_a_server_that_forgot_everything_is_used_again(
    own_client: RedisClient, broker: RedisBroker, queue: str, dead: str
) -> None:
    """After a crash without persistence, publishing and receiving go on with empty queues."""
    own_client.publish(queue, b"gone")
    own_client.declare(f"{queue}-2")
    waiting = Background(lambda: own_client.receive(f"{queue}-2", 1, 20.0))
    broker.kill()
    for path in broker.base_dir.glob("appendonlydir/*"):
        path.unlink()
    broker.start()
    wait_for(lambda: _published(own_client, f"{queue}-2"), 10.0)
    assert [d.body for d in waiting.result()] == [b"new"]


def _published(client: RedisClient, queue: str) -> bool:
    try:
        client.publish(queue, b"new")
    except TransientError:
        return False
    return True


def test_g14_a_changed_password_is_an_outage_until_it_is_repaired(
    own_client: RedisClient, broker: RedisBroker, queue: str, caplog: pytest.LogCaptureFixture
) -> None:
    """A running client says so loudly and goes on by itself once the credentials work again."""
    own_client.publish(queue, b"x")
    broker.cli("CONFIG", "SET", "requirepass", "new-secret")
    _kill_connections(broker)
    with caplog.at_level(logging.WARNING, "qbridge.redis"), pytest.raises(BrokerUnavailableError):
        own_client.receive(queue, 1, 1.0)
    assert "new-secret" not in caplog.text
    assert caplog.records
    _run_with_password(broker, "new-secret", "CONFIG", "SET", "requirepass", "")
    assert take(own_client, queue).body == b"x"


def _kill_connections(broker: RedisBroker) -> None:
    _run_with_password(broker, "new-secret", "CLIENT", "KILL", "TYPE", "normal")


def _run_with_password(broker: RedisBroker, password: str, *command: str) -> None:
    import redis

    connection = redis.Redis(broker.host, broker.port, password=password)
    try:
        connection.execute_command(*command)
    finally:
        connection.close()


def test_g1_a_suspended_server_cannot_hold_a_publish(own_client: RedisClient, broker: RedisBroker, queue: str) -> None:
    """The deadline of the call ends it."""
    own_client.publish(queue, b"x")
    broker.suspend()
    begin = time.monotonic()
    with pytest.raises(PublishUnconfirmedError):
        own_client.publish(queue, b"y", timeout=0.3)
    assert time.monotonic() - begin < 2.0
    broker.resume()
