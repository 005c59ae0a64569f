"""What ``RabbitMQClient`` is between ``connect`` and ``disconnect``, and what all its calls need of that."""

from __future__ import annotations

import os
import threading

from qbridge_core.backend import BrokerURL, ConnectionEvents, NotConnectedError, Pulse, QueueClient
from qbridge_rabbitmq.broker import ConnectedBroker
from qbridge_rabbitmq.connection.boundary import bounded
from qbridge_rabbitmq.connection.options import Endpoint, Options
from qbridge_rabbitmq.queues.declarations import Declarations
from qbridge_rabbitmq.queues.policies import Policies


class Connecting(QueueClient):
    """Connects, and remembers what was declared.

    Args:
        url: where to.
        options: how.
    """

    def __init__(self, url: BrokerURL, options: Options) -> None:
        self._options = options
        self._endpoint = Endpoint.create(url, options)
        self.server = self._endpoint.server
        self.events = ConnectionEvents()
        self.patience = options.publish_timeout + 2 * options.request_timeout
        self._policies = Policies.of(self._endpoint)
        self._declarations = Declarations(options.queue_type)
        self._broker: ConnectedBroker | None = None
        self._lifecycle = threading.Lock()

    @property
    def connected(self) -> bool:
        """True between ``connect`` and ``disconnect`` in the process that connected, also while it reconnects."""
        return self._broker is not None and not self._is_parents and self._broker.io.alive

    @property
    def _is_parents(self) -> bool:
        """Whether a parent process has connected: its thread does not exist here, and its sockets are its own."""
        return self._broker is not None and self._broker.connections.pid != os.getpid()

    @bounded
    def connect(self) -> None:
        """Connect; returns when both connections are open."""
        if self._is_parents:
            self._lifecycle = threading.Lock()  # the parent's may be held by a thread that does not exist here
            self._broker = None
        with self._lifecycle:
            if self._broker is not None and not self._broker.io.alive:
                self._broker.connections.let_go()
                self._broker = None
            if self._broker is None:
                broker = ConnectedBroker(self._endpoint, self._declarations, self._policies, self.events)
                broker.open()
                self._broker = broker

    @bounded
    def disconnect(self) -> None:
        """Send what is left, close the connections and end the thread.

        A silent broker has 1.5 seconds at most, and 2.5 one that answers but for a queue that may lack settlements.
        """
        if self._is_parents:
            return
        with self._lifecycle:
            broker, self._broker = self._broker, None
            if broker is not None:
                try:
                    self._return_suspects(broker)
                finally:  # an interrupted program may live on, and nobody else gets what an open connection holds
                    broker.close()

    def _return_suspects(self, broker: ConnectedBroker) -> None:
        """Give back, as copies, what nobody has run; the originals would come back as if we had died of them."""
        for queue, arrivals in broker.consumers.take_unread(self._declarations.is_side_queue).items():
            broker.handbacks.give_back(queue, arrivals)

    def pulses(self) -> tuple[Pulse, ...]:
        """Of the background thread."""
        broker = self._broker
        return () if broker is None or self._is_parents else (broker.pulse,)

    def _watch_policies(self, queue: str) -> None:
        if self._policies is not None:
            self._policies.watch(queue, self._declarations.dead_letter_queue(queue))

    def _live(self) -> ConnectedBroker:
        """The parts of a client that is connected."""
        broker = self._broker
        if broker is None:
            raise NotConnectedError("the RabbitMQ client is not connected; call connect() first")
        if (pid := broker.connections.pid) != os.getpid():
            raise NotConnectedError(
                f"the RabbitMQ client was connected in process {pid}; call connect() in this process too"
            )
        if not broker.io.alive and not broker.connections.closing:
            raise NotConnectedError("the thread of the RabbitMQ client has ended; call connect() to start another one")
        return broker
