"""What the entry points of ``amqp://`` and ``amqps://`` name."""

from __future__ import annotations

from collections.abc import Mapping

from qbridge_core.backend import BackendFactory, QueueClient, hookimpl
from qbridge_rabbitmq.client import RabbitMQClient


def _create(url: str, options: Mapping[str, object]) -> QueueClient:
    return RabbitMQClient(url, **options)


@hookimpl
def qbridge_backends() -> Mapping[str, BackendFactory]:
    """Serve ``amqp://`` and ``amqps://``."""
    return {"amqp": _create, "amqps": _create}
