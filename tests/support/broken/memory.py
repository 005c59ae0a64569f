"""Broken clients of the memory backend."""
# ruff: noqa: D102 - what each method is for is in the contract

from __future__ import annotations

import re
import threading
import time
from collections import deque
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import replace
from typing import Any

from qbridge_core.backend import (
    ATTEMPTS,
    SOURCE_QUEUE,
    Capabilities,
    DeadLetter,
    Delivery,
    DeliveryLostError,
    Failure,
    Message,
    NotConnectedError,
    QueueStats,
    UnroutableError,
    check_declaration,
    check_delay,
    check_headers,
    check_queue_name,
    meta_int,
    rejection,
)
from qbridge_memory import MemoryClient


class LosesOnReject(MemoryClient):
    """Drops the message instead of dead-lettering it."""

    def reject(self, delivery: Delivery, requeue: bool = True, **options: Any) -> None:
        if requeue:
            super().reject(delivery, requeue, **options)
        else:
            super().ack(delivery)


class RedeliversAfterAck(MemoryClient):
    """Does nothing on ack."""

    def ack(self, delivery: Delivery) -> None:
        if not self.connected:
            raise NotConnectedError("not connected")


class CountsHandBacks(MemoryClient):
    """Charges an attempt for a hand-back."""

    def reject(self, delivery: Delivery, requeue: bool = True, **options: Any) -> None:
        if requeue and options.get("failure") is None:
            options["failure"] = replace(rejection(delivery), attempts=delivery.attempts + 1)
        super().reject(delivery, requeue, **options)


class ForgetsAttempts(MemoryClient):
    """Retries without the count."""

    def reject(self, delivery: Delivery, requeue: bool = True, **options: Any) -> None:
        failure = options.get("failure")
        if requeue and failure is not None:
            options["failure"] = replace(failure, attempts=0)
        super().reject(delivery, requeue, **options)


class RewritesBodyOnRetry(MemoryClient):
    """Publishes a changed body for the next attempt, as a counter inside the envelope would."""

    def reject(self, delivery: Delivery, requeue: bool = True, **options: Any) -> None:
        super().reject(delivery, requeue, **options)
        if requeue and options.get("failure") is not None:
            broker: Any = self._broker
            ready: deque[Any] = broker._queues[delivery.queue].ready
            for position, message in enumerate(ready):
                if meta_int(message.meta, ATTEMPTS):
                    ready[position] = replace(message, body=message.body.replace(b'": ', b'":') + b" ")


class LeaksForeignError(MemoryClient):
    """Lets the driver's exception through."""

    def publish(self, queue: str, body: bytes, **options: Any) -> None:
        try:
            super().publish(queue, body, **options)
        except UnroutableError:
            raise KeyError(queue) from None


class LeaksOSError(MemoryClient):
    """Lets an exception of the socket through."""

    def publish(self, queue: str, body: bytes, **options: Any) -> None:
        try:
            super().publish(queue, body, **options)
        except UnroutableError:
            raise ConnectionResetError(queue) from None


class DropsUnroutable(MemoryClient):
    """Publishes to nowhere in silence."""

    def publish(self, queue: str, body: bytes, **options: Any) -> None:
        with suppress(UnroutableError):
            super().publish(queue, body, **options)


class SwallowsUnknownOptions(MemoryClient):
    """Ignores options that it does not have."""

    def __init__(self, url: str = "memory://", **options: object) -> None:
        super().__init__(url)


class LeavesReceiveBlocked(MemoryClient):
    """Forgets the receive that waits while it disconnects."""

    def disconnect(self) -> None:
        self._connected = False
        self._broker.give_back_all(self)


class IgnoresDelay(MemoryClient):
    """Claims delays and delivers at once."""

    def publish(self, queue: str, body: bytes, *, delay: float = 0.0, **options: Any) -> None:
        super().publish(queue, body, **options)


