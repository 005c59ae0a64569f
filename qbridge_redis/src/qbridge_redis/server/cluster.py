"""Asks the nodes of a Redis Cluster which of them serves a hash slot.

Facts: https://redis.io/docs/latest/commands/cluster-slots/ (the first server of a range is its master, and an empty
address stands for the node that was asked) and https://redis.io/docs/latest/operate/oss_and_stack/reference/cluster-spec/
(MOVED: the slot is elsewhere; ASK and TRYAGAIN: it is on its way).
"""

from __future__ import annotations

import threading
from bisect import bisect_right
from collections.abc import Callable, Sequence
from typing import Any, Final, NamedTuple

from redis.exceptions import ClusterDownError, MasterDownError, MovedError, ReadOnlyError, ResponseError

from qbridge_core.backend import (
    AuthenticationError,
    BrokerUnavailableError,
    ConfigurationError,
    QBridgeError,
    monotonic,
)
from qbridge_redis.connection.connection import LOST, RedisConnection
from qbridge_redis.connection.errors import refused
from qbridge_redis.connection.options import Address, Options, address_text
from qbridge_redis.connection.route import OnMove, Route

_NAME: Final = "qbridge:cluster"
_CLOSE_TIME: Final = 0.2
_WATCH_TIME: Final = 0.5  # the thread that asks has leases to renew
_REPLICA: Final = (ReadOnlyError, MasterDownError)
_REPLACED: Final = (*_REPLICA, ClusterDownError)


class _Range(NamedTuple):
    """Some slots, and their master."""

    first: int
    last: int
    master: Address


_Ranges = Sequence[_Range]


class ClusterMap:
    """Who serves which slot. Thread-safe; shared by the routes of one client.

    What the nodes have answered holds until there is a doubt: a master does not answer, or says that it has not the
    slot. The doubt about one slot or master concerns no others, so that nobody waits for the nodes without need.

    Args:
        options: some of the nodes, and how to connect.
        arranged: called when the nodes have answered, by whoever asked them.
    """

    def __init__(self, options: Options, arranged: Callable[[], None]) -> None:
        self._options = options
        self._arranged = arranged
        self._guides = {address: RedisConnection(Route(options, address), _NAME) for address in options.hosts}
        self._lock = threading.Lock()
        self._known: _Ranges = ()
        self._doubts: set[int | Address] = set()

    def owner(self, slot: int, timeout: float) -> Address:
        """The master of a slot, as the first node said that answered.

        Raises:
            BrokerUnavailableError: no node answers, or none serves the slot.
            AuthenticationError: they refused the credentials.
            ConfigurationError: they are no cluster.
        """
        address = self.known_owner(slot)
        if address is None or not self._doubts.isdisjoint((slot, address)):
            self._ask_again({slot, address}, timeout)
            address = self.known_owner(slot)
        if address is None:
            raise BrokerUnavailableError(f"no node of {self._options} serves the hash slot {slot}")
        return address

    def known_owner(self, slot: int) -> Address | None:
        """The master of a slot as far as is known. Asks nobody."""
        known = self._known
        position = bisect_right(known, slot, key=_first) - 1
        return known[position].master if position >= 0 and slot <= known[position].last else None

    def masters(self, timeout: float) -> list[Address]:
        """The masters of all slots, as the nodes say now."""
        self._ask_again({None}, timeout)
        return self.known_masters()

    def known_masters(self) -> list[Address]:
        """The same as far as is known. Asks nobody."""
        return list(dict.fromkeys(each.master for each in self._known))

    def doubt(self, what: int | Address) -> None:
        """A slot may be elsewhere, or a master may have been replaced: ask before it is used again."""
        self._doubts.add(what)

    def clear_doubts(self, master: Address) -> bool:
        """Ask when there is a doubt about a master, or about a slot of it, briefly; False when nobody could say."""
        doubts = {each for each in self._doubts.copy() if each == master or self._is_at(each, master)}
        try:
            if doubts:
                self._ask_again(doubts, _WATCH_TIME)
        except QBridgeError:
            return False
        return True

    def _is_at(self, what: int | Address, master: Address) -> bool:
        return isinstance(what, int) and self.known_owner(what) == master

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

    def _ask_again(self, doubts: set[Any], timeout: float) -> None:
        """Ask who serves what, unless somebody else has just done so and none of these doubts is left."""
        deadline, before = monotonic() + timeout, self._known
        if not self._lock.acquire(timeout=timeout):
            raise BrokerUnavailableError(f"no node of {self._options} has answered yet")
        try:
            if self._known is not before and self._doubts.isdisjoint(doubts):
                return
            doubted = self._doubts.copy()
            if doubted:  # what the first node said was wrong, or is not true any more
                self._put_last(next(iter(self._guides)))
            self._known = self._ask_all(deadline)
            self._doubts -= doubted
        finally:
            self._lock.release()
        self._arranged()

    def _ask_all(self, deadline: float) -> _Ranges:
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
        guide = self._guides.pop(address)
        guide.close()  # a client keeps one connection to ask, however many nodes there are
        self._guides[address] = guide

    def _ask(self, asked: Address, timeout: float) -> _Ranges:
        connection = self._guides[asked]
        if not connection.is_open:
            connection.open(timeout)
        rows = connection.call(("CLUSTER", "SLOTS"), timeout)
        if isinstance(rows, ResponseError):
            if "cluster support disabled" in str(rows):
                raise ConfigurationError(f"{self._options} is no Redis Cluster; write redis:// for a single server")
            raise refused(rows, "ask for the slots of the cluster") from rows
        self._learn({_address(node, asked) for row in rows for node in row[2:]})
        return sorted(_Range(row[0], row[1], _address(row[2], asked)) for row in rows)

    def _learn(self, nodes: set[Address]) -> None:
        """Ask these nodes too, for the day when those of the URL are gone, and forget what has left the cluster."""
        for address in nodes.difference(self._guides):
            self._guides[address] = RedisConnection(Route(self._options, address), _NAME)
        for address in set(self._guides).difference(nodes, self._options.hosts):
            self._guides.pop(address).close()


