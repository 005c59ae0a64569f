"""Fixtures for the tests of the Redis backend: clients that are closed in the end, and commands behind their back."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from integration.redis.deployments import Cluster
from integration.redis.helpers import Cli, MakeClient
from qbridge_redis import RedisClient
from support.brokers import RedisBroker, find_program, redis_command
from support.clients import connected


@pytest.fixture
def make_client(request: pytest.FixtureRequest) -> Iterator[MakeClient]:
    """Make clients of the run's server (or of a URL) that are disconnected after the test."""
    with connected(RedisClient) as make:
        yield lambda url=None, **options: make(url or request.getfixturevalue("redis_url"), **options)


@pytest.fixture
def queue(unique_name: str) -> str:
    """The name of a queue of the test's own."""
    return unique_name


@pytest.fixture
def dead(queue: str) -> str:
    """The name of its dead-letter queue."""
    return f"{queue}.dlq"


@pytest.fixture
def client(make_client: MakeClient, queue: str, dead: str) -> RedisClient:
    """A client of the run's server that has declared the queue."""
    client = make_client(lease=1.0)
    client.declare(queue, dead)
    return client


@pytest.fixture
def cli(redis_url: str) -> Cli:
    """Run a command on the run's server, as redis-cli would."""
    return lambda *args: redis_command(redis_url, *args)


@pytest.fixture
def broker(private_redis: RedisBroker) -> RedisBroker:
    """A server of the test's own."""
    return private_redis


@pytest.fixture
def own_client(make_client: MakeClient, broker: RedisBroker, queue: str, dead: str) -> RedisClient:
    """A client of the test's own server that has declared the queue."""
    client = make_client(broker.url, lease=1.0, socket_timeout=1.0)
    client.declare(queue, dead)
    return client


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Three masters without replicas, for the tests that break nothing."""
    yield from _started(Cluster(tmp_path_factory.mktemp("cluster")))


@pytest.fixture
def own_cluster(tmp_path: Path) -> Iterator[Cluster]:
    """Three masters without replicas, for a test that breaks one; the others go on."""
    yield from _started(Cluster(tmp_path, cluster_require_full_coverage="no"))


@pytest.fixture
def replicated(tmp_path: Path) -> Iterator[Cluster]:
    """Three masters and their replicas, of one test alone."""
    yield from _started(Cluster(tmp_path, replicas=1))


def _started(cluster: Cluster) -> Iterator[Cluster]:
    if find_program("redis-cli", "valkey-cli") is None:
        pytest.skip("there is no redis-cli to make a cluster with")
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.close()
