"""Broken clients of the memory backend: how long they wait, whom they wake, and what becomes of errors on the way."""
# ruff: noqa: D102 - what each method is for is in the contract

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import replace
from typing import Any

from qbridge_core.backend import (
    BrokerUnavailableError,
    Delivery,
    Message,
    QBridgeError,
    check_delay,
    check_messages,
    check_wait,
    settled,
)
from qbridge_memory import MemoryClient

CLAIMS = MemoryClient.capabilities


def _silently(client: MemoryClient, call: Callable[[], object]) -> None:
    """Make a call that wakes nobody."""
    queues = client._broker._queues
    names = list(queues)
    kept = {name: queues[name].changed for name in names}
    silent: Any = _Silent()
    for name in names:
        queues[name].changed = silent
    try:
        call()
    finally:
        for name, changed in kept.items():
            queues[name].changed = changed


class _Silent:
    """In the place of a condition."""

    def notify_all(self) -> None:
        """Nobody hears it."""


# ---------------------------------------------------------------------- waking


class WakesOne(MemoryClient):
    """Wakes one consumer, however many messages come."""

    def publish_many(self, queue: str, messages: Iterable[Message], **options: Any) -> None:
        _silently(self, lambda: super(WakesOne, self).publish_many(queue, messages, **options))
        changed = self._broker._queues[queue].changed
        with changed:
            changed.notify()


class HandsBackInSilence(MemoryClient):
    """Wakes nobody for what is handed back."""

    def reject(self, delivery: Delivery, requeue: bool = True, **options: Any) -> None:
        if requeue and options.get("failure") is None:
            _silently(self, lambda: super(HandsBackInSilence, self).reject(delivery, requeue, **options))
        else:
            super().reject(delivery, requeue, **options)


class LeavesInSilence(MemoryClient):
    """Wakes nobody for what it gives back when it disconnects."""

    def disconnect(self) -> None:
        _silently(self, super().disconnect)


class ReleasesInSilence(MemoryClient):
    """Wakes nobody for what is released before it is due."""

    def release_delayed(self, queue: str, **options: Any) -> int:
        counts: list[int] = []
        _silently(self, lambda: counts.append(super(ReleasesInSilence, self).release_delayed(queue, **options)))
        return counts[0]


# ---------------------------------------------------------------------- waiting


class TakesAfterDisconnect(MemoryClient):
    """Asks in turns, and looks at the end of each whether it is connected still."""

    def receive(self, queue: str, max_messages: int = 1, timeout: float = 0.0) -> list[Delivery]:
        deadline = time.monotonic() + check_wait(timeout)
        while True:
            left = deadline - time.monotonic()
            found = self._turn(queue, max_messages, max(0.0, min(0.4, left)))
            if found or left <= 0 or not self.connected:
                return found

    def _turn(self, queue: str, max_messages: int, seconds: float) -> list[Delivery]:
        self._require_connection(queue)
        taken = self._broker.take(queue, max_messages, seconds, self, lambda: False)
        return [
            Delivery.from_headers(each.body, queue, each.headers, each.meta, message_id=each.message_id, tag=token)
            for token, each in taken
        ]


class LingersForABatch(MemoryClient):
    """Waits for a second whether more comes."""

    def receive(self, queue: str, max_messages: int = 1, timeout: float = 0.0) -> list[Delivery]:
        found = super().receive(queue, max_messages, timeout)
        if found and timeout > 0 and len(found) < max_messages:
            found += super().receive(queue, max_messages - len(found), 0.6)
        return found


class LingersInSeveralQueues(MemoryClient):
    """Returns a second after the first message came."""

    def receive_any(self, wanted: Mapping[str, int], timeout: float = 0.0) -> list[Delivery]:
        found = super().receive_any(wanted, timeout)
        time.sleep(0.95 if found else 0.0)
        return found


class FlushesForLong(MemoryClient):
    """Waits for its time to be over, whether there is something to send or not."""

    def flush(self, timeout: float = 5.0) -> bool:
        time.sleep(min(1.5, check_wait(timeout) / 100))
        return True


