"""What the parts of a connected client share."""

from __future__ import annotations

import os
import threading
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final, Protocol

from qbridge_core.backend import QBridgeError, monotonic, worker_identity
from qbridge_redis.connection.options import Options
from qbridge_redis.connection.outage_log import OutageLog, log
from qbridge_redis.connection.pool import ConnectionPool, Pool
from qbridge_redis.connection.route import Route
from qbridge_redis.protocol.fields import Fields
from qbridge_redis.protocol.keys import Keys
from qbridge_redis.protocol.limits import Limits
from qbridge_redis.state.declarations import Declarations
from qbridge_redis.state.in_flight import InFlight

_COMPLAINTS: Final = 100
__all__ = ["PublishCopies", "ClientContext", "NodeContext", "ServerContext", "Signal", "log", "new_consumer"]

PublishCopies = Callable[[str, Sequence[Fields], float, bool], None]
"""``publish_copies(queue, contents, delay, create)``; returns when all are confirmed."""


class Unread(Protocol):
    """A reader that has sent a read."""

    def read_late(self, now: float) -> None:
        """Read the reply, when nobody has come for it until ``now`` (monotonic time)."""


class Signal(Protocol):
    """What a thread waits for."""

    def set(self) -> None:
        """Give it."""

    def is_set(self) -> bool:
        """Whether it was given, and the thread has not begun yet."""
        ...


def new_consumer() -> str:
    """A name for a client in the consumer groups; never used twice."""
    return f"{worker_identity()}:{uuid.uuid4().hex[:8]}"


@dataclass(frozen=True, slots=True)
class ClientContext:
    """What a node gets from the client that it belongs to.

    Attributes:
        route: see ``NodeContext``.
        pool: see ``NodeContext``.
        publish_copies: see ``NodeContext``.
        closing: see ``NodeContext``.
        outage: see ``NodeContext``.
        consumer: see ``NodeContext``.
        acks_waiting: see ``NodeContext``.
        limits: see ``NodeContext``.
    """

    route: Route
    pool: Pool
    publish_copies: PublishCopies
    closing: threading.Event
    outage: OutageLog
    consumer: str
    acks_waiting: Signal
    limits: Limits = field(default_factory=Limits)


class Call:
    """A signal that somebody may be started by; for the rest a ``threading.Event``.

    Attributes:
        answer: called whenever it is given.
    """

    def __init__(self) -> None:
        event = threading.Event()
        self._give = event.set
        self.is_set: Final = event.is_set  # as they are: each acknowledgement asks
        self.wait: Final = event.wait
        self.clear: Final = event.clear
        self.answer: Callable[[], None] = _nobody

    def set(self) -> None:
        """Give it."""
        self._give()
        self.answer()


def _nobody() -> None:
    """Whoever waits for it is there already."""


class ServerContext:
    """What those parts of a client share that work for one server, for all nodes that it has there.

    Attributes:
        options: of the client.
        route: how its connections find the server.
        name: of its connections.
        pool: the connections for the commands of any thread.
        acks_waiting: set when acknowledgements wait for the thread that sends them.
        closing: set when ``disconnect`` begins.
        outage: tells the log when the server cannot be used.
    """

    def __init__(
        self, route: Route, name: str, pool: ConnectionPool, closing: threading.Event, outage: OutageLog
    ) -> None:
        self.options: Final = route.options
        self.route: Final = route
        self.name: Final = name
        self.pool: Final = pool
        self.acks_waiting: Final = Call()
        self.closing: Final = closing
        self.outage: Final = outage

    @property
    def where(self) -> object:
        """What an error calls the server."""
        address, _ = self.route.place
        return self.route.called(address)

    def lost(self, who: object, error: QBridgeError) -> None:
        """Something that needs the server cannot use it; unless the client itself has just closed the connections."""
        if not self.closing.is_set():
            self.outage.lost(who, error)


class NodeContext:
    """The time between one ``connect`` and one ``disconnect``, in one process, with one server or hash slot.

    Attributes:
        pid: the process that may use it: connections must not be shared with a child.
        route: how its connections find the server.
        pool: connections for the commands of any thread.
        consumer: the name of this client in the consumer groups; never used twice.
        publish_copies: publishes copies to a queue that no script of this context can write to.
        closing: set when ``disconnect`` begins.
        unread: the readers that have sent a read whose reply nobody has read yet.
        acks_waiting: set when acknowledgements wait for the thread that sends them.
        limits: how large a message may be.
        outage: tells the log when the server cannot be used.
    """

    def __init__(self, options: Options, keys: Keys, declarations: Declarations, client: ClientContext) -> None:
        self.options: Final = options
        self.keys: Final = keys
        self.declarations: Final = declarations
        self.pid: Final = os.getpid()
        self.consumer: Final = client.consumer
        self.route: Final = client.route
        self.pool: Final = client.pool
        self.publish_copies: Final = client.publish_copies
        self.closing: Final = client.closing
        self.acks_waiting: Final = client.acks_waiting
        self.unread: Final[set[Unread]] = set()
        self.limits = client.limits
        self.outage: Final = client.outage
        self._complaints: dict[str, str] = {}
        self._in_flight: dict[str, InFlight] = {}
        self._in_flight_lock = threading.Lock()
        self._last_reconnect = monotonic()

    def in_flight(self, queue: str) -> InFlight:
        """What is in flight of one queue."""
        with self._in_flight_lock:
            if queue not in self._in_flight:
                self._in_flight[queue] = InFlight(queue, self)
            return self._in_flight[queue]

    def all_in_flight(self) -> list[InFlight]:
        """The same of all queues that were received from."""
        with self._in_flight_lock:
            return list(self._in_flight.values())

    def forget(self, queue: str) -> None:
        """Nothing of a queue is in flight, and nobody reads it."""
        with self._in_flight_lock:
            self._in_flight.pop(queue, None)
        self._complaints.pop(queue, None)

    def is_new_complaint(self, queue: str, text: str) -> bool:
        """Whether this is to be said, because it is not what was said of the queue last."""
        is_new = self._complaints.get(queue) != text
        if len(self._complaints) >= _COMPLAINTS:
            self._complaints.clear()
        self._complaints[queue] = text
        return is_new

    def will_read(self, reader: Unread) -> None:
        """Have a reply read when nobody comes for it."""
        self.unread.add(reader)
        if not self.acks_waiting.is_set():
            self.acks_waiting.set()

    def lost(self, who: object, error: QBridgeError) -> None:
        """Something that needs the server cannot use it; unless the client itself has just closed the connections."""
        if not self.closing.is_set():
            self.outage.lost(who, error)

    def reconnected(self) -> None:
        """A lost connection is back.

        After an outage every lease may have run out, so nobody's tasks are taken over until all had time to renew.
        """
        self._last_reconnect = monotonic()

    def moved(self) -> None:
        """Another server took over, which may lack the last writes: what is held here may be the only copy."""
        self.reconnected()
        for in_flight in self.all_in_flight():
            in_flight.mark_deleted()

    @property
    def may_reclaim_at(self) -> float:
        """When the others have had the time to renew their leases (monotonic time)."""
        return self._last_reconnect + self.options.lease
