"""What a connected client has for the queues of one server, or of one hash slot of a cluster."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from functools import partial
from typing import Final

from qbridge_core.backend import Delivery, Ended, Message, Promises, QBridgeError, monotonic
from qbridge_redis.connection.connection import LOST, RedisConnection
from qbridge_redis.connection.errors import unreachable
from qbridge_redis.connection.options import Options
from qbridge_redis.consume.reader import StreamReader
from qbridge_redis.consume.together import SharedQueues
from qbridge_redis.protocol.keys import Keys
from qbridge_redis.protocol.scripts import REMOVE_CONSUMER, Command
from qbridge_redis.publish.posts import Posts
from qbridge_redis.publish.promised import Promised
from qbridge_redis.publish.publisher import Publisher
from qbridge_redis.queues.admin import QueueAdmin
from qbridge_redis.queues.dead_letters import DeadLetterQueues
from qbridge_redis.queues.delayed_messages import DelayedMessages
from qbridge_redis.queues.pauses import Pauses
from qbridge_redis.settle.rejections import Rejections
from qbridge_redis.state.context import ClientContext, NodeContext
from qbridge_redis.state.declarations import Declarations
from qbridge_redis.state.in_flight import EntryTag

_LEAVE_TIME: Final = 0.4
UNUSED: Final = 60.0
"""Seconds after which a queue that is not subscribed is forgotten."""


class Node:
    """Those queues, and what is known of them. It has no threads: it borrows those of its master. Thread-safe.

    Args:
        options: of the client.
        keys: of the queues.
        declarations: of the client.
        client: what it gets from the client.
        shared: the queues that are read together.
        poke: has somebody look at its delayed messages.
        promises: the messages of the client that nobody waits for.
        posts: see ``Publisher``.
    """

    def __init__(
        self,
        options: Options,
        keys: Keys,
        declarations: Declarations,
        client: ClientContext,
        shared: SharedQueues,
        poke: Callable[[], None],
        promises: Promises[Promised],
        posts: Callable[[], Posts | None],
    ) -> None:
        self.context: Final = NodeContext(options, keys, declarations, client)
        self.publisher: Final = Publisher(self.context, promises, posts)
        self.rejections: Final = Rejections(self.context)
        self.admin: Final = QueueAdmin(self.context)
        self.dead_letters: Final = DeadLetterQueues(self.context)
        self.delayed_messages: Final = DelayedMessages(self.context)
        self.pauses: Final = Pauses(self.context)
        self._shared = shared
        self._poke = poke
        self._readers: dict[str, StreamReader] = {}
        self._known: dict[str, float] = {}
        self._lock = threading.Lock()

    def close(self) -> None:
        """Nobody uses it any more."""
        for in_flight in self.context.all_in_flight():
            in_flight.lose_all()
        self.context.pool.close()
        self.context.route.close()

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
            if (batch := self.reader_of(queue).receive(count, timeout)) is not None:
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
        self._poke()

    def knows(self, tag: EntryTag) -> bool:
        """Whether a delivery came through this connection."""
        return tag.in_flight.owner is self.context

    def _note_use(self, queue: str) -> None:
        with self._lock:
            self._known[queue] = monotonic()

    def with_delays(self) -> list[str]:
        """The queues whose delayed messages are to be delivered."""
        with self._lock:
            return sorted({*self._known, *self._readers})

    def reader_of(self, queue: str) -> StreamReader:
        """The reader of a queue, made when it is first asked for."""
        reader = self._readers.get(queue)
        if reader is None:
            with self._lock:
                reader = self._reader(queue)
        return reader

    def _reader(self, queue: str) -> StreamReader:
        """The same. Expects the lock to be held."""
        if queue not in self._readers:
            self._readers[queue] = StreamReader(self.context, queue, self._shared)
        return self._readers[queue]

    def release_unused(self, connection: RedisConnection) -> None:
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

    @property
    def is_flushed(self) -> bool:
        """Whether no acknowledgement is left to be sent or confirmed."""
        return all(in_flight.wait_confirmed(0.0) for in_flight in self.context.all_in_flight())

    def readers(self) -> list[StreamReader]:
        """Those of all queues."""
        return list(self._all_readers().values())

    def hand_back(self, deadline: float) -> bool:
        """Return what is unsettled, and leave; False when the server is gone or ``deadline`` comes first."""
        context = self.context
        for in_flight in context.all_in_flight():
            if not self.rejections.hand_back_all(in_flight.unsettled(), deadline):
                return False
            try:
                with context.pool.connection(_LEAVE_TIME) as connection:
                    connection.call(self._leave_command(in_flight.queue), _LEAVE_TIME)
            except (QBridgeError, *LOST):
                return False
        return True


def _nothing() -> None:
    """What is there at once needs nobody to look after it."""
