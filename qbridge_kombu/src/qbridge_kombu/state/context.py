"""What the parts of a connected client share: its broker, its connections, what it has in flight."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Final, TypeVar

from qbridge_core.backend import ConnectionEvents, DeclaredQueues, UnroutableError
from qbridge_kombu.connection.broker import Broker
from qbridge_kombu.connection.thread import ConnectionThread, closed
from qbridge_kombu.options import Settings
from qbridge_kombu.state.in_flight import InFlight
from qbridge_kombu.transports.base import Transport
from qbridge_kombu.transports.session import KombuSession

T = TypeVar("T")
_ALL: Final = ""


class Context:
    """One connected client. Thread-safe.

    Attributes:
        sender: the connection for publishing, looking at queues, and acknowledging where any connection can.
        closing: set when the client is being disconnected.
    """

    def __init__(
        self,
        transport: Transport,
        settings: Settings,
        declarations: DeclaredQueues,
        events: ConnectionEvents | None = None,
    ) -> None:
        self.transport = transport
        self.settings = settings
        self.declarations = declarations
        self.broker = Broker(transport, events)
        self.in_flight = InFlight(transport.bound_to_session)
        self.closing = threading.Event()
        self.sender = self.new_thread("sender")
        self._receivers: dict[str, ConnectionThread] = {}
        self._bells: dict[str, threading.Event] = {}
        self._lock = threading.Lock()

    def new_thread(self, role: str) -> ConnectionThread:
        """Another connection."""
        return ConnectionThread(role, self.broker, self.in_flight.session_ended)

    def receiver(self, queue: str) -> ConnectionThread:
        """The connection that a queue is received through: one for all, or its own where that waits at the broker."""
        if self.transport.one_session:
            return self.sender
        key = queue if self.transport.blocking_receive else _ALL
        with self._lock:
            if key not in self._receivers:
                self.require_open()
                self._receivers[key] = self.new_thread("receiver")
            return self._receivers[key]

    def settler(self, queue: str) -> ConnectionThread:
        """The connection that deliveries of a queue are settled through."""
        return self.receiver(queue) if self.transport.bound_to_session else self.sender

    def bell(self, queue: str) -> threading.Event:
        """What wakes those who wait for messages of a queue."""
        bell = self._bells.get(queue)
        return self._bells.setdefault(queue, threading.Event()) if bell is None else bell

    def ask(self, work: Callable[[KombuSession], T], doing: str) -> T:
        """Have the sender's thread do something that may be repeated, within ``request_timeout``."""
        self.require_open()
        return self.sender.call(work, doing, self.settings.request_timeout)

    def create(self, queue: str) -> None:
        """Make a queue."""
        name = self.transport.name_of(queue)
        self.ask(lambda session: self.transport.create(session, name), f"create the queue {queue!r}")

    def made_again(self, queue: str, error: UnroutableError) -> None:
        """Make a queue again that this client has declared and the broker does not have.

        Raises:
            UnroutableError: the one given, when it was not declared.
        """
        if not self.declarations.is_declared(queue):
            raise error
        self.create(queue)

    def require_open(self) -> None:
        """Refuse calls after ``disconnect``.

        Raises:
            NotConnectedError: it was called.
        """
        if self.closing.is_set():
            raise closed()

    def wake_all(self) -> None:
        """Let everybody who waits look again."""
        for bell in list(self._bells.values()):
            bell.set()

    def receivers(self) -> list[ConnectionThread]:
        """The connections for receiving that there are."""
        with self._lock:
            return list(self._receivers.values())
