"""Many queues of a cluster in one process: threads and connections for each master, none for each queue or slot."""

from __future__ import annotations

import itertools
import logging
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import Future

import pytest

from integration.redis.deployments import Cluster, Node
from integration.redis.helpers import Consumers, MakeClient, are_shared, receive_calmly, take
from qbridge_core import (
    BrokerUnavailableError,
    Message,
    QBridgeError,
    QueueStats,
    TaskManager,
    connect,
    run_workers,
)
from qbridge_redis import RedisClient
from support.wait import wait_for

pytestmark = [pytest.mark.faults, pytest.mark.timeout(180)]

MANY = 60
MASTERS = 3
THREADS_OF_A_MASTER = 2
CONNECTIONS_OF_A_CLIENT = 5
CONNECTIONS_OF_A_MASTER = 4
LEASE = 2.0
OPTIONS = {"lease": LEASE, "wait_replicas": 0, "socket_timeout": 1.0, "connect_timeout": 1.0}


Consume = Callable[..., Consumers]


@pytest.fixture
def consume() -> Iterator[Consume]:
    """Start consumers that are ended after the test."""
    started: list[Consumers] = []

    def start(client: RedisClient, names: list[str], **options: bool) -> Consumers:
        started.append(Consumers(client, names, **options))
        return started[-1]

    yield start
    for consumers in started:
        consumers.end()


def declared(client: RedisClient, queue: str, count: int = MANY) -> list[str]:
    """Many queues, each in another slot."""
    names = [f"{queue}-{number}" for number in range(count)]
    for name in names:
        client.declare(name)
    return names


def threads_of_clients() -> Counter[str]:
    """The threads of all clients of this process, by what they are for."""
    return Counter(thread.name for thread in threading.enumerate() if thread.name.startswith("qbridge-redis"))


def connections(cluster: Cluster) -> int:
    """How many connections of clients the nodes have."""
    return sum(str(node.cli("CLIENT", "LIST")).count("name=qbridge:") for node in cluster.nodes)


def soon(client: RedisClient, queue: str) -> Future[None]:
    """Have a message published that nobody waits for."""
    [future] = client.publish_soon(queue, [Message(b"soon")])
    return future


def spread(client: RedisClient, cluster: Cluster, stem: str, each: int) -> list[str]:
    """Declared queues, so many at each master."""
    names: list[str] = []
    held: Counter[int] = Counter()
    for number in itertools.count():
        name = f"{stem}-{number}"
        owner = cluster.owner(name).port
        if held[owner] < each:
            held[owner] += 1
            names.append(name)
            client.declare(name)
        if held.total() == each * MASTERS:
            return names
    raise AssertionError


def test_threads_and_connections_are_those_of_the_masters(
    own_cluster: Cluster, make_client: MakeClient, queue: str, consume: Consume
) -> None:
    """However many slots a process consumes from, an idle client has the same few threads and connections."""
    client = make_client(own_cluster.url, **OPTIONS)
    names = declared(client, queue)
    consumers = consume(client, names)
    wait_for(lambda: are_shared(client, MANY - 4), 30.0, "the queues are not read together")
    for name in names:
        client.publish(name, name.encode())
    assert sorted(delivery.queue for delivery in consumers.take(MANY)) == sorted(names)
    wait_for(
        lambda: connections(own_cluster) <= CONNECTIONS_OF_A_CLIENT + MASTERS * CONNECTIONS_OF_A_MASTER,
        30.0,
        "connections are kept",
    )
    wait_for(
        lambda: threads_of_clients().total() <= MASTERS * THREADS_OF_A_MASTER,
        30.0,
        f"threads are kept: {threads_of_clients()}",
    )
    for name in names[:12]:
        client.publish(name, b"again")
    consumers.take(12)
    wait_for(lambda: all(own_cluster.cli(name, "XLEN", name) == 0 for name in names), 10.0, "nobody acknowledges")