class IgnoresRetryDelay(MemoryClient):
    """Claims delays and retries at once."""

    def reject(self, delivery: Delivery, requeue: bool = True, **options: Any) -> None:
        super().reject(delivery, requeue, **{**options, "delay": 0.0})


class AcceptsUnclaimedDelay(MemoryClient):
    """Does not claim delays and accepts them."""

    capabilities = Capabilities(browse=True)


class ListsNothing(MemoryClient):
    """Does not claim to browse, and returns an empty list instead of saying so."""

    capabilities = Capabilities(delay=True)

    def dead_letters(self, queue: str, limit: int = 100) -> list[DeadLetter]:  # type: ignore[override]
        return []


class ConsumesOnBrowse(MemoryClient):
    """Lists dead letters by taking them out."""

    def dead_letters(self, queue: str, limit: int = 100) -> list[DeadLetter]:  # type: ignore[override]
        letters = super().dead_letters(queue, limit)
        for delivery in self.receive(queue, limit) if letters else []:
            self.ack(delivery)
        return letters


class ReordersOnBrowse(MemoryClient):
    """Lists dead letters by taking them out and putting them back at the end."""

    def dead_letters(self, queue: str, limit: int = 100) -> list[DeadLetter]:  # type: ignore[override]
        letters = super().dead_letters(queue, limit)
        broker: Any = self._broker
        if letters:
            broker._queues[queue].ready.rotate(-len(letters) + 1)
        return letters


class ReplayLosesLetters(MemoryClient):
    """Takes a letter out before it knows where to put it."""

    def _replay_one(self, delivery: Delivery, target: str | None) -> None:
        self.ack(delivery)
        super()._replay_one(delivery, target)


class ReturnsTooMany(MemoryClient):
    """Returns whatever its prefetch brought."""

    def receive(self, queue: str, max_messages: int = 1, timeout: float = 0.0) -> list[Delivery]:
        return super().receive(queue, max_messages + 1, timeout)


class AcksFromItsThreadOnly(MemoryClient):
    """Wants acks from the thread that received."""

    def receive(self, queue: str, max_messages: int = 1, timeout: float = 0.0) -> list[Delivery]:
        self._owner = threading.get_ident()
        return super().receive(queue, max_messages, timeout)

    def ack(self, delivery: Delivery) -> None:
        if self.connected and threading.get_ident() != self._owner:
            raise RuntimeError("this channel belongs to another thread")
        super().ack(delivery)


class DropsHeaders(MemoryClient):
    """Publishes without the producer's headers."""

    def publish(self, queue: str, body: bytes, *, headers: Mapping[str, str] | None = None, **options: Any) -> None:
        check_headers(headers)
        super().publish(queue, body, **options)


class LeavesThread(MemoryClient):
    """Starts a heartbeat and never ends it."""

    def connect(self) -> None:
        super().connect()
        threading.Thread(target=threading.Event().wait, daemon=True).start()


class SettlesTwice(MemoryClient):
    """Dead-letters a delivery that was acknowledged before."""

    def reject(self, delivery: Delivery, requeue: bool = True, **options: Any) -> None:
        if self.connected and delivery.tag is None and not requeue:
            target = self._dead_letter_queues[delivery.queue]
            self.publish(target, delivery.body)
        super().reject(delivery, requeue, **options)


class WorksAfterDisconnect(MemoryClient):
    """Acts on a broker that it left."""

    def _require_connection(self, queue: str) -> None:
        """Accept everything."""


# ---------------------------------------------------------------------- what is kept


class ForgetsIdsOfLetters(MemoryClient):
    """Gives a letter an id of its own."""

    def reject(self, delivery: Delivery, requeue: bool = True, **options: Any) -> None:
        super().reject(delivery, requeue, **options)
        if not requeue:
            target = self._dead_letter_queues.get(delivery.queue, f"{delivery.queue}.dead")
            change_ready(self, target, message_id="another")


