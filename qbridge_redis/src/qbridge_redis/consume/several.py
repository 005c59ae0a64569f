"""What comes to any of several queues, for one taker: they are read together, idle or not."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping

from qbridge_core.backend import Delivery, QBridgeError, monotonic
from qbridge_redis.consume.reader import StreamReader
from qbridge_redis.consume.subscription import PATIENCE, Subscription
from qbridge_redis.consume.together import SharedQueues


class SeveralQueues:
    """Thread-safe, as long as no two take from one queue.

    Args:
        shared: those that are read together.
        closing: set when the client is about to disconnect.
        reader_of: finds or makes the reader of a queue.
    """

    def __init__(
        self, shared: SharedQueues, closing: threading.Event, reader_of: Callable[[str], StreamReader]
    ) -> None:
        self._shared = shared
        self._closing = closing
        self._reader_of = reader_of

    def queues(self) -> list[str]:
        """The queues that are read together now."""
        return self._shared.queues()

    def receive(
        self, wanted: Mapping[str, int], timeout: float, news: threading.Event, woken: threading.Event
    ) -> list[Delivery]:
        """See ``QueueClient.receive_any``. ``news`` is set when something may have changed, ``woken`` ends the wait."""
        deadline = monotonic() + timeout
        readers = [self._reader_of(queue) for queue in wanted]
        cancels = sum(reader.cancels for reader in readers)
        subscriptions = [self._join(queue, count, deadline, news) for queue, count in wanted.items()]
        while True:
            news.clear()
            if batch := self._collect(subscriptions):
                return batch
            if woken.is_set() or self._closing.is_set() or sum(reader.cancels for reader in readers) != cancels:
                return []
            self._shared.add(subscriptions)
            if (left := deadline - monotonic()) <= 0:
                self._shared.require_success(subscriptions)
                return []
            news.wait(left)

    def _join(self, queue: str, count: int, deadline: float, news: threading.Event) -> Subscription:
        while True:
            if (subscription := self._reader_of(queue).join(news)) is not None:
                subscription.count = count
                subscription.until = deadline + PATIENCE
                return subscription

    def _collect(self, subscriptions: list[Subscription]) -> list[Delivery]:
        """What has come.

        Raises:
            QBridgeError: the first one of those that cannot be read, when nothing has come.
        """
        batch: list[Delivery] = []
        first: QBridgeError | None = None
        for subscription in subscriptions:
            try:
                batch += subscription.collect(subscription.count)
            except QBridgeError as exc:
                first = first or exc
        if first is not None and not batch:
            raise first
        return batch
