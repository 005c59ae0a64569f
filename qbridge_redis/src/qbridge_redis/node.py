"""The parts of a connected client, put together, started and stopped in the right order."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Final

from redis.exceptions import TimeoutError as RedisTimeoutError

from qbridge_core.backend import BrokerUnavailableError, QBridgeError, monotonic
from qbridge_redis.connection.connection import LOST, Link
from qbridge_redis.connection.errors import unreachable
from qbridge_redis.connection.options import Options, Topology
from qbridge_redis.consume.reader import Reader, close_all
from qbridge_redis.protocol.keys import Keys
from qbridge_redis.protocol.scripts import LEAVE
from qbridge_redis.publish.publisher import Publisher
from qbridge_redis.queues.admin import Inspector
from qbridge_redis.recovery.maintenance import Maintenance
from qbridge_redis.server.diagnosis import diagnose
from qbridge_redis.server.requirements import inspect
from qbridge_redis.settle.acknowledgements import Flusher
from qbridge_redis.settle.rejections import Settler
from qbridge_redis.state.context import Home, Session, log
from qbridge_redis.state.declarations import Queues
from qbridge_redis.state.in_flight import Ticket

_READERS_TIME: Final = 1.5
_FIRST_TLS: Final = 1.5
_LEAVE_TIME: Final = 0.4
_THREAD_TIME: Final = 1.0
_ABANDON_TIME: Final = 0.8


class Engine:
    """A connected client of one server. Thread-safe."""

    def __init__(self, options: Options, keys: Keys, queues: Queues, home: Home) -> None:
        self.session: Final = Session(options, keys, queues, home)
        self.publisher: Final = Publisher(self.session)
        self.settler: Final = Settler(self.session)
        self.inspector: Final = Inspector(self.session)
        self.flusher: Final = Flusher(self.session)
        self._maintenance: Final = Maintenance(self.session, self._with_delays)
        self._readers: dict[str, Reader] = {}
        self._known: set[str] = set()
        self._lock = threading.Lock()

    def inspect(self) -> None:
        """Connect and look at the server; see ``RedisClient.connect`` for what it raises."""
        session = self.session
        link = Link(session.route, f"qbridge:{session.consumer}")
        try:
            _open_first(link, session.options)
            session.limits = inspect(link, session.options)
        except BaseException as exc:
            link.close()
            if isinstance(exc, LOST):
                raise unreachable(exc, session.options) from exc
            raise
        session.links.give(link)

    def start(self) -> None:
        """Start the threads. They connect when they have to."""
        self.flusher.start()
        self._maintenance.start()

    def stop(self, timeout: float) -> None:
        """Flush, hand back, close; ``closing`` must be set.

        Never raises for a server that is gone. Takes about ``timeout`` at most, and hardly a second when the server
        does not answer.
        """
        deadline = monotonic() + timeout
        session = self.session
        readers = self._all_readers()
        if self._answers():
            close_all(readers, min(_READERS_TIME, timeout))
            self.flusher.stop(_THREAD_TIME)
            self._maintenance.stop(_THREAD_TIME)
            if self.flusher.flush(min(2.0, max(0.1, deadline - monotonic()))):
                self._hand_back(deadline)
            else:
                log.warning("acknowledgements could not be sent before disconnecting; their messages come again")
        else:
            self._abandon(readers)
        for ledger in session.ledgers():
            ledger.lose_all()
        session.links.close()
        session.route.close()

    def create(self, queue: str) -> None:
        """Create a queue where it is missing, and look after its delayed messages."""
        try:
            with self.session.links.lease() as link:
                self.session.queues.ensure(link, queue, create=True)
        except LOST as exc:
            raise unreachable(exc, self.session.options) from exc
        self._known.add(queue)

    def reader(self, queue: str) -> Reader:
        """The reader of a queue, made when it is first asked for."""
        reader = self._readers.get(queue)
        if reader is None:
            with self._lock:
                if queue not in self._readers:
                    self._readers[queue] = Reader(self.session, queue)
                reader = self._readers[queue]
        return reader

    def unsubscribe(self, queue: str) -> None:
        """Wake a blocked receive, and keep no connection for it."""
        reader = self._readers.get(queue)
        if reader is not None:
            reader.unsubscribe()

    def delayed(self, queue: str) -> None:
        """A message of this queue was delayed by this client: have it delivered on time."""
        self._known.add(queue)
        self._maintenance.poke()

    def knows(self, ticket: Ticket) -> bool:
        """Whether a delivery came through this connection."""
        return ticket.ledger.owner is self.session

    def _abandon(self, readers: Sequence[Reader]) -> None:
        """End what waits for replies: nobody sends any."""
        until = monotonic() + _ABANDON_TIME
        self.session.links.close()
        self._maintenance.abort()
        for reader in readers:
            reader.abort()
        close_all(readers, _LEAVE_TIME)
        self.flusher.stop(max(0.0, until - monotonic()))
        self._maintenance.stop(max(0.0, until - monotonic()) / 2)
        if any(ledger.held() for ledger in self.session.ledgers()):
            log.warning("%s does not answer; what was not settled or acknowledged comes again", self.session.options)

    def _answers(self) -> bool:
        """Whether the server replies soon."""
        try:
            with self.session.links.lease(_LEAVE_TIME) as link:
                link.call(("PING",), _LEAVE_TIME)
        except (QBridgeError, *LOST):
            return False
        return True

    def _with_delays(self) -> list[str]:
        return sorted(self._known.union(self._readers))

    def _all_readers(self) -> list[Reader]:
        with self._lock:
            return list(self._readers.values())

    def _hand_back(self, deadline: float) -> None:
        session = self.session
        for ledger in session.ledgers():
            if not self.settler.hand_back_all(ledger.open_tickets(), deadline):
                return
            try:
                with session.links.lease(_LEAVE_TIME) as link:
                    leave = LEAVE([session.keys.stream(ledger.queue)], session.options.group, session.consumer)
                    link.call(leave, _LEAVE_TIME)
            except (QBridgeError, *LOST):
                return


def _open_first(link: Link, options: Options) -> None:
    """Connect for the first time; when it does not work, find out why."""
    if options.topology is not Topology.SINGLE:
        link.open()
        return
    # A server without TLS waits for the rest of what it takes for a command: look soon, and then try again.
    first = max(_FIRST_TLS, options.connect_timeout / 2) if options.tls else None
    deadline = monotonic() + options.connect_timeout
    try:
        link.open(first)
    except BrokerUnavailableError as exc:
        if reason := diagnose(options, options.hosts[0]):
            raise BrokerUnavailableError(f"no connection to {options}: {reason}") from exc.__cause__
        if not options.tls or not isinstance(exc.__cause__, RedisTimeoutError):
            raise
        link.open(deadline - monotonic())
