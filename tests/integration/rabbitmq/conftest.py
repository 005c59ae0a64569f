"""What the tests of the RabbitMQ backend share: clients, and a plain pika channel for the other side."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing
from typing import Any

import pika
import pytest

from integration.rabbitmq.managed import ManagedRabbitMQ
from qbridge_rabbitmq import RabbitMQClient
from support.brokers import RabbitMQBroker
from support.clients import connected

MakeClient = Callable[..., RabbitMQClient]


@pytest.fixture
def make_client() -> Iterator[MakeClient]:
    """Make connected clients: `make_client(url, option=value)`; all are disconnected after the test."""
    with connected(RabbitMQClient) as make:
        yield make


@pytest.fixture
def client(make_client: MakeClient, amqp_url: str) -> RabbitMQClient:
    """A client connected to the run's broker."""
    return make_client(amqp_url)


@pytest.fixture
def channel(amqp_url: str) -> Iterator[Any]:
    """A channel of plain pika."""
    connection = pika.BlockingConnection(pika.URLParameters(amqp_url))
    yield connection.channel()
    connection.close()


@pytest.fixture
def managed(_managed: ManagedRabbitMQ) -> ManagedRabbitMQ:
    """A node whose users, policies, limits and certificates tests change; what they change has a unique name."""
    _managed.delete_queues()  # it makes statistics of each, for the whole run
    return _managed


@pytest.fixture(scope="session")
def _managed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ManagedRabbitMQ]:
    if not RabbitMQBroker.available():
        pytest.skip("RabbitMQ is not installed")
    with closing(ManagedRabbitMQ(tmp_path_factory.mktemp("managed"))) as node:
        node.start()
        yield node
