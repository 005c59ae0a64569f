"""Asks the nodes of a Redis Cluster which of them serves a hash slot.

Facts: https://redis.io/docs/latest/commands/cluster-slots/ (the first server of a range is its master, and an empty
address stands for the node that was asked) and https://redis.io/docs/latest/operate/oss_and_stack/reference/cluster-spec/
(MOVED: the slot is elsewhere; ASK and TRYAGAIN: it is on its way).
"""

from __future__ import annotations

import threading
from typing import Any, Final

from redis.exceptions import ResponseError

from qbridge_core.backend import (
    AuthenticationError,
    BrokerUnavailableError,
    ConfigurationError,
    QBridgeError,
    monotonic,
)
from qbridge_redis.connection.connection import LOST, RedisConnection
from qbridge_redis.connection.errors import refused
from qbridge_redis.connection.options import Address, Options
from qbridge_redis.connection.route import OnMove, Route

_NAME: Final = "qbridge:cluster"
_CLOSE_TIME: Final = 0.2


class ClusterMap:
    """Who serves which slot, asked anew for each connection. Thread-safe; shared by the routes of one client."""

    def __init__(self, options: Options) -> None:
        self._options = options
        self._guides = {address: RedisConnection(Route(options, address), _NAME) for address in options.hosts}
        self._lock = threading.Lock()
        self._distrusted = False

    def owner(self, slot: int, timeout: float) -> Address:
        """The master of a slot, as the first node says that answers.

        Raises:
            BrokerUnavailableError: no node answers, or none serves the slot.
            AuthenticationError: they refused the credentials.
            ConfigurationError: they are no cluster.
        """
        for first, last, address in self._ranges(timeout):
            if first <= slot <= last:
                return address
        raise BrokerUnavailableError(f"no node of {self._options} serves the hash slot {slot}")

    def masters(self, timeout: float) -> list[Address]:
        """The masters of all slots."""
        return list(dict.fromkeys(address for _, _, address in self._ranges(timeout)))

    def distrust(self) -> None:
        """What a node said turned out to be wrong: ask another one next time."""
        self._distrusted = True

    def close(self) -> None:
        """Close the connections to the nodes."""
        for connection in list(self._guides.values()):
            connection.abort()
        if not self._lock.acquire(timeout=_CLOSE_TIME):
            return  # somebody is about to connect; what was opened is closed with its last user
        try:
            for connection in self._guides.values():
                connection.close()
        finally:
            self._lock.release()

    def _ranges(self, timeout: float) -> list[tuple[int, int, Address]]:
        deadline = monotonic() + timeout
        if not self._lock.acquire(timeout=timeout):
            raise BrokerUnavailableError(f"no node of {self._options} has answered yet")
        try:
            if self._distrusted:
                self._distrusted = False
                self._put_last(next(iter(self._guides)))
            return self._ask_all(deadline)
        finally:
            self._lock.release()

    def _ask_all(self, deadline: float) -> list[tuple[int, int, Address]]:
        problems: list[Exception] = []
        for left, address in zip(range(len(self._guides), 0, -1), list(self._guides), strict=True):
            try:
                return self._ask(address, max(0.05, (deadline - monotonic()) / left))
            except (QBridgeError, *LOST) as exc:
                if isinstance(exc, AuthenticationError | ConfigurationError):
                    raise
                problems.append(exc)
            self._put_last(address)
        told = "; ".join(dict.fromkeys(map(str, problems)))
        raise BrokerUnavailableError(f"no node of {self._options} answers: {told}") from problems[-1]

    def _put_last(self, address: Address) -> None:
        self._guides[address] = self._guides.pop(address)

    def _ask(self, asked: Address, timeout: float) -> list[tuple[int, int, Address]]:
        connection = self._guides[asked]
        if not connection.is_open:
            connection.open(timeout)
        rows = connection.call(("CLUSTER", "SLOTS"), timeout)
        if isinstance(rows, ResponseError):
            if "cluster support disabled" in str(rows):
                raise ConfigurationError(f"{self._options} is no Redis Cluster; write redis:// for a single server")
            raise refused(rows, "ask for the slots of the cluster") from rows
        self._learn({_address(node, asked) for row in rows for node in row[2:]})
        return [(row[0], row[1], _address(row[2], asked)) for row in rows]

    def _learn(self, nodes: set[Address]) -> None:
        """Ask these nodes too, for the day when those of the URL are gone, and forget what has left the cluster."""
        for address in nodes.difference(self._guides):
            self._guides[address] = RedisConnection(Route(self._options, address), _NAME)
        for address in set(self._guides).difference(nodes, self._options.hosts):
            self._guides.pop(address).close()


class ClusterRoute(Route):
    """The way to the master of one hash slot."""

    needs_master = True

    def __init__(self, options: Options, nodes: ClusterMap, slot: int, on_move: OnMove) -> None:
        super().__init__(options)
        self._nodes = nodes
        self._slot = slot
        self._on_move = on_move
        self._found = False
        self._lock = threading.Lock()

    def locate(self, timeout: float) -> tuple[Address, int]:
        """Ask the nodes."""
        address = self._nodes.owner(self._slot, timeout)
        with self._lock:
            if self._found and address != self._address:
                self.moves += 1
                self._on_move()
            self._address, self._found = address, True
            return address, self.moves

    def failed(self) -> None:
        """See ``Route.failed``."""
        self._nodes.distrust()


def _address(node: list[Any], asked: Address) -> Address:
    host = (node[0] or b"").decode()
    return (host if host not in ("", "?") else asked[0]), node[1]
