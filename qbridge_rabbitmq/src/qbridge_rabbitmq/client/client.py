"""``RabbitMQClient``: the QBridge contract on RabbitMQ."""

from __future__ import annotations

from dataclasses import replace

from qbridge_core.backend import BrokerURL, Capabilities
from qbridge_rabbitmq.client.consuming import Consuming
from qbridge_rabbitmq.client.holding import Holding
from qbridge_rabbitmq.client.letters import Letters
from qbridge_rabbitmq.client.operations import Operations
from qbridge_rabbitmq.client.producing import Producing
from qbridge_rabbitmq.connection.options import Options
from qbridge_rabbitmq.queues import delays
from qbridge_rabbitmq.queues.describing import ALWAYS, WITH_MANAGEMENT, Describing
from qbridge_rabbitmq.queues.management import Management


class RabbitMQClient(Producing, Consuming, Operations, Letters, Holding):
    """A client of RabbitMQ 3.10 or later. Thread-safe; not to be used by a child process after a fork.

    One background thread keeps two connections to the broker, one for consuming and one for publishing, and renews them
    when they are lost.

    Queues that it declares are durable quorum queues whose dead letters go to the dead-letter queue; a queue that
    somebody else declared is used as it is, whatever its type and arguments. Nothing depends on the broker's own
    dead-lettering: ``reject`` publishes a copy, waits for its confirmation, and only then acknowledges the original.

    What the broker itself moves to a dead-letter queue (it does so for a message over a limit, or when another consumer
    rejects it) is listed with reason ``rejected``.

    Args:
        rabbitmq_url: ``amqp://user:password@host:port/vhost``, or ``amqps://`` for TLS; a vhost's ``/`` is written
            ``%2F``, and no vhost means ``/``. The nodes of a cluster are ``host1:port1,host2:port2``; they are tried
            in an order that the client draws.
        options: see :class:`qbridge_rabbitmq.connection.options.Options`; they win over the same names in the URL's
            query.

    Raises:
        InvalidURLError: the URL cannot be understood.
        UnknownOptionError: an option does not exist.
        ConfigurationError: an option has a value that makes no sense.
    """

    logs_outages = True
    system = "rabbitmq"
    capabilities = Capabilities(
        delay=True,
        max_delay=delays.MAX_SECONDS,
        browse=True,
        crashes=True,
        durable=True,
        shared=True,
        instant_ack=True,
        letters=True,
        diagnoses=True,
        details=ALWAYS,
        queues=True,
        sent_at=True,
        history=True,
        purge_delayed=True,
        pause=True,
        imports=True,
    )

    def __init__(self, rabbitmq_url: str = "amqp://guest:guest@localhost:5672/", **options: object) -> None:
        url = BrokerURL.parse(rabbitmq_url)
        super().__init__(url, Options.read(url, options))
        self.max_message_bytes = self._options.max_message_bytes
        self._describing = Describing(self._declarations, api := Management.of(self._endpoint))
        if api is not None:
            self.capabilities = replace(self.capabilities, details=WITH_MANAGEMENT)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._endpoint}, {'' if self.connected else 'not '}connected>"
