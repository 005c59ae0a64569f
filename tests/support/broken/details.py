"""Broken clients of the memory backend: one detail of the contract each, or a few alike that different tests ask for.

They were found by breaking the contract sentence by sentence: the suite of before passed them.
"""
# ruff: noqa: D102 - what each method is for is in the contract

from __future__ import annotations

import os
import threading
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import replace
from typing import Any, cast

from qbridge_core.backend import (
    ATTEMPTS,
    CRASHES,
    REASON,
    ConfigurationError,
    DeadLetter,
    Delivery,
    DeliveryLostError,
    LettersGoneError,
    Message,
    QBridgeError,
    QueueStats,
    Reason,
    UnroutableError,
    check_choice,
    check_delay,
    check_messages,
    check_queue_name,
    check_wait,
)
from qbridge_memory import MemoryClient
from qbridge_memory.stored import StoredMessage
from support.broken.keeping import Moves
from support.broken.memory import change_ready

# ---------------------------------------------------------------------- who calls


class AcksInAForkedChild(MemoryClient):
    """Takes an acknowledgement in a child process, which reaches nobody."""

    def ack(self, delivery: Delivery) -> None:
        if self._pid == os.getpid():
            super().ack(delivery)


class OneCallBesideSeveralQueues(MemoryClient):
    """Has one lock for waiting for several queues and for everything that is settled."""

    def __init__(self, url: str = "memory://", **options: object) -> None:
        super().__init__(url, **options)
        self._only = threading.RLock()

    def receive_any(self, wanted: Mapping[str, int], timeout: float = 0.0) -> list[Delivery]:
        with self._only:
            return super().receive_any(wanted, min(check_wait(timeout), 3.0))

    def reject(self, delivery: Delivery, requeue: bool = True, **options: Any) -> None:
        with self._only:
            super().reject(delivery, requeue, **options)


class EndsEveryReceive(MemoryClient):
    """Wakes all queues when one is given up."""

    def unsubscribe(self, queue: str) -> None:
        for name in {check_queue_name(queue), *self._broker._queues}:
            super().unsubscribe(name)


class GivesNoClient(MemoryClient):
    """Forgets what ``with`` is to return."""

    def __enter__(self) -> Any:
        self.connect()


# ---------------------------------------------------------------------- names, arguments


class FoldsNames(MemoryClient):
    """Knows one kind of letters, in names of queues as of headers."""

    def declare(self, queue: str, dead_letter_queue: str | None = None) -> None:
        super().declare(queue, dead_letter_queue)
        queues = self._broker._queues
        queues[queue] = queues.setdefault(queue.lower(), queues[queue])

    def publish(self, queue: str, body: bytes, *, headers: Mapping[str, str] | None = None, **options: Any) -> None:
        given: Any = headers or {}
        known = {f"y{name}" if str(name).startswith("X-Q") else name: given[name] for name in given}
        super().publish(queue, body, headers=known, **options)


class TakesAnyName(MemoryClient):
    """Looks at names in the calls that are used most."""

    def replay(self, dead_letter_queue: str, **options: Any) -> int:
        with suppress(ConfigurationError):
            check_queue_name(dead_letter_queue)
            return super().replay(dead_letter_queue, **options)
        return 0


class WaitsForNone(MemoryClient):
    """Takes ``None`` for no time."""

    def receive(self, queue: str, max_messages: int = 1, timeout: float = 0.0) -> list[Delivery]:
        return super().receive(queue, max_messages, 0.0 if timeout is None else timeout)


class StripsWhatItKeeps(MemoryClient):
    """Takes blanks at the ends for noise."""

    def publish(self, queue: str, body: bytes, *, headers: Mapping[str, str] | None = None, **options: Any) -> None:
        kept = {name: value.strip(" ") if isinstance(value, str) else value for name, value in (headers or {}).items()}
        super().publish(queue, body.strip(b" ") if isinstance(body, bytes) else body, headers=kept, **options)


