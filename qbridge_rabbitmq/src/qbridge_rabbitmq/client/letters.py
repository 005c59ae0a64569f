"""What ``RabbitMQClient`` does with dead letters."""

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
from qbridge_rabbitmq.client.connecting import Connecting
from qbridge_rabbitmq.connection.boundary import bounded


class Letters(Connecting):
    """Lists dead letters, and sends them back, deletes and imports them."""

    @bounded
    def dead_letters(self, queue: str, limit: int = 100, *, after: DeadLetter | str | None = None) -> list[DeadLetter]:
        """List a dead-letter queue, oldest first.

        The letters are taken without an acknowledgement and given back by closing the channel, which keeps their order.
        While this runs, other consumers do not see them. With ``after`` all letters before it are taken, too; when that
        one is gone, nobody knows where it was.
        """
        broker = self._live()
        check_queue_name(queue)
        behind = check_after(after)
        if check_count("limit", limit) == 0:
            return []
        from qbridge_rabbitmq.dead_letters import listing  # for the few who ask: it takes memory

        with broker.browsing:
            if behind is None:
                return listing.look(broker, self._declarations, queue, limit)
            return listing.look_behind(broker, self._declarations, queue, limit, behind)

    @bounded
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
        """Send dead letters back, in order; while this runs, other consumers do not see those of a page.

        To find letters that are named, all before them are taken, and given back at the end.
        """
        broker = self._live()
        check_replay(dead_letter_queue, target, limit)
        chosen = check_choice(letters, limit=limit, body=body, headers=headers, most=self.max_message_bytes)
        from qbridge_rabbitmq.dead_letters import replay  # as above

        with broker.browsing:
            if chosen is None:
                return replay.replay(broker, self._declarations, dead_letter_queue, target, limit)
            done = replay.replay_chosen(broker, self._declarations, dead_letter_queue, target, chosen)
        return chosen.finish(done)

    @bounded
    def delete_letters(self, dead_letter_queue: str, *, letters: Iterable[DeadLetter | str]) -> int:
        """Delete letters that are named; all before them are taken to find them, and given back at the end."""
        broker = self._live()
        check_queue_name(dead_letter_queue)
        chosen = check_letters(letters)
        from qbridge_rabbitmq.dead_letters import replay  # as above

        with broker.browsing:
            done = replay.delete(broker, self._declarations, dead_letter_queue, chosen)
        return chosen.finish(done)

    @bounded
    def import_letters(self, dead_letter_queue: str, letters: Iterable[DeadLetter]) -> int:
        """Publish letters into a dead-letter queue, with values of headers as AMQP 0-9-1 has them."""
        broker = self._live()
        check_queue_name(dead_letter_queue)
        given = check_imports(letters)
        from qbridge_rabbitmq.dead_letters import importing  # as above

        return importing.import_letters(broker, dead_letter_queue, given)
