"""The smallest third-party backend: the eight methods on lists and one lock."""
# ruff: noqa: D102 - what each method is for is in the contract

from __future__ import annotations

import itertools
import os
import threading
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import ClassVar

from qbridge_core.backend import (
    ATTEMPTS,
    FIRST_FAILED_AT,
    BrokerURL,
    Delivery,
    DeliveryLostError,
    Failure,
    NotConnectedError,
    QueueClient,
    QueueStats,
    UnroutableError,
    UnsupportedError,
    check_body,
    check_count,
    check_declaration,
    check_headers,
    check_message_id,
    check_publish_timeout,
    check_queue_name,
    check_wait,
    default_dead_letter_queue,
    merge_options,
    meta_int,
    meta_time,
    rejection,
)


class ListClient(QueueClient):
    """The least that a backend can be: the eight methods on lists and one lock, without a capability."""

    _brokers: ClassVar[dict[str, dict[str, list[Delivery]]]] = {}
    _lock: ClassVar[threading.RLock] = threading.RLock()
    _tags: ClassVar[itertools.count[int]] = itertools.count(1)

    def __init__(self, url: str, **options: object) -> None:
        merge_options(BrokerURL.parse(url), options, known=("patience",))
        self._queues = self._brokers.setdefault(url, {})
        self._mine: dict[int, Delivery] = {}
        self._dead: dict[str, str] = {}
        self._connected = False
        self._pid = 0
        self._wakeups: Counter[str] = Counter()

    @property
    def connected(self) -> bool:
        return self._connected and self._pid == os.getpid()

    def connect(self) -> None:
        self._connected, self._pid = True, os.getpid()

    def disconnect(self) -> None:
        with self._lock:
            for delivery in reversed(self._mine.values()):
                self._queues[delivery.queue].insert(0, replace(delivery, tag=None, redelivered=True))
            self._mine.clear()
            self._connected = False

    def declare(self, queue: str, dead_letter_queue: str | None = None) -> None:
        with self._lock:
            self._check(queue)
            check_declaration(queue, dead_letter_queue)
            self._queues.setdefault(queue, [])
            if dead_letter_queue is not None:
                self._dead[queue] = dead_letter_queue
                self._queues.setdefault(dead_letter_queue, [])

    def stats(self, queue: str) -> QueueStats:
        with self._lock:
            self._check(queue)
            mine = sum(delivery.queue == queue for delivery in self._mine.values())
            return QueueStats(len(self._queues.get(queue, [])), mine, 0)

    def publish(
        self,
        queue: str,
        body: bytes,
        *,
        headers: Mapping[str, str] | None = None,
        message_id: str | None = None,
        delay: float = 0.0,
        timeout: float | None = None,
    ) -> None:
        with self._lock:
            self._check(queue, delay)
            check_publish_timeout(timeout)
            body = check_body(body, self.max_message_bytes)
            message_id = check_message_id(message_id)
            self._existing(queue).append(
                Delivery(body, queue, MappingProxyType(dict(check_headers(headers))), message_id)
            )

    def receive(self, queue: str, max_messages: int = 1, timeout: float = 0.0) -> list[Delivery]:
        check_count("max_messages", max_messages, 1)
        deadline = time.monotonic() + check_wait(timeout)
        wakeups = self._wakeups[queue]
        while True:
            with self._lock:
                self._check(queue)
                ready = self._existing(queue)
                taken, ready[:] = ready[:max_messages], ready[max_messages:]
                for delivery in taken:
                    delivery.tag = next(self._tags)
                    self._mine[delivery.tag] = delivery
            if taken or time.monotonic() >= deadline or self._wakeups[queue] != wakeups:
                return taken
            time.sleep(0.005)  # a queue without conditions has to poll

    def unsubscribe(self, queue: str) -> None:
        self._wakeups[queue] += 1

    def ack(self, delivery: Delivery) -> None:
        with self._lock:
            self._settle(delivery)

    def reject(
        self,
        delivery: Delivery,
        requeue: bool = True,
        *,
        delay: float = 0.0,
        failure: Failure | None = None,
        queue: str | None = None,
    ) -> None:
        with self._lock:
            self._check(delivery.queue, delay)
            if not self._settle(delivery):
                return
            target, meta = delivery.queue, delivery.meta
            if not requeue:
                failure = failure or rejection(delivery)
                meta = failure.dead_letter_headers()
                target = self._dead.get(delivery.queue, default_dead_letter_queue(delivery.queue))
            elif failure is not None:
                target, meta = queue or target, failure.retry_headers()
            fresh = meta is not delivery.meta
            again = Delivery(
                delivery.body, target, delivery.headers, delivery.message_id, redelivered=not fresh, meta=meta
            )
            again.attempts, again.first_failed_at = meta_int(meta, ATTEMPTS), meta_time(meta, FIRST_FAILED_AT)
            ready = self._queues.setdefault(target, [])
            ready.insert(len(ready) if fresh else 0, again)

    def _settle(self, delivery: Delivery) -> bool:
        self._check(delivery.queue)
        if delivery.tag is None:
            return False
        if self._mine.pop(delivery.tag, None) is None:
            raise DeliveryLostError(f"a delivery of {delivery.queue!r} went back")
        delivery.tag = None
        return True

    def _existing(self, queue: str) -> list[Delivery]:
        if queue not in self._queues:
            raise UnroutableError(f"queue {queue!r} does not exist")
        return self._queues[queue]

    def _check(self, queue: str, delay: float = 0.0) -> None:
        check_queue_name(queue)
        if not self.connected:
            raise NotConnectedError("not connected")
        if delay > 0:
            raise UnsupportedError("no delays here")
