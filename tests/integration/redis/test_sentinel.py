"""Redis behind sentinels: the master is found, and found again when another server took its place."""

from __future__ import annotations

import itertools
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from integration.redis.deployments import SERVICE, Sentinel, Watched
from integration.redis.helpers import Background, MakeClient, failure, is_empty, receive_calmly, take
from qbridge_core import (
    AuthenticationError,
    BrokerUnavailableError,
    ConfigurationError,
    Delivery,
    DeliveryLostError,
    InvalidURLError,
    Message,
    PublishUnconfirmedError,
    TaskManager,
    TransientError,
    UnknownOptionError,
    connect,
)
from qbridge_redis import RedisClient
from support.brokers import RedisBroker, free_port
from support.wait import wait_for

pytestmark = [pytest.mark.faults, pytest.mark.timeout(180)]


@pytest.fixture
def watched(private_redis: RedisBroker, tmp_path: Path) -> Iterator[Watched]:
    """A master, two replicas and three sentinels of this test alone."""
    private_redis.kill()  # only its check whether Redis is there at all is needed
    deployment = Watched(tmp_path)
    try:
        deployment.start()
        yield deployment
    finally:
        deployment.close()


def test_g14_a_failover_under_a_worker_and_a_publisher_loses_nothing_confirmed(watched: Watched, queue: str) -> None:
    """SIGKILL of the master: both go on by themselves, and every confirmed message is processed."""
    done: Counter[int] = Counter()
    confirmed: list[int] = []
    stopping = threading.Event()

    def publish() -> None:
        with connect(watched.url, publish_timeout=2) as client:
            client.declare(queue, f"{queue}.dead")
            for number in itertools.count():
                if stopping.is_set():
                    return
                try:
                    client.send(queue, number)
                except TransientError:
                    stopping.wait(0.05)
                else:
                    confirmed.append(number)

    publisher = Background(publish)
    with connect(watched.url, lease=5) as client:
        manager = TaskManager(client, lambda n: done.update([n]), queue, f"{queue}.dead", max_workers=4)
        with manager:
            wait_for(lambda: len(done) > 200, 30, "the worker gets going")
            old = watched.master
            before = len(confirmed)
            old.kill()
            wait_for(lambda: len(confirmed) > before + 200, 60, "publishing goes on")
            stopping.set()
            publisher.result()
            wait_for(lambda: set(confirmed) <= set(done), 60, "every confirmed message is processed")
            wait_for(lambda: is_empty(client, queue), 30, "the queue is empty in the end")
    assert watched.promoted(old) is not None


def test_g1_a_forced_failover_loses_nothing_that_all_replicas_confirmed(
    watched: Watched, make_client: MakeClient, queue: str
) -> None:
    """The old master takes writes until it is demoted and then forgets them: none of those was confirmed."""
    client = make_client(watched.url, wait_replicas=2)
    client.declare(queue)
    old = watched.master
    confirmed = []
    failover = Background(lambda: watched.sentinels[0].cli("SENTINEL", "FAILOVER", SERVICE))
    for number in itertools.count():
        try:
            client.publish(queue, b"%d" % number, timeout=2.0)
        except TransientError:
            continue
        confirmed.append(b"%d" % number)
        if watched.promoted(old) is not None and old.role == "slave" and not failover.running:
            break
    failover.result()
    seen = set()
    for _ in range(100):
        batch = receive_calmly(client, queue, 500)
        seen |= {delivery.body for delivery in batch}
        for delivery in batch:
            client.ack(delivery)
        if seen.issuperset(confirmed):
            break
    assert seen.issuperset(confirmed)