class DropsDuplicates(MemoryClient):
    """Takes a message id for a key."""

    def publish(self, queue: str, body: bytes, *, message_id: str | None = None, **options: Any) -> None:
        seen: set[tuple[str, str]] = vars(self).setdefault("_seen", set())
        if message_id is None or (queue, message_id) not in seen:
            super().publish(queue, body, message_id=message_id, **options)
        if message_id is not None:
            seen.add((queue, message_id))


class LowersHeaderNames(MemoryClient):
    """Keeps header names without their case, as an HTTP library would."""

    def publish(self, queue: str, body: bytes, *, headers: Mapping[str, str] | None = None, **options: Any) -> None:
        lowered = {name.lower(): value for name, value in check_headers(headers).items()}
        super().publish(queue, body, headers=lowered, **options)


class CutsHeaderLines(MemoryClient):
    """Keeps the first line of a header's value."""

    def publish(self, queue: str, body: bytes, *, headers: Mapping[str, str] | None = None, **options: Any) -> None:
        cut = {name: (value.splitlines() or [""])[0] for name, value in check_headers(headers).items()}
        super().publish(queue, body, headers=cut, **options)


class CutsIds(MemoryClient):
    """Keeps the first line of a message id."""

    def publish(self, queue: str, body: bytes, *, message_id: str | None = None, **options: Any) -> None:
        cut = message_id and (message_id.lstrip("\0\n").splitlines() or ["none"])[0]
        super().publish(queue, body, message_id=cut, **options)


class KeepsAFewHeaders(MemoryClient):
    """Has room for a hundred headers."""

    def publish(self, queue: str, body: bytes, *, headers: Mapping[str, str] | None = None, **options: Any) -> None:
        super().publish(queue, body, headers=dict(list(check_headers(headers).items())[:100]), **options)


class TrustsItsCaller(MemoryClient):
    """Keeps the producer's own mapping of headers instead of a copy."""

    def publish(self, queue: str, body: bytes, *, headers: Mapping[str, str] | None = None, **options: Any) -> None:
        super().publish(queue, body, headers=headers, **options)
        if headers:
            change_ready(self, queue, headers=headers)


class CleansNames(MemoryClient):
    """Makes queue names fit for a file system, so that some are the same."""

    def declare(self, queue: str, dead_letter_queue: str | None = None) -> None:
        super().declare(clean(queue), dead_letter_queue and clean(dead_letter_queue))

    def publish(self, queue: str, body: bytes, **options: Any) -> None:
        super().publish(clean(queue), body, **options)

    def receive(self, queue: str, max_messages: int = 1, timeout: float = 0.0) -> list[Delivery]:
        return super().receive(clean(queue), max_messages, timeout)

    def stats(self, queue: str) -> QueueStats:
        return super().stats(clean(queue))


class LosesEmptyBodies(MemoryClient):
    """Takes an empty body for no message when it retries."""

    def reject(self, delivery: Delivery, requeue: bool = True, **options: Any) -> None:
        if self.connected and not delivery.body:
            self.ack(delivery)
        else:
            super().reject(delivery, requeue, **options)


class TrustsMessages(MemoryClient):
    """Checks the headers of ``publish``, and not those of ``publish_many``."""

    def publish_many(self, queue: str, messages: Iterable[Message], **options: Any) -> None:
        safe = [replace(message, headers={}) if isinstance(message, Message) else message for message in messages]
        super().publish_many(queue, safe, **options)


class ForgetsTheOrder(MemoryClient):
    """Fails somewhere when arguments are in the wrong order."""

    def send(self, queue: str, payload: object, **options: Any) -> str:
        return super().send(queue.strip(), payload, **options)


# ---------------------------------------------------------------------- delays


class DeliversEarly(MemoryClient):
    """Counts delays in half seconds."""

    def publish(self, queue: str, body: bytes, *, delay: float = 0.0, **options: Any) -> None:
        super().publish(queue, body, delay=delay / 2, **options)


