"""Which server a backend runs on, and by which URL it is reached."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from chaos.plan import Backend
from support.brokers import Broker, RabbitMQBroker, RedisBroker
from support.sqs import SQSBroker


@dataclass(frozen=True)
class Target:
    """A kind of server, and what makes its URL that of the backend: what stands before it and behind it."""

    server: type[Broker]
    options: str
    prefix: str = ""

    def url(self, address: str) -> str:
        """The URL for ``connect``, of the server's own or of a proxy's to it."""
        return f"{self.prefix}{address}{self.options}"


TARGETS: Final = {
    Backend.QUORUM: Target(RabbitMQBroker, "?heartbeat=2"),
    Backend.CLASSIC: Target(RabbitMQBroker, "?heartbeat=2&queue_type=classic"),
    Backend.REDIS: Target(RedisBroker, "?lease=2"),
    Backend.KOMBU_AMQP: Target(RabbitMQBroker, "?queue_type=quorum", prefix="kombu+"),
    Backend.KOMBU_SQS: Target(SQSBroker, "?lease=3&wait_time=1"),
}


def broker_of(backend: Backend) -> type[Broker]:
    """The server of this backend."""
    return TARGETS[backend].server
