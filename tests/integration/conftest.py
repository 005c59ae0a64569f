"""Fixtures for tests that run the same story on RabbitMQ and on Redis."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from qbridge_core import QueueClient, connect
from support.brokers import Broker
from support.programs import Programs
from support.worker_process import Journal, StartWorker, quick

BROKERS = ("rabbitmq", "redis")


@pytest.fixture(params=BROKERS)
def private_broker(request: pytest.FixtureRequest) -> Broker:
    """A broker of this test alone, once a RabbitMQ and once a Redis."""
    broker: Broker = request.getfixturevalue(f"private_{request.param}")
    return broker


@pytest.fixture(params=BROKERS)
def url(request: pytest.FixtureRequest, unique_name: str, tmp_path: Path) -> str:
    """The URL of the run's broker, once RabbitMQ and once Redis; tests that name others get one of their own."""
    if request.param == "memory":
        return f"memory://{unique_name}"
    if request.param == "kombu":  # over a file, where each queue is asked in its turn
        return f"kombu+sqlalchemy:///{tmp_path}/broker.db?dialect=sqlite&allow_loss=true"
    return str(request.getfixturevalue("amqp_url" if request.param == "rabbitmq" else "redis_url"))


@pytest.fixture
def client(url: str, unique_name: str) -> Iterator[QueueClient]:
    """A client that has declared the test's queue."""
    with connect(url) as connected:
        connected.declare(unique_name, f"{unique_name}-dead")
        yield connected


@pytest.fixture(params=BROKERS)
def shared_url(request: pytest.FixtureRequest) -> str:
    """The URL of the run's broker, once RabbitMQ and once Redis, with quick redelivery."""
    url: str = request.getfixturevalue("amqp_url" if request.param == "rabbitmq" else "redis_url")
    return quick(url)


@pytest.fixture(params=["redis", "quorum", "classic"])
def counting_url(request: pytest.FixtureRequest) -> str:
    """The URL of each of the run's brokers whose backend sees the death of a worker; RabbitMQ with both queue types."""
    if request.param == "redis":
        return quick(request.getfixturevalue("redis_url"))
    return f"{request.getfixturevalue('amqp_url')}?queue_type={request.param}"


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    """The journal that the workers of this test share; they are killed after the test."""
    journal = Journal(tmp_path / "journal")
    yield journal
    journal.close()


@pytest.fixture
def start_worker(journal: Journal, unique_name: str) -> StartWorker:
    """Start a worker process on the test's queue."""

    def start(url: str, *, timeout: float = 10.0) -> subprocess.Popen[bytes]:
        return journal.start_worker(url, unique_name, timeout)

    return start


@pytest.fixture
def programs(tmp_path: Path) -> Iterator[Programs]:
    """Start programs; they are killed after the test."""
    programs = Programs(tmp_path)
    yield programs
    programs.close()
