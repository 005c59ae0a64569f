"""What ``RedisClient`` is between ``connect`` and ``disconnect``, and what all its calls need of that."""

from __future__ import annotations

import os
import threading
from typing import TYPE_CHECKING, Final

from qbridge_core.backend import ConnectionEvents, NotConnectedError, Pulse, QueueClient
from qbridge_redis.connection.boundary import guarded_method
from qbridge_redis.connection.options import Deployment, Options
from qbridge_redis.node import Node
from qbridge_redis.nodes import Nodes, OneServer
from qbridge_redis.protocol.keys import Keys
from qbridge_redis.state.declarations import Declarations

if TYPE_CHECKING:
    from qbridge_redis.slots import Slots

_DISCONNECT_TIME: Final = 5.0


class Connecting(QueueClient):
    """Connects, and finds the node of a queue.

    Args:
        options: where to and how.
    """

    def __init__(self, options: Options) -> None:
        self._options = options
        self.events = ConnectionEvents()
        self.server = options.server
        self.max_message_bytes = options.max_message_bytes
        self.patience = options.patience
        self._keys = Keys(options.prefix, cluster=options.deployment is Deployment.CLUSTER)
        self._declarations = Declarations(self._keys, options.group)
        self._nodes: Nodes | None = None
        self._switching = threading.Lock()

    @property
    def connected(self) -> bool:
        """True between ``connect`` and ``disconnect``, in the process that connected."""
        nodes = self._nodes
        return nodes is not None and nodes.pid == os.getpid() and not nodes.closing.is_set()

    @guarded_method
    def connect(self) -> None:
        """Connect, look whether the server can keep the guarantees, and start two background threads.

        On a cluster each master that is used later gets such threads, and connections of its own.

        Raises:
            BrokerUnavailableError: the server cannot be reached within ``connect_timeout``.
            AuthenticationError: it refused the credentials.
            ConfigurationError: it is too old, evicts keys (``maxmemory-policy allkeys-*``), or is another kind of
                server than the URL says.
        """
        if self._nodes is not None and self._nodes.pid != os.getpid():
            self._switching = threading.Lock()  # the parent's may be held by a thread that does not exist here
            self._nodes = None
        with self._switching:
            if self._nodes is None:
                kind = _kind(self._options.deployment)
                nodes = kind(self._options, self._keys, self._declarations, self.events)
                nodes.start()
                self._nodes = nodes

    @guarded_method
    def disconnect(self) -> None:
        """Send acknowledgements, hand back what is unsettled, close.

        Takes 5 seconds at most, and hardly more than one when the server does not answer.
        """
        if self._nodes is not None and self._nodes.pid != os.getpid():
            return  # the connections and threads are the parent's
        with self._switching:
            nodes = self._nodes
            if nodes is None:
                return
            try:
                nodes.stop(_DISCONNECT_TIME)
            finally:
                self._nodes = None

    def pulses(self) -> list[Pulse]:
        """Of the background threads."""
        nodes = self._nodes
        return [] if nodes is None or nodes.pid != os.getpid() else nodes.pulses()

    def _connected(self) -> Nodes:
        nodes = self._nodes
        if nodes is None or nodes.closing.is_set():
            raise NotConnectedError("the Redis client is not connected; call connect() first")
        if nodes.pid != os.getpid():
            raise NotConnectedError(
                f"the Redis client was connected in process {nodes.pid}; call connect() in this process too"
            )
        return nodes

    def _running(self, queue: str) -> Node:
        return self._connected().node(queue)


def _kind(deployment: Deployment) -> type[OneServer | Slots]:
    """What is connected; a client of one server does without what a cluster needs."""
    if deployment is not Deployment.CLUSTER:
        return OneServer
    from qbridge_redis.slots import Slots

    return Slots
