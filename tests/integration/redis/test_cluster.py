"""Redis Cluster: every queue is where its hash slot is, and is found again when the slot moves."""

from __future__ import annotations

import itertools
import threading
from collections import Counter

import pytest
import redis

from integration.redis.deployments import Cluster
from integration.redis.helpers import Background, MakeClient, failure, is_blocked, is_empty, take
from qbridge_core import (
    BrokerUnavailableError,
    ConfigurationError,
    ConstantBackoff,
    Delivery,
    FindingStatus,
    InvalidURLError,
    Message,
    PublishUnconfirmedError,
    QueueStats,
    QueueUse,
    Reason,
    TaskManager,
    TransientError,
    connect,
)
from qbridge_core.testing import BackendConformance
from qbridge_redis import RedisClient
from qbridge_redis.protocol.keys import Keys
from support.brokers import RedisBroker
from support.findings import bad
from support.wait import wait_for

pytestmark = [pytest.mark.faults, pytest.mark.timeout(240)]


@pytest.fixture(params=["tagged", "apart"])
def names(request: pytest.FixtureRequest, cluster: Cluster, queue: str) -> tuple[str, str]:
    """A queue and its dead-letter queue, once in one slot and once at different masters."""
    if request.param == "tagged":
        return f"{{{queue}}}", f"{{{queue}}}.dead"
    home = cluster.owner(queue)
    return queue, next(name for n in range(100) if cluster.owner(name := f"{queue}.dead-{n}") is not home)


class TestCluster(BackendConformance):
    """``redis+cluster://`` with queues whose names have no hash tags: they are in different slots."""

    options = {"lease": 1.0, "wait_replicas": 0}
    redelivery_timeout = 10.0

    @pytest.fixture
    def broker_url(self, cluster: Cluster) -> str:
        """The URL of the cluster."""
        return cluster.url


class TestTaggedCluster(TestCluster):
    """``redis+cluster://`` with a hash tag in the prefix, which puts all queues into one slot."""

    options = {"lease": 1.0, "wait_replicas": 0, "prefix": "{conformance}"}


def test_the_main_job_on_a_cluster(cluster: Cluster, names: tuple[str, str]) -> None:
    """Success, retries with a delay, dead letters, replay and purge, in one slot and across two masters."""
    queue, dead = names
    runs: Counter[str] = Counter()
    broken = True

    def handler(payload: str) -> None:
        runs[payload] += 1
        if payload.startswith("bad") and broken:
            raise ValueError("broken")

    with connect(cluster.url, wait_replicas=0, lease=2) as client:
        client.declare(queue, dead)
        manager = TaskManager(client, handler, queue, dead, max_retries=2, backoff=ConstantBackoff(0.05), max_workers=4)
        client.send_many(queue, [f"good-{n}" for n in range(50)] + ["bad-1", "bad-2"])
        client.publish(queue, b"no JSON", headers={"tenant": "blue"}, message_id="m-1")
        report = manager.run_until_idle(60)
        assert (report.succeeded, report.dead_lettered) == (50, 3)
        assert (runs["bad-1"], runs["bad-2"]) == (3, 3)
        letters = client.dead_letters(dead)
        assert sorted(letter.reason for letter in letters) == [Reason.FAILED, Reason.FAILED, Reason.MALFORMED]
        (malformed,) = [letter for letter in letters if letter.reason is Reason.MALFORMED]
        assert (malformed.body, malformed.headers, malformed.source_queue) == (b"no JSON", {"tenant": "blue"}, queue)
        broken = False
        assert client.stats(queue).dead == client.describe(queue).dead == 3
        assert client.replay(dead) == 3
        assert manager.run_until_idle(60).succeeded == 52
        assert client.purge(dead) == 1
        assert client.stats(queue) == client.stats(dead) == QueueStats(0, 0, 0)


def test_a_copy_across_slots_keeps_every_byte(
    cluster: Cluster, make_client: MakeClient, names: tuple[str, str]
) -> None:
    """Fields that a foreign producer wrote arrive in the dead-letter queue, and back again, as they were."""
    queue, dead = names
    client = make_client(cluster.url, wait_replicas=0)
    client.declare(queue, dead)
    fields = ["body", b"\xff\x00", b"h\xe9ader", b"\xfe", "x-qbridge-header-body", "b", "message_id", "m"]
    entry_id = cluster.cli(queue, "XADD", queue, "*", *fields)
    client.reject(take(client, queue), requeue=False, failure=failure(queue))
    assert client.flush()  # of two slots the copy is there before the original is gone
    assert _first_entry(cluster, dead)[b"h\xe9ader"] == b"\xfe"
    assert client.replay(dead) == 1
    back = _first_entry(cluster, queue)
    assert back.pop(b"x-qbridge-due-at-ms")
    assert back == {
        b"body": b"\xff\x00",
        b"h\xe9ader": b"\xfe",
        b"x-qbridge-header-body": b"b",
        b"message_id": b"m",
        b"x-qbridge-replays": b"1",
        b"x-qbridge-sent-at-ms": str(entry_id).partition("-")[0].encode(),
    }
    delivery = take(client, queue)
    assert (delivery.body, delivery.headers["body"], delivery.message_id) == (b"\xff\x00", "b", "m")
    assert delivery.attempts == 0


