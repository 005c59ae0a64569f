"""A broker inside the process: queues, deliveries in flight, delays.

One lock guards everything; each queue has a condition on it. All public methods are safe from any thread.
"""

from __future__ import annotations

import heapq
import itertools
import threading
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Any, Final

from qbridge_core.backend import DUE_AT, SYSTEM_CLOCK, Clock, QueueStats, UnroutableError, monotonic
from qbridge_memory.stored import Event, InFlight, Look, Outlook, Place, Queue, StoredMessage, place_of


class MemoryBroker:
    """The queues that the clients of one URL share.

    Args:
        clock: tells when what is held back is due.

    Attributes:
        journal: called with each event, in their order, while the lock is held: it must not call the broker.
    """

    def __init__(self, clock: Clock = SYSTEM_CLOCK) -> None:
        self.clock: Final = clock
        self._time: Final = clock.monotonic
        self._waits_until_due: Final = clock.listen is None
        if clock.listen is not None:
            clock.listen(self.wake)
        self.journal: Callable[[Event], object] | None = None
        self._lock = threading.Lock()
        self._queues: dict[str, Queue] = {}
        self._consumers: dict[str, set[object]] = {}
        self._sequence = itertools.count(1)
        self.paused: Final[set[str]] = set()
        """The queues whose workers rest."""

    def declare(self, name: str) -> None:
        """Create the queue if it is missing."""
        with self._lock:
            self._declare(name)

    def put(self, name: str, messages: Iterable[StoredMessage], delay: float) -> None:
        """Append messages, all at once.

        Raises:
            UnroutableError: the queue does not exist.
        """
        with self._lock:
            self._put(name, messages, delay)

    def take(
        self, name: str, limit: int, timeout: float, owner: object, cancelled: Callable[[], bool]
    ) -> list[tuple[int, StoredMessage]]:
        """Move up to ``limit`` ready messages in flight; wait up to ``timeout`` seconds for the first.

        Raises:
            UnroutableError: the queue does not exist.
        """
        deadline = monotonic() + timeout
        with self._lock:
            queue = self._existing(name)
            while True:
                now = monotonic()
                self._release_due(queue, now if self._waits_until_due else self._time())
                if cancelled():  # before looking: what comes back from a client that left is not for that client
                    return []
                if queue.ready or now >= deadline:
                    return self._hand_out(name, queue, limit, owner)
                wake = min(deadline, queue.delayed[0][0]) if queue.delayed and self._waits_until_due else deadline
                queue.changed.wait(max(0.0, wake - now))

    def take_any(
        self, wanted: Mapping[str, int], timeout: float, owner: object, cancelled: Callable[[], bool]
    ) -> list[tuple[str, int, StoredMessage]]:
        """Move ready messages in flight, of each queue up to as many as wanted; wait for the first as ``take`` does.

        Raises:
            UnroutableError: a queue does not exist.
        """
        deadline = monotonic() + timeout
        changed = threading.Condition(self._lock)
        with self._lock:
            queues = {name: self._existing(name) for name in wanted}
            for queue in queues.values():
                queue.others.add(changed)
            try:
                while not cancelled():
                    now, time = monotonic(), self._time()
                    taken = [
                        (name, *one)
                        for name, queue in queues.items()
                        for one in self._take_ready(name, queue, wanted[name], owner, time)
                    ]
                    if taken or now >= deadline:
                        return taken
                    held = self._waits_until_due and [queue.delayed[0][0] for queue in queues.values() if queue.delayed]
                    changed.wait(max(0.0, min(deadline, *held) - now) if held else deadline - now)
                return []
            finally:
                for queue in queues.values():
                    queue.others.discard(changed)

    def remove(self, name: str, token: int) -> bool:
        """Forget a message in flight; False when it is not in flight any more."""
        with self._lock:
            queue = self._queues.get(name)
            held = None if queue is None else queue.in_flight.pop(token, None)
            if held is not None and self.journal is not None:
                self.journal(Event("removed", name, held.message, self.clock.wall()))
            return held is not None

    def give_back(self, name: str, token: int) -> bool:
        """Make a message in flight ready again, in front; False when it is not in flight any more."""
        with self._lock:
            return self._give_back(name, token)

    def move(
        self,
        name: str,
        token: int,
        target: str,
        meta: Mapping[str, Any],
        message_id: str | None,
        delay: float,
    ) -> bool:
        """Settle a message in flight and put its next state into ``target``, in one step.

        The target is created if it is missing. False when the message is not in flight any more.
        """
        with self._lock:
            source = self._queues.get(name)
            held = source.in_flight.pop(token, None) if source else None
            if held is None:
                return False
            queue = self._declare(target)
            message = replace(
                held.message, meta=meta, message_id=held.message.message_id or message_id, redelivered=False, number=0
            )
            self._place(queue, message, delay, self._time())
            if self.journal is not None:
                self.journal(Event("moved", name, message, self.clock.wall(), delay, target))
            queue.notify_all()
            return True

    def give_back_all(self, owner: object) -> None:
        """Return everything that a client has in flight to its queues, in the order in which it was taken."""
        with self._lock:
            for name, queue in self._queues.items():
                for token in sorted((t for t, held in queue.in_flight.items() if held.owner is owner), reverse=True):
                    self._give_back(name, token)

    def wake(self, name: str | None = None) -> None:
        """Let every ``take`` that waits, or those for one queue, look at its ``cancelled`` again."""
        with self._lock:
            for queue in self._queues.values() if name is None else self._named(name):
                queue.notify_all()

    def peek(self, name: str, limit: int, after: int = 0) -> list[StoredMessage]:
        """The first ready messages behind a number, left where they are; none for a queue that does not exist."""
        with self._lock:
            queue = self._queues.get(name)
            if queue is None:
                return []
            self._release_due(queue, self._time())
            waiting = iter(queue.ready)
            if after:
                waiting = itertools.dropwhile(lambda message: 0 < message.number <= after, waiting)
            found = list(itertools.islice(waiting, min(limit, len(queue.ready))))
            for message in found:
                message.number = message.number or next(self._sequence)
            return found

    def pick(
        self,
        name: str,
        wanted: Callable[[StoredMessage], bool],
        send: Callable[[StoredMessage], tuple[str, StoredMessage]] | None,
    ) -> int:
        """Take ready messages out of a queue, whose others keep their order; return how many.

        ``send`` says where each one goes, and as what; without it they are deleted.

        Raises:
            UnroutableError: one cannot go where it should; it and those behind it stay.
        """
        kept: list[StoredMessage] = []
        done = 0
        with self._lock:
            ready = queue.ready if (queue := self._queues.get(name)) else deque()
            try:
                while ready:
                    if not wanted(ready[0]):
                        kept.append(ready.popleft())
                        continue
                    if send is not None:
                        target, message = send(ready[0])
                        self._put(target, [message], 0.0)
                    ready.popleft()
                    done += 1
            finally:
                ready.extendleft(reversed(kept))
        return done

    def purge(self, name: str) -> int:
        """Delete the ready messages; return how many there were."""
        with self._lock:
            queue = self._queues.get(name)
            if queue is None:
                return 0
            self._release_due(queue, self._time())
            count = len(queue.ready)
            queue.ready.clear()
            return count

    def has(self, name: str) -> bool:
        """Whether there is such a queue."""
        return name in self._queues

    def delayed(self, name: str, limit: int, after: Place | None) -> list[tuple[Place, StoredMessage]]:
        """The first messages that are held back and due behind a place, each with its own."""
        with self._lock:
            places = sorted((place_of(held), held[2]) for held in self._held_back(name))
        return [held for held in places if after is None or held[0] > after][:limit]

    def pick_delayed(self, name: str, wanted: Callable[[Place], bool], *, release: bool) -> int:
        """Release or delete messages that are held back; return how many."""
        with self._lock:
            held_back = self._held_back(name)
            picked = [held for held in sorted(held_back, key=place_of) if wanted(place_of(held))]
            if not picked:
                return 0
            queue = self._queues[name]
            gone = {number for _, number, _ in picked}
            queue.delayed = [held for held in held_back if held[1] not in gone]
            heapq.heapify(queue.delayed)
            if release:
                for _, _, message in picked:
                    meta = {**message.meta, DUE_AT: round(self.clock.wall() * 1000)}
                    queue.ready.append(replace(message, meta=meta, since=self._time()))
                queue.notify_all()
            return len(picked)

    def count(self, name: str) -> QueueStats:
        """Count a queue's messages; a queue that does not exist has none."""
        with self._lock:
            return self._count(name)

    def look(self, name: str) -> Look:
        """Count, and look at what is beside the counts; nothing of a queue that does not exist."""
        with self._lock:
            counts = self._count(name)
            queue = self._queues.get(name)
            first = queue.ready[0].since if queue is not None and queue.ready else None
            age = 0.0 if first is None else max(0.0, self._time() - first)
            stats = replace(counts, consumers=len(self._consumers.get(name, ())), oldest_age=age)
            held = counts.ready + counts.in_flight + counts.delayed
            return Look(stats, 0 if queue is None else queue.added, held)

    def outlook(self, names: Iterable[str]) -> Outlook:
        """What there is to do in these queues, all looked at at one moment."""
        with self._lock:
            queues = [queue for name in names for queue in self._named(name)]
            for queue in queues:
                self._release_due(queue, self._time())
            return Outlook(
                sum(len(queue.ready) for queue in queues),
                sum(len(queue.in_flight) for queue in queues),
                min((queue.delayed[0][0] for queue in queues if queue.delayed), default=None),
            )

    def names(self) -> list[str]:
        """The queues that exist."""
        with self._lock:
            return list(self._queues)

    def subscribe(self, name: str, consumer: object) -> None:
        """Count a consumer of a queue."""
        with self._lock:
            self._consumers.setdefault(name, set()).add(consumer)

    def unsubscribe(self, consumer: object, name: str | None = None) -> None:
        """Count it no more, for one queue or for all."""
        with self._lock:
            for each in [name] if name is not None else list(self._consumers):
                consumers = self._consumers.get(each, set())
                consumers.discard(consumer)
                if not consumers:
                    self._consumers.pop(each, None)

    # The methods below expect the lock to be held.

    def _count(self, name: str) -> QueueStats:
        queue = self._queues.get(name)
        paused = name in self.paused
        if queue is None:
            return QueueStats(0, 0, 0, paused=paused)
        self._release_due(queue, self._time())
        return QueueStats(len(queue.ready), len(queue.in_flight), len(queue.delayed), paused=paused)

    def _held_back(self, name: str) -> list[tuple[float, int, StoredMessage]]:
        """What is not due yet."""
        queue = self._queues.get(name)
        if queue is None:
            return []
        self._release_due(queue, self._time())
        return queue.delayed

    def _declare(self, name: str) -> Queue:
        if name not in self._queues:
            self._queues[name] = Queue(threading.Condition(self._lock))
        return self._queues[name]

    def _named(self, name: str) -> list[Queue]:
        queue = self._queues.get(name)
        return [] if queue is None else [queue]

    def _existing(self, name: str) -> Queue:
        try:
            return self._queues[name]
        except KeyError:
            raise UnroutableError(f"queue {name!r} does not exist; call declare({name!r}) first") from None

    def _put(self, name: str, messages: Iterable[StoredMessage], delay: float) -> None:
        queue, now = self._existing(name), self._time()
        for message in messages:
            self._place(queue, message, delay, now)
            if self.journal is not None:
                self.journal(Event("put", name, message, self.clock.wall(), delay))
        queue.notify_all()

    def _place(self, queue: Queue, message: StoredMessage, delay: float, now: float) -> None:
        queue.added += 1
        message.since = now + delay
        if delay > 0:
            heapq.heappush(queue.delayed, (message.since, next(self._sequence), message))
        else:
            queue.ready.append(message)

    def _release_due(self, queue: Queue, now: float) -> None:
        while queue.delayed and queue.delayed[0][0] <= now:
            queue.ready.append(heapq.heappop(queue.delayed)[2])

    def _take_ready(
        self, name: str, queue: Queue, limit: int, owner: object, now: float
    ) -> list[tuple[int, StoredMessage]]:
        self._release_due(queue, now)
        return self._hand_out(name, queue, limit, owner) if queue.ready else []

    def _hand_out(self, name: str, queue: Queue, limit: int, owner: object) -> list[tuple[int, StoredMessage]]:
        taken = []
        for _ in range(min(limit, len(queue.ready))):
            token, message = next(self._sequence), queue.ready.popleft()
            queue.in_flight[token] = InFlight(message, owner)
            if self.journal is not None:
                self.journal(Event("taken", name, message, self.clock.wall()))
            taken.append((token, message))
        return taken

    def _give_back(self, name: str, token: int) -> bool:
        queue = self._queues.get(name)
        held = queue.in_flight.pop(token, None) if queue else None
        if queue is None or held is None:
            return False
        queue.ready.appendleft(replace(held.message, redelivered=True))
        if self.journal is not None:
            self.journal(Event("given back", name, held.message, self.clock.wall()))
        queue.notify_all()
        return True
