"""The parts of a connected client, put together, started and stopped in the right order."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from functools import partial
from typing import Final

from redis.exceptions import TimeoutError as RedisTimeoutError

from qbridge_core.backend import BrokerUnavailableError, Delivery, Ended, Message, Pulse, QBridgeError, monotonic
from qbridge_redis.connection.connection import LOST, RedisConnection
from qbridge_redis.connection.errors import unreachable
from qbridge_redis.connection.options import Deployment, Options
from qbridge_redis.consume.reader import StreamReader, close_all
from qbridge_redis.consume.several import SeveralQueues
from qbridge_redis.consume.shared import SharedReader
from qbridge_redis.protocol.keys import Keys
from qbridge_redis.protocol.scripts import REMOVE_CONSUMER, Command
from qbridge_redis.publish.publisher import Publisher
from qbridge_redis.queues.admin import QueueAdmin
from qbridge_redis.queues.dead_letters import DeadLetterQueues
from qbridge_redis.queues.delayed_messages import DelayedMessages
from qbridge_redis.queues.pauses import Pauses
from qbridge_redis.recovery.maintenance import Maintenance
from qbridge_redis.server.diagnosis import diagnose
from qbridge_redis.server.requirements import inspect
from qbridge_redis.settle.acknowledgements import Acknowledgements
from qbridge_redis.settle.rejections import Rejections
from qbridge_redis.state.context import ClientContext, NodeContext, log
from qbridge_redis.state.declarations import Declarations
from qbridge_redis.state.in_flight import EntryTag

_READERS_TIME: Final = 1.5
_FIRST_TLS: Final = 1.5
_LEAVE_TIME: Final = 0.4
_THREAD_TIME: Final = 1.0
_ABANDON_TIME: Final = 0.8
UNUSED: Final = 60.0
"""Seconds after which a queue that is not subscribed is forgotten."""


class Node:
    """A connected client of one server. Thread-safe."""

    def __init__(self, options: Options, keys: Keys, declarations: Declarations, client: ClientContext) -> None:
        self.context: Final = NodeContext(options, keys, declarations, client)
        self.publisher: Final = Publisher(self.context)
        self.rejections: Final = Rejections(self.context)
        self.admin: Final = QueueAdmin(self.context)
        self.dead_letters: Final = DeadLetterQueues(self.context)
        self.delayed_messages: Final = DelayedMessages(self.context)
        self.pauses: Final = Pauses(self.context)
        self.acknowledgements: Final = Acknowledgements(self.context)
        self._maintenance: Final = Maintenance(self.context, self._with_delays, self._release_unused)
        self.shared_reader: Final = SharedReader(self.context)
        self.several: Final = SeveralQueues(self.shared_reader, self.context.closing, self._reader_of)
        self._readers: dict[str, StreamReader] = {}
        self._known: dict[str, float] = {}
        self._lock = threading.Lock()

    @property
    def pulses(self) -> tuple[Pulse, ...]:
        """Of its threads."""
        return self._maintenance.pulse, self.acknowledgements.pulse, self.shared_reader.pulse

    def inspect(self) -> None:
        """Connect and look at the server; see ``RedisClient.connect`` for what it raises."""
        context = self.context
        connection = RedisConnection(context.route, f"qbridge:{context.consumer}")
        try:
            _open_first(connection, context.options)
            context.limits = inspect(connection, context.options)
        except BaseException as exc:
            connection.close()
            if isinstance(exc, LOST):
                raise unreachable(exc, context.options) from exc
            raise
        context.pool.give(connection)

    def start(self) -> None:
        """Start the threads. They connect when they have to."""
        self.acknowledgements.start()
        self._maintenance.start()

    def stop(self, timeout: float) -> None:
        """Flush, hand back, close; ``closing`` must be set.

        Never raises for a server that is gone. Takes about ``timeout`` at most, and hardly a second when the server
        does not answer.
        """
        deadline = monotonic() + timeout
        context = self.context
        readers = list(self._all_readers().values())
        if self._answers():
            close_all(readers, min(_READERS_TIME, timeout))
            self.shared_reader.stop(_THREAD_TIME)
            self.acknowledgements.stop(_THREAD_TIME)
            self._maintenance.stop(_THREAD_TIME)
            if self.acknowledgements.flush(min(2.0, max(0.1, deadline - monotonic()))):
                self._hand_back(deadline)
            else:
                log.warning("acknowledgements could not be sent before disconnecting; their messages come again")
        else:
            self._abandon(readers)
        for in_flight in context.all_in_flight():
            in_flight.lose_all()
        context.pool.close()
        self.publisher.close()
        context.route.close()

    def create(self, queue: str) -> None:
        """Create a queue where it is missing, and look after its delayed messages."""
        try:
            with self.context.pool.connection() as connection:
                self.context.declarations.ensure(connection, queue, create=True)
                self.context.declarations.check_surroundings(connection, queue)
        except LOST as exc:
            raise unreachable(exc, self.context.options) from exc
        self._note_use(queue)

    def publish_then(
        self, queue: str, messages: Sequence[Message], delay: float, timeout: float | None, ended: Ended
    ) -> None:
        """See ``Publisher.publish_then``."""
        stored = partial(self.delayed, queue) if delay > 0 else _nothing
        self.publisher.publish_then(queue, messages, delay, timeout, stored, ended)

    def receive(self, queue: str, count: int, timeout: float) -> list[Delivery]:
        """See ``QueueClient.receive``."""
        while True:
            if (batch := self._reader_of(queue).receive(count, timeout)) is not None:
                return batch

    def subscribe(self, queue: str) -> None:
        """A queue will be received from again and again."""
        with self._lock:
            self._reader(queue).subscribe()

    def unsubscribe(self, queue: str) -> None:
        """Wake a blocked receive, and keep no connection for it."""
        reader = self._readers.get(queue)
        if reader is not None:
            reader.unsubscribe()

    def delayed(self, queue: str) -> None:
        """A message of this queue was delayed by this client: have it delivered on time."""
        self._note_use(queue)
        self._maintenance.poke()

    def knows(self, tag: EntryTag) -> bool:
        """Whether a delivery came through this connection."""
        return tag.in_flight.owner is self.context

    def _abandon(self, readers: Sequence[StreamReader]) -> None:
        """End what waits for replies: nobody sends any."""
        until = monotonic() + _ABANDON_TIME
        self.context.pool.close()
        self._maintenance.abort()
        self.shared_reader.abort()
        for reader in readers:
            reader.abort()
        close_all(readers, _LEAVE_TIME)
        self.shared_reader.stop(max(0.0, until - monotonic()) / 2)
        self.acknowledgements.stop(max(0.0, until - monotonic()))
        self._maintenance.stop(max(0.0, until - monotonic()) / 2)
        if any(in_flight.held() for in_flight in self.context.all_in_flight()):
            log.warning("%s does not answer; what was not settled or acknowledged comes again", self.context.options)

    def _answers(self) -> bool:
        """Whether the server replies soon."""
        try:
            with self.context.pool.connection(_LEAVE_TIME) as connection:
                connection.call(("PING",), _LEAVE_TIME)
        except (QBridgeError, *LOST):
            return False
        return True

    def _note_use(self, queue: str) -> None:
        with self._lock:
            self._known[queue] = monotonic()

    def _with_delays(self) -> list[str]:
        with self._lock:
            return sorted({*self._known, *self._readers})

    def _reader_of(self, queue: str) -> StreamReader:
        reader = self._readers.get(queue)
        if reader is None:
            with self._lock:
                reader = self._reader(queue)
        return reader

    def _reader(self, queue: str) -> StreamReader:
        """The reader of a queue, made when it is first asked for. Expects the lock to be held."""
        if queue not in self._readers:
            self._readers[queue] = StreamReader(self.context, queue, self.shared_reader)
        return self._readers[queue]

    def _release_unused(self, connection: RedisConnection) -> None:
        """Forget the queues that nobody uses any more, and close the connections."""
        context, released = self.context, []
        context.pool.trim(UNUSED)
        for queue, reader in self._all_readers().items():
            with self._lock:
                if reader.release(UNUSED):
                    del self._readers[queue]
                    context.forget(queue)
                    released.append(queue)
        if released:
            connection.call_many([self._leave_command(queue) for queue in released])
        self._release_undelayed(connection)

    def _release_undelayed(self, connection: RedisConnection) -> None:
        """Look no more for delayed messages where there are none and nobody here receives them."""
        before = monotonic() - UNUSED
        with self._lock:
            old = {queue: at for queue, at in self._known.items() if at < before and queue not in self._readers}
        if not old:
            return
        replies = connection.call_many([("EXISTS", self.context.keys.delayed(queue)) for queue in old])
        with self._lock:
            for (queue, at), reply in zip(old.items(), replies, strict=True):
                if reply == 0 and self._known.get(queue) == at:
                    del self._known[queue]

    def _leave_command(self, queue: str) -> Command:
        """What takes this client out of the consumers of a queue."""
        context = self.context
        return REMOVE_CONSUMER([context.keys.stream(queue)], context.options.group, context.consumer)

    def _all_readers(self) -> dict[str, StreamReader]:
        with self._lock:
            return dict(self._readers)

    def _hand_back(self, deadline: float) -> None:
        context = self.context
        for in_flight in context.all_in_flight():
            if not self.rejections.hand_back_all(in_flight.unsettled(), deadline):
                return
            try:
                with context.pool.connection(_LEAVE_TIME) as connection:
                    connection.call(self._leave_command(in_flight.queue), _LEAVE_TIME)
            except (QBridgeError, *LOST):
                return


def _nothing() -> None:
    """What is there at once needs nobody to look after it."""


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