def _first_entry(cluster: Cluster, queue: str) -> dict[bytes, bytes]:
    node = cluster.owner(queue)
    with redis.Redis(node.host, node.port) as connection:
        return dict(connection.xrange(queue)[0][1])


def test_g12_a_dead_letter_is_kept_when_its_master_is_gone(
    own_cluster: Cluster, make_client: MakeClient, queue: str
) -> None:
    """The copy cannot be confirmed, so the original stays unsettled; the reject works when the node is back."""
    cluster = own_cluster
    home = cluster.owner(queue)
    dead = next(name for n in range(100) if cluster.owner(name := f"{queue}.dead-{n}") is not home)
    client = make_client(cluster.url, wait_replicas=0, publish_timeout=1.0)
    client.declare(queue, dead)
    client.publish(queue, b"x")
    delivery = take(client, queue)
    node = cluster.owner(dead)
    node.suspend()
    try:
        with pytest.raises(TransientError):
            client.reject(delivery, requeue=False, failure=failure(queue))
        assert home.cli("XLEN", queue) == 1
    finally:
        node.resume()
    wait_for(lambda: _rejects(client, delivery), 30, "the node is back")
    assert client.flush()
    assert client.stats(queue) == QueueStats(0, 0, 0)
    assert {letter.body for letter in client.dead_letters(dead)} == {b"x"}


def _rejects(client: RedisClient, delivery: Delivery) -> bool:
    try:
        client.reject(delivery, requeue=False, failure=failure(delivery.queue))
    except TransientError:
        return False
    return True


def test_g14_a_slot_that_moves_under_a_worker_and_a_publisher_is_followed(
    cluster: Cluster, make_client: MakeClient, queue: str
) -> None:
    """A slot with a queue migrates to another master: nothing is lost, and nothing runs twice for it."""
    tagged = f"{{{queue}}}"
    client = make_client(cluster.url, wait_replicas=0)
    client.declare(tagged)
    client.publish_many(tagged, [Message(b"%d" % n) for n in range(50)])
    held = client.receive(tagged, 10, 5.0)
    waiting = Background(lambda: [*client.receive(tagged, 40, 5.0), *client.receive(tagged, 1, 60.0)])
    wait_for(lambda: client.stats(tagged).in_flight == 50, 10)
    wait_for(lambda: is_blocked(cluster.owner(tagged).cli), 10)
    cluster.migrate(tagged)
    client.publish(tagged, b"after")
    client.publish_many(tagged, [Message(b"and"), Message(b"more")])
    rest = waiting.result(60.0)
    while len(rest) < 43:
        rest += client.receive(tagged, 10, 5.0)
    for delivery in held:
        client.reject(delivery, failure=failure(tagged))
    for delivery in rest:
        client.ack(delivery)
    assert client.flush(20.0)
    again = client.receive(tagged, 20, 5.0)
    assert sorted(d.body for d in again) == sorted(d.body for d in held)
    assert {d.attempts for d in again} == {1}
    assert sorted(d.body for d in rest) == sorted([*(b"%d" % n for n in range(10, 50)), b"after", b"and", b"more"])


def test_g14_a_killed_master_of_a_cluster_loses_nothing_confirmed(replicated: Cluster, queue: str) -> None:
    """SIGKILL of the master of a queue: its replica takes over, worker and publisher go on by themselves."""
    tagged, dead = f"{{{queue}}}", f"{{{queue}}}.dead"
    done: Counter[int] = Counter()
    confirmed: list[int] = []
    stopping = threading.Event()

    def publish() -> None:
        with connect(replicated.url, publish_timeout=2) as client:
            client.declare(tagged, dead)
            for number in itertools.count():
                if stopping.is_set():
                    return
                try:
                    client.send(tagged, number)
                except TransientError:
                    stopping.wait(0.05)
                else:
                    confirmed.append(number)

    def handler(number: int) -> None:
        done.update([number])
        if number % 50 == 7:
            raise ValueError("broken")

    publisher = Background(publish)
    # The replica that took over has none itself.
    with connect(replicated.url, lease=5, wait_replicas=0) as client:
        manager = TaskManager(client, handler, tagged, dead, max_retries=1, max_workers=4)
        with manager:
            wait_for(lambda: len(done) > 200, 60, "the worker gets going")
            old = replicated.owner(tagged)
            replica = replicated.replica_of(old)
            old.kill()
            wait_for(lambda: replica.role == "master", 60, "the replica takes over")
            old.start()
            before = len(confirmed)
            wait_for(lambda: len(confirmed) > before + 200, 90, "publishing goes on")
            stopping.set()
            publisher.result()
            wait_for(lambda: set(confirmed) <= set(done), 60, "every confirmed message is processed")
            wait_for(lambda: is_empty(client, tagged), 60, "the queue is empty in the end")
        letters = {letter.task_id for letter in client.dead_letters(dead, limit=10_000)}
        assert len(letters) >= len([n for n in confirmed if n % 50 == 7])


