"""Lists dead letters, sends them back, and deletes those that are named. The id of a letter is that of its entry."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import Any, Final

from redis.exceptions import ResponseError

from qbridge_core.backend import (
    SOURCE_QUEUE,
    Chosen,
    DeadLetter,
    Edit,
    LettersGoneError,
    PublishUnconfirmedError,
    UnroutableError,
    meta_text,
)
from qbridge_redis.connection.connection import LOST, RedisConnection
from qbridge_redis.connection.errors import checked
from qbridge_redis.protocol import fields
from qbridge_redis.protocol.scripts import DELETE_LETTERS, REPLAY, REPLAY_EDITED, Command
from qbridge_redis.queues.admin import ask, last_id
from qbridge_redis.state.context import NodeContext

_Entry = tuple[bytes, Sequence[bytes]]
_PAGE: Final = 100
_MOST_PARTS: Final = 40_000  # names and values; see ``spread.lua``
_ENTRY_ID: Final = re.compile(r"(0|[1-9][0-9]{0,18})-(0|[1-9][0-9]{0,18})")


class DeadLetterQueues:
    """The dead-letter queues of one server. Thread-safe."""

    def __init__(self, context: NodeContext) -> None:
        self._context = context

    def look(self, queue: str, limit: int, after: str | None) -> list[DeadLetter]:
        """The oldest letters behind one, which may be gone."""
        if after is not None and not _ENTRY_ID.fullmatch(after):
            raise LettersGoneError([after])
        letters: list[DeadLetter] = []
        with self._context.pool.connection() as connection:
            start = b"-" if after is None else b"(" + after.encode()
            while start and len(letters) < limit:
                page, start = self._page(connection, queue, start, b"+", limit - len(letters))
                letters += [fields.dead_letter(*entry) for entry in page]
        return letters

    def replay(self, queue: str, target: str | None, limit: int | None) -> int:
        """Send letters back in their order, a page at a time; those that a consumer holds stay."""
        replayed, start = 0, b"-"
        with self._context.pool.connection() as connection:
            end = last_id(self._context, connection, queue)
            while end and start and (limit is None or replayed < limit):
                page, start = self._page(connection, queue, start, end, _PAGE if limit is None else limit - replayed)
                for sent in self._replay_page(connection, queue, target, page):
                    replayed += len(sent)
        return replayed

    def replay_chosen(self, queue: str, target: str | None, chosen: Chosen) -> int:
        """Send those back that are named, in the order of the queue; return how many."""
        replayed = 0
        with self._context.pool.connection() as connection:
            for ids in _pages(chosen):
                commands: list[Command] = [("XRANGE", self._context.keys.stream(queue), one, one) for one in ids]
                replies = [checked(reply, f"list {queue!r}") for reply in ask(self._context, connection, commands)]
                page = [entry for reply in replies for entry in reply]
                for sent in self._replay_page(connection, queue, target, page, chosen.edit):
                    replayed += _take(chosen, sent)
        return replayed

    def delete(self, queue: str, chosen: Chosen) -> int:
        """Delete those that are named; return how many."""
        deleted = 0
        with self._context.pool.connection() as connection:
            for ids in _pages(chosen):
                command = DELETE_LETTERS([self._context.keys.stream(queue)], self._context.options.group, *ids)
                (reply,) = ask(self._context, connection, [command])
                deleted += _take(chosen, checked(reply, f"delete letters of {queue!r}"))
        return deleted

    def _replay_page(
        self,
        connection: RedisConnection,
        queue: str,
        target: str | None,
        page: Sequence[_Entry],
        edit: Edit | None = None,
    ) -> Iterator[Sequence[bytes]]:
        """Send letters back; the ids of those that went, in several parts."""
        for name, letters in groupby(page, key=lambda letter: target or _source(queue, letter[1])):
            yield from self._replay(connection, queue, name, list(letters), edit)

    def _replay(
        self, connection: RedisConnection, queue: str, target: str, letters: Sequence[_Entry], edit: Edit | None
    ) -> Iterator[Sequence[bytes]]:
        context = self._context
        is_giant = edit is not None and len(letters[0][1]) > _MOST_PARTS
        if is_giant or not context.keys.together(queue, target):
            yield from self._replay_apart(connection, queue, target, letters, edit)
            return
        keys, group = [context.keys.stream(queue), context.keys.stream(target)], context.options.group
        if edit is not None:
            ((entry_id, content),) = letters
            command = REPLAY_EDITED(keys, group, entry_id, *fields.replayed(content, entry_id, edit))
            yield [entry_id] if self._run(connection, queue, target, command) else []
            return
        command = REPLAY(keys, group, round(time.time() * 1000), *(letter[0] for letter in letters))
        sent, large = self._run(connection, queue, target, command)
        yield sent
        giants = [letter for letter in letters if letter[0] in large]
        yield from self._replay_apart(connection, queue, target, giants, None)

    def _run(self, connection: RedisConnection, queue: str, target: str, command: Command) -> Any:
        """The reply of a script that needs the target, which is made again where it is known."""
        for _ in range(2):
            try:
                reply = checked(connection.call(command), f"replay {queue!r}")
            except LOST as exc:
                raise PublishUnconfirmedError(f"no confirmation that {queue!r} was replayed: {exc}") from exc
            if reply is not None:
                return reply
            self._context.declarations.ensure(connection, target)
        raise UnroutableError(f"the queue {target!r} was deleted while replaying")

    def _replay_apart(
        self, connection: RedisConnection, queue: str, target: str, letters: Sequence[_Entry], edit: Edit | None
    ) -> Iterator[Sequence[bytes]]:
        """Where no script can write to both queues: a copy is confirmed, and then its letter deleted, one by one."""
        stream, group = self._context.keys.stream(queue), self._context.options.group
        for entry_id, content in letters:
            (held,) = ask(self._context, connection, [("XPENDING", stream, group, entry_id, entry_id, 1)])
            if isinstance(held, ResponseError) or not held:
                self._context.publish_copies(target, [fields.replayed(content, entry_id, edit)], 0.0, False)
                (deleted,) = ask(self._context, connection, [("XDEL", stream, entry_id)])
                checked(deleted, f"replay {queue!r}")
                yield [entry_id]

    def _page(
        self, connection: RedisConnection, queue: str, start: bytes, end: bytes, wanted: int
    ) -> tuple[Sequence[_Entry], bytes]:
        """Some entries, and where the next page starts; b"" when there is none."""
        count = min(_PAGE, wanted)
        command = ("XRANGE", self._context.keys.stream(queue), start, end, "COUNT", count)
        (reply,) = ask(self._context, connection, [command])
        page = checked(reply, f"list {queue!r}")
        return page, b"(" + page[-1][0] if len(page) == count else b""


def _pages(chosen: Chosen) -> Iterator[list[bytes]]:
    """The ids that may be those of entries, in the order of a stream, some at a time."""
    found = [match for letter_id in chosen.ids if (match := _ENTRY_ID.fullmatch(letter_id))]
    found.sort(key=lambda match: (int(match[1]), int(match[2])))
    for start in range(0, len(found), _PAGE):
        yield [match[0].encode() for match in found[start : start + _PAGE]]


def _take(chosen: Chosen, ids: Sequence[bytes]) -> int:
    return sum(chosen.take(entry_id.decode()) for entry_id in ids)


def _source(queue: str, content: Sequence[bytes]) -> str:
    source = meta_text(fields.decode(content)[3], SOURCE_QUEUE)
    if not source:
        raise UnroutableError(f"a dead letter in {queue!r} does not say which queue it came from; give replay a target")
    return source
