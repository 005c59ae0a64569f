"""Lists dead letters, and sends them back."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from typing import Final

from redis.exceptions import ResponseError

from qbridge_core.backend import SOURCE_QUEUE, DeadLetter, PublishUnconfirmedError, UnroutableError, meta_text
from qbridge_redis.connection.connection import LOST, RedisConnection
from qbridge_redis.connection.errors import checked
from qbridge_redis.protocol import fields
from qbridge_redis.protocol.scripts import REPLAY
from qbridge_redis.queues.admin import ask, last_id
from qbridge_redis.state.context import NodeContext

_Entry = tuple[bytes, Sequence[bytes]]
_PAGE: Final = 100


class DeadLetterQueues:
    """The dead-letter queues of one server. Thread-safe."""

    def __init__(self, context: NodeContext) -> None:
        self._context = context

    def first(self, queue: str, limit: int) -> list[DeadLetter]:
        """The oldest letters."""
        letters: list[DeadLetter] = []
        with self._context.pool.connection() as connection:
            start: bytes = b"-"
            while start and len(letters) < limit:
                page, start = self._page(connection, queue, start, b"+", limit - len(letters))
                letters += [fields.dead_letter(content) for _, content in page]
        return letters

    def replay(self, queue: str, target: str | None, limit: int | None) -> int:
        """Send letters back in their order, a page at a time; those that a consumer holds stay."""
        replayed, start = 0, b"-"
        with self._context.pool.connection() as connection:
            end = last_id(self._context, connection, queue)
            while end and start and (limit is None or replayed < limit):
                page, start = self._page(connection, queue, start, end, _PAGE if limit is None else limit - replayed)
                for name, letters in groupby(page, key=lambda letter: target or _source(queue, letter[1])):
                    replayed += self._replay(connection, queue, name, list(letters))
        return replayed

    def _replay(self, connection: RedisConnection, queue: str, target: str, letters: Sequence[_Entry]) -> int:
        context = self._context
        if not context.keys.together(queue, target):
            return self._replay_apart(connection, queue, target, letters)
        ids = [letter[0] for letter in letters]
        command = REPLAY([context.keys.stream(queue), context.keys.stream(target)], context.options.group, *ids)
        for _ in range(2):
            try:
                reply = checked(connection.call(command), f"replay {queue!r}")
            except LOST as exc:
                raise PublishUnconfirmedError(f"no confirmation that {queue!r} was replayed: {exc}") from exc
            if reply is not None:
                sent, large = reply
                giants = [letter for letter in letters if letter[0] in large]
                return int(sent) + (self._replay_apart(connection, queue, target, giants) if giants else 0)
            context.declarations.ensure(connection, target)
        raise UnroutableError(f"the queue {target!r} was deleted while replaying")

    def _replay_apart(self, connection: RedisConnection, queue: str, target: str, letters: Sequence[_Entry]) -> int:
        """Where no script can write to both queues: the copies are confirmed, and then the letters deleted."""
        stream, group = self._context.keys.stream(queue), self._context.options.group
        held = ask(self._context, connection, [("XPENDING", stream, group, entry[0], entry[0], 1) for entry in letters])
        free = [
            letter for letter, rows in zip(letters, held, strict=True) if isinstance(rows, ResponseError) or not rows
        ]
        if free:
            self._context.publish_copies(target, [fields.for_producer(content) for _, content in free], 0.0, False)
            (deleted,) = ask(self._context, connection, [("XDEL", stream, *(entry_id for entry_id, _ in free))])
            checked(deleted, f"replay {queue!r}")
        return len(free)

    def _page(
        self, connection: RedisConnection, queue: str, start: bytes, end: bytes, wanted: int
    ) -> tuple[Sequence[_Entry], bytes]:
        """Some entries, and where the next page starts; b"" when there is none."""
        count = min(_PAGE, wanted)
        command = ("XRANGE", self._context.keys.stream(queue), start, end, "COUNT", count)
        (reply,) = ask(self._context, connection, [command])
        page = checked(reply, f"list {queue!r}")
        return page, b"(" + page[-1][0] if len(page) == count else b""


def _source(queue: str, content: Sequence[bytes]) -> str:
    source = meta_text(fields.decode(content)[3], SOURCE_QUEUE)
    if not source:
        raise UnroutableError(f"a dead letter in {queue!r} does not say which queue it came from; give replay a target")
    return source