class ReadsAheadInSilence(MemoryClient):
    """Holds what nobody has received yet, and says that it does not."""

    def __init__(self, url: str = "memory://", **options: object) -> None:
        super().__init__(url, **options)
        self._ahead: dict[str, deque[Delivery]] = {}

    def subscribe(self, queue: str, prefetch: int) -> None:
        super().subscribe(queue, prefetch)
        self._ahead.setdefault(queue, deque()).extend(super().receive(queue, prefetch, 0.0))

    def receive(self, queue: str, max_messages: int = 1, timeout: float = 0.0) -> list[Delivery]:
        ahead = self._ahead.get(queue)
        return [ahead.popleft()] if ahead else super().receive(queue, max_messages, timeout)

    def unsubscribe(self, queue: str) -> None:
        for delivery in reversed(self._ahead.pop(queue, deque())):
            self.reject(delivery)
        super().unsubscribe(queue)

    def disconnect(self) -> None:
        self._ahead.clear()
        super().disconnect()


class RemembersWhatItReadAhead(MemoryClient):
    """Returns after a ``connect`` what it had read ahead before."""

    reads_ahead = True

    def __init__(self, url: str = "memory://", **options: object) -> None:
        super().__init__(url, **options)
        self._ahead: list[Delivery] = []
        self._prefetch: dict[str, int] = {}

    def subscribe(self, queue: str, prefetch: int) -> None:
        super().subscribe(queue, prefetch)
        self._prefetch[queue] = prefetch

    def receive(self, queue: str, max_messages: int = 1, timeout: float = 0.0) -> list[Delivery]:
        ahead = [delivery for delivery in self._ahead if delivery.queue == queue]
        found = ahead or super().receive(queue, max(max_messages, self._prefetch.get(queue, 0)), timeout)
        self._ahead = [delivery for delivery in self._ahead if delivery.queue != queue] + found[max_messages:]
        return found[:max_messages]

    def unsubscribe(self, queue: str) -> None:
        for delivery in self._ahead:
            self.reject(delivery)
        self._ahead.clear()
        super().unsubscribe(queue)


# ---------------------------------------------------------------------- publishing


class SwallowsErrorsOfItsCaller(MemoryClient):
    """Ends where the messages of its caller end, for whatever reason."""

    def publish_many(self, queue: str, messages: Iterable[Message], **options: Any) -> None:
        super().publish_many(queue, _until_an_error(check_messages(messages)), **options)


class DressesErrorsOfItsCaller(MemoryClient):
    """Takes each error for one of its broker."""

    def publish_many(self, queue: str, messages: Iterable[Message], **options: Any) -> None:
        try:
            super().publish_many(queue, messages, **options)
        except QBridgeError:
            raise
        except Exception as exc:
            raise BrokerUnavailableError("publishing failed") from exc


class PublishesManyByOne(MemoryClient):
    """Has a ``publish_many`` of its own that calls ``publish``, whose hooks are told, too."""

    def publish_many(self, queue: str, messages: Iterable[Message], **options: Any) -> None:
        if not isinstance(messages, Iterable):
            super().publish_many(queue, messages, **options)
        for each in messages:
            self.publish(queue, each.body, headers=each.headers, message_id=each.message_id, **options)


class HasOneErrorForAll(MemoryClient):
    """Gives each future the same error."""

    def publish_soon(self, queue: str, messages: Sequence[Message], **options: Any) -> list[Future[None]]:
        futures = super().publish_soon(queue, messages, **options)
        errors = [error for future in futures if (error := future.exception()) is not None]
        alike = {type(error): error for error in errors}
        return [settled(alike[type(error)]) if (error := future.exception()) else future for future in futures]


class CutsDelaysOfWhatIsSoon(MemoryClient):
    """Claims a longest delay, and cuts to it what is published without waiting."""

    capabilities = replace(CLAIMS, max_delay=3600.0)

    def publish(self, queue: str, body: bytes, *, delay: float = 0.0, **options: Any) -> None:
        super().publish(queue, body, delay=check_delay(delay, 3600.0), **options)

    def publish_soon(
        self, queue: str, messages: Sequence[Message], *, delay: float = 0.0, timeout: float | None = None
    ) -> list[Future[None]]:
        return super().publish_soon(queue, messages, delay=min(delay, 3600.0), timeout=timeout)

    def reject(self, delivery: Delivery, requeue: bool = True, *, delay: float = 0.0, **options: Any) -> None:
        super().reject(delivery, requeue, delay=check_delay(delay, 3600.0), **options)


def _until_an_error(messages: Iterable[Message]) -> Iterator[Message]:
    try:
        yield from messages
    except Exception:
        return