def test_what_comes_beyond_the_few_is_received_soon(
    cluster: Cluster, make_client: MakeClient, queue: str, consume: Consume
) -> None:
    """A queue that is asked in its turn has its message within a second, whichever it is, and more of them at once."""
    client, sender = make_client(cluster.url, **OPTIONS), make_client(cluster.url, **OPTIONS)
    names = declared(client, queue)
    consumers = consume(client, names)
    wait_for(lambda: are_shared(client, MANY - 4), 30.0, "the queues are not read together")
    waits = []
    for name in names[::6]:
        sent_at = time.monotonic()
        sender.publish(name, b"x")
        assert [delivery.queue for delivery in consumers.take(1)] == [name]
        waits.append(time.monotonic() - sent_at)
    assert sorted(waits)[len(waits) // 2] < 1.0
    for name in names:
        sender.publish_many(name, [Message(b"%d" % number) for number in range(20)])
    got = Counter(delivery.queue for delivery in consumers.take(20 * MANY))
    assert got == dict.fromkeys(names, 20)
    assert client.flush()
    assert all(client.count(name) == QueueStats(0, 0, 0) for name in names)


def test_busy_queues_beyond_the_few_do_not_wait_for_their_turn(
    cluster: Cluster, make_client: MakeClient, queue: str, consume: Consume, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who comes back for more is asked for at once, however seldom idle queues are."""
    monkeypatch.setattr("qbridge_redis.consume.polling._SHORTEST", 5.0)
    client = make_client(cluster.url, **OPTIONS)
    names = declared(client, queue, 16)
    for name in names:
        client.publish_many(name, [Message(b"%d" % number) for number in range(30)])  # six times what one takes
    began = time.monotonic()
    got = Counter(delivery.queue for delivery in consume(client, names).take(30 * len(names), 40.0))
    assert got == dict.fromkeys(names, 30)
    assert time.monotonic() - began < 15.0


def test_g14_a_master_that_hangs_stops_its_own_queues_alone(
    own_cluster: Cluster, make_client: MakeClient, queue: str, consume: Consume
) -> None:
    """The others are received from and acknowledged, and what is held of them is held, for longer than a lease."""
    slow = {**OPTIONS, "socket_timeout": 3.0, "connect_timeout": 3.0}  # who waits for it waits longer than a lease
    client, rival = make_client(own_cluster.url, **slow), make_client(own_cluster.url, **slow)
    names = spread(client, own_cluster, queue, 10)
    held = spread(client, own_cluster, f"{queue}-held", 4)
    for name in held:
        client.publish(name, b"held")
    deliveries = [take(client, name) for name in held]
    consumers = consume(client, names)
    wait_for(lambda: are_shared(client, 26), 30.0, "the queues are not read together")
    hung = own_cluster.owner(names[0])
    others = [name for name in names if own_cluster.owner(name, own_cluster.nodes[0]) is not hung]
    safe = [d for d in deliveries if own_cluster.owner(d.queue, own_cluster.nodes[0]) is not hung]
    hung.suspend()
    try:
        until, slowest = time.monotonic() + 6 * LEASE, 0.0
        while time.monotonic() < until:
            began = time.monotonic()
            for name in others:
                client.publish(name, b"x")
            assert sorted(delivery.queue for delivery in consumers.take(len(others))) == sorted(others)
            slowest = max(slowest, time.monotonic() - began)
            assert [each for delivery in safe for each in rival.receive(delivery.queue)] == []
        assert slowest < 2.5
        wait_for(lambda: all(_is_empty(own_cluster, hung, name) for name in others), 10.0, "they are not acknowledged")
        for delivery in safe:
            client.ack(delivery)
        wait_for(lambda: all(_is_empty(own_cluster, hung, d.queue) for d in safe), 10.0, "nor is what was held")
    finally:
        hung.resume()
    back = [name for name in names if name not in others]
    for name in back:
        wait_for(lambda name=name: _published(client, name), 20.0, "the master does not come back")  # type: ignore[misc]
    assert {delivery.queue for delivery in consumers.take(len(back))} == set(back)


def _is_empty(cluster: Cluster, hung: Node, name: str) -> bool:
    asked = next(node for node in cluster.nodes if node is not hung)
    return cluster.owner(name, asked).cli("XLEN", name) == 0


def _published(client: RedisClient, name: str) -> bool:
    try:
        client.publish(name, b"back")
    except QBridgeError:
        return False
    return True


@pytest.mark.parametrize("tag", ["", "{tag}"], ids=["apart", "together"])
def test_g3_what_is_held_while_its_slot_migrates_is_acknowledged_once(
    cluster: Cluster, make_client: MakeClient, queue: str, consume: Consume, tag: str
) -> None:
    """Queues that are read with others: their slots move, and neither is anything run twice nor left behind."""
    client, rival = make_client(cluster.url, **OPTIONS), make_client(cluster.url, **OPTIONS)
    names = declared(client, f"{tag}{queue}", 20)
    consumers = consume(client, names, acknowledge=False)
    wait_for(lambda: are_shared(client, 16), 30.0, "the queues are not read together")
    moving = names[:6]
    for name in moving:
        client.publish(name, b"before")
    before = consumers.take(len(moving))
    for name in moving[: 1 if tag else None]:
        cluster.migrate(name)
    for name in moving:
        client.publish(name, b"after")
    after = consumers.take(len(moving))
    assert Counter(delivery.body for delivery in (*before, *after)) == {b"before": 6, b"after": 6}
    time.sleep(1.5 * LEASE)  # its leases are renewed at the master that has it now
    assert [delivery for name in moving for delivery in receive_calmly(rival, name)] == []
    for delivery in (*before, *after):
        client.ack(delivery)
    assert client.flush()
    assert all(client.count(name) == QueueStats(0, 0, 0) for name in moving)
    assert consumers.got.empty()


def test_g14_idle_queues_are_read_at_the_replica_that_takes_over(
    replicated: Cluster, make_client: MakeClient, queue: str, consume: Consume
) -> None:
    """A master dies: its queues are received from again by themselves, and its threads end."""
    client = make_client(replicated.url, **OPTIONS)
    names = declared(client, queue, 20)
    consumers = consume(client, names)
    wait_for(lambda: are_shared(client, 16), 30.0, "the queues are not read together")
    before = threads_of_clients()
    old = replicated.owner(names[0])
    replica = replicated.replica_of(old)
    old.kill()
    wait_for(lambda: replica.role == "master", 60, "the replica takes over")
    for name in names:
        wait_for(lambda name=name: _published(client, name), 30.0, "it cannot be published to")  # type: ignore[misc]
    assert {delivery.queue for delivery in consumers.take(len(names))} == set(names)
    wait_for(lambda: threads_of_clients() == before, 30.0, "the threads for the old master are kept")


def test_what_is_held_goes_back_at_a_disconnect(
    cluster: Cluster, make_client: MakeClient, queue: str, consume: Consume
) -> None:
    """What came for many slots, collected or not, is received by another client at once, uncounted."""
    client, other = make_client(cluster.url, **OPTIONS), make_client(cluster.url, wait_replicas=0)
    names = declared(client, queue, 20)
    consumers = consume(client, names, acknowledge=False)
    wait_for(lambda: are_shared(client, 16), 30.0, "the queues are not read together")
    for name in names:
        other.publish_many(name, [Message(b"first"), Message(b"second")])
    consumers.take(len(names))
    consumers.end()
    client.disconnect()
    for name in names:
        came = [take(other, name, 5.0), take(other, name, 5.0)]
        assert {delivery.body for delivery in came} == {b"first", b"second"}
        assert {(delivery.attempts, delivery.crashes, delivery.suspected) for delivery in came} == {(0, 0, False)}
        for delivery in came:
            other.ack(delivery)


def test_one_thread_receives_from_many_slots(own_cluster: Cluster, make_client: MakeClient, queue: str) -> None:
    """It waits for all of them together, while one master hangs too, and can be woken."""
    client, sender = make_client(own_cluster.url, **OPTIONS), make_client(own_cluster.url, **OPTIONS)
    names = spread(client, own_cluster, queue, 10)
    wanted = dict.fromkeys(names, 2)
    for name in names:
        sender.publish(name, name.encode())
    got: set[str] = set()
    while len(got) < len(names):
        for delivery in client.receive_any(wanted, 10.0):
            client.ack(delivery)
            got.add(delivery.body.decode())
    assert got == set(names)
    hung = own_cluster.owner(names[0])
    others = [name for name in names if own_cluster.owner(name) is not hung]
    hung.suspend()
    try:
        assert client.receive_any(wanted, 3.0) == []
        for name in others:
            sender.publish(name, b"more")
            (delivery,) = client.receive_any(wanted, 10.0)
            assert delivery.queue == name
            client.ack(delivery)
        waker = threading.Timer(0.3, client.wake_receive_any)
        waker.start()
        began = time.monotonic()
        assert client.receive_any(wanted, 30.0) == []
        assert time.monotonic() - began < 10.0
    finally:
        hung.resume()


def test_g14_the_log_names_the_master_that_is_away(
    own_cluster: Cluster, make_client: MakeClient, queue: str, caplog: pytest.LogCaptureFixture
) -> None:
    """One line does; whoever receives from all queues gets what the other masters have, and no error."""
    client = make_client(own_cluster.url, **OPTIONS)
    names = spread(client, own_cluster, queue, 2)
    wanted = dict.fromkeys(names, 1)
    assert client.receive_any(wanted, 0.5) == []
    away = own_cluster.owner(names[0])
    other = next(name for name in names if own_cluster.owner(name) is not away)
    with caplog.at_level(logging.WARNING, "qbridge.redis"):
        away.kill()
        wait_for(lambda: client.receive_any(wanted, 0.2) or caplog.records, 15.0, "nothing is said")
        client.publish(other, b"x")
        (delivery,) = client.receive_any(wanted, 10.0)
        assert delivery.queue == other
        client.ack(delivery)
    (line,) = [record.getMessage() for record in caplog.records]
    assert f"no connection to the master {away.host}:{away.port} of {own_cluster.url}" in line


def test_what_nobody_waits_for_takes_threads_for_each_master(
    cluster: Cluster, make_client: MakeClient, queue: str
) -> None:
    """Messages for many slots go to their masters together: no thread for each slot sends or watches them."""
    client = make_client(cluster.url, **OPTIONS)
    names = declared(client, queue)
    most: Counter[str] = Counter()
    for _ in range(5):
        futures = [soon(client, name) for name in names]
        while not all(future.done() for future in futures):
            most |= threads_of_clients()
        assert [future.result() for future in futures] == [None] * MANY
    assert most["qbridge-redis-publish"] <= MASTERS * 3
    assert most["qbridge-redis-deadlines"] <= 1
    assert all(client.count(name) == QueueStats(5, 0, 0) for name in names)


def test_g14_what_nobody_waits_for_follows_a_slot_that_moves(
    cluster: Cluster, make_client: MakeClient, queue: str
) -> None:
    """Of messages for many slots, sent together, those go elsewhere whose slot has moved; the others do not wait."""
    client = make_client(cluster.url, **OPTIONS)
    names = declared(client, queue, 12)
    for name in names:
        client.publish(name, b"before")
    for name in names[:3]:
        cluster.migrate(name)
    futures = [soon(client, name) for name in names for _ in range(10)]
    assert [future.result(30.0) for future in futures] == [None] * 120
    assert all(client.count(name) == QueueStats(11, 0, 0) for name in names)


def test_g14_what_nobody_waits_for_reaches_the_replica_that_takes_over(
    replicated: Cluster, make_client: MakeClient, queue: str
) -> None:
    """With its master killed a message is told of in time; those that follow go to the replica, by themselves."""
    client = make_client(replicated.url, **OPTIONS | {"publish_timeout": 3.0})
    names = declared(client, queue, 6)
    for name in names:
        client.publish(name, b"before")
    replicated.owner(names[0]).kill()

    def sent() -> bool:
        futures = [soon(client, name) for name in names]
        ends = [future.exception(10.0) for future in futures]
        assert all(end is None or isinstance(end, QBridgeError) for end in ends)
        return ends == [None] * len(names)

    wait_for(sent, 60.0, "no replica takes over, or nobody follows it")
    assert all(client.count(name).ready >= 1 for name in names)


def test_g14_a_master_that_hangs_keeps_only_its_own_from_being_sent(
    own_cluster: Cluster, make_client: MakeClient, queue: str
) -> None:
    """What goes to other masters is confirmed meanwhile; what goes there ends with an error in its time."""
    client = make_client(own_cluster.url, **OPTIONS | {"publish_timeout": 2.0})
    names = spread(client, own_cluster, queue, 4)
    hanging = own_cluster.owner(names[0])
    hanging.suspend()
    try:
        futures = {name: soon(client, name) for name in names}
        began = time.monotonic()
        ends = {name: future.exception(20.0) for name, future in futures.items()}
        lasted = time.monotonic() - began
    finally:
        hanging.resume()
    theirs = {name for name in names if own_cluster.owner(name) is hanging}
    assert {name for name, end in ends.items() if end is not None} == theirs
    assert all(isinstance(ends[name], QBridgeError) for name in theirs)
    assert lasted < 10.0


def test_a_worker_that_starts_waits_for_the_master_of_its_queue(
    own_cluster: Cluster, queue: str, caplog: pytest.LogCaptureFixture
) -> None:
    """``start_timeout`` holds for the queues, too: the cluster answers, but not the master where the queue will be."""
    caplog.set_level(logging.WARNING)
    home, done = own_cluster.owner(queue), threading.Event()
    home.kill()
    with connect(own_cluster.url, start_timeout=60.0, **OPTIONS) as client:
        manager = TaskManager(client, lambda _: done.set(), queue, f"{queue}.dead")
        worker = threading.Thread(target=run_workers, args=(manager,))
        worker.start()
        wait_for(lambda: "waiting for the queues of" in caplog.text, 20.0, "the log does not say it")
        assert worker.is_alive()
        home.start()
        wait_for(lambda: manager.running, 40.0, "it does not begin")
        client.send(queue, 1)
        assert done.wait(20.0)
        manager.stop()
        worker.join(20.0)
        assert not worker.is_alive()


def test_a_worker_without_patience_says_at_once_which_master_is_away(own_cluster: Cluster, queue: str) -> None:
    """Without ``start_timeout`` it does not wait."""
    home = own_cluster.owner(queue)
    home.kill()
    with connect(own_cluster.url, **OPTIONS) as client:
        manager = TaskManager(client, print, queue, f"{queue}.dead")
        with pytest.raises(BrokerUnavailableError, match=str(home.port)):
            run_workers(manager)
    home.start()


def test_delayed_messages_that_must_wait_are_one_line_in_the_log(
    own_cluster: Cluster, make_client: MakeClient, queue: str, caplog: pytest.LogCaptureFixture
) -> None:
    """A master of a cluster that lacks another one delivers nothing: said once for all queues, and when it is over."""
    caplog.set_level(logging.INFO)
    for node in own_cluster.nodes:
        node.cli("CONFIG", "SET", "cluster-require-full-coverage", "yes")
    client = make_client(own_cluster.url, **OPTIONS)
    names = spread(client, own_cluster, queue, 5)
    for name in names:
        client.publish(name, b"later", delay=0.5)
    away = own_cluster.owner(names[0])
    away.kill()
    wait_for(lambda: "have to wait" in caplog.text, 30.0, "nothing is said")
    time.sleep(2.0)  # in which it is tried many times, for each of them
    lines = [record.getMessage() for record in caplog.records if "have to wait" in record.getMessage()]
    assert len(lines) <= MASTERS - 1
    assert all("other queues" in line for line in lines)
    away.start()
    wait_for(lambda: "delivered again" in caplog.text, 30.0, "its end is not said")
