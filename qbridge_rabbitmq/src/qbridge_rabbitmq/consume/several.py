"""What comes to any of several consumers, for one taker whose effort does not grow with their number."""

from __future__ import annotations

import functools
import queue as queues
import threading
from collections.abc import Collection, Iterable

from qbridge_rabbitmq.consume.consumer import Consumer
from qbridge_rabbitmq.consume.consumers import Consumers


class SeveralConsumers:
    """Tells which of several consumers have something. For one thread, but for ``wake``.

    Each of them says so by itself, so that nobody has to look at all.

    Args:
        consumers: those that are waited for.
    """

    def __init__(self, consumers: Iterable[Consumer]) -> None:
        self._news: queues.SimpleQueue[str | None] = queues.SimpleQueue()
        self._told: set[str] = set()  # what is in there
        self._known = {consumer.queue: consumer for consumer in consumers}
        self._epochs = {queue: consumer.epoch for queue, consumer in self._known.items()}
        for queue, consumer in self._known.items():
            consumer.buffer.listener = functools.partial(self._tell, queue)
        self._again = set(self._known)  # something may have come before

    @property
    def consume(self) -> bool:
        """Whether each of them has a prefetch."""
        return all(consumer.prefetch for consumer in self._known.values())

    def wake(self) -> None:
        """End the current wait, or the next one. In any thread."""
        self._news.put(None)

    def _tell(self, queue: str) -> None:
        """In any thread: something has come. Said once, for nobody may be waiting any more."""
        if queue not in self._told:
            self._told.add(queue)
            self._news.put(queue)

    def leave(self) -> None:
        """Listen to them no more."""
        for consumer in self._known.values():
            consumer.buffer.listener = None

    def wait(self, timeout: float) -> list[Consumer] | None:
        """Wait for some that may have something; none of them when the time is over, and None when somebody woke us."""
        found, self._again = self._again, set()
        news: list[str | None] = []
        try:
            if not found:
                news.append(self._news.get(timeout=timeout) if timeout > 0 else self._news.get_nowait())
            while True:
                news.append(self._news.get_nowait())
        except queues.Empty:
            told = {queue for queue in news if queue is not None}
            self._told -= told  # before their buffers are looked at
            found |= told & self._known.keys()
        if None in news:
            self._again = found
            return None
        return [self._known[queue] for queue in found]

    def ask_again(self, consumer: Consumer) -> None:
        """The next wait ends at once with this one: there is more than could be taken."""
        self._again.add(consumer.queue)

    def were_interrupted(self, found: Iterable[Consumer]) -> bool:
        """Whether somebody has ended the wait for one of them since it was found last."""
        changed = [consumer for consumer in found if consumer.epoch != self._epochs[consumer.queue]]
        self._epochs |= {consumer.queue: consumer.epoch for consumer in changed}
        return bool(changed)


class Groups:
    """The consumers that are waited for together: each is in one group at most. Thread-safe.

    Args:
        consumers: where they are.
    """

    def __init__(self, consumers: Consumers) -> None:
        self._consumers = consumers
        self._groups: dict[frozenset[str], SeveralConsumers] = {}
        self._lock = threading.Lock()

    def of(self, queues: Collection[str]) -> SeveralConsumers:
        """Those of these queues; groups that had some of them, which nobody waits for any more, are forgotten."""
        wanted = frozenset(queues)
        with self._lock:
            if (found := self._groups.get(wanted)) is None:
                for other in [other for other in self._groups if other & wanted]:
                    self._groups.pop(other).leave()
                found = self._groups[wanted] = SeveralConsumers(map(self._consumers.of, sorted(wanted)))
            return found