def test_g14_a_master_that_is_cut_off_is_left(watched: Watched, make_client: MakeClient, queue: str) -> None:
    """A worker blocked at a master that lives but was replaced moves to the new one without any error to tell it."""
    client = make_client(watched.url)
    client.declare(queue)
    old = watched.master
    waiting = Background(lambda: client.receive(queue, 1, 60.0))
    # The old master is not told: the sentinels forget it and watch another server.
    new = next(node for node in watched.nodes if node is not old)
    new.cli("REPLICAOF", "NO", "ONE")
    for sentinel in watched.sentinels:
        sentinel.cli("SENTINEL", "REMOVE", SERVICE)
        sentinel.cli("SENTINEL", "MONITOR", SERVICE, new.host, new.port, 2)
    new.cli("XADD", queue, "*", "body", "after")
    assert [delivery.body for delivery in waiting.result(30.0)] == [b"after"]
    assert old.role == "master"
    assert old.cli("XLEN", queue) == 0


def test_g2_what_a_failover_forgot_is_written_from_memory(
    watched: Watched, make_client: MakeClient, queue: str, dead: str
) -> None:
    """A message that the new master never had and that fails is dead-lettered from the worker's memory."""
    client = make_client(watched.url, wait_replicas=0)
    client.declare(queue, dead)
    client.publish(queue, b"kept")
    wait_for(lambda: all(node.cli("XLEN", queue) == 1 for node in watched.nodes), 10, "replication")
    old = watched.master
    replicas = [node for node in watched.nodes if node is not old]
    for node in replicas:
        node.kill()
    client.publish(queue, b"forgotten")
    deliveries: list[Delivery] = []
    while len(deliveries) < 2:
        deliveries += client.receive(queue, 2, 5.0)
    old.kill()
    for node in replicas:
        node.start()
    wait_for(lambda: _counts(client, queue), 60, "the client finds the new master")
    for delivery in deliveries:
        wait_for(lambda d=delivery: _rejected(client, d), 30, "the new master is there")  # type: ignore[misc]
    left = set()
    for letter in client.dead_letters(dead):
        left.add(letter.body)
    if b"kept" not in left:  # the new master did not know that it was being run, so it is delivered again
        left.add(take(client, queue).body)
    assert left == {b"kept", b"forgotten"}


def _counts(client: RedisClient, queue: str) -> bool:
    try:
        return client.stats(queue).ready == 1
    except TransientError:
        return False


def _rejected(client: RedisClient, delivery: Delivery) -> bool:
    try:
        client.reject(delivery, requeue=False, failure=failure(delivery.queue))
    except DeliveryLostError:
        return True
    except TransientError:
        return False
    return True


def test_a_sentinel_that_is_gone_is_passed_over(watched: Watched, make_client: MakeClient, queue: str) -> None:
    """One sentinel that answers is enough, whichever it is."""
    watched.sentinels[0].kill()
    watched.sentinels[1].suspend()
    client = make_client(watched.url)
    client.declare(queue)
    client.publish(queue, b"x")
    assert take(client, queue).body == b"x"
    watched.sentinels[1].resume()


def test_g1_publishing_is_unconfirmed_without_enough_replicas(
    watched: Watched, make_client: MakeClient, queue: str
) -> None:
    """With both replicas frozen a publish says that a failover may lose it, unless it was told not to wait."""
    client = make_client(watched.url)
    client.declare(queue)
    master = watched.master
    for node in watched.nodes:
        if node is not master:
            node.suspend()
    with pytest.raises(PublishUnconfirmedError, match="wait_replicas"):
        client.publish(queue, b"x", timeout=0.3)
    with pytest.raises(PublishUnconfirmedError, match="wait_replicas"):
        client.publish_many(queue, [Message(b"y"), Message(b"z")], timeout=0.3)
    # On a new connection the server waits for nothing until something was written on it, and that needs the script.
    for publisher in (client, make_client(watched.url)):
        master.cli("SCRIPT", "FLUSH")
        with pytest.raises(PublishUnconfirmedError, match="wait_replicas"):
            publisher.publish(queue, b"later", timeout=0.3, delay=60)
    make_client(watched.url, wait_replicas=0).publish(queue, b"quick", timeout=5.0)
    for node in watched.nodes:
        if node is not master:
            node.resume()


