"""Broken clients of the memory backend: each breaks one promise that the suite of before did not look at.

How they wait, wake others and publish is in :mod:`support.broken.waiting`.
"""
# ruff: noqa: D102 - what each method is for is in the contract

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from qbridge_core.backend import (
    DUE_AT,
    HISTORY,
    REPLAYS,
    DeadLetter,
    DelayedMessage,
    Delivery,
    DeliveryLostError,
    Failure,
    Finding,
    QueueStats,
    QueueUse,
    UnsupportedError,
    check_count,
    check_delay,
    rejection,
)
from qbridge_memory import MemoryClient
from qbridge_memory.stored import StoredMessage

CLAIMS = MemoryClient.capabilities


def is_unsettled(client: MemoryClient, delivery: Delivery) -> bool:
    """Whether the client is connected and has to do something for it."""
    return client.connected and delivery.tag is not None


# ---------------------------------------------------------------------- connecting


class HoldsWithoutAConnection(MemoryClient):
    """Finds nothing delayed, paused or to be imported where it should say that it is not connected."""

    def delayed(self, queue: str, *args: Any, **options: Any) -> list[DelayedMessage]:
        return super().delayed(queue, *args, **options) if self.connected else []

    def import_letters(self, dead_letter_queue: str, letters: Iterable[DeadLetter]) -> int:
        return super().import_letters(dead_letter_queue, letters) if self.connected else 0

    def paused(self, queues: Iterable[str]) -> set[str]:
        return super().paused(queues) if self.connected else set()


class BuriesOldDeliveries(MemoryClient):
    """Writes a letter of a delivery that has gone back to its queue."""

    def reject(self, delivery: Delivery, requeue: bool = True, **options: Any) -> None:
        try:
            super().reject(delivery, requeue, **options)
        except DeliveryLostError:
            if requeue:
                raise
            failure = options.get("failure") or rejection(delivery)
            letter = StoredMessage(delivery.body, delivery.headers, None, failure.dead_letter_headers())
            self._broker.put(self._dead_letter_queues[delivery.queue], [letter], 0.0)


class GivesBackWhatOthersHold(MemoryClient):
    """Ends all deliveries of its queues when it disconnects."""

    def disconnect(self) -> None:
        super().disconnect()
        queues: dict[str, Any] = self._broker._queues
        for name in self._declared:
            for token in list(queues[name].in_flight):
                self._broker.give_back(name, token)


class TellsItsURL(MemoryClient):
    """Says in one text where its broker is."""

    server = "memory://user:secret@host"  # type: ignore[assignment]


# ---------------------------------------------------------------------- settling


class RetriesTwice(MemoryClient):
    """Publishes a copy for another attempt of what was put back before."""

    def reject(self, delivery: Delivery, requeue: bool = True, **options: Any) -> None:
        if self.connected and delivery.tag is None and requeue and options.get("failure"):
            self.publish(delivery.queue, delivery.body)
        super().reject(delivery, requeue, **options)


class CopiesRetriesTwice(MemoryClient):
    """Looks whether a delivery is settled, and marks it when it has written the copy for another attempt."""

    def reject(self, delivery: Delivery, requeue: bool = True, **options: Any) -> None:
        failure: Failure | None = options.get("failure")
        if not requeue or failure is None or not is_unsettled(self, delivery):
            super().reject(delivery, requeue, **options)
            return
        copy = StoredMessage(delivery.body, delivery.headers, delivery.message_id, failure.retry_headers())
        tag = delivery.tag
        time.sleep(0.001)  # as a confirmation takes
        self._broker.declare(options.get("queue") or delivery.queue)
        self._broker.put(options.get("queue") or delivery.queue, [copy], options.get("delay", 0.0))
        delivery.tag = None
        if not self._broker.remove(delivery.queue, tag):
            raise DeliveryLostError(delivery.queue)


class KeepsOldFailures(MemoryClient):
    """Adds to what was written beside a message, so that what is not true any more stays."""

    def reject(self, delivery: Delivery, requeue: bool = True, **options: Any) -> None:
        failure: Failure | None = options.get("failure")
        if requeue and failure is not None and is_unsettled(self, delivery):
            delay = check_delay(options.get("delay", 0.0))
            meta = {**delivery.meta, **failure.retry_headers(), DUE_AT: self._due(delay)}
            self._finish(delivery, self._move(delivery, options.get("queue") or delivery.queue, meta, "", delay))
        else:
            super().reject(delivery, requeue, **options)


class LosesLettersWithAWrongDelay(MemoryClient):
    """Removes the message, and looks then at what it was given."""

    def reject(self, delivery: Delivery, requeue: bool = True, **options: Any) -> None:
        if not requeue and options.get("delay", 0.0) < 0:
            self._broker.remove(delivery.queue, delivery.tag)
        super().reject(delivery, requeue, **options)