class DeliversLate(MemoryClient):
    """Looks for what is due now and then."""

    def reject(self, delivery: Delivery, requeue: bool = True, *, delay: float = 0.0, **options: Any) -> None:
        super().reject(delivery, requeue, delay=delay and delay + 5.0, **options)


class ShortensDelays(MemoryClient):
    """Claims a longest delay and cuts longer ones to it."""

    capabilities = Capabilities(delay=True, max_delay=60.0, browse=True)

    def publish(self, queue: str, body: bytes, *, delay: float = 0.0, **options: Any) -> None:
        super().publish(queue, body, delay=min(delay, 60.0), **options)


class PurgesDelayed(MemoryClient):
    """Deletes what is not due yet, too."""

    def purge(self, queue: str) -> int:  # type: ignore[override]
        purged = super().purge(queue)
        broker: Any = self._broker
        if queue in broker._queues:
            broker._queues[queue].delayed.clear()
        return purged


class DelaysInMemory(MemoryClient):
    """Holds delayed messages itself, and loses them when it goes."""

    def publish(self, queue: str, body: bytes, *, delay: float = 0.0, **options: Any) -> None:
        if check_delay(delay) > 0:
            timer = threading.Timer(delay, lambda: self._publish_now(queue, body, **options))
            timer.daemon = True
            timer.start()
        else:
            super().publish(queue, body, **options)

    def _publish_now(self, queue: str, body: bytes, **options: Any) -> None:
        if self.connected:
            self.publish(queue, body, **options)


class DelaysForNobody(MemoryClient):
    """Accepts a delayed message for a queue that does not exist."""

    def publish(self, queue: str, body: bytes, *, delay: float = 0.0, **options: Any) -> None:
        try:
            super().publish(queue, body, delay=delay, **options)
        except UnroutableError:
            if delay == 0:
                raise


# ---------------------------------------------------------------------- counting


class ForgetsOnHandBack(MemoryClient):
    """Hands back a message as a new one."""

    def reject(self, delivery: Delivery, requeue: bool = True, **options: Any) -> None:
        if self.connected and requeue and options.get("failure") is None and delivery.tag is not None:
            self.publish(delivery.queue, delivery.body, headers=delivery.headers, message_id=delivery.message_id)
            self.ack(delivery)
        else:
            super().reject(delivery, requeue, **options)


class HandsBackTheFirst(MemoryClient):
    """Hands one of several back."""

    def hand_back(self, deliveries: Iterable[Delivery]) -> None:
        for delivery in list(deliveries)[:1]:
            self.reject(delivery)


class HandsBackWhatIsSettled(MemoryClient):
    """Publishes all of several anew."""

    def hand_back(self, deliveries: Iterable[Delivery]) -> None:
        for delivery in deliveries:
            self.publish(delivery.queue, delivery.body, headers=delivery.headers, message_id=delivery.message_id)
            self.ack(delivery)


class CountsCrashesOnHandBack(MemoryClient):
    """Takes each redelivery for a crash."""

    def receive(self, queue: str, max_messages: int = 1, timeout: float = 0.0) -> list[Delivery]:
        deliveries = super().receive(queue, max_messages, timeout)
        for delivery in deliveries:
            delivery.crashes += delivery.redelivered
        return deliveries


class ForgetsRedelivery(MemoryClient):
    """Says of each delivery that it is the first."""

    def receive(self, queue: str, max_messages: int = 1, timeout: float = 0.0) -> list[Delivery]:
        return [replace(delivery, redelivered=False) for delivery in super().receive(queue, max_messages, timeout)]


class ForgetsTheTask(MemoryClient):
    """Retries with the number of attempts alone."""

    def reject(
        self, delivery: Delivery, requeue: bool = True, *, failure: Failure | None = None, **options: Any
    ) -> None:
        super().reject(delivery, requeue, failure=failure and replace(failure, task_id=""), **options)


class SettlesItsLikes(MemoryClient):
    """Acknowledges by message id."""

    def ack(self, delivery: Delivery) -> None:
        super().ack(delivery)
        broker: Any = self._broker
        queue = broker._queues[delivery.queue]
        for token, held in list(queue.in_flight.items()):
            if delivery.message_id and held.message.message_id == delivery.message_id:
                del queue.in_flight[token]