class NodeRoute(Route):
    """The way to one node of a cluster, whatever it has now."""

    def called(self, address: Address | None) -> object:
        """See ``Route.called``: the others may answer."""
        return _called(self._address if address is None else address, self.options)


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
        """Ask the nodes, if what they said last is in doubt."""
        return self._arrive(self._nodes.owner(self._slot, timeout))

    def follow(self) -> None:
        """Go to where the slot is by what the nodes said last. Asks nobody."""
        address = self._nodes.known_owner(self._slot)
        if address is not None:
            self._arrive(address)

    @property
    def place(self) -> tuple[Address | None, int]:
        """See ``Route.place``."""
        with self._lock:
            return self._address if self._found else None, self.moves

    def _arrive(self, address: Address) -> tuple[Address, int]:
        with self._lock:
            if self._found and address != self._address:
                self.moves += 1
                self._on_move()
            self._address, self._found = address, True
            return address, self.moves

    def called(self, address: Address | None) -> object:
        """See ``Route.called``: the others may answer."""
        return _called(address, self.options)

    def failed(self) -> None:
        """See ``Route.failed``."""
        address, _ = self.place
        self._nodes.doubt(self._slot if address is None else address)

    def contradicted(self, error: ResponseError) -> bool:
        """See ``Route.contradicted``."""
        if isinstance(error, MovedError):
            self._nodes.doubt(self._slot)
            return True
        return _is_replaced(error, self)


class MasterRoute(Route):
    """The way to one master of a cluster, whichever slots it has."""

    needs_master = True
    needs_watch = True

    def __init__(self, options: Options, nodes: ClusterMap, address: Address) -> None:
        super().__init__(options, address)
        self._nodes = nodes

    def locate(self, timeout: float) -> tuple[Address, int]:
        """It stays where it is, but whoever comes back to it should know which slots it still has."""
        del timeout
        self.watch()
        return super().locate(0.0)

    def watch(self) -> bool:
        """See ``Route.watch``: what this master does not know, or has denied, is asked of the others."""
        return self._nodes.clear_doubts(self._address)

    def called(self, address: Address | None) -> object:
        """See ``Route.called``: the others may answer."""
        return _called(address, self.options)

    def failed(self) -> None:
        """See ``Route.failed``."""
        self._nodes.doubt(self._address)

    def contradicted(self, error: ResponseError) -> bool:
        """See ``Route.contradicted``: that one slot is elsewhere leaves the connection to serve the others."""
        if isinstance(error, MovedError):
            self._nodes.doubt(error.slot_id)
            return False
        return _is_replaced(error, self)


def _is_replaced(error: ResponseError, route: Route) -> bool:
    """Whether a server calls itself a replica. One that lacks the others may have been replaced: ask them."""
    if isinstance(error, _REPLACED):
        route.failed()
    return isinstance(error, _REPLICA)


def _called(master: Address | None, cluster: Options) -> object:
    return cluster if master is None else f"the master {address_text(master)} of {cluster}"


def _first(given: _Range) -> int:
    return given.first


def _address(node: list[Any], asked: Address) -> Address:
    host = (node[0] or b"").decode()
    return (host if host not in ("", "?") else asked[0]), node[1]