class DropsDelaysOfHandBacks(MemoryClient):
    """Has no delays, and hands back at once what should come later."""

    capabilities = replace(CLAIMS, delay=False, purge_delayed=False, browse_delayed=False)

    def reject(self, delivery: Delivery, requeue: bool = True, **options: Any) -> None:
        if requeue and options.get("delay") and options.get("failure"):
            raise UnsupportedError("this broker holds nothing back")
        super().reject(delivery, requeue, **{**options, "delay": 0.0})


# ---------------------------------------------------------------------- letters


class ForgetsCrashesOfLetters(MemoryClient):
    """Writes letters without the count of crashes."""

    def reject(self, delivery: Delivery, requeue: bool = True, **options: Any) -> None:
        failure: Failure | None = options.get("failure")
        if not requeue and failure is not None:
            options["failure"] = replace(failure, crashes=0)
        super().reject(delivery, requeue, **options)


class ForgetsReplaysOnDelay(MemoryClient):
    """Hands back for later without the number of replays."""

    def reject(self, delivery: Delivery, requeue: bool = True, **options: Any) -> None:
        if requeue and options.get("delay") and options.get("failure") is None:
            delivery.meta = {name: value for name, value in delivery.meta.items() if name != REPLAYS}
        super().reject(delivery, requeue, **options)


class ReplaysOneOfEqualIds(MemoryClient):
    """Takes an id that is named twice for one letter."""

    def replay(self, dead_letter_queue: str, **options: Any) -> int:
        named = options.get("letters")
        if isinstance(named, list):
            ids = [letter.id if isinstance(letter, DeadLetter) else letter for letter in named]
            options["letters"] = list(dict.fromkeys(ids))
        return super().replay(dead_letter_queue, **options)


class ReplaysChosenWithoutHistory(MemoryClient):
    """Sends letters that are named back without what became of them."""

    def replay(self, dead_letter_queue: str, **options: Any) -> int:
        before = {id(message) for queue in self._broker._queues.values() for message in queue.ready}
        count = super().replay(dead_letter_queue, **options)
        if options.get("letters") is not None:
            for queue in self._broker._queues.values():
                for message in queue.ready:
                    if id(message) not in before:
                        message.meta = {name: value for name, value in message.meta.items() if name != HISTORY}
        return count


class ImportsWithoutHistory(MemoryClient):
    """Leaves out of imported letters what became of their attempts."""

    def import_letters(self, dead_letter_queue: str, letters: Iterable[DeadLetter]) -> int:
        return super().import_letters(dead_letter_queue, [_without_history(letter) for letter in letters])


class ImportsToTheFront(MemoryClient):
    """Puts imported letters before those that are there."""

    def import_letters(self, dead_letter_queue: str, letters: Iterable[DeadLetter]) -> int:
        count = super().import_letters(dead_letter_queue, letters)
        self._broker._queues[dead_letter_queue].ready.rotate(count)
        return count


class ImportsOnce(MemoryClient):
    """Leaves out letters that are there already."""

    def import_letters(self, dead_letter_queue: str, letters: Iterable[DeadLetter]) -> int:
        there = {letter.body for letter in self.dead_letters(dead_letter_queue)}
        new = [letter for letter in letters if not isinstance(letter, DeadLetter) or letter.body not in there]
        return super().import_letters(dead_letter_queue, new)


# ---------------------------------------------------------------------- queues


class PurgesLettersToo(MemoryClient):
    """Empties the dead-letter queue with its queue."""

    def purge(self, queue: str, *, delayed: bool = False) -> int:
        if not delayed and self.connected and queue in self._dead_letter_queues:
            self._broker.purge(self._dead_letter_queues[queue])
        return super().purge(queue, delayed=delayed)


class ForgetsPausesOnDeclare(MemoryClient):
    """Makes a queue as new when it is declared again."""

    def declare(self, queue: str, dead_letter_queue: str | None = None) -> None:
        super().declare(queue, dead_letter_queue)
        self._broker.paused.discard(queue)


class PausesToCreate(MemoryClient):
    """Creates the queue that it pauses."""

    def pause(self, queue: str) -> None:
        super().pause(queue)
        self._broker.declare(queue)


class TellsOfAllPauses(MemoryClient):
    """Tells of queues that nobody has asked for."""

    def paused(self, queues: Iterable[str]) -> set[str]:
        return super().paused(queues) | self._broker.paused


class ListsMarks(MemoryClient):
    """Lists what it keeps beside a queue that is paused."""

    def queues(self) -> dict[str, str | None]:
        marks = {f"{queue}.paused": None for queue in self._broker.paused}
        return dict(sorted({**super().queues(), **marks}.items()))


class DescribesNoPause(MemoryClient):
    """Tells of pauses in counts alone."""

    def describe(self, queue: str) -> QueueStats:
        return replace(super().describe(queue), paused=None)


