"""Looking at queues: counts, dead letters, and purging."""

from __future__ import annotations

from dataclasses import replace

from qbridge_core.backend import ConfigurationError, DeadLetter, QueueStats, check_queue_name, list_queues
from qbridge_kombu.protocol.headers import split
from qbridge_kombu.protocol.messages import Received
from qbridge_kombu.protocol.names import decoded
from qbridge_kombu.queues.delays import Delays, delayed_queue
from qbridge_kombu.queues.pauses import Pauses, paused_queue
from qbridge_kombu.state.context import Context
from qbridge_kombu.transports.session import KombuSession


class Looking:
    """Asks through the sender's connection. Thread-safe."""

    def __init__(self, context: Context, delays: Delays, pauses: Pauses) -> None:
        self._context = context
        self._delays = delays
        self._pauses = pauses

    def count(self, queue: str) -> QueueStats:
        """Count; what is due is moved into its queue first.

        A message on its way from one count to another may be in both, and is in one of them at least: what is in flight
        is looked at before the broker, for what goes back meanwhile, and after it, for what is received meanwhile.
        """
        context, transport = self._context, self._context.transport
        name = transport.name_of(queue)

        def work(session: KombuSession) -> tuple[int, int | None, int, bool | None]:
            delayed = self._delays.count(session, queue)
            theirs = transport.in_flight(session, name)
            paused = self._pauses.is_marked(session, queue) if transport.capabilities.pause else None
            return transport.size(session, name), theirs, delayed + transport.delayed(session, name), paused

        own = context.in_flight.unfinished(queue)
        ready, in_flight, delayed, paused = context.ask(work, f"count the messages of {queue!r}")
        if in_flight is None:
            context.in_flight.wait_arrived(queue, context.settings.request_timeout)
            in_flight = len(own | context.in_flight.unfinished(queue))
        return QueueStats(ready, in_flight, delayed, paused=paused)

    def stats(self, queue: str) -> QueueStats:
        """Count, and count the letters, too."""
        context, transport = self._context, self._context.transport
        name, declared = transport.name_of(queue), context.declarations
        dead = transport.name_of(declared.dead_letter_queue(queue))

        def work(session: KombuSession) -> tuple[int | None, float | None]:
            letters = transport.size(session, dead) if transport.exists(session, dead) else None
            return letters, transport.oldest_age(session, name)

        counts = self.count(queue)
        letters, age = context.ask(work, f"look at {queue!r}")
        if letters is None and declared.is_declared(queue):
            letters = 0
        return replace(counts, dead=letters, oldest_age=age)

    def describe(self, queue: str) -> QueueStats:
        """Tell what ``stats`` tells, and what all consumers hold."""
        transport, name = self._context.transport, self._context.transport.name_of(queue)
        stats = self.stats(queue)
        unsettled = self._context.ask(lambda session: transport.in_flight(session, name), f"look at {queue!r}")
        return replace(stats, unsettled=unsettled)

    def queues(self) -> dict[str, str | None]:
        """Those that the broker lists, and those that this client has declared."""
        declared = self._context.declarations
        listed = self._context.ask(self._context.transport.names, "list queues")
        names = {*declared.declared(), *filter(None, map(self._queue_of, listed))}
        names -= {beside(name) for name in names for beside in (delayed_queue, paused_queue)}
        return list_queues(names, declared.dead_letter_queues())

    def _queue_of(self, name: str) -> str | None:
        """The queue that has this name at the broker; ``None`` when no queue can have it, or nobody knows any more."""
        queue = decoded(name, "%")
        try:
            return check_queue_name(queue) if self._context.transport.name_of(queue) == name else None
        except ConfigurationError:
            return None

    def purge(self, queue: str) -> int:
        """Delete what is ready; what is due is moved into its queue first."""
        transport = self._context.transport
        name = transport.name_of(queue)

        def work(session: KombuSession) -> int:
            self._delays.count(session, queue)
            return transport.purge(session, name)

        total = 0
        while True:
            purged = self._context.ask(work, f"purge {queue!r}")
            total += purged
            if not purged or not transport.purges_in_parts:
                return total

    def purge_delayed(self, queue: str) -> int:
        """Delete what waits to be due; what a worker has taken out just now, to look at it, it puts back."""
        doing = f"purge what is delayed of {queue!r}"
        return self._context.ask(lambda session: self._delays.purge(session, queue), doing)

    def dead_letters(self, queue: str, limit: int) -> list[DeadLetter]:
        """List the oldest."""
        transport = self._context.transport
        name = transport.name_of(queue)

        def work(session: KombuSession) -> list[Received]:
            return transport.peek(session, name, limit)

        return [_letter(each) for each in self._context.ask(work, f"list {queue!r}")]


def _letter(received: Received) -> DeadLetter:
    headers, meta = split(received.headers)
    message_id = received.properties.get("message_id") or None
    return DeadLetter.from_headers(received.body, headers, meta, sent_ms=received.sent, message_id=message_id)