class SendsAtOnce(MemoryClient):
    """Forgets the delay of ``send``."""

    def send(self, queue: str, payload: object, *, delay: float = 0.0, **options: Any) -> str:
        check_delay(delay)
        return super().send(queue, payload, **options)


class NamesTheLastError(MemoryClient):
    """Goes through all messages and raises what came last."""

    def publish_many(self, queue: str, messages: Iterable[Message], **options: Any) -> None:
        given = list(check_messages(messages))
        last: QBridgeError | None = None
        for message in given:
            try:
                super().publish_many(queue, [message], **options)
            except QBridgeError as exc:
                last = exc
        if last is not None:
            raise last


class LosesWithARefusedDelay(MemoryClient):
    """Settles, and then looks whether it should have."""

    def reject(self, delivery: Delivery, requeue: bool = True, **options: Any) -> None:
        try:
            super().reject(delivery, requeue, **options)
        except ConfigurationError:
            super().ack(delivery)
            raise


class DropsLikesLater(MemoryClient):
    """Knows each id once among what is delayed and among its letters."""

    def _move(self, delivery: Delivery, target: str, meta: Mapping[str, Any], task_id: str, delay: float) -> bool:
        known = {message.message_id for message in self._broker.peek(target, 100)}
        if REASON in meta and delivery.message_id in known:
            return self._broker.remove(delivery.queue, delivery.tag)
        return super()._move(delivery, target, meta, task_id, delay)


# ---------------------------------------------------------------------- waiting


class WaitsTwice(MemoryClient):
    """Waits for twice as long as it was told, and at least a second for several queues."""

    def receive(self, queue: str, max_messages: int = 1, timeout: float = 0.0) -> list[Delivery]:
        return super().receive(queue, max_messages, 2 * check_wait(timeout))

    def receive_any(self, wanted: Mapping[str, int], timeout: float = 0.0) -> list[Delivery]:
        return super().receive_any(wanted, max(check_wait(timeout), 1.0))


class WakesLate(MemoryClient):
    """Sees only after a while that it is to end."""

    def unsubscribe(self, queue: str) -> None:
        late = threading.Timer(1.5, super().unsubscribe, (queue,))
        late.daemon = True
        late.start()


class SleepsInAck(MemoryClient):
    """Waits for somebody in a call that is said never to wait."""

    def ack(self, delivery: Delivery) -> None:
        time.sleep(0.15)
        super().ack(delivery)


class GivesBackLate(MemoryClient):
    """Gives back when it has time."""

    def disconnect(self) -> None:
        self._connected = False
        self._broker.wake()
        late = threading.Timer(2.5, self._broker.give_back_all, (self,))
        late.daemon = True
        late.start()


class NeverSeesWhatIsDue(MemoryClient):
    """Purges what has been delivered to the queue, not what is due."""

    def purge(self, queue: str, **options: Any) -> int:
        self._require_connection(queue)
        held = self._broker._queues.get(queue)
        count = len(held.ready) if held else 0
        for _ in range(count):
            cast(Any, held).ready.popleft()
        return count


# ---------------------------------------------------------------------- several queues


class TurnsBatches(MemoryClient):
    """Hands out what came from several queues from behind."""

    def receive_any(self, wanted: Mapping[str, int], timeout: float = 0.0) -> list[Delivery]:
        return super().receive_any(wanted, timeout)[::-1]


class SleepsThroughDelays(MemoryClient):
    """Waits for new messages of several queues, not for those that become due."""

    def receive_any(self, wanted: Mapping[str, int], timeout: float = 0.0) -> list[Delivery]:
        for name in wanted if isinstance(wanted, Mapping) else ():
            if (queue := self._broker._queues.get(name)) and queue.delayed:
                queue.delayed[:] = [(due + 60.0, number, message) for due, number, message in queue.delayed]
        return super().receive_any(wanted, timeout)


class LosesForAMissingQueue(MemoryClient):
    """Takes from the queues that are there, and raises for the one that is not."""

    def receive_any(self, wanted: Mapping[str, int], timeout: float = 0.0) -> list[Delivery]:
        try:
            return super().receive_any(wanted, timeout)
        except UnroutableError:
            for name in wanted:
                with suppress(UnroutableError):
                    self.receive(name, wanted[name])
            raise


