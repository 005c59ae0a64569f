"""A client of a cluster: a node for each hash slot that it uses, and threads and connections for each master.

What belongs to one queue is in one slot, so to a node the master of the slot is a server like any other. A failing
master stops the queues that it holds and no others.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Collection, Sequence
from functools import partial
from itertools import groupby
from typing import Any, Final, TypeVar

from qbridge_core.backend import BrokerUnavailableError, ConnectionEvents, Pulse, QBridgeError, monotonic
from qbridge_redis.connection.connection import LOST, RedisConnection
from qbridge_redis.connection.errors import REFUSED, unreachable
from qbridge_redis.connection.options import Address, Options
from qbridge_redis.connection.pool import ConnectionPool, SlotPool
from qbridge_redis.consume.polling import PollingReader
from qbridge_redis.consume.together import Reads
from qbridge_redis.master import Master
from qbridge_redis.node import Node
from qbridge_redis.nodes import Nodes, reached
from qbridge_redis.placement import Bell, Placement, Slot
from qbridge_redis.protocol.keys import Keys
from qbridge_redis.protocol.limits import Limits
from qbridge_redis.protocol.scripts import Command
from qbridge_redis.publish.posts import Posts
from qbridge_redis.publish.promised import disconnected
from qbridge_redis.queues.delays import DelaysOfSlots
from qbridge_redis.queues.finding import find_queues
from qbridge_redis.server.cluster import ClusterMap, ClusterRoute, MasterRoute, NodeRoute
from qbridge_redis.server.requirements import inspect
from qbridge_redis.settle.on_demand import AcknowledgementsOnDemand
from qbridge_redis.state.context import NodeContext, ServerContext, log
from qbridge_redis.state.declarations import Declarations

_STOP_MARGIN: Final = 2.0
_FLUSHES: Final = 2
T = TypeVar("T")


class Slots(Nodes):
    """A client of a cluster."""

    def __init__(
        self, options: Options, keys: Keys, declarations: Declarations, events: ConnectionEvents | None = None
    ) -> None:
        super().__init__(options, keys, declarations, events)
        self._placement = Placement(self._make_slot, self._make_master, self._shared.rearrange, self.closing)
        self._cluster = ClusterMap(options, self._placement.arrange)

    def stop(self, timeout: float) -> None:
        """See ``Nodes.stop``: at all masters at the same time."""
        self.closing.set()
        masters, slots = self._placement.everything()
        _at_once([partial(master.stop, timeout) for master in masters], timeout + _STOP_MARGIN)
        for slot in slots:
            if slot.master is None:
                slot.node.close()
        self._promises.end_all(disconnected)
        self._cluster.close()

    def node(self, queue: str) -> Node:
        """See ``Nodes.node``."""
        return self._slot(queue).node

    def nodes(self) -> list[Node]:
        """See ``Nodes.nodes``."""
        return [slot.node for slot in self._placement.slots()]

    def pulses(self) -> list[Pulse]:
        """See ``Nodes.pulses``."""
        return [pulse for master in self._placement.masters() for pulse in master.pulses]

    def masters(self) -> list[Address]:
        """See ``Nodes.masters``."""
        return self._cluster.masters(self._options.connect_timeout)

    def flush(self, timeout: float) -> bool:
        """See ``Nodes.flush``: at all masters at the same time, and again where a slot has moved meanwhile."""
        deadline = monotonic() + timeout
        for _ in range(_FLUSHES):
            busy = [each.acknowledgements for each in self._placement.masters() if each.acknowledgements.has_work]
            if not busy:
                return True
            left = max(0.0, deadline - monotonic())
            done = _at_once([partial(each.flush, left) for each in busy], left + _STOP_MARGIN)
            if len(done) < len(busy) or not all(done):
                return False
        return True

    def find_queues(self, timeout: float) -> set[str]:
        """See ``Nodes.find_queues``."""
        deadline = monotonic() + timeout
        found: set[str] = set()
        for address in self.masters():
            connection = RedisConnection(NodeRoute(self._options, address), "qbridge:list")
            with reached(address), contextlib.closing(connection):
                connection.open()
                found.update(find_queues(connection, self._keys, self._options.group, deadline))
        return found

    def paused(self, queues: Collection[str]) -> set[str]:
        """See ``Nodes.paused``. What a slot said last counts where it cannot be asked."""
        groups = [list(group) for _, group in groupby(sorted(queues, key=self._keys.slot), self._keys.slot)]
        asked = [(self.node(group[0]).pauses, group) for group in groups]
        replies = self._ask([(group[0], pauses.look_command(group)) for pauses, group in asked])
        found: set[str] = set()
        for (pauses, group), reply in zip(asked, replies, strict=True):
            try:
                if isinstance(reply, QBridgeError):
                    raise reply
                found |= pauses.looked(group, reply)
            except BrokerUnavailableError:
                found |= pauses.last(group)
        return found

    def occupied(self, queues: Collection[str]) -> set[str]:
        """See ``Nodes.occupied``. Those of a master that cannot be asked are not."""
        replies = self._ask([(queue, self.node(queue).admin.length_command(queue)) for queue in queues])
        return {
            queue
            for queue, reply in zip(queues, replies, strict=True)
            if reply != 0 and not isinstance(reply, QBridgeError)
        }

    def _ask(self, questions: Sequence[tuple[str, Command]]) -> list[Any]:
        """Put a question about each of some queues, all of one master in one round trip; an error where there is none.

        Raises:
            BrokerUnavailableError: no master can be asked.
        """
        replies: list[Any] = [BrokerUnavailableError("nobody knows where that is")] * len(questions)
        at: dict[Master, list[int]] = {}
        for position, (queue, _) in enumerate(questions):
            if (master := self._slot(queue).master) is not None:
                at.setdefault(master, []).append(position)
        for master, positions in at.items():
            answers = master.ask([questions[position][1] for position in positions])
            for position, answer in zip(positions, answers, strict=True):
                replies[position] = answer
        if replies and all(isinstance(reply, QBridgeError) for reply in replies):
            raise replies[0]
        return replies

    def _begin(self) -> None:
        """Look at every master; one that is down now is not looked at."""
        limits = [self._inspect(address) for address in self.masters()]
        told = [limit for limit in limits if limit is not None] or [Limits()]
        self._limits = Limits(min(limit.value for limit in told), min(limit.command for limit in told))

    def _inspect(self, address: Address) -> Limits | None:
        connection = RedisConnection(NodeRoute(self._options, address), "qbridge:inspect")
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

    def _slot(self, queue: str) -> Slot:
        return self._placement.slot(self._keys.slot(queue))

    def _make_slot(self, number: int) -> Slot:
        def moved() -> None:
            node.context.moved()

        def poke() -> None:
            slot.poke()

        def posts() -> Posts | None:
            return None if slot.master is None else slot.master.posts

        route = ClusterRoute(self._options, self._cluster, number, moved)
        pool, bell = SlotPool(route, self._placement.pool_at, self._placement.known_pool), Bell()
        client = self._client(route, pool, bell)
        node = Node(self._options, self._keys, self._declarations, client, self._shared, poke, self._promises, posts)
        slot = Slot(route, bell, node)
        return slot

    def _make_master(self, address: Address) -> Master:
        route = MasterRoute(self._options, self._cluster, address)
        server = ServerContext(route, self._name, ConnectionPool(route, self._name), self.closing, self._outage)
        reader = PollingReader(server, self._shared, self._placement.count_masters)
        delays = DelaysOfSlots(self._keys, self._placement.count_masters)
        return Master(server, delays, reader, AcknowledgementsOnDemand)

    def _reads(self, context: NodeContext) -> Reads:
        address, _ = context.route.place
        if address is None:
            try:
                address, _ = context.route.locate(self._options.connect_timeout)
            except REFUSED as exc:
                raise unreachable(exc, self._options) from exc
        return self._placement.master_at(address).shared_reader


def _at_once(calls: Sequence[Callable[[], T]], timeout: float) -> list[T]:
    """Make several calls at the same time; return what those have returned that have ended after so many seconds."""
    results: list[T] = []

    def make(call: Callable[[], T]) -> None:
        results.append(call())

    others = [
        threading.Thread(target=make, args=(call,), name="qbridge-redis-masters", daemon=True) for call in calls[1:]
    ]
    for other in others:
        other.start()
    for call in calls[:1]:
        make(call)
    for other in others:
        other.join(timeout)
    return list(results)
