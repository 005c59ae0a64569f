"""Fixtures for the tests of the kombu backend: clients that are closed in the end, and brokers of the test's own."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from qbridge_kombu import KombuClient
from support.clients import connected

MakeClient = Callable[..., KombuClient]


@pytest.fixture
def make_client() -> Iterator[MakeClient]:
    """Make connected clients that are disconnected after the test."""
    with connected(KombuClient) as make:
        yield make


@pytest.fixture
def folder_url(tmp_path: Path) -> str:
    """The URL of a folder of the test's own."""
    return f"kombu+filesystem://{tmp_path}/queues?allow_loss=true"


@pytest.fixture
def file_url(tmp_path: Path) -> str:
    """The URL of an SQLite file of the test's own."""
    return f"kombu+sqlalchemy:///{tmp_path}/queues.db?dialect=sqlite&allow_loss=true"


@pytest.fixture
def amqp(amqp_url: str) -> str:
    """The run's RabbitMQ, through kombu."""
    return f"kombu+{amqp_url}"


@pytest.fixture
def queue(unique_name: str) -> str:
    """The name of a queue of the test's own."""
    return unique_name