class GivesOneQueueBack(MemoryClient):
    """Gives back what it holds of the queue that it read last."""

    _last = ""

    def receive(self, queue: str, max_messages: int = 1, timeout: float = 0.0) -> list[Delivery]:
        self._last = queue
        return super().receive(queue, max_messages, timeout)

    def hand_back(self, deliveries: Iterable[Delivery]) -> None:
        given = list(deliveries)
        others = [delivery for delivery in given if delivery.queue != self._last]
        super().hand_back(others or given)

    def disconnect(self) -> None:
        for name, queue in self._broker._queues.items() if self.connected else ():
            if name != self._last:
                queue.in_flight.clear()
        super().disconnect()


# ---------------------------------------------------------------------- settling


class StopsAtALostOne(MemoryClient):
    """Hands back until one cannot be."""

    def hand_back(self, deliveries: Iterable[Delivery]) -> None:
        for delivery in deliveries:
            self.reject(delivery)


class HidesLostOnes(MemoryClient):
    """Hands back what it can and says nothing of the rest."""

    def hand_back(self, deliveries: Iterable[Delivery]) -> None:
        with suppress(DeliveryLostError):
            super().hand_back(deliveries)


class AcksWhatWentBack(MemoryClient):
    """Finds a message to acknowledge by what is in it."""

    def ack(self, delivery: Delivery) -> None:
        super().ack(delivery)
        ready = self._broker._queues[delivery.queue].ready
        for message in [message for message in ready if message.redelivered and message.body == delivery.body]:
            ready.remove(message)


class BuriesTheFourth(MemoryClient):
    """Takes a message that is handed back again and again for a bad one."""

    def __init__(self, url: str = "memory://", **options: object) -> None:
        super().__init__(url, **options)
        self._returned: Counter[bytes] = Counter()

    def reject(self, delivery: Delivery, requeue: bool = True, **options: Any) -> None:
        self._returned[delivery.body] += requeue and options.get("failure") is None
        super().reject(delivery, requeue and self._returned[delivery.body] < 4, **options)


class HandsBackElsewhere(MemoryClient):
    """Sends a hand-back to the queue of another attempt."""

    def reject(self, delivery: Delivery, requeue: bool = True, **options: Any) -> None:
        queue = options.get("queue")
        if not requeue or queue is None or options.get("failure") is not None:
            super().reject(delivery, requeue, **options)
        else:
            self._finish(delivery, self._move(delivery, queue, delivery.meta, "", 0.0))


class HandsBackAsNew(MemoryClient):
    """Hands back a copy."""

    def reject(self, delivery: Delivery, requeue: bool = True, **options: Any) -> None:
        tag = delivery.tag
        super().reject(delivery, requeue, **options)
        if requeue and tag is not None:
            with suppress(IndexError):
                ready = self._broker._queues[delivery.queue].ready
                ready[0] = replace(ready[0], redelivered=False)


class CountsCrashesInMemory(Moves):
    """Delays a message without its crashes, and counts attempts in a byte."""

    def _move(self, delivery: Delivery, target: str, meta: Mapping[str, Any], task_id: str, delay: float) -> bool:
        kept = {name: value for name, value in meta.items() if name != CRASHES or not delay}
        return super()._move(delivery, target, kept, task_id, delay)

    def written(self, meta: dict[str, Any]) -> dict[str, Any]:
        return {**meta, ATTEMPTS: meta[ATTEMPTS] % 256} if ATTEMPTS in meta else meta


# ---------------------------------------------------------------------- queues


class TakesBackOnDeclare(MemoryClient):
    """Makes everything ready again that is in a queue which is declared again."""

    def declare(self, queue: str, dead_letter_queue: str | None = None) -> None:
        super().declare(queue, dead_letter_queue)
        for token in list(self._broker._queues[queue].in_flight):
            self._broker.give_back(queue, token)