def test_an_unknown_service_is_named(watched: Watched) -> None:
    """The error says which name the sentinels do not know."""
    with pytest.raises(BrokerUnavailableError, match="knows no service 'yourmaster'"):
        RedisClient(watched.url.replace(SERVICE, "yourmaster")).connect()


def test_sentinels_have_credentials_of_their_own(
    broker: RedisBroker, tmp_path: Path, make_client: MakeClient, queue: str
) -> None:
    """The URL's are for the server, the options' for the sentinels; wrong ones are an error that shows none."""
    broker.cli("CONFIG", "SET", "requirepass", "server-secret")
    sentinel = Sentinel(tmp_path / "sentinel", broker, password="sentinel-secret")
    sentinel.start()
    try:
        url = f"redis+sentinel://:server-secret@{sentinel.host}:{sentinel.port}/{SERVICE}"
        client = make_client(url, sentinel_password="sentinel-secret", wait_replicas=0)
        client.declare(queue)
        client.publish(queue, b"x")
        for wrong in ({}, {"sentinel_password": "bad-secret"}):
            with pytest.raises(AuthenticationError) as caught:
                RedisClient(url, **wrong).connect()
            assert "secret" not in str(caught.value)
        with pytest.raises(AuthenticationError) as caught:
            RedisClient(url.replace("server-secret", "bad-secret"), sentinel_password="sentinel-secret").connect()
        assert "secret" not in str(caught.value)
        assert "secret" not in repr(client)
    finally:
        sentinel.close()


def test_without_any_sentinel_there_is_no_connection() -> None:
    """The error names them."""
    port = free_port()
    with pytest.raises(BrokerUnavailableError, match=rf"127\.0\.0\.1:{port}"):
        RedisClient(f"redis+sentinel://127.0.0.1:{port}/{SERVICE}").connect()


@pytest.mark.parametrize(
    ("url", "options", "error"),
    [
        ("redis+sentinel://h1,h2", {}, InvalidURLError),
        ("redis+sentinel://h1,h2/", {}, InvalidURLError),
        ("redis+sentinel://h1,h2/mymaster/x", {}, InvalidURLError),
        ("redis://h1,h2/0", {}, InvalidURLError),
        ("redis+nothing://h1", {}, InvalidURLError),
        ("redis://h1/0", {"sentinel_password": "x"}, UnknownOptionError),
        ("redis+sentinel://h1/mymaster", {"cafile": "x"}, UnknownOptionError),
        ("redis+sentinel://h1/mymaster?wait_replicas=-1", {}, ConfigurationError),
        ("redis+sentinel://h1/mymaster", {"wait_replicas": 1.5}, ConfigurationError),
        ("redis+sentinel://h1/mymaster", {"wait_replicas": True}, ConfigurationError),
        ("redis+sentinel://h1/mymaster?sentinel_password=", {}, ConfigurationError),
    ],
)
def test_wrong_settings_are_refused(url: str, options: dict[str, object], error: type[Exception]) -> None:
    """When the client is made, and not when they first matter."""
    with pytest.raises(error):
        RedisClient(url, **options)


@pytest.mark.parametrize(
    ("url", "text"),
    [
        ("redis+sentinel://u:p@h1,h2:1/mymaster", "redis+sentinel://h1:26379,h2:1/mymaster/0"),
        ("rediss+sentinel://[::1]/mymaster/3", "rediss+sentinel://[::1]:26379/mymaster/3"),
        ("rediss://:p@/2", "rediss://localhost:6379/2"),
    ],
)
def test_a_client_shows_where_it_connects(url: str, text: str) -> None:
    """With the defaults filled in and without the credentials."""
    assert repr(RedisClient(url)) == f"RedisClient('{text}')"
