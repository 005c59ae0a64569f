"""The brokers that kombu reaches, one module for each kind."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import Any, Final

_PACKAGE: Final = "qbridge_kombu.transports"
SCHEMES: Final[Mapping[str, str]] = {
    "kombu+amqp": "amqp:AMQPTransport",
    "kombu+amqps": "amqp:AMQPTransport",
    "kombu+any": "store:AnyTransport",
    "kombu+filesystem": "filesystem:FilesystemTransport",
    "kombu+memory": "memory:MemoryTransport",
    "kombu+redis": "redis_lists:RedisListsTransport",
    "kombu+rediss": "redis_lists:RedisListsTransport",
    "kombu+sqlalchemy": "database:DatabaseTransport",
    "kombu+sqs": "sqs:SQSTransport",
}
"""What serves each scheme."""


def transport_class(scheme: str) -> Any:
    """The class for a scheme; its module is imported now.

    Raises:
        KeyError: there is none.
    """
    module, _, name = SCHEMES[scheme].partition(":")
    return getattr(import_module(f"{_PACKAGE}.{module}"), name)
