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
        """Count; what is due is moved into its queue first.

        A message on its way from one count to another may be in both, and is in one of them at least: what is in flight
        is looked at before the broker, for what goes back meanwhile, and after it, for what is received meanwhile.
        """
        context, transport = self._context, self._context.transport
        name = transport.name_of(queue)

        def work(session: Session) -> tuple[int, int | None, int]:
            delayed = self._delays.count(session, queue)
            theirs = transport.in_flight(session, name)
            return transport.size(session, name), theirs, delayed + transport.delayed(session, name)

        own = context.in_flight.unfinished(queue)
        ready, in_flight, delayed = context.ask(work, f"count the messages of {queue!r}")
        if in_flight is None:
            context.in_flight.wait_arrived(queue, context.settings.request_timeout)
            in_flight = len(own | context.in_flight.unfinished(queue))
        return QueueStats(ready, in_flight, delayed)

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
