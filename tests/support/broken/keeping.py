"""Broken clients of the memory backend: what is kept of a message, of a letter, and by whom."""
# ruff: noqa: D102 - what each method is for is in the contract

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from qbridge_core.backend import (
    ATTEMPTS,
    CRASHES,
    FIRST_FAILED_AT,
    NO_HEADERS,
    REASON,
    TASK_ID,
    TRACEBACK,
    DeadLetter,
    Delivery,
    Message,
    MessageTooLargeError,
    check_body,
    check_delay,
    check_message,
    check_messages,
    check_queue_name,
    rejection,
)
from qbridge_memory import MemoryClient
from qbridge_memory.stored import StoredMessage
from support.broken.memory import change_ready

# ---------------------------------------------------------------------- messages


class TrustsItsCallerWithMany(MemoryClient):
    """Keeps the headers of messages, not copies."""

    def publish_many(self, queue: str, messages: Iterable[Message], **options: Any) -> None:
        for message in check_messages(messages):
            super().publish_many(queue, [message], **options)
            if check_message(message).headers:
                change_ready(self, queue, headers=message.headers)


class TrustsItsConsumer(MemoryClient):
    """Hands out the headers themselves, and keeps what becomes of them."""

    def publish(self, queue: str, body: bytes, *, headers: Mapping[str, str] | None = None, **options: Any) -> None:
        super().publish(queue, body, headers=headers, **options)
        if headers:
            change_ready(self, queue, headers=dict(headers))


class TakesAnySize(MemoryClient):
    """Has no limit in ``publish_many``."""

    def publish_many(self, queue: str, messages: Iterable[Message], **options: Any) -> None:
        most, self.max_message_bytes = self.max_message_bytes, 2**30
        try:
            super().publish_many(queue, messages, **options)
        finally:
            self.max_message_bytes = most


class FillsTheLimit(MemoryClient):
    """Has one limit for a body and for what a letter says of it."""

    def reject(self, delivery: Delivery, requeue: bool = True, **options: Any) -> None:
        failure = options.get("failure")
        explanation = len(repr(failure.dead_letter_headers())) if failure else 0
        if len(delivery.body) + explanation > self.max_message_bytes:
            raise MessageTooLargeError("the explanation does not fit")
        super().reject(delivery, requeue, **options)


class CutsBodies(MemoryClient):
    """Keeps as much of a body as it can."""

    def publish(self, queue: str, body: bytes, **options: Any) -> None:
        super().publish(queue, check_body(body, 2**30)[: self.max_message_bytes], **options)


class LogsBodies(MemoryClient):
    """Tells everybody what it publishes."""

    def publish(self, queue: str, body: bytes, **options: Any) -> None:
        logging.getLogger("broken").info("%r goes to %s", body, queue)
        super().publish(queue, body, **options)


class DeliversArrays(MemoryClient):
    """Hands out what its driver reads into."""

    def receive(self, queue: str, max_messages: int = 1, timeout: float = 0.0) -> list[Delivery]:
        found = super().receive(queue, max_messages, timeout)
        for delivery in found if vars(self).get("_again") else ():
            delivery.body = bytearray(delivery.body)  # type: ignore[assignment]
        return found

    def disconnect(self) -> None:
        self._again = True
        super().disconnect()


class DelaysBodies(MemoryClient):
    """Delays a message without its headers."""

    def publish(
        self,
        queue: str,
        body: bytes,
        *,
        headers: Mapping[str, str] | None = None,
        delay: float = 0.0,
        **options: Any,
    ) -> None:
        kept = None if check_delay(delay) > 0 else headers
        super().publish(queue, body, headers=kept, delay=delay, **options)


# ---------------------------------------------------------------------- settling


class Moves(MemoryClient):
    """Has a say in what is written beside a message."""

    def _move(self, delivery: Delivery, target: str, meta: Mapping[str, Any], task_id: str, delay: float) -> bool:
        return super()._move(delivery, target, self.written(dict(meta)), task_id, delay)

    def written(self, meta: dict[str, Any]) -> dict[str, Any]:
        return meta


class KeepsHeadersItKnows(Moves):
    """Writes those headers of a retry that it knows."""

    def written(self, meta: dict[str, Any]) -> dict[str, Any]:
        known = (ATTEMPTS, CRASHES, FIRST_FAILED_AT, TASK_ID)
        return meta if REASON in meta else {name: meta[name] for name in known if name in meta}


class CutsTracebacks(Moves):
    """Keeps a part of a traceback."""

    def written(self, meta: dict[str, Any]) -> dict[str, Any]:
        return {**meta, TRACEBACK: meta[TRACEBACK][-4_000:]} if TRACEBACK in meta else meta


class FailsFirstNow(MemoryClient):
    """Writes the time of a rejection where that of the first failure belongs."""

    def reject(self, delivery: Delivery, requeue: bool = True, **options: Any) -> None:
        if not requeue and options.get("failure") is None:
            plain = rejection(delivery)
            options["failure"] = replace(plain, first_failed_at=plain.last_failed_at)
        super().reject(delivery, requeue, **options)


class SendsLettersElsewhere(MemoryClient):
    """Sends a letter to the queue of another attempt."""

    def reject(self, delivery: Delivery, requeue: bool = True, **options: Any) -> None:
        queue = options.get("queue")
        if requeue or queue is None or delivery.tag is None:
            super().reject(delivery, requeue, **options)
        else:
            self._finish(delivery, self._move(delivery, queue, rejection(delivery).dead_letter_headers(), "", 0.0))


class DelaysLetters(MemoryClient):
    """Delays a letter."""

    def reject(self, delivery: Delivery, requeue: bool = True, **options: Any) -> None:
        delay = options.get("delay", 0.0)
        if requeue or not delay or delivery.tag is None:
            super().reject(delivery, requeue, **options)
        else:
            target = self._dead_letter_queues[delivery.queue]
            self._finish(delivery, self._move(delivery, target, rejection(delivery).dead_letter_headers(), "", delay))


# ---------------------------------------------------------------------- letters


class ListsText(MemoryClient):
    """Takes the body of a letter for text."""

    def dead_letters(self, queue: str, limit: int = 100) -> list[DeadLetter]:  # type: ignore[override]
        letters = super().dead_letters(queue, limit)
        return [replace(letter, body=letter.body.decode("utf-8", "replace").encode()) for letter in letters]


class CreatesToList(MemoryClient):
    """Creates the queue that it lists."""

    def dead_letters(self, queue: str, limit: int = 100) -> list[DeadLetter]:  # type: ignore[override]
        letters = super().dead_letters(queue, limit)
        self._broker.declare(queue)
        return letters


class ReplaysAPage(MemoryClient):
    """Replays no more than a page."""

    def replay(self, dead_letter_queue: str, **options: Any) -> int:
        if options.get("limit") is None:
            options["limit"] = 100
        return super().replay(dead_letter_queue, **options)


class ReplaysAsRedelivered(MemoryClient):
    """Says of a replayed message that it was delivered before."""

    def _publish_letter(self, queue: str, delivery: Delivery) -> None:
        check_queue_name(queue)
        copy = StoredMessage(delivery.body, delivery.headers, delivery.message_id, NO_HEADERS, redelivered=True)
        self._broker.put(queue, [copy], 0.0)
