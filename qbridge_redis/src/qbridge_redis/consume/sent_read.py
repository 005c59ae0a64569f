"""A read that was sent, with acknowledgements before it, and whose replies are still to be read."""

from __future__ import annotations

from typing import Any, Final

from qbridge_core.backend import monotonic
from qbridge_redis.connection.connection import RedisConnection
from qbridge_redis.protocol.scripts import Command
from qbridge_redis.settle.acknowledgements import acks_command, finish_acks
from qbridge_redis.state.context import NodeContext
from qbridge_redis.state.in_flight import InFlight

_SOON: Final = 0.05


class SentRead:
    """Sends what is acknowledged and a read in one write. For one thread at a time.

    Args:
        context: the server.
        connection: nothing else may use it until the replies are read.
        in_flight: of the queue.
        read: the command.
        count: how many entries it asks for.

    Attributes:
        count: the same.
        sent_at: when it was sent (monotonic time).
        late_at: when somebody else should read the replies (monotonic time): they confirm acknowledgements, and bring
            messages that others could have.
    """

    def __init__(
        self, context: NodeContext, connection: RedisConnection, in_flight: InFlight, read: Command, count: int
    ) -> None:
        self.count: Final = count
        self._context = context
        self._connection = connection
        self._in_flight = in_flight
        self._acks = in_flight.take_acks()
        stream = context.keys.stream(in_flight.queue)
        try:
            connection.send([acks_command(context, stream, self._acks), read] if self._acks else [read])
        except BaseException:
            self._finish(None)
            raise
        self.sent_at: Final = monotonic()
        self.late_at: Final = self.sent_at + _SOON

    def reply(self, limit: float) -> Any:
        """Read the replies, within ``limit`` seconds each; return that of the read, a ``ResponseError`` included.

        The first does not wait for the second.
        """
        connection, done = self._connection, None
        try:
            if self._acks:
                try:
                    done = connection.read(limit)
                finally:
                    self._finish(done)
            return connection.read(limit)
        except BaseException:
            connection.close()  # between the two replies, too: the second would be taken for that of another command
            raise

    def _finish(self, reply: Any) -> None:
        acks, self._acks = self._acks, []
        if acks and not finish_acks(self._in_flight, acks, reply):
            self._context.acks_waiting.set()
