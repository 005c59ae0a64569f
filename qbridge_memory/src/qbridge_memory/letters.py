"""What ``MemoryClient`` does with dead letters."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Mapping

from qbridge_core.backend import (
    SENT_AT,
    SOURCE_QUEUE,
    Clock,
    DeadLetter,
    Delivery,
    Edit,
    LettersGoneError,
    QueueClient,
    UnroutableError,
    check_after,
    check_choice,
    check_count,
    check_imports,
    check_letters,
    check_queue_name,
    check_replay,
    letter_headers,
    meta_int,
    meta_text,
    replay_headers,
)
from qbridge_memory.broker import MemoryBroker
from qbridge_memory.stored import StoredMessage


class Letters(QueueClient):
    """Lists dead letters, and sends them back, deletes and imports them."""

    _broker: MemoryBroker

    @abstractmethod
    def _require_connection(self, queue: str) -> None:
        """Refuse calls without a connection, or with a bad name."""

    def dead_letters(self, queue: str, limit: int = 100, *, after: DeadLetter | str | None = None) -> list[DeadLetter]:
        """List the ready messages of a dead-letter queue, oldest first; what is gone has its place still."""
        self._require_connection(queue)
        found = self._broker.peek(queue, check_count("limit", limit), _number(check_after(after)))
        return [
            DeadLetter.from_headers(
                message.body,
                message.headers,
                message.meta,
                letter_id=str(message.number),
                message_id=message.message_id,
                sent_ms=message.sent,
            )
            for message in found
        ]

    def replay(
        self,
        dead_letter_queue: str,
        *,
        target: str | None = None,
        limit: int | None = None,
        letters: Iterable[DeadLetter | str] | None = None,
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> int:
        """Send letters back; those that are named in one atomic step."""
        check_replay(dead_letter_queue, target, limit)
        chosen = check_choice(letters, limit=limit, body=body, headers=headers, most=self.max_message_bytes)
        if chosen is None:
            return super().replay(dead_letter_queue, target=target, limit=limit)
        self._require_connection(dead_letter_queue)
        edit = chosen.edit

        def send(letter: StoredMessage) -> tuple[str, StoredMessage]:
            return target or _source(dead_letter_queue, letter), _back(letter, edit, self.clock)

        return chosen.finish(self._broker.pick(dead_letter_queue, lambda one: chosen.take(str(one.number)), send))

    def delete_letters(self, dead_letter_queue: str, *, letters: Iterable[DeadLetter | str]) -> int:
        """Delete letters that are named, in one atomic step."""
        self._require_connection(dead_letter_queue)
        chosen = check_letters(letters)
        return chosen.finish(self._broker.pick(dead_letter_queue, lambda one: chosen.take(str(one.number)), None))

    def import_letters(self, dead_letter_queue: str, letters: Iterable[DeadLetter]) -> int:
        """Put letters into a dead-letter queue, all or none."""
        self._require_connection(dead_letter_queue)
        stored = [_imported(letter) for letter in check_imports(letters)]
        self._broker.put(dead_letter_queue, stored, 0.0)
        return len(stored)

    def _publish_letter(self, queue: str, delivery: Delivery) -> None:
        check_queue_name(queue)
        letter = StoredMessage(
            delivery.body, delivery.headers, delivery.message_id, delivery.meta, sent=delivery.sent_at_ms
        )
        self._broker.put(queue, [_back(letter, None, self.clock)], 0.0)


def _number(letter_id: str | None) -> int:
    if letter_id is None:
        return 0
    if not (letter_id.isascii() and letter_id.isdigit()):
        raise LettersGoneError([letter_id])
    return int(letter_id)


def _source(queue: str, letter: StoredMessage) -> str:
    source = meta_text(letter.meta, SOURCE_QUEUE)
    if not source:
        raise UnroutableError(f"a dead letter in {queue!r} does not say which queue it came from; give replay a target")
    return source


def _back(letter: StoredMessage, edit: Edit | None, clock: Clock) -> StoredMessage:
    """What goes back of a letter."""
    meta = replay_headers(letter.meta, edit, letter.message_id, clock)
    if edit is None:
        return StoredMessage(letter.body, letter.headers, letter.message_id, meta, sent=letter.sent)
    body = letter.body if edit.body is None else edit.body
    headers = letter.headers if edit.headers is None else edit.headers
    return StoredMessage(body, headers, edit.message_id, meta, sent=letter.sent)


def _imported(letter: DeadLetter) -> StoredMessage:
    meta = letter_headers(letter)
    return StoredMessage(letter.body, dict(letter.headers), letter.message_id, meta, sent=meta_int(meta, SENT_AT))
