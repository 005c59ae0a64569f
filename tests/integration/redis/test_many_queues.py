"""Many queues in one process: a few connections, one blocking read for all that are idle, and nothing lost by it."""

from __future__ import annotations

import contextlib
import queue as queues
import threading
from collections.abc import Callable, Iterator, Sequence

import pytest

from integration.redis.helpers import Background, Consumers, MakeClient, are_shared, is_empty, receive_calmly, take
from qbridge_core import QueueStats, TaskManager
from qbridge_redis import RedisClient
from qbridge_redis.connection.connection import RedisConnection
from qbridge_redis.protocol.scripts import Command
from support.brokers import RedisBroker
from support.proxy import TCPProxy
from support.wait import wait_for

MANY = 20
MOST_CONNECTIONS = 8


@pytest.fixture
def names(own_client: RedisClient, queue: str) -> list[str]:
    """Many declared queues."""
    names = [f"{queue}-{number}" for number in range(MANY)]
    for name in names:
        own_client.declare(name)
    return names


@pytest.fixture
def consumers(own_client: RedisClient, names: list[str]) -> Iterator[Consumers]:
    """Consumers of all of them, which have become idle."""
    consumers = Consumers(own_client, names)
    wait_for(lambda: are_shared(own_client, MANY), 15.0, "the queues are not read together")
    yield consumers
    consumers.end()


def connections(broker: RedisBroker) -> int:
    """How many clients the server has, without the one that asks."""
    listed = broker.cli("CLIENT", "LIST")
    assert isinstance(listed, str)
    return listed.count("\n") - 1


def test_idle_queues_share_a_connection(broker: RedisBroker, own_client: RedisClient, consumers: Consumers) -> None:
    """However many queues a process waits for, its connections and threads stay as many."""
    threads = [thread.name for thread in threading.enumerate() if thread.name.startswith("qbridge-redis")]
    wait_for(lambda: connections(broker) <= MOST_CONNECTIONS, 15.0, "those of the start are kept")
    assert len(threads) <= MOST_CONNECTIONS, threads


def test_what_comes_for_idle_queues_is_received_at_once(
    own_client: RedisClient, names: list[str], consumers: Consumers
) -> None:
    """Each message reaches the consumer of its queue, in whatever order the queues get some."""
    for _ in range(3):
        for name in names:
            own_client.publish(name, name.encode())
        got = [consumers.got.get(timeout=10.0) for _ in names]
        assert sorted(delivery.body.decode() for delivery in got) == sorted(names)
        assert all(delivery.body.decode() == delivery.queue for delivery in got)
    own_client.flush()
    assert all(is_empty(own_client, name) for name in names)