class AcksOldDeliveriesInSilence(MemoryClient):
    """Does nothing for a delivery that went back when it disconnected."""

    def ack(self, delivery: Delivery) -> None:
        with suppress(DeliveryLostError):
            super().ack(delivery)


# ---------------------------------------------------------------------- receiving


class WaitsForMore(MemoryClient):
    """Returns when it has all that was asked for, or the time is over."""

    def receive(self, queue: str, max_messages: int = 1, timeout: float = 0.0) -> list[Delivery]:
        deliveries = super().receive(queue, max_messages, timeout)
        deadline = time.monotonic() + timeout
        while deliveries and len(deliveries) < max_messages and time.monotonic() < deadline and self.connected:
            deliveries += super().receive(queue, max_messages - len(deliveries), 0.05)
        return deliveries


class NeverWaits(MemoryClient):
    """Returns at once, so that a worker asks in a busy loop."""

    def receive(self, queue: str, max_messages: int = 1, timeout: float = 0.0) -> list[Delivery]:
        return super().receive(queue, max_messages, min(timeout, 0.05))


class OneCallAtATime(MemoryClient):
    """Holds its only lock while it waits for a message."""

    _only = threading.RLock()

    def receive(self, queue: str, max_messages: int = 1, timeout: float = 0.0) -> list[Delivery]:
        with self._only:
            return super().receive(queue, max_messages, min(timeout, 5.0))

    def publish(self, queue: str, body: bytes, **options: Any) -> None:
        with self._only:
            super().publish(queue, body, **options)


class ReadsLate(MemoryClient):
    """With a timeout of zero it returns what a read before has brought."""

    def receive(self, queue: str, max_messages: int = 1, timeout: float = 0.0) -> list[Delivery]:
        return super().receive(queue, max_messages, timeout) if timeout > 0 else []


# ---------------------------------------------------------------------- queues


class ForgetsThePair(MemoryClient):
    """A declaration without the pair drops it."""

    def declare(self, queue: str, dead_letter_queue: str | None = None) -> None:
        super().declare(queue, dead_letter_queue)
        if dead_letter_queue is None:
            self._dead_letter_queues.pop(queue, None)


class ForgetsThePairAtTheEnd(MemoryClient):
    """Remembers pairs until it disconnects."""

    def disconnect(self) -> None:
        super().disconnect()
        self._dead_letter_queues.clear()


class KeepsTheFirstPair(MemoryClient):
    """Ignores another dead-letter queue."""

    def declare(self, queue: str, dead_letter_queue: str | None = None) -> None:
        super().declare(queue, None if queue in self._dead_letter_queues else dead_letter_queue)


class CreatesTheLettersQueueLate(MemoryClient):
    """Creates a dead-letter queue when the first letter comes."""

    def declare(self, queue: str, dead_letter_queue: str | None = None) -> None:
        super().declare(queue)
        if dead_letter_queue is not None:
            check_declaration(queue, dead_letter_queue)
            self._dead_letter_queues[queue] = dead_letter_queue


class EmptiesOnDeclare(MemoryClient):
    """Makes a queue new that exists."""

    def declare(self, queue: str, dead_letter_queue: str | None = None) -> None:
        super().declare(queue, dead_letter_queue)
        self.purge(queue)


class PurgeCreates(MemoryClient):
    """Creates the queue that it is to empty."""

    def purge(self, queue: str) -> int:  # type: ignore[override]
        self.declare(queue)
        return super().purge(queue)


class RefusesToPurgeNothing(MemoryClient):
    """Takes a missing queue for an error."""

    def purge(self, queue: str) -> int:  # type: ignore[override]
        if queue not in self._broker._queues:
            raise UnroutableError(queue)
        return super().purge(queue)


