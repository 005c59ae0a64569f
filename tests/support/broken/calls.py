"""Broken clients of the memory backend: when calls may come, from where, and how long they may take."""
# ruff: noqa: D102 - what each method is for is in the contract

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Mapping
from types import TracebackType
from typing import Any

from qbridge_core.backend import (
    Capabilities,
    ConfigurationError,
    Delivery,
    DeliveryLostError,
    Message,
    QueueStats,
    UnroutableError,
    check_count,
    check_delay,
    check_queue_name,
    check_wait,
    check_wanted,
    rejection,
)
from qbridge_memory import MemoryClient
from qbridge_memory.stored import StoredMessage

# ---------------------------------------------------------------------- connecting


class ConnectsAnew(MemoryClient):
    """Begins again at each ``connect``."""

    def connect(self) -> None:
        if self.connected:
            self.disconnect()
        super().connect()


class StaysAtTheEnd(MemoryClient):
    """Does not disconnect at the end of ``with``."""

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        return None


class IgnoresTheURL(MemoryClient):
    """Reads no options in a URL."""

    def __init__(self, url: str = "memory://", **options: object) -> None:
        super().__init__(url.partition("?")[0], **options)


class WorksInAForkedChild(MemoryClient):
    """Goes on in a child process, on its copy of the broker."""

    @property
    def connected(self) -> bool:
        return self._connected

    def _require_connection(self, queue: str) -> None:
        if self._connected:
            self._pid = 0
        check_queue_name(queue) if self._connected else super()._require_connection(queue)


# ---------------------------------------------------------------------- threads


class RejectsOneAtATime(MemoryClient):
    """Has one lock for receiving and rejecting."""

    _only = threading.RLock()

    def receive(self, queue: str, max_messages: int = 1, timeout: float = 0.0) -> list[Delivery]:
        with self._only:
            return super().receive(queue, max_messages, min(timeout, 5.0))

    def reject(self, delivery: Delivery, requeue: bool = True, **options: Any) -> None:
        with self._only:
            super().reject(delivery, requeue, **options)


class MixesThreads(MemoryClient):
    """Keeps what it rejects in a place that its threads share."""

    _rejected: Delivery

    def reject(self, delivery: Delivery, requeue: bool = True, **options: Any) -> None:
        self._rejected = delivery
        time.sleep(0.001)  # as a call of a driver takes
        super().reject(self._rejected, requeue, **options)


class CopiesTwice(MemoryClient):
    """Looks whether a delivery is settled, and marks it when it has written the copy."""

    def reject(self, delivery: Delivery, requeue: bool = True, **options: Any) -> None:
        if requeue or delivery.tag is None or not self.connected:
            super().reject(delivery, requeue, **options)
            return
        failure = options.get("failure") or rejection(delivery)
        target = self._dead_letter_queues.get(delivery.queue, f"{delivery.queue}.dead")
        copy = StoredMessage(delivery.body, delivery.headers, delivery.message_id, failure.dead_letter_headers())
        tag = delivery.tag
        time.sleep(0.001)  # as a confirmation takes
        self._broker.declare(target)
        self._broker.put(target, [copy], 0.0)
        delivery.tag = None
        if not self._broker.remove(delivery.queue, tag):
            raise DeliveryLostError(delivery.queue)


# ---------------------------------------------------------------------- waiting


class LooksNowAndThen(MemoryClient):
    """Asks for messages every other second."""

    def receive(self, queue: str, max_messages: int = 1, timeout: float = 0.0) -> list[Delivery]:
        deadline = time.monotonic() + check_wait(timeout)
        while True:
            found = super().receive(queue, max_messages, 0.0)
            left = deadline - time.monotonic()
            if found or left <= 0:
                return found
            time.sleep(min(2.0, left))


class AlwaysWaits(MemoryClient):
    """Waits for a message whatever the timeout is, as a long poll of whole seconds does."""

    def receive(self, queue: str, max_messages: int = 1, timeout: float = 0.0) -> list[Delivery]:
        return super().receive(queue, max_messages, max(check_wait(timeout), 0.9))


