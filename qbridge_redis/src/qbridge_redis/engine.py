"""The parts of a connected client, put together, started and stopped in the right order."""

from __future__ import annotations

import threading
import time
from typing import Final

from qbridge_core import QBridgeError
from qbridge_redis.failures import unreachable
from qbridge_redis.flusher import Flusher
from qbridge_redis.inspector import Inspector
from qbridge_redis.keys import Keys
from qbridge_redis.ledger import Ticket
from qbridge_redis.link import LOST, Link
from qbridge_redis.maintenance import Maintenance
from qbridge_redis.options import Options
from qbridge_redis.publisher import Publisher
from qbridge_redis.queues import Queues
from qbridge_redis.reader import Reader, close_all
from qbridge_redis.scripts import LEAVE
from qbridge_redis.server import inspect
from qbridge_redis.session import Session, log
from qbridge_redis.settler import Settler

_READERS_TIME: Final = 1.5
_LEAVE_TIME: Final = 0.5


class Engine:
    """One connected client. Thread-safe."""

    def __init__(self, options: Options, keys: Keys, queues: Queues) -> None:
        self.session: Final = Session(options, keys, queues)
        self.publisher: Final = Publisher(self.session)
        self.settler: Final = Settler(self.session)
        self.inspector: Final = Inspector(self.session)
        self.flusher: Final = Flusher(self.session)
        self._maintenance: Final = Maintenance(self.session, self._with_delays)
        self._readers: dict[str, Reader] = {}
        self._delayed: set[str] = set()
        self._lock = threading.Lock()

    def start(self) -> None:
        """Connect and start the threads; see ``RedisClient.connect`` for what it raises."""
        session = self.session
        link = Link(session.route, f"qbridge:{session.consumer}")
        try:
            link.open()
            session.max_body = inspect(link, session.options)
            for queue in session.queues.declared():
                session.queues.ensure(link, queue)
        except BaseException as exc:
            link.close()
            session.route.close()
            if isinstance(exc, LOST):
                raise unreachable(exc, session.options) from exc
            raise
        session.links.give(link)
        self.flusher.start()
        self._maintenance.start()

    def stop(self, timeout: float) -> None:
        """Flush, hand back, close. Never raises for a server that is gone, and takes about ``timeout`` at most."""
        deadline = time.monotonic() + timeout
        session = self.session
        session.closing.set()
        readers = self._all_readers()
        close_all(readers, min(_READERS_TIME, timeout))
        self.flusher.stop(1.0)
        self._maintenance.stop(1.0)
        if self.flusher.flush(min(2.0, max(0.1, deadline - time.monotonic()))):
            self._hand_back(deadline)
        else:
            log.warning("acknowledgements could not be sent before disconnecting; their messages come again")
        for ledger in session.ledgers():
            ledger.lose_all()
        session.links.close()
        session.route.close()

    def declare(self, queue: str, dead_letter_queue: str | None) -> None:
        """Create what is missing and remember it."""
        names = [queue] if dead_letter_queue is None else [queue, dead_letter_queue]
        for name in names:
            self.session.keys.stream(name)  # checks the names before anything is made
        try:
            with self.session.links.lease() as link:
                for name in names:
                    self.session.queues.ensure(link, name, create=True)
                self.session.queues.remember(queue, dead_letter_queue)
        except LOST as exc:
            raise unreachable(exc, self.session.options) from exc

    def reader(self, queue: str) -> Reader:
        """The reader of a queue, made when it is first asked for."""
        reader = self._readers.get(queue)
        if reader is None:
            with self._lock:
                if queue not in self._readers:
                    self._readers[queue] = Reader(self.session, queue)
                reader = self._readers[queue]
        return reader

    def cancel(self, queue: str) -> None:
        """Wake a blocked receive."""
        reader = self._readers.get(queue)
        if reader is not None:
            reader.cancel()

    def delayed(self, queue: str) -> None:
        """A message of this queue was delayed by this client: have it delivered on time."""
        self._delayed.add(queue)
        self._maintenance.poke()

    def knows(self, ticket: Ticket) -> bool:
        """Whether a delivery came through this connection."""
        return ticket.ledger.owner is self.session

    def _with_delays(self) -> list[str]:
        names = self._delayed.union(self._readers, self.session.queues.declared())
        return sorted(names)

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
