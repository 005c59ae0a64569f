"""Looking at queues: counts, dead letters, and purging."""

from __future__ import annotations

from qbridge_core.backend import DeadLetter, QueueStats
from qbridge_kombu.protocol.headers import split
from qbridge_kombu.protocol.messages import Received
from qbridge_kombu.queues.delays import Delays
from qbridge_kombu.state.context import Context
from qbridge_kombu.transports.session import Session


class Looking:
    """Asks through the sender's connection. Thread-safe."""

    def __init__(self, context: Context, delays: Delays) -> None:
        self._context = context
        self._delays = delays

    def stats(self, queue: str) -> QueueStats:
        """Count; what is due is moved into its queue first."""
        context, transport = self._context, self._context.transport
        name = transport.name_of(queue)

        def work(session: Session) -> QueueStats:
            delayed = self._delays.count(session, queue)
            in_flight = transport.in_flight(session, name)
            own = context.in_flight.queues()[queue] if in_flight is None else in_flight
            return QueueStats(transport.size(session, name), own, delayed + transport.delayed(session, name))

        return context.ask(work, f"count the messages of {queue!r}")

    def purge(self, queue: str) -> int:
        """Delete what is ready."""
        transport = self._context.transport
        name = transport.name_of(queue)
        total = 0
        while True:
            purged = self._context.ask(lambda session: transport.purge(session, name), f"purge {queue!r}")
            total += purged
            if not purged or not transport.purges_in_parts:
                return total

    def dead_letters(self, queue: str, limit: int) -> list[DeadLetter]:
        """List the oldest."""
        transport = self._context.transport
        name = transport.name_of(queue)

        def work(session: Session) -> list[Received]:
            return transport.peek(session, name, limit)

        return [_letter(each) for each in self._context.ask(work, f"list {queue!r}")]


def _letter(received: Received) -> DeadLetter:
    headers, meta = split(received.headers)
    return DeadLetter.from_headers(received.body, headers, meta)
