"""A cluster of three nodes, of which one dies: the others have all that was confirmed, and clients go on with them."""

from __future__ import annotations

import json
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator

import pytest

from integration.rabbitmq.conftest import MakeClient
from integration.rabbitmq.deployments import Cluster
from qbridge_core import (
    ConstantBackoff,
    PublishUnconfirmedError,
    Reason,
    Reject,
    TaskManager,
    TransientError,
    UnroutableError,
)
from qbridge_rabbitmq import RabbitMQClient
from support.brokers import RabbitMQBroker
from support.wait import wait_for

pytestmark = [pytest.mark.faults, pytest.mark.slow, pytest.mark.timeout(240)]


@pytest.fixture(scope="module")
def nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Three nodes; each test finds them up."""
    if not RabbitMQBroker.available():
        pytest.skip("no RabbitMQ to make a cluster of")
    cluster = Cluster(tmp_path_factory.mktemp("cluster"))
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.close()


@pytest.fixture
def cluster(nodes: Cluster, monkeypatch: pytest.MonkeyPatch) -> Cluster:
    """The three nodes, all up, which clients try in the order of their URL."""
    nodes.repair()
    monkeypatch.setattr("qbridge_rabbitmq.connection.options.shuffled", tuple)
    return nodes


class Publisher:
    """Publishes numbers one by one until it is told to stop, and again what was not confirmed."""

    def __init__(self, client: RabbitMQClient, queue: str) -> None:
        self.confirmed = 0
        self.doubtful = set[int]()  # these may be there twice
        self._client = client
        self._queue = queue
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._publish, daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def _publish(self) -> None:
        while not self._over.is_set():
            try:
                self._client.send(self._queue, self.confirmed)
            except TransientError as exc:
                if isinstance(exc, PublishUnconfirmedError):
                    self.doubtful.add(self.confirmed)
                self._over.wait(0.05)
            else:
                self.confirmed += 1

    def stop(self) -> int:
        """End; the count of what was confirmed."""
        self._over.set()
        self._thread.join(30)
        return self.confirmed


class Runs:
    """A handler that counts its runs. Every tenth payload fails the first time; every 25th is rejected."""

    def __init__(self) -> None:
        self.count = Counter[int]()
        self._lock = threading.Lock()

    def __call__(self, payload: int) -> None:
        """Run."""
        with self._lock:
            self.count[payload] += 1
            runs = self.count[payload]
        time.sleep(0.005)
        if payload % 25 == 3:
            raise Reject("as planned")
        if payload % 10 == 0 and runs == 1:
            raise ValueError("as planned")

    def more_than(self, number: int) -> Callable[[], bool]:
        """A condition: more payloads than these have been run."""
        return lambda: len(self.count) > number

    def too_often(self) -> set[int]:
        """The payloads that were run more often than planned."""
        return {payload for payload, runs in self.count.items() if runs > (2 if payload % 10 == 0 else 1)}


@pytest.fixture
def queue(cluster: Cluster, make_client: MakeClient, unique_name: str) -> str:
    """A quorum queue with a member on each node, old enough to be recovered."""
    client = make_client(cluster.url)
    client.declare(unique_name, f"{unique_name}-dead")
    declared = time.monotonic()
    wait_for(lambda: cluster.is_replicated(unique_name), 30, "the queue has three members")
    # RabbitMQ 3.10 does not recover a quorum queue that is killed in its first seconds.
    wait_for(lambda: time.monotonic() > declared + 5, 10.0)
    return unique_name


def node_of(cluster: Cluster, client: RabbitMQClient) -> RabbitMQBroker:
    """The node to which a client is connected."""
    broker = client._broker
    assert broker is not None
    port = broker.connections.consuming.address[1]
    return next(node for node in cluster.nodes if node.port == port)


def is_empty(client: RabbitMQClient, queue: str) -> bool:
    """True when nothing is left of the queue; False while the broker cannot say."""
    try:
        stats = client.stats(queue)
    except TransientError:
        return False
    return stats.ready == stats.in_flight == stats.delayed == 0


@pytest.mark.parametrize("connected", [True, False], ids=["connected", "elsewhere"])
def test_g14_g3_a_killed_leader_loses_nothing_and_runs_nothing_twice(
    make_client: MakeClient, cluster: Cluster, queue: str, connected: bool
) -> None:
    """The leader is killed with a worker and a publisher at it, and their next node when it is back; or at others."""
    leader = cluster.leader(queue)
    others = [node for node in cluster.nodes if node is not leader]
    client = make_client(cluster.url_of(leader, *others) if connected else cluster.url_of(*others, leader))
    assert (node_of(cluster, client) is leader) == connected
    runs, dead = Runs(), f"{queue}-dead"
    publisher = Publisher(client, queue)
    with TaskManager(client, runs, queue, dead, max_workers=4, backoff=ConstantBackoff(0.3)) as manager:
        publisher.start()
        for node in (leader, others[0]) if connected else (leader,):
            cluster.repair()
            wait_for(runs.more_than(len(runs.count) + 50), 30, "the worker runs")
            node.kill()
            wait_for(runs.more_than(len(runs.count) + 50), 30, "the worker goes on")
        confirmed = publisher.stop()
        wait_for(lambda: set(range(confirmed)) <= runs.count.keys(), 30, "all that was confirmed is run")
        wait_for(lambda: is_empty(client, queue), 30, "nothing is left")
        assert manager.report().dead_lettered >= len([payload for payload in runs.count if payload % 25 == 3])
    assert runs.too_often() <= publisher.doubtful
    letters = {json.loads(letter.body)["payload"] for letter in client.dead_letters(dead, limit=10_000)}
    assert letters == {payload for payload in runs.count if payload % 25 == 3}


def test_g14_a_client_starts_while_a_node_is_down(make_client: MakeClient, cluster: Cluster, unique_name: str) -> None:
    """The first host of the URL is down: queues can be made and used through the others."""
    down = cluster.nodes[0]
    down.kill()
    client = make_client(cluster.url_of(down, *cluster.nodes[1:]))
    runs = Runs()
    with TaskManager(client, runs, unique_name, f"{unique_name}-dead", backoff=ConstantBackoff(0.2)) as manager:
        client.send_many(unique_name, [1, 3, 10])
        wait_for(lambda: manager.report().succeeded == 2, 20, "they are run, one of them again")
    assert [letter.reason for letter in client.dead_letters(f"{unique_name}-dead")] == [Reason.REJECTED]


def test_g14_a_worker_outlives_the_loss_of_the_majority(make_client: MakeClient, cluster: Cluster, queue: str) -> None:
    """Two of three nodes are killed: nothing is confirmed any more, and all goes on when one of them is back."""
    client = make_client(cluster.url, publish_timeout=2, request_timeout=2)
    runs = Runs()
    with TaskManager(client, runs, queue, f"{queue}-dead", max_workers=4):
        client.send(queue, 1)
        wait_for(runs.more_than(0), 10)
        first, second = (node for node in cluster.nodes if node is not node_of(cluster, client))
        first.kill()
        second.kill()
        with pytest.raises(TransientError):
            client.send(queue, 2)
        second.start()
        wait_for(lambda: sends(client, queue, 4), 30, "messages are taken again")
        wait_for(lambda: 4 in runs.count, 30, "the worker goes on")


def test_g14_a_node_that_is_cut_off_is_left(
    make_client: MakeClient, cluster: Cluster, queue: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A node without the others answers and does nothing: a worker and a publisher go to one that has the majority."""
    monkeypatch.setattr("qbridge_rabbitmq.consume.silence._LONG", 1)
    client = make_client(cluster.url, publish_timeout=2, request_timeout=2)
    runs = Runs()
    with TaskManager(client, runs, queue, f"{queue}-dead", max_workers=4):
        client.send(queue, 1)
        wait_for(runs.more_than(0), 10)
        lonely = node_of(cluster, client)
        cluster.cut_off(lonely)
        try:
            wait_for(lambda: sends(client, queue, 2), 60, "messages are taken elsewhere")
            wait_for(lambda: 2 in runs.count, 60, "the worker goes on elsewhere")
            assert node_of(cluster, client) is not lonely
        finally:
            lonely.kill()


def test_g14_a_classic_queue_waits_for_its_node(make_client: MakeClient, cluster: Cluster, unique_name: str) -> None:
    """It is not made anew at another node, which would lose what is in it; its worker goes on when the node is back."""
    home, *others = cluster.nodes
    client = make_client(cluster.url_of(home, *others), queue_type="classic", request_timeout=2)
    full = f"{unique_name}-full"
    client.declare(full, f"{full}-dead")
    client.send(full, 1)
    runs = Runs()
    with TaskManager(client, runs, unique_name, f"{unique_name}-dead"):
        home.kill()
        wait_for(lambda: node_of(cluster, client) is not home, 20)
        assert not sends(client, unique_name, 2), "nothing is confirmed that no queue has"
        home.start()
        wait_for(lambda: sends(client, unique_name, 4), 30, "messages are taken again")
        wait_for(lambda: 4 in runs.count, 30, "the worker goes on")
    assert client.stats(full).ready == 1


def sends(client: RabbitMQClient, queue: str, payload: int) -> bool:
    """Whether a message was confirmed; a node that knows of the loss says that it goes nowhere."""
    try:
        client.send(queue, payload)
    except (TransientError, UnroutableError):
        return False
    return True
