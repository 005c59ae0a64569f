"""What comes to any of several consumers, for one taker whose effort does not grow with their number."""

from __future__ import annotations

import functools
import queue as queues
from collections.abc import Iterable, Mapping

from qbridge_rabbitmq.consume.consumer import Consumer
from qbridge_rabbitmq.consume.consumers import Consumers


class SeveralConsumers:
    """Tells which of several consumers have something. For one thread, but for ``wake``.

    Each of them says so by itself, so that nobody has to look at all.

    Args:
        consumers: where they are.
    """

    def __init__(self, consumers: Consumers) -> None:
        self._consumers = consumers
        self._news: queues.SimpleQueue[str | None] = queues.SimpleQueue()
        self._known: dict[str, Consumer] = {}
        self._epochs: dict[str, int] = {}
        self._again: set[str] = set()

    def wake(self) -> None:
        """End the current wait, or the next one. In any thread."""
        self._news.put(None)

    def follow(self, wanted: Mapping[str, int]) -> bool:
        """Listen to the consumers of these queues and no others; False when one of them has no consumer."""
        known = self._known
        if wanted.keys() != known.keys():
            for queue in known.keys() - wanted.keys():
                known.pop(queue).buffer.listener = None
            self._again &= known.keys()
            for queue in wanted.keys() - known.keys():
                consumer = known[queue] = self._consumers.of(queue)
                self._epochs[queue] = consumer.epoch
                consumer.buffer.listener = functools.partial(self._news.put, queue)
                self._again.add(queue)  # something may have come before
        return all(consumer.prefetch for consumer in known.values())

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
            found.update(queue for queue in news if queue is not None and queue in self._known)
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
