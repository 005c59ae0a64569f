"""Delays that the broker cannot hold: such messages wait in ``<queue>.delayed``, and any worker moves them on."""

from __future__ import annotations

import functools
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Final

from qbridge_core.backend import monotonic
from qbridge_kombu.protocol.headers import due_at, without_due
from qbridge_kombu.protocol.messages import Outgoing, Received
from qbridge_kombu.state.context import Context
from qbridge_kombu.transports.session import KombuSession

wall_clock: Final[Callable[[], float]] = functools.partial(time.clock_gettime, time.CLOCK_REALTIME)
"""Unix time that no frozen clock of a test stops: due times are compared across processes."""
_SWEEP_EVERY: Final = 2.0
_COSTS_AT_MOST: Final = 20  # a sweep of a second happens every 20 seconds, unless something is known to be due
_AT_ONCE: Final = 100
_NEVER: Final = float("inf")


def delayed_queue(queue: str) -> str:
    """The queue of a queue's delayed messages."""
    return f"{queue}.delayed"


class Delays:
    """Moves due messages of the queues that this client receives from. Thread-safe.

    A transport cannot look at a message without taking it, so a sweep takes each one and puts a copy back to the end,
    or into its queue. One is made when something is known to be due, or when the number of messages has changed, and at
    times in any case.
    """

    def __init__(self, context: Context) -> None:
        self._context = context
        self._companions: dict[str, _Companion] = {}
        self._lock = threading.Lock()

    def look(self, queue: str) -> None:
        """Have the sender's thread look, if it is time to; nobody waits for it."""
        if self._context.transport.max_native_delay == _NEVER:
            return
        companion = self._companion(queue)
        if companion.is_time():
            self._context.sender.post(companion.move_on, f"move delayed messages of {queue!r}")

    def count(self, session: KombuSession, queue: str) -> int:
        """Move what is due now; return how many are left. For the thread of a session."""
        if self._context.transport.max_native_delay == _NEVER:
            return 0
        return self._companion(queue).swept(session)

    def purge(self, session: KombuSession, queue: str) -> int:
        """Delete what waits. For the thread of a session."""
        return self._companion(queue).purged(session)

    def _companion(self, queue: str) -> _Companion:
        with self._lock:
            if queue not in self._companions:
                self._companions[queue] = _Companion(self._context, queue)
            return self._companions[queue]


class _Companion:
    """The delayed messages of one queue."""

    def __init__(self, context: Context, queue: str) -> None:
        self._context = context
        self._transport = context.transport
        self._queue = queue
        self._name = context.transport.name_of(queue)
        self._companion = context.transport.name_of(delayed_queue(queue))
        self._look_at = 0.0
        self._sweep_at = 0.0
        self._count = 0
        self._earliest = _NEVER
        self._exists = False

    def is_time(self) -> bool:
        """Whether to look again; true once in a while, however many ask."""
        now = monotonic()
        if now < self._look_at:
            return False
        self._look_at = now + self._transport.delayed_look
        return True

    def swept(self, session: KombuSession) -> int:
        """Move what is due; return how many are left."""
        self.move_on(session)
        return self._size(session) + (self._transport.delayed(session, self._companion) if self._exists else 0)

    def purged(self, session: KombuSession) -> int:
        """Delete what waits; return how many there were."""
        return self._transport.purge(session, self._companion) if self._size(session) else 0

    def move_on(self, session: KombuSession) -> None:
        """Look, and sweep if something can be due."""
        size = self._size(session)
        if not size:
            self._count, self._earliest = 0, _NEVER
        elif size > self._count or wall_clock() >= self._earliest or monotonic() >= self._sweep_at:
            self._sweep(session, size)

    def _size(self, session: KombuSession) -> int:
        if not self._exists:
            self._exists = self._transport.exists(session, self._companion)
        return self._transport.size(session, self._companion) if self._exists else 0

    def _sweep(self, session: KombuSession, size: int) -> None:
        began, earliest, kept = monotonic(), _NEVER, 0
        while size > 0:
            batch = self._transport.receive(session, self._companion, min(size, _AT_ONCE), 0.0)
            if not batch:
                break
            size -= len(batch)
            now = wall_clock()
            due = [each for each in batch if due_at(each.headers) <= now]
            early = [each for each in batch if due_at(each.headers) > now]
            self._move(session, self._name, due, [_ready(each) for each in due])
            self._move(session, self._companion, early, [self._later(each, now) for each in early])
            earliest = min([earliest, *(due_at(each.headers) for each in early)])
            kept += len(early)
        ended = monotonic()
        self._count, self._earliest = kept, earliest
        self._sweep_at = ended + max(_SWEEP_EVERY, (ended - began) * _COSTS_AT_MOST)

    def _move(self, session: KombuSession, name: str, originals: list[Received], copies: list[Outgoing]) -> None:
        """Copies first, confirmed; a crash in between doubles messages and loses none."""
        if originals:
            for start in range(0, len(originals), self._transport.publish_batch):
                some = slice(start, start + self._transport.publish_batch)
                self._transport.publish(session, name, copies[some], self._context.settings.publish_timeout)
                self._transport.acknowledge(session, self._companion, originals[some])
            if name == self._name:
                self._context.bell(self._queue).set()

    def _later(self, received: Received, now: float) -> Outgoing:
        left = due_at(received.headers) - now
        same = Outgoing(received.body, received.headers, received.properties)
        return replace(same, delay=min(left, self._transport.max_native_delay))


def _ready(received: Received) -> Outgoing:
    return Outgoing(received.body, without_due(received.headers), received.properties)