def test_g1_without_replicas_a_publish_is_unconfirmed(cluster: Cluster, make_client: MakeClient, queue: str) -> None:
    """By default a replica must have the message; the error and a warning name the option."""
    client = make_client(cluster.url)
    client.declare(queue)
    with pytest.raises(PublishUnconfirmedError, match="wait_replicas"):
        client.publish(queue, b"x", timeout=0.3)


def test_a_cluster_needs_its_own_scheme_and_a_single_server_another(
    cluster: Cluster, redis_url: str, queue: str
) -> None:
    """Both errors say which scheme to write."""
    with pytest.raises(ConfigurationError, match=r"redis\+cluster://"):
        RedisClient(f"redis://{cluster.nodes[0].host}:{cluster.nodes[0].port}/0").connect()
    with pytest.raises(ConfigurationError, match="redis://"):
        RedisClient(redis_url.replace("redis:", "redis+cluster:")).connect()


def test_a_node_that_is_gone_is_passed_over(
    cluster: Cluster, private_redis: RedisBroker, make_client: MakeClient, queue: str
) -> None:
    """One node of the URL that answers is enough."""
    private_redis.kill()
    hosts = f"127.0.0.1:{private_redis.port},127.0.0.1:{cluster.nodes[1].port}"
    client = make_client(f"redis+cluster://{hosts}", wait_replicas=0)
    client.declare(queue)
    client.publish(queue, b"x")
    assert take(client, queue).body == b"x"
    with pytest.raises(BrokerUnavailableError, match=str(private_redis.port)):
        RedisClient(f"redis+cluster://127.0.0.1:{private_redis.port}").connect()


@pytest.mark.parametrize("name", ["emails", "{emails}.dead", "a{b", "a{b}c}d", "é{ü}"])
def test_both_keys_of_a_queue_are_in_one_slot(name: str) -> None:
    """Whether its name has a hash tag or not; the stream's key stays the name."""
    keys = Keys("", cluster=True)
    keys.slot(name)
    assert keys.stream(name) == name.encode()
    assert keys.slot("{" + name + "}") == keys.slot(name) or "{" in name


@pytest.mark.parametrize("name", ["a}b", "{}x", "a{}b"])
def test_a_name_that_cannot_give_both_keys_one_slot_is_refused(name: str) -> None:
    """The error shows what a name with braces looks like; without a cluster the name is fine."""
    with pytest.raises(ConfigurationError, match="braces"):
        Keys("", cluster=True).slot(name)
    assert Keys("").slot(name) == 0


@pytest.mark.parametrize("url", ["redis+cluster://h1,h2/1", "redis+cluster://h1/x", "redis+cluster://h1,,h2"])
def test_wrong_urls_are_refused(url: str) -> None:
    """A cluster has only the database 0."""
    with pytest.raises(InvalidURLError):
        RedisClient(url)


def test_each_master_is_looked_at(cluster: Cluster, make_client: MakeClient, names: tuple[str, str]) -> None:
    """``diagnose`` on a cluster: every server, and a queue at whichever of them it is."""
    client = make_client(cluster.url, wait_replicas=0)
    client.declare(*names)
    coverage = bad(client.diagnose([QueueUse(*names)]))
    assert [(each.check, each.status) for each in coverage] == [("coverage", FindingStatus.WARNING)] * 3
    try:
        for node in cluster.nodes:
            node.cli(*coverage[0].mend.partition(" && ")[0].split())
        found = client.diagnose([QueueUse(*names)])
        assert bad(found) == []
    finally:
        for node in cluster.nodes:
            node.cli("CONFIG", "SET", "cluster-require-full-coverage", "yes")
    servers = {each.text.rpartition(" at ")[2] for each in found if each.check == "server"}
    assert servers == {f"{node.host}:{node.port}" for node in cluster.nodes}