class WaitsHalfASecond(MemoryClient):
    """Waits no longer than its broker lets it."""

    def receive(self, queue: str, max_messages: int = 1, timeout: float = 0.0) -> list[Delivery]:
        return super().receive(queue, max_messages, min(check_wait(timeout), 0.5))


class FillsUpFromOneQueue(MemoryClient):
    """Takes as many messages of one queue as are wanted of all."""

    def receive_any(self, wanted: Mapping[str, int], timeout: float = 0.0) -> list[Delivery]:
        counts = check_wanted(wanted)
        return super().receive_any(dict.fromkeys(counts, sum(counts.values())), timeout)


class WaitsForTheFirstQueue(MemoryClient):
    """Asks the others only when it has waited for one."""

    def receive_any(self, wanted: Mapping[str, int], timeout: float = 0.0) -> list[Delivery]:
        counts = check_wanted(wanted)
        first, *others = counts
        batch = super().receive_any({first: counts[first]}, timeout)
        return batch or super().receive_any({queue: counts[queue] for queue in others}, 0.0)


class HoldsToItsPrefetch(MemoryClient):
    """Tells of nothing while as many are unsettled as its prefetch says."""

    def __init__(self, url: str = "memory://", **options: object) -> None:
        super().__init__(url, **options)
        self._most: dict[str, int] = {}

    def subscribe(self, queue: str, prefetch: int) -> None:
        super().subscribe(queue, prefetch)
        self._most[queue] = prefetch

    def receive(self, queue: str, max_messages: int = 1, timeout: float = 0.0) -> list[Delivery]:
        if queue in self._most and self.count(queue).in_flight >= self._most[queue]:
            return []
        return super().receive(queue, max_messages, timeout)


class OneWaitForSeveralQueues(MemoryClient):
    """Lets the next thread wait when the one before it has ended."""

    def __init__(self, url: str = "memory://", **options: object) -> None:
        super().__init__(url, **options)
        self._waiting = threading.Lock()

    def receive_any(self, wanted: Mapping[str, int], timeout: float = 0.0) -> list[Delivery]:
        with self._waiting:
            return super().receive_any(wanted, timeout)


class SleepsThroughAWake(MemoryClient):
    """Does not know that it was woken."""

    def wake_receive_any(self) -> None:
        return None


# ---------------------------------------------------------------------- reading ahead


class ReadsTooFarAhead(MemoryClient):
    """Holds twice its prefetch."""

    factor = 2

    def __init__(self, url: str = "memory://", **options: object) -> None:
        super().__init__(url, **options)
        self._prefetch: dict[str, int] = {}
        self._ahead: dict[str, list[Delivery]] = {}

    def subscribe(self, queue: str, prefetch: int) -> None:
        super().subscribe(queue, prefetch)
        self._prefetch[queue] = prefetch * self.factor

    def receive(self, queue: str, max_messages: int = 1, timeout: float = 0.0) -> list[Delivery]:
        ahead = self._ahead.setdefault(queue, [])
        if not ahead:
            count = check_count("max_messages", max_messages, 1)
            ahead += super().receive(queue, max(count, self._prefetch.get(queue, 0)), timeout)
        found, ahead[:] = ahead[:max_messages], ahead[max_messages:]
        return found

    def unsubscribe(self, queue: str) -> None:
        self._prefetch.pop(queue, None)
        for delivery in reversed(self._ahead.pop(queue, [])):
            self.reject(delivery)
        super().unsubscribe(queue)

    def disconnect(self) -> None:
        self._ahead.clear()
        super().disconnect()


class SubscribesOnce(MemoryClient):
    """Refuses a second ``subscribe``."""

    def subscribe(self, queue: str, prefetch: int) -> None:
        super().subscribe(queue, prefetch)
        known: set[str] = vars(self).setdefault("_known", set())
        if queue in known:
            raise ConfigurationError(f"{queue} has a consumer")
        known.add(queue)