class CountsLettersThatAreHeld(MemoryClient):
    """Counts letters that a consumer holds as ready ones."""

    def stats(self, queue: str) -> QueueStats:
        return self._with_held(queue, super().stats(queue))

    def describe(self, queue: str) -> QueueStats:
        return self._with_held(queue, super().describe(queue))

    def _with_held(self, queue: str, stats: QueueStats) -> QueueStats:
        held = self.count(self._dead_letter_queues.get(queue, f"{queue}.dead")).in_flight
        return stats if stats.dead is None else replace(stats, dead=stats.dead + held)


class AgesFromTheFirstSending(MemoryClient):
    """Takes the time since a message was sent for that since it is ready."""

    def stats(self, queue: str) -> QueueStats:
        return self._aged(queue, super().stats(queue))

    def describe(self, queue: str) -> QueueStats:
        return self._aged(queue, super().describe(queue))

    def _aged(self, queue: str, stats: QueueStats) -> QueueStats:
        found = self._broker.peek(queue, 1)
        return replace(stats, oldest_age=self.clock.wall() - found[0].sent / 1000) if found else stats


class CountsWhatComesOnce(MemoryClient):
    """Leaves retries out of what has come."""

    def reject(self, delivery: Delivery, requeue: bool = True, **options: Any) -> None:
        counts = requeue and options.get("failure") is not None and is_unsettled(self, delivery)
        super().reject(delivery, requeue, **options)
        if counts:
            self._broker._queues[options.get("queue") or delivery.queue].added -= 1


class CountsWhoHasUnsubscribed(MemoryClient):
    """Counts a consumer until it disconnects."""

    def unsubscribe(self, queue: str) -> None:
        super().unsubscribe(queue)
        self._broker.subscribe(queue, self)


class ConsumesToLook(MemoryClient):
    """Is a consumer of each queue that it has looked at."""

    def diagnose(self, queues: Iterable[str | QueueUse] = (), **options: Any) -> list[Finding]:
        found = super().diagnose(uses := list(queues), **options)
        for use in uses:
            self._broker.subscribe(use if isinstance(use, str) else use.queue, self)
        return found


# ---------------------------------------------------------------------- delayed messages


class ListsAHundredDelayed(MemoryClient):
    """Lists no more than a page, whatever the limit is."""

    def delayed(self, queue: str, limit: int = 100, **options: Any) -> list[DelayedMessage]:
        return super().delayed(queue, min(check_count("limit", limit), 100), **options)


class HidesWhenDelayedWereSent(MemoryClient):
    """Does not tell when a message was sent that is held back."""

    def delayed(self, queue: str, limit: int = 100, **options: Any) -> list[DelayedMessage]:
        return [replace(message, sent_at=None) for message in super().delayed(queue, limit, **options)]


class CreatesToListDelayed(MemoryClient):
    """Creates the queue whose delayed messages it lists."""

    def delayed(self, queue: str, limit: int = 100, **options: Any) -> list[DelayedMessage]:
        found = super().delayed(queue, limit, **options)
        self._broker.declare(queue)
        return found


class DeletesAllForNone(MemoryClient):
    """Takes no names for all."""

    def delete_delayed(self, queue: str, *, messages: Iterable[DelayedMessage | str]) -> int:
        return self.purge(queue, delayed=True) if messages == [] else super().delete_delayed(queue, messages=messages)


class ReleasesToTheFront(MemoryClient):
    """Puts what is released before what is ready."""

    def release_delayed(self, queue: str, **options: Any) -> int:
        count = super().release_delayed(queue, **options)
        if count:
            self._broker._queues[queue].ready.rotate(count)
        return count


class ForgetsThatReleasedAreDue(MemoryClient):
    """Releases messages without the time from when on they may run."""

    def release_delayed(self, queue: str, **options: Any) -> int:
        try:
            return super().release_delayed(queue, **options)
        finally:
            for message in self._broker._queues[queue].ready if self.connected else ():
                message.meta = {name: value for name, value in message.meta.items() if name != DUE_AT}


class ClaimsLongerDelays(MemoryClient):
    """Claims to hold a message for longer than it can."""

    capabilities = replace(CLAIMS, max_delay=7200.0)

    def publish(self, queue: str, body: bytes, *, delay: float = 0.0, **options: Any) -> None:
        super().publish(queue, body, delay=check_delay(delay, 3600.0), **options)

    def reject(self, delivery: Delivery, requeue: bool = True, *, delay: float = 0.0, **options: Any) -> None:
        super().reject(delivery, requeue, delay=check_delay(delay, 3600.0), **options)


class IsDueWhenSent(MemoryClient):
    """Takes the time of sending for that from when on a message may run."""

    def _due(self, delay: float) -> int:
        return super()._due(0.0)


def _without_history(letter: DeadLetter) -> DeadLetter:
    return replace(letter, history=()) if isinstance(letter, DeadLetter) else letter
