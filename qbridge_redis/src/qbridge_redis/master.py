"""What a connected client has once for each server, whatever it has there: threads, and connections for them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from qbridge_core.backend import Pulse, QBridgeError, monotonic
from qbridge_redis.connection.connection import LOST
from qbridge_redis.connection.errors import unreachable
from qbridge_redis.consume.reader import StreamReader, close_all
from qbridge_redis.consume.shared import SharedReader
from qbridge_redis.node import Node
from qbridge_redis.protocol.scripts import Command
from qbridge_redis.publish.posts import Posts
from qbridge_redis.queues.delays import Delays
from qbridge_redis.recovery.maintenance import Maintenance
from qbridge_redis.settle.acknowledgements import Acknowledgements
from qbridge_redis.state.context import NodeContext, ServerContext, log

_READERS_TIME: Final = 1.5
_LEAVE_TIME: Final = 0.4
_THREAD_TIME: Final = 1.0
_ABANDON_TIME: Final = 0.8


class Master:
    """One server, and the nodes that are there now. Thread-safe.

    Args:
        server: what its parts share.
        delays: of the queues there.
        shared_reader: reads the idle queues there.
        acknowledge: what makes the thread that acknowledges there.

    Attributes:
        nodes: those that are there; replaced as a whole.
    """

    def __init__(
        self,
        server: ServerContext,
        delays: Delays,
        shared_reader: SharedReader,
        acknowledge: type[Acknowledgements] = Acknowledgements,
    ) -> None:
        self.server: Final = server
        self.nodes: tuple[Node, ...] = ()
        self.shared_reader: Final = shared_reader
        self.posts: Final = Posts(server.options, server.pool)
        self.acknowledgements: Final = acknowledge(server, self._contexts)
        self.maintenance: Final = Maintenance(server, lambda: self.nodes, delays)

    @property
    def pulses(self) -> tuple[Pulse, ...]:
        """Of its threads."""
        return self.maintenance.pulse, self.acknowledgements.pulse, self.shared_reader.pulse

    def start(self) -> None:
        """Start the threads. They connect when they have to."""
        self.acknowledgements.start()
        self.maintenance.start()

    def end(self) -> None:
        """No node is here any more: let the threads end, and close the connections."""
        self.shared_reader.end()
        self.acknowledgements.end()
        self.maintenance.end()
        self.server.pool.close()

    def stop(self, timeout: float) -> None:
        """Flush, hand back, close; ``closing`` must be set.

        Never raises for a server that is gone. Takes about ``timeout`` at most, and hardly a second when the server
        does not answer.
        """
        deadline = monotonic() + timeout
        readers = [reader for node in self.nodes for reader in node.readers()]
        if self._answers():
            close_all(readers, min(_READERS_TIME, timeout))
            self.shared_reader.stop(_THREAD_TIME)
            self.acknowledgements.stop(_THREAD_TIME)
            self.maintenance.stop(_THREAD_TIME)
            if not self.acknowledgements.flush(min(2.0, max(0.1, deadline - monotonic()))):
                log.warning("acknowledgements could not be sent before disconnecting; their messages come again")
            self._hand_back(deadline)
        else:
            self._abandon(readers)
        for node in self.nodes:
            node.close()
        self.server.pool.close()

    def ask(self, commands: Sequence[Command]) -> Sequence[Any]:
        """The reply to each of some commands that change nothing, or why there is none."""
        try:
            with self.server.pool.connection() as connection:
                return connection.call_many(commands)
        except LOST as exc:
            return [unreachable(exc, self.server.where)] * len(commands)
        except QBridgeError as exc:
            return [exc] * len(commands)

    def _contexts(self) -> list[NodeContext]:
        return [node.context for node in self.nodes]

    def _abandon(self, readers: Sequence[StreamReader]) -> None:
        """End what waits for replies: nobody sends any."""
        until = monotonic() + _ABANDON_TIME
        self.server.pool.close()
        self.maintenance.abort()
        self.shared_reader.abort()
        for reader in readers:
            reader.abort()
        close_all(readers, _LEAVE_TIME)
        self.shared_reader.stop(max(0.0, until - monotonic()) / 2)
        self.acknowledgements.stop(max(0.0, until - monotonic()))
        self.maintenance.stop(max(0.0, until - monotonic()) / 2)
        if any(in_flight.held() for context in self._contexts() for in_flight in context.all_in_flight()):
            log.warning("%s does not answer; what was not settled or acknowledged comes again", self.server.where)

    def _answers(self) -> bool:
        """Whether the server replies soon."""
        try:
            with self.server.pool.connection(_LEAVE_TIME) as connection:
                connection.call(("PING",), _LEAVE_TIME)
        except (QBridgeError, *LOST):
            return False
        return True

    def _hand_back(self, deadline: float) -> None:
        """Return what is unsettled, where nothing is left to acknowledge."""
        for node in self.nodes:
            if node.is_flushed and not node.hand_back(deadline) and monotonic() >= deadline:
                return
