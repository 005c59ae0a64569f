"""What a connected client has: nodes for its queues, and what they share of each server."""

from __future__ import annotations

import abc
import contextlib
import os
import threading
from collections.abc import Collection, Iterator, Sequence
from typing import Final

from redis.exceptions import TimeoutError as RedisTimeoutError

from qbridge_core.backend import BrokerUnavailableError, ConnectionEvents, Promises, Pulse, monotonic
from qbridge_redis.connection.connection import LOST, RedisConnection
from qbridge_redis.connection.errors import unreachable
from qbridge_redis.connection.options import Address, Deployment, Options
from qbridge_redis.connection.outage_log import OutageLog
from qbridge_redis.connection.pool import ConnectionPool, Pool
from qbridge_redis.connection.route import Route
from qbridge_redis.connection.tls import check_files
from qbridge_redis.consume.several import SeveralQueues
from qbridge_redis.consume.shared import SharedReader
from qbridge_redis.consume.together import Reads, SharedQueues
from qbridge_redis.master import Master
from qbridge_redis.node import Node
from qbridge_redis.protocol.fields import Fields
from qbridge_redis.protocol.keys import Keys
from qbridge_redis.protocol.limits import Limits
from qbridge_redis.publish.promised import Promised, disconnected, late
from qbridge_redis.queues.delays import Delays
from qbridge_redis.queues.finding import find_queues
from qbridge_redis.server.diagnosis import diagnose
from qbridge_redis.server.requirements import inspect
from qbridge_redis.state.context import ClientContext, NodeContext, ServerContext, Signal, new_consumer
from qbridge_redis.state.declarations import Declarations

_FIRST_TLS: Final = 1.5


class Nodes(abc.ABC):
    """One connected client. Thread-safe.

    Attributes:
        pid: the process that may use it.
        closing: set when ``stop`` begins.
        several: receives from several queues at once.
    """

    def __init__(
        self, options: Options, keys: Keys, declarations: Declarations, events: ConnectionEvents | None = None
    ) -> None:
        self.pid: Final = os.getpid()
        self.closing: Final = threading.Event()
        self._options = options
        self._keys = keys
        self._declarations = declarations
        self._limits = Limits()
        self._outage = OutageLog(options, events)
        self._consumer = new_consumer()
        self._name = f"qbridge:{self._consumer}"
        self._promises: Promises[Promised] = Promises(late, "qbridge-redis-deadlines")
        self._shared = SharedQueues(self.closing, self._reads)
        self.several: Final = SeveralQueues(self._shared, self.closing, lambda queue: self.node(queue).reader_of(queue))

    def start(self) -> None:
        """Connect, look at what is there, and make the queues again that were declared before."""
        check_files(self._options)
        try:
            self._begin()
            for queue in self._declarations.declared():
                self.node(queue).create(queue)
        except BaseException:
            self.stop(0.5)
            raise

    @abc.abstractmethod
    def stop(self, timeout: float) -> None:
        """Flush, hand back, close, within about ``timeout`` seconds."""

    @abc.abstractmethod
    def node(self, queue: str) -> Node:
        """The node of a queue, made when it is first asked for."""

    @abc.abstractmethod
    def nodes(self) -> list[Node]:
        """All that there are."""

    @abc.abstractmethod
    def pulses(self) -> list[Pulse]:
        """Of all threads. Takes no lock."""

    @abc.abstractmethod
    def flush(self, timeout: float) -> bool:
        """Send the acknowledgements that wait; return whether none is left."""

    @abc.abstractmethod
    def find_queues(self, timeout: float) -> set[str]:
        """The queues on all servers; it takes hardly longer than ``timeout`` seconds.

        Raises:
            QBridgeError: a server cannot be asked, or refuses it.
        """

    @abc.abstractmethod
    def paused(self, queues: Collection[str]) -> set[str]:
        """Which of these queues have the mark of a pause.

        Raises:
            BrokerUnavailableError: no server can be asked.
        """

    @abc.abstractmethod
    def occupied(self, queues: Collection[str]) -> set[str]:
        """Which of these queues have something ready or in flight, or may not be looked at.

        Raises:
            BrokerUnavailableError: no server can be asked.
        """

    def masters(self) -> list[Address]:
        """The masters of a cluster; none without one.

        Raises:
            BrokerUnavailableError: no node answers.
        """
        return []

    def single(self) -> Node | None:
        """The only node there can be; None on a cluster."""
        return None

    def declare(self, queue: str, dead_letter_queue: str | None) -> None:
        """Create what is missing and remember it."""
        names = [queue] if dead_letter_queue is None else [queue, dead_letter_queue]
        for name in names:
            self._keys.check_new(name)  # before anything is made
        for name in names:
            self.node(name).create(name)
        self._declarations.remember(queue, dead_letter_queue)

    @abc.abstractmethod
    def _begin(self) -> None:
        """Connect, and look at what is there."""

    @abc.abstractmethod
    def _reads(self, context: NodeContext) -> Reads:
        """Who reads the idle queues of a node."""

    def _client(self, route: Route, pool: Pool, acks_waiting: Signal) -> ClientContext:
        return ClientContext(
            route=route,
            pool=pool,
            publish_copies=self._publish_copies,
            closing=self.closing,
            outage=self._outage,
            consumer=self._consumer,
            acks_waiting=acks_waiting,
            limits=self._limits,
        )

    def _publish_copies(self, queue: str, contents: Sequence[Fields], delay: float, create: bool) -> None:
        node = self.node(queue)
        node.publisher.publish_copies(queue, contents, delay, create)
        if delay > 0:
            node.delayed(queue)