class TouchesWhatItCounts(MemoryClient):
    """Counts messages by taking them for a moment."""

    def stats(self, queue: str) -> QueueStats:
        found = super().stats(queue)
        if found.ready:
            change_ready(self, queue, redelivered=True)
        return found


class PurgesRetries(MemoryClient):
    """Deletes what waits for another attempt."""

    def purge(self, queue: str, **options: Any) -> int:
        count = super().purge(queue, **options)
        if held := self._broker._queues.get(queue):
            held.delayed[:] = [entry for entry in held.delayed if not entry[2].meta]
        return count


class KeepsTheLargestPrefetch(MemoryClient):
    """Reads ahead as far as it was ever told."""

    def __init__(self, url: str = "memory://", **options: object) -> None:
        super().__init__(url, **options)
        self._prefetch: dict[str, int] = {}
        self._buffer: dict[str, list[Delivery]] = {}

    def subscribe(self, queue: str, prefetch: int) -> None:
        super().subscribe(queue, prefetch)
        self._prefetch[queue] = max(prefetch, self._prefetch.get(queue, 0))

    def receive(self, queue: str, max_messages: int = 1, timeout: float = 0.0) -> list[Delivery]:
        held = self._buffer.setdefault(queue, [])
        if not held:
            held += super().receive(queue, max(max_messages, self._prefetch.get(queue, 0)), timeout)
        taken, held[:] = held[:max_messages], held[max_messages:]
        return taken

    def unsubscribe(self, queue: str) -> None:
        super().unsubscribe(queue)
        for delivery in reversed(self._buffer.pop(queue, [])):
            self.reject(delivery)
        self._prefetch.pop(queue, None)


# ---------------------------------------------------------------------- letters


class BlamesForeignLetters(MemoryClient):
    """Says that what another program has put there had failed."""

    def dead_letters(self, queue: str, limit: int = 100, **options: Any) -> list[DeadLetter]:
        letters = super().dead_letters(queue, limit, **options)
        return [letter if letter.source_queue else replace(letter, reason=Reason.FAILED) for letter in letters]


class CreatesToReplay(MemoryClient):
    """Creates the queue that letters are to go to."""

    def replay(self, dead_letter_queue: str, *, target: str | None = None, **options: Any) -> int:
        if target:
            self._broker.declare(target)
        return super().replay(dead_letter_queue, target=target, **options)


class NamesLettersByMessage(MemoryClient):
    """Calls a letter what its message is called."""

    def dead_letters(self, queue: str, limit: int = 100, **options: Any) -> list[DeadLetter]:
        ids = {str(message.number): message.message_id for message in self._numbered(queue)}
        return [
            replace(letter, id=ids.get(letter.id) or letter.id)
            for letter in super().dead_letters(queue, limit, **options)
        ]

    def _numbered(self, queue: str) -> Iterator[StoredMessage]:
        yield from self._broker.peek(queue, 1_000)


class KnowsItsOwnLetters(MemoryClient):
    """Finds the letters that it has listed itself."""

    def __init__(self, url: str = "memory://", **options: object) -> None:
        super().__init__(url, **options)
        self._listed: set[str] = set()

    def dead_letters(self, queue: str, limit: int = 100, **options: Any) -> list[DeadLetter]:
        letters = super().dead_letters(queue, limit, **options)
        self._listed |= {letter.id for letter in letters}
        return letters

    def delete_letters(self, dead_letter_queue: str, *, letters: Iterable[DeadLetter | str]) -> int:
        named = list(letters) if isinstance(letters, Iterable) else letters
        unknown = [one for one in named or () if isinstance(one, str) and one and one not in self._listed]
        if unknown:
            raise LettersGoneError(unknown)
        return super().delete_letters(dead_letter_queue, letters=named)


class KeepsWhatIsEmptied(MemoryClient):
    """Takes nothing for no change."""

    def replay(
        self,
        dead_letter_queue: str,
        *,
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
        **options: Any,
    ) -> int:
        check_choice(options.get("letters"), limit=options.get("limit"), body=body, headers=headers)
        return super().replay(dead_letter_queue, body=body or None, headers=headers or None, **options)
