"""The engines of one connected client: one for a server, and on a cluster one for each hash slot that it uses.

What belongs to one queue is in one slot, so to an engine the master of the slot is a server like any other. A failing
node then stops the queues that it holds and no others.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Sequence
from typing import Final

from qbridge_core.backend import QBridgeError
from qbridge_redis.connection.connection import LOST, Link
from qbridge_redis.connection.errors import unreachable
from qbridge_redis.connection.options import Address, Options, Topology
from qbridge_redis.connection.outage import Outage
from qbridge_redis.connection.route import OnMove, Route
from qbridge_redis.node import Engine
from qbridge_redis.protocol.fields import Fields
from qbridge_redis.protocol.keys import Keys
from qbridge_redis.protocol.limits import Limits
from qbridge_redis.server.cluster import ClusterMap, ClusterRoute
from qbridge_redis.server.diagnosis import check_files
from qbridge_redis.server.requirements import inspect
from qbridge_redis.server.sentinel import SentinelRoute
from qbridge_redis.state.context import Home, log
from qbridge_redis.state.declarations import Queues

_STOP_MARGIN: Final = 2.0


class Fleet:
    """One connected client. Thread-safe.

    Attributes:
        pid: the process that may use it.
        closing: set when ``stop`` begins.
    """

    def __init__(self, options: Options, keys: Keys, queues: Queues) -> None:
        self.pid: Final = os.getpid()
        self.closing: Final = threading.Event()
        self._options = options
        self._keys = keys
        self._queues = queues
        self._nodes = ClusterMap(options) if options.topology is Topology.CLUSTER else None
        self._limits = Limits()
        self._outage = Outage(options)
        self._engines: dict[int, Engine] = {}
        self._lock = threading.Lock()

    def start(self) -> None:
        """Connect, look at what is there, and make the queues again that were declared before."""
        check_files(self._options)
        try:
            if self._nodes is None:
                self._engines[0] = self._make(0)
                self._engines[0].inspect()
                self._engines[0].start()
            else:
                self._inspect_all(self._nodes)
            for queue in self._queues.declared():
                self.engine(queue).create(queue)
        except BaseException:
            self.stop(0.5)
            raise

    def stop(self, timeout: float) -> None:
        """Stop the engines, all at the same time, within about ``timeout`` seconds."""
        self.closing.set()
        with self._lock:
            engines = list(self._engines.values())
        others = [threading.Thread(target=engine.stop, args=(timeout,), daemon=True) for engine in engines[1:]]
        for other in others:
            other.start()
        for engine in engines[:1]:
            engine.stop(timeout)
        for other in others:
            other.join(timeout + _STOP_MARGIN)
        if self._nodes is not None:
            self._nodes.close()

    def engine(self, queue: str) -> Engine:
        """The engine of a queue, made when it is first asked for."""
        slot = self._keys.slot(queue)
        engine = self._engines.get(slot)
        if engine is None:
            with self._lock:
                if slot not in self._engines:
                    self._engines[slot] = self._make(slot)
                    self._engines[slot].start()
                engine = self._engines[slot]
        return engine

    def engines(self) -> list[Engine]:
        """All that there are."""
        with self._lock:
            return list(self._engines.values())

    def declare(self, queue: str, dead_letter_queue: str | None) -> None:
        """Create what is missing and remember it."""
        names = [queue] if dead_letter_queue is None else [queue, dead_letter_queue]
        for name in names:
            self._keys.slot(name)  # checks the names before anything is made
        for name in names:
            self.engine(name).create(name)
        self._queues.remember(queue, dead_letter_queue)

    def _make(self, slot: int) -> Engine:
        home = Home(self._route(slot), self._carry, self.closing, self._outage, self._limits)
        return Engine(self._options, self._keys, self._queues, home)

    def _route(self, slot: int) -> Callable[[OnMove], Route]:
        options, nodes = self._options, self._nodes
        if nodes is not None:
            return lambda on_move: ClusterRoute(options, nodes, slot, on_move)
        if options.topology is Topology.SENTINEL:
            return lambda on_move: SentinelRoute(options, on_move)
        return lambda _: Route(options)

    def _carry(self, queue: str, contents: Sequence[Fields], delay: float, create: bool) -> None:
        engine = self.engine(queue)
        engine.publisher.carry(queue, contents, delay, create)
        if delay > 0:
            engine.delayed(queue)

    def _inspect_all(self, nodes: ClusterMap) -> None:
        """Look at every master; one that is down now is not looked at."""
        limits = [self._inspect(address) for address in nodes.masters(self._options.connect_timeout)]
        told = [limit for limit in limits if limit is not None] or [Limits()]
        self._limits = Limits(min(limit.value for limit in told), min(limit.command for limit in told))

    def _inspect(self, address: Address) -> Limits | None:
        link = Link(Route(self._options, address), "qbridge:inspect")
        try:
            link.open()
            return inspect(link, self._options)
        except LOST as exc:
            log.warning("a node of the cluster does not answer: %s", unreachable(exc, address))
        except QBridgeError as exc:
            if not isinstance(exc, ConnectionError):
                raise
            log.warning("a node of the cluster cannot be reached: %s", exc)
        finally:
            link.close()
        return None