class OneServer(Nodes):
    """A client of one server, or of whichever server the sentinels call the master.

    Attributes:
        master: the server.
    """

    def __init__(
        self, options: Options, keys: Keys, declarations: Declarations, events: ConnectionEvents | None = None
    ) -> None:
        super().__init__(options, keys, declarations, events)
        route = self._route()
        server = ServerContext(route, self._name, ConnectionPool(route, self._name), self.closing, self._outage)
        self.master: Final = Master(server, Delays(keys), SharedReader(server, self._shared))
        client = self._client(route, server.pool, server.acks_waiting)
        poke = self.master.maintenance.poke
        self._node: Final = Node(options, keys, declarations, client, self._shared, poke, self._promises, lambda: None)
        self.master.nodes = (self._node,)

    def stop(self, timeout: float) -> None:
        """See ``Nodes.stop``."""
        self.closing.set()
        self.master.stop(timeout)
        self._promises.end_all(disconnected)

    def node(self, queue: str) -> Node:
        """See ``Nodes.node``."""
        self._keys.slot(queue)  # a look at the name
        return self._node

    def nodes(self) -> list[Node]:
        """See ``Nodes.nodes``."""
        return [self._node]

    def pulses(self) -> list[Pulse]:
        """See ``Nodes.pulses``."""
        return list(self.master.pulses)

    def single(self) -> Node | None:
        """See ``Nodes.single``."""
        return self._node

    def flush(self, timeout: float) -> bool:
        """See ``Nodes.flush``."""
        return self.master.acknowledgements.flush(timeout)

    def find_queues(self, timeout: float) -> set[str]:
        """See ``Nodes.find_queues``."""
        deadline = monotonic() + timeout
        with reached(self._options), self._node.context.pool.connection() as connection:
            return set(find_queues(connection, self._keys, self._options.group, deadline))

    def paused(self, queues: Collection[str]) -> set[str]:
        """See ``Nodes.paused``."""
        return self._node.pauses.paused(list(queues))

    def occupied(self, queues: Collection[str]) -> set[str]:
        """See ``Nodes.occupied``."""
        return self._node.admin.occupied(queues)

    def _begin(self) -> None:
        context = self._node.context
        connection = RedisConnection(context.route, self._name)
        try:
            with reached(self._options):
                _open_first(connection, self._options)
                context.limits = inspect(connection, self._options)
        except BaseException:
            connection.close()
            raise
        context.pool.give(connection)
        self.master.start()

    def _reads(self, context: NodeContext) -> Reads:
        del context
        return self.master.shared_reader

    def _route(self) -> Route:
        if self._options.deployment is Deployment.SENTINEL:
            from qbridge_redis.server.sentinel import SentinelRoute  # a client of one server does without it

            return SentinelRoute(self._options, self._moved)
        return Route(self._options)

    def _moved(self) -> None:
        self._node.context.moved()


@contextlib.contextmanager
def reached(where: object) -> Iterator[None]:
    """Say of a lost connection what it means."""
    try:
        yield
    except LOST as exc:
        raise unreachable(exc, where) from exc


def _open_first(connection: RedisConnection, options: Options) -> None:
    """Connect for the first time; when it does not work, find out why."""
    if options.deployment is not Deployment.SINGLE:
        connection.open()
        return
    # A server without TLS waits for the rest of what it takes for a command: look soon, and then try again.
    first = max(_FIRST_TLS, options.connect_timeout / 2) if options.tls else None
    deadline = monotonic() + options.connect_timeout
    try:
        connection.open(first)
    except BrokerUnavailableError as exc:
        if reason := diagnose(options, options.hosts[0]):
            raise BrokerUnavailableError(f"no connection to {options}: {reason}") from exc.__cause__
        if not options.tls or not isinstance(exc.__cause__, RedisTimeoutError):
            raise
        connection.open(deadline - monotonic())
