"""The nodes of one connected client: one for a server, and on a cluster one for each hash slot that it uses.

What belongs to one queue is in one slot, so to a node the master of the slot is a server like any other. A failing
node then stops the queues that it holds and no others.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Final

from qbridge_core.backend import ConnectionEvents, Pulse, QBridgeError, monotonic
from qbridge_redis.connection.connection import LOST, RedisConnection
from qbridge_redis.connection.errors import unreachable
from qbridge_redis.connection.options import Address, Deployment, Options
from qbridge_redis.connection.outage_log import OutageLog
from qbridge_redis.connection.route import OnMove, Route
from qbridge_redis.connection.tls import check_files
from qbridge_redis.node import Node
from qbridge_redis.protocol.fields import Fields
from qbridge_redis.protocol.keys import Keys
from qbridge_redis.protocol.limits import Limits
from qbridge_redis.queues.finding import find_queues
from qbridge_redis.server.cluster import ClusterMap, ClusterRoute
from qbridge_redis.server.requirements import inspect
from qbridge_redis.server.sentinel import SentinelRoute
from qbridge_redis.state.context import ClientContext, log
from qbridge_redis.state.declarations import Declarations

_STOP_MARGIN: Final = 2.0


class Nodes:
    """One connected client. Thread-safe.

    Attributes:
        pid: the process that may use it.
        closing: set when ``stop`` begins.
    """

    def __init__(
        self, options: Options, keys: Keys, declarations: Declarations, events: ConnectionEvents | None = None
    ) -> None:
        self.pid: Final = os.getpid()
        self.closing: Final = threading.Event()
        self._options = options
        self._keys = keys
        self._declarations = declarations
        self._cluster = ClusterMap(options) if options.deployment is Deployment.CLUSTER else None
        self._limits = Limits()
        self._outage = OutageLog(options, events)
        self._nodes: dict[int, Node] = {}
        self._lock = threading.Lock()

    def start(self) -> None:
        """Connect, look at what is there, and make the queues again that were declared before."""
        check_files(self._options)
        try:
            if self._cluster is None:
                self._nodes[0] = self._make(0)
                self._nodes[0].inspect()
                self._nodes[0].start()
            else:
                self._inspect_all(self._cluster)
            for queue in self._declarations.declared():
                self.node(queue).create(queue)
        except BaseException:
            self.stop(0.5)
            raise

    def stop(self, timeout: float) -> None:
        """Stop the nodes, all at the same time, within about ``timeout`` seconds."""
        self.closing.set()
        with self._lock:
            nodes = list(self._nodes.values())
        others = [threading.Thread(target=node.stop, args=(timeout,), daemon=True) for node in nodes[1:]]
        for other in others:
            other.start()
        for node in nodes[:1]:
            node.stop(timeout)
        for other in others:
            other.join(timeout + _STOP_MARGIN)
        if self._cluster is not None:
            self._cluster.close()

    def node(self, queue: str) -> Node:
        """The node of a queue, made when it is first asked for."""
        slot = self._keys.slot(queue)
        node = self._nodes.get(slot)
        if node is None:
            with self._lock:
                if slot not in self._nodes:
                    self._nodes[slot] = self._make(slot)
                    self._nodes[slot].start()
                node = self._nodes[slot]
        return node

    def nodes(self) -> list[Node]:
        """All that there are."""
        with self._lock:
            return list(self._nodes.values())

    def pulses(self) -> list[Pulse]:
        """Of all threads. Takes no lock."""
        return [pulse for node in list(self._nodes.values()) for pulse in node.pulses]

    def masters(self) -> list[Address]:
        """The masters of a cluster; none without one.

        Raises:
            BrokerUnavailableError: no node answers.
        """
        return [] if self._cluster is None else self._cluster.masters(self._options.connect_timeout)

    def single(self) -> Node | None:
        """The only node there can be; None on a cluster."""
        return self._nodes[0] if self._cluster is None else None

    def declare(self, queue: str, dead_letter_queue: str | None) -> None:
        """Create what is missing and remember it."""
        names = [queue] if dead_letter_queue is None else [queue, dead_letter_queue]
        for name in names:
            self._keys.check_new(name)  # before anything is made
        for name in names:
            self.node(name).create(name)
        self._declarations.remember(queue, dead_letter_queue)

    def find_queues(self, timeout: float) -> set[str]:
        """The queues on the server, or on all masters of the cluster; it takes hardly longer than ``timeout`` seconds.

        Raises:
            QBridgeError: a server cannot be asked, or refuses it.
        """
        deadline, group = monotonic() + timeout, self._options.group
        if (node := self.single()) is not None:
            with self._reached(self._options), node.context.pool.connection() as connection:
                return set(find_queues(connection, self._keys, group, deadline))
        found: set[str] = set()
        for address in self.masters():
            connection = RedisConnection(Route(self._options, address), "qbridge:list")
            with self._reached(address), contextlib.closing(connection):
                connection.open()
                found.update(find_queues(connection, self._keys, group, deadline))
        return found

    @staticmethod
    @contextlib.contextmanager
    def _reached(where: object) -> Iterator[None]:
        try:
            yield
        except LOST as exc:
            raise unreachable(exc, where) from exc

    def _make(self, slot: int) -> Node:
        client = ClientContext(self._route(slot), self._publish_copies, self.closing, self._outage, self._limits)
        return Node(self._options, self._keys, self._declarations, client)

    def _route(self, slot: int) -> Callable[[OnMove], Route]:
        options, cluster = self._options, self._cluster
        if cluster is not None:
            return lambda on_move: ClusterRoute(options, cluster, slot, on_move)
        if options.deployment is Deployment.SENTINEL:
            return lambda on_move: SentinelRoute(options, on_move)
        return lambda _: Route(options)

    def _publish_copies(self, queue: str, contents: Sequence[Fields], delay: float, create: bool) -> None:
        node = self.node(queue)
        node.publisher.publish_copies(queue, contents, delay, create)
        if delay > 0:
            node.delayed(queue)

    def _inspect_all(self, cluster: ClusterMap) -> None:
        """Look at every master; one that is down now is not looked at."""
        limits = [self._inspect(address) for address in cluster.masters(self._options.connect_timeout)]
        told = [limit for limit in limits if limit is not None] or [Limits()]
        self._limits = Limits(min(limit.value for limit in told), min(limit.command for limit in told))

    def _inspect(self, address: Address) -> Limits | None:
        connection = RedisConnection(Route(self._options, address), "qbridge:inspect")
        try:
            connection.open()
            return inspect(connection, self._options)
        except LOST as exc:
            log.warning("a node of the cluster does not answer: %s", unreachable(exc, address))
        except QBridgeError as exc:
            if not isinstance(exc, ConnectionError):
                raise
            log.warning("a node of the cluster cannot be reached: %s", exc)
        finally:
            connection.close()
        return None