class EndsForGood(MemoryClient):
    """Receives nothing more once it has unsubscribed."""

    def unsubscribe(self, queue: str) -> None:
        super().unsubscribe(queue)
        vars(self).setdefault("_ended", set()).add(queue)

    def subscribe(self, queue: str, prefetch: int) -> None:
        super().subscribe(queue, prefetch)
        vars(self).setdefault("_ended", set()).discard(queue)

    def receive(self, queue: str, max_messages: int = 1, timeout: float = 0.0) -> list[Delivery]:
        if self.connected and queue in vars(self).get("_ended", ()):
            return []
        return super().receive(queue, max_messages, timeout)


# ---------------------------------------------------------------------- queues and delays


class CreatesToCount(MemoryClient):
    """Creates the queue that it is to count."""

    def stats(self, queue: str) -> QueueStats:
        super().stats(queue)
        self._broker.declare(queue)
        return super().stats(queue)


class PurgesAPage(MemoryClient):
    """Purges no more than it can in one go."""

    def purge(self, queue: str) -> int:  # type: ignore[override]
        page = self.receive(queue, 100, 0.0) if self.stats(queue).ready else []
        for delivery in page:
            self.ack(delivery)
        return len(page)


class DeletesToPurge(MemoryClient):
    """Deletes a queue to empty it."""

    def purge(self, queue: str) -> int:  # type: ignore[override]
        purged = super().purge(queue)
        queues: dict[str, Any] = self._broker._queues
        if queue in queues and not queues[queue].in_flight and not queues[queue].delayed:
            del queues[queue]
        return purged


class DelaysTwiceAsLong(MemoryClient):
    """Counts half seconds for seconds."""

    def publish(self, queue: str, body: bytes, *, delay: float = 0.0, **options: Any) -> None:
        super().publish(queue, body, delay=2 * check_delay(delay), **options)


class HoldsNoLongDelay(MemoryClient):
    """Claims to hold any delay, and holds none over a day."""

    def publish(self, queue: str, body: bytes, *, delay: float = 0.0, **options: Any) -> None:
        super().publish(queue, body, delay=check_delay(delay, 86_400.0), **options)


class ReleasesToConsumers(MemoryClient):
    """Looks for what is due when somebody receives."""

    def stats(self, queue: str) -> QueueStats:
        self._require_connection(queue)
        queues: dict[str, Any] = self._broker._queues
        if queue not in queues:
            return QueueStats(0, 0, 0)
        return QueueStats(len(queues[queue].ready), len(queues[queue].in_flight), len(queues[queue].delayed))


class StopsAtAThousand(MemoryClient):
    """Publishes as many messages as its pipeline holds."""

    def publish_many(self, queue: str, messages: Iterable[Message], **options: Any) -> None:
        super().publish_many(queue, list(messages)[:1_000], **options)


# ---------------------------------------------------------------------- claims


class ClaimsCrashesAlone(MemoryClient):
    """Claims to see crashes that end its broker, too."""

    capabilities = Capabilities(delay=True, browse=True, crashes=True)


class ClaimsDurableAlone(MemoryClient):
    """Claims to keep what ends with its process."""

    capabilities = Capabilities(delay=True, browse=True, durable=True)


class CountsCrashesOnReturn(MemoryClient):
    """Counts a crash for what its own disconnect gave back, without a claim."""

    def disconnect(self) -> None:
        self._returned = True
        super().disconnect()

    def receive(self, queue: str, max_messages: int = 1, timeout: float = 0.0) -> list[Delivery]:
        found = super().receive(queue, max_messages, timeout)
        for delivery in found if vars(self).get("_returned") else ():
            delivery.crashes += delivery.redelivered
        return found


class RefusesToReplayNothing(MemoryClient):
    """Takes a missing dead-letter queue for an error."""

    def replay(self, dead_letter_queue: str, **options: Any) -> int:
        if self.connected and dead_letter_queue not in self._broker._queues:
            raise UnroutableError(dead_letter_queue)
        return super().replay(dead_letter_queue, **options)