def test_one_thread_receives_from_many_queues(
    make_client: MakeClient,
    broker: RedisBroker,
    own_client: RedisClient,
    names: list[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It needs one read for all of them: neither the connections nor the commands grow with the queues."""
    wanted = dict.fromkeys(names, 5)
    for name in names:
        own_client.subscribe(name, 5)
    assert own_client.receive_any(wanted, 0.3) == []
    reads = []
    send = RedisConnection.send

    def counting(connection: RedisConnection, commands: Sequence[Command], timeout: float | None = None) -> None:
        reads.extend(command for command in commands if command[0] == "XREADGROUP")
        send(connection, commands, timeout)

    with monkeypatch.context() as patch:
        patch.setattr(RedisConnection, "send", counting)
        assert own_client.receive_any(wanted, 2.5) == []
    assert 0 < len(reads) <= MOST_CONNECTIONS
    sender = make_client(broker.url)
    for name in names:
        sender.publish(name, name.encode())
    got: list[str] = []
    while len(got) < MANY:
        for delivery in own_client.receive_any(wanted, 10.0):
            own_client.ack(delivery)
            got.append(delivery.body.decode())
    assert sorted(got) == sorted(names)
    sender.disconnect()
    assert connections(broker) <= MOST_CONNECTIONS
    assert own_client.flush()
    assert all(is_empty(own_client, name) for name in names)


def test_what_comes_while_nobody_receives_goes_back(
    make_client: MakeClient, broker: RedisBroker, own_client: RedisClient, names: list[str], consumers: Consumers
) -> None:
    """A worker that has no room does not keep a message from the others, and nothing is counted."""
    consumers.end()
    for name in names:
        own_client.subscribe(name, 1)
    wait_for(lambda: not own_client.receive(names[0], 1, 0.3) and are_shared(own_client, 1), 10.0)
    own_client.publish(names[0], b"body")
    delivery = take(make_client(broker.url), names[0], 10.0)
    assert (delivery.body, delivery.attempts, delivery.crashes, delivery.suspected) == (b"body", 0, 0, False)


def test_unsubscribe_gives_back_what_has_come(
    make_client: MakeClient, broker: RedisBroker, own_client: RedisClient, names: list[str], consumers: Consumers
) -> None:
    """What arrives while consumers leave is received by them or by others, once."""
    other = make_client(broker.url)
    publishing = Background(lambda: [own_client.publish(name, b"body") for name in names])
    consumers.end()
    publishing.result()
    got = consumers.got.qsize()
    own_client.flush()
    left = sum(len(other.receive(name, 5, 0.1)) for name in names)
    assert got + left == MANY


def test_g14_a_queue_that_is_deleted_is_made_again(
    own_client: RedisClient, broker: RedisBroker, names: list[str], consumers: Consumers
) -> None:
    """The others are read on, and the deleted one too."""
    broker.cli("DEL", names[3])
    wait_for(lambda: broker.cli("EXISTS", names[3]) == 1, 10.0, "the queue is not made again")
    for name in (names[3], names[4]):
        own_client.publish(name, name.encode())
    assert {consumers.got.get(timeout=10.0).queue for _ in range(2)} == {names[3], names[4]}


def test_a_queue_that_cannot_be_read_does_not_stop_the_others(
    own_client: RedisClient, broker: RedisBroker, names: list[str], consumers: Consumers
) -> None:
    """A key that holds something else is the trouble of its own queue alone."""
    broker.cli("DEL", names[3])
    broker.cli("SET", names[3], "no stream")
    own_client.publish(names[4], b"body")
    assert consumers.got.get(timeout=10.0).queue == names[4]
    wait_for(lambda: not are_shared(own_client, MANY), 10.0, "the queue is still read with the others")
    own_client.publish(names[5], b"body")
    assert consumers.got.get(timeout=10.0).queue == names[5]


def test_g14_idle_queues_survive_a_restart(
    own_client: RedisClient, broker: RedisBroker, names: list[str], consumers: Consumers
) -> None:
    """All of them are read again, though the server has killed the one connection."""
    broker.kill()
    broker.start()

    def published() -> bool:
        with contextlib.suppress(Exception):
            for name in names:
                own_client.publish(name, b"body")
            return True
        return False

    wait_for(published, 15.0, "the server does not come back")
    assert len({consumers.got.get(timeout=15.0).queue for _ in names}) == MANY


def test_g15_idle_queues_take_over_from_a_dead_worker(
    make_client: MakeClient,
    broker: RedisBroker,
    tcp_proxy: Callable[[str], TCPProxy],
    own_client: RedisClient,
    names: list[str],
    consumers: Consumers,
) -> None:
    """Messages of a worker that is gone are found though nothing new comes."""
    proxy = tcp_proxy(broker.url)
    gone = make_client(proxy.through(broker.url), lease=1.0, socket_timeout=0.5, connect_timeout=0.5)
    late = f"{names[0]}-late"
    own_client.declare(late)
    own_client.publish(late, b"body")
    take(gone, late)
    own_client.subscribe(late, 1)
    assert own_client._nodes is not None
    several = own_client._nodes.several
    wait_for(lambda: not own_client.receive(late, 1, 0.3) and late in several.queues(), 10.0, "it is not idle")
    proxy.blackhole()
    (delivery,) = wait_for(lambda: receive_calmly(own_client, late, 1), 20.0, "nobody takes it over")
    assert delivery.redelivered
    own_client.ack(delivery)


def test_managers_of_many_queues_run_their_tasks(
    own_client: RedisClient, broker: RedisBroker, names: list[str]
) -> None:
    """Each of many workers in one process gets the tasks of its queue, and all of them stop."""
    done: queues.Queue[object] = queues.Queue()
    with contextlib.ExitStack() as stack:
        for name in names[:10]:
            stack.enter_context(TaskManager(own_client, done.put, name, f"{name}.dead", max_workers=1))
        for number in range(5):
            for name in names[:10]:
                own_client.send(name, [name, number])
        got = [done.get(timeout=15.0) for _ in range(50)]
    assert len({str(one) for one in got}) == 50
    assert all(own_client.stats(name) == QueueStats(0, 0, 0) for name in names[:10])


def test_without_the_right_to_unblock_it_takes_a_second_longer(
    make_client: MakeClient, broker: RedisBroker, names: list[str]
) -> None:
    """A user without CLIENT has its idle queues read together, too."""
    broker.cli("ACL", "SETUSER", "few", "on", ">pw", "~*", "+@all", "-client")
    client = make_client(broker.url.replace("redis://", "redis://few:pw@"))
    consumers = Consumers(client, names)
    wait_for(lambda: are_shared(client, MANY), 20.0, "the queues are not read together")
    client.publish(names[7], b"body")
    assert consumers.got.get(timeout=10.0).queue == names[7]
    consumers.end()


def test_g4_queues_that_are_used_no_more_are_released(
    make_client: MakeClient, broker: RedisBroker, queue: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a client knows of a queue, and its name among the queue's consumers, go some time after the last use."""
    monkeypatch.setattr("qbridge_redis.node.UNUSED", 0.3)
    monkeypatch.setattr("qbridge_redis.recovery.maintenance._RELEASE_EVERY", 0.1)
    client = make_client(broker.url)
    names = [f"{queue}-{number}" for number in range(5)]
    for name in names:
        client.declare(name)
        client.publish(name, b"body")
    held = take(client, names[0])
    for name in names[1:]:
        client.ack(take(client, name))
    client.publish(names[1], b"later", delay=2.0)
    assert client._nodes is not None
    node = client._nodes.nodes()[0]

    def known() -> set[str]:
        return {*node._readers, *node.with_delays(), *(one.queue for one in node.context.all_in_flight())}

    wait_for(lambda: known() == {names[0], names[1]}, 10.0, "the others are not released")
    assert broker.cli("XINFO", "CONSUMERS", names[2], "qbridge") == []
    client.ack(held)
    wait_for(lambda: client.stats(names[1]).ready == 1, 10.0, "what was delayed is not delivered")
    wait_for(lambda: not known(), 10.0, "the last ones are not released")
    client.ack(take(client, names[1]))
    assert client.flush()
    assert all(is_empty(client, name) for name in names)


def test_g4_connections_that_nobody_uses_any_more_are_closed(
    make_client: MakeClient, broker: RedisBroker, queue: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Many threads at once need many connections, and only as long as there are many."""
    monkeypatch.setattr("qbridge_redis.node.UNUSED", 0.3)
    monkeypatch.setattr("qbridge_redis.recovery.maintenance._RELEASE_EVERY", 0.1)
    client = make_client(broker.url)
    client.declare(queue)
    broker.cli("CLIENT", "PAUSE", 500, "ALL")
    asking = [Background(lambda: client.stats(queue)) for _ in range(10)]
    for one in asking:
        one.result()
    wait_for(lambda: connections(broker) <= 2, 10.0, "the connections are kept")
    client.publish(queue, b"body")
    assert client.stats(queue).ready == 1


def test_g4_of_the_connections_of_a_rush_two_are_kept(
    make_client: MakeClient, broker: RedisBroker, queue: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The others are closed soon, long before the last ones."""
    monkeypatch.setattr("qbridge_redis.recovery.maintenance._SPARE_TIME", 0.3)
    client = make_client(broker.url)
    client.declare(queue)
    broker.cli("CLIENT", "PAUSE", 500, "ALL")
    for one in [Background(lambda: client.stats(queue)) for _ in range(10)]:
        one.result()
    wait_for(lambda: connections(broker) <= 4, 10.0, "the connections are kept")
    assert client.stats(queue).ready == 0
