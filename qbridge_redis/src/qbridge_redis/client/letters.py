"""What ``RedisClient`` does with dead letters."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from qbridge_core.backend import (
    DeadLetter,
    check_after,
    check_choice,
    check_count,
    check_imports,
    check_letters,
    check_queue_name,
    check_replay,
)
from qbridge_redis.client.connecting import Connecting
from qbridge_redis.connection.boundary import guarded_method
from qbridge_redis.protocol import fields


class Letters(Connecting):
    """Lists dead letters, and sends them back, deletes and imports them."""

    @guarded_method
    def dead_letters(self, queue: str, limit: int = 100, *, after: DeadLetter | str | None = None) -> list[DeadLetter]:
        """List a dead-letter queue, oldest first; an ``after`` that is gone still has its place."""
        letters = self._running(queue).dead_letters
        return letters.look(queue, check_count("limit", limit), check_after(after))

    @guarded_method
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
        """Send dead letters back in their order, each page in one atomic step. Letters that a consumer holds stay.

        One that cannot be sent ends it; those behind it keep their places.

        On a cluster, if both queues have not one hash slot: each one copied, confirmed, then deleted.

        Raises:
            ConfigurationError: the arguments make no sense.
            LettersGoneError: some of those that were named are not there, or a consumer holds them.
            UnroutableError: a letter does not say where it came from, or that queue is gone; it stays where it is.
            PublishUnconfirmedError: the reply was lost; calling again does not send a letter twice
                (but for a cluster without common hash slots).
        """
        check_replay(dead_letter_queue, target, limit)
        chosen = check_choice(letters, limit=limit, body=body, headers=headers, most=self.max_message_bytes)
        node = self._running(dead_letter_queue)
        if chosen is None:
            return node.dead_letters.replay(dead_letter_queue, target, limit)
        if (edit := chosen.edit) is not None:
            node.context.limits.check(edit.body or b"", edit.headers or {})
        return chosen.finish(node.dead_letters.replay_chosen(dead_letter_queue, target, chosen))

    @guarded_method
    def delete_letters(self, dead_letter_queue: str, *, letters: Iterable[DeadLetter | str]) -> int:
        """Delete letters that are named, a hundred in one atomic step; those that a consumer holds stay."""
        node = self._running(dead_letter_queue)
        chosen = check_letters(letters)
        return chosen.finish(node.dead_letters.delete(dead_letter_queue, chosen))

    @guarded_method
    def import_letters(self, dead_letter_queue: str, letters: Iterable[DeadLetter]) -> int:
        """Put letters into a dead-letter queue; of header values only bytes stay what they are, beside texts."""
        check_queue_name(dead_letter_queue)
        node = self._running(dead_letter_queue)
        contents = [fields.imported(letter) for letter in check_imports(letters)]
        node.publisher.publish_letters(dead_letter_queue, contents)
        return len(contents)