class PurgesWhatIsHeld(MemoryClient):
    """Deletes deliveries in flight, too."""

    def purge(self, queue: str) -> int:  # type: ignore[override]
        purged = super().purge(queue)
        broker: Any = self._broker
        if queue in broker._queues:
            purged += len(broker._queues[queue].in_flight)
            broker._queues[queue].in_flight.clear()
        return purged


# ---------------------------------------------------------------------- letters and claims


class ReplaysToTheEnd(MemoryClient):
    """Puts a letter that it cannot send back to the end."""

    def replay(self, dead_letter_queue: str, **options: Any) -> int:
        try:
            return super().replay(dead_letter_queue, **options)
        except UnroutableError:
            self._broker._queues[dead_letter_queue].ready.rotate(-1)
            raise


class ReplaysForEver(MemoryClient):
    """Replays until the queue is empty."""

    def replay(self, dead_letter_queue: str, **options: Any) -> int:
        done = super().replay(dead_letter_queue, **options)
        if options.get("limit") is not None:
            return done
        time.sleep(0.3 if done else 0.0)
        return done + super().replay(dead_letter_queue, **options)


class ReplaysWhatIsHeld(MemoryClient):
    """Takes letters away from a consumer."""

    def replay(self, dead_letter_queue: str, **options: Any) -> int:
        broker: Any = self._broker
        if self.connected and options.get("limit") is None and dead_letter_queue in broker._queues:
            queue = broker._queues[dead_letter_queue]
            for token in list(queue.in_flight):
                broker.give_back(dead_letter_queue, token)
        return super().replay(dead_letter_queue, **options)


class CountsWhatIsHeld(MemoryClient):
    """Has letters that a consumer holds use up the limit of a replay."""

    def replay(self, dead_letter_queue: str, **options: Any) -> int:
        limit = options.get("limit")
        if limit and self.connected:
            options["limit"] = max(0, limit - self.stats(dead_letter_queue).in_flight)
        return super().replay(dead_letter_queue, **options)


class ReplaysWithHistory(MemoryClient):
    """Sends letters back as they are."""

    def _replay_one(self, delivery: Delivery, target: str | None) -> None:
        queue = target or str(delivery.meta.get(SOURCE_QUEUE, ""))
        super()._replay_one(delivery, target)
        change_ready(self, queue, meta=delivery.meta)


class ReplaysWithoutIds(MemoryClient):
    """Sends letters back with ids of their own."""

    def _replay_one(self, delivery: Delivery, target: str | None) -> None:
        super()._replay_one(replace(delivery, message_id=None), target)


class ListsAll(MemoryClient):
    """Has a default limit of its own."""

    def dead_letters(self, queue: str, limit: int = 10_000) -> list[DeadLetter]:  # type: ignore[override]
        return super().dead_letters(queue, limit)


class ClaimsSharing(MemoryClient):
    """Claims that other processes see its queues."""

    capabilities = Capabilities(delay=True, browse=True, shared=True)


class SeesCrashesUnclaimed(MemoryClient):
    """Suspects what it handed out before, without a claim."""

    def receive(self, queue: str, max_messages: int = 1, timeout: float = 0.0) -> list[Delivery]:
        deliveries = super().receive(queue, max_messages, timeout)
        return [replace(delivery, suspected=True) for delivery in deliveries]


class WaitsForAConnection(MemoryClient):
    """Waits for ``connect`` where it should say that it was not called."""

    def replay(self, dead_letter_queue: str, **options: Any) -> int:
        if not self.connected:
            time.sleep(0.1)
            return 0
        return super().replay(dead_letter_queue, **options)


def clean(name: str) -> str:
    """A name with letters of ASCII only."""
    check_queue_name(name)
    return re.sub(r"[^A-Za-z0-9-]", "_", name)[:60]


def change_ready(client: MemoryClient, queue: str, **changes: Any) -> None:
    """Change the message that came last."""
    ready = client._broker._queues[queue].ready
    if ready:
        ready[-1] = replace(ready[-1], **changes)
