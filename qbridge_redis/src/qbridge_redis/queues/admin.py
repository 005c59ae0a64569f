"""Looks at queues without consuming them, empties them, and sends dead letters back."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from typing import Any, Final

from redis.exceptions import ResponseError

from qbridge_core.backend import (
    SOURCE_QUEUE,
    DeadLetter,
    PublishUnconfirmedError,
    QueueStats,
    UnroutableError,
    meta_text,
)
from qbridge_redis.connection.connection import LOST, Link
from qbridge_redis.connection.errors import checked, is_missing_group, unreachable
from qbridge_redis.protocol import fields
from qbridge_redis.protocol.scripts import PURGE, REPLAY, Command
from qbridge_redis.state.context import Session

_Entry = tuple[bytes, Sequence[bytes]]
_PAGE: Final = 100
_PURGE_PAGE: Final = 1000


class Inspector:
    """The looking part of a client. Thread-safe."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def stats(self, queue: str) -> QueueStats:
        """Count in one round trip."""
        stream, group = self._session.keys.stream(queue), self._session.options.group
        commands: list[Command] = [
            ("XLEN", stream),
            ("XPENDING", stream, group),
            ("ZCARD", self._session.keys.delayed(queue)),
        ]
        with self._session.links.lease() as link:
            length, pending, delayed = self._call_many(link, commands)
        action = f"count {queue!r}"
        missing = isinstance(pending, ResponseError) and is_missing_group(pending)
        in_flight = 0 if missing else checked(pending, action)[0]
        ready = max(0, checked(length, action) - in_flight)
        return QueueStats(ready, in_flight, checked(delayed, action))

    def dead_letters(self, queue: str, limit: int) -> list[DeadLetter]:
        """The oldest letters."""
        letters: list[DeadLetter] = []
        with self._session.links.lease() as link:
            start: bytes = b"-"
            while start and len(letters) < limit:
                page, start = self._page(link, queue, start, b"+", limit - len(letters))
                letters += [fields.dead_letter(content) for _, content in page]
        return letters

    def purge(self, queue: str) -> int:
        """Delete what is ready now, page by page."""
        stream, group = self._session.keys.stream(queue), self._session.options.group
        purged, start = 0, b"-"
        with self._session.links.lease() as link:
            end = self._last_id(link, queue)
            while end and start:
                command = PURGE([stream], group, start, end, _PURGE_PAGE)
                deleted, seen = checked(self._call(link, command), f"purge {queue!r}")
                purged += deleted
                start = b"(" + seen if seen else b""
        return purged

    def replay(self, queue: str, target: str | None, limit: int | None) -> int:
        """Send letters back in their order, a page at a time; those that a consumer holds stay."""
        replayed, start = 0, b"-"
        with self._session.links.lease() as link:
            end = self._last_id(link, queue)
            while end and start and (limit is None or replayed < limit):
                page, start = self._page(link, queue, start, end, _PAGE if limit is None else limit - replayed)
                for name, letters in groupby(page, key=lambda letter: target or _source(queue, letter[1])):
                    replayed += self._replay(link, queue, name, list(letters))
        return replayed

    def _replay(self, link: Link, queue: str, target: str, letters: Sequence[_Entry]) -> int:
        session = self._session
        if not session.keys.together(queue, target):
            return self._replay_apart(link, queue, target, letters)
        ids = [letter[0] for letter in letters]
        command = REPLAY([session.keys.stream(queue), session.keys.stream(target)], session.options.group, *ids)
        for _ in range(2):
            try:
                reply = checked(link.call(command), f"replay {queue!r}")
            except LOST as exc:
                raise PublishUnconfirmedError(f"no confirmation that {queue!r} was replayed: {exc}") from exc
            if reply is not None:
                sent, large = reply
                giants = [letter for letter in letters if letter[0] in large]
                return int(sent) + (self._replay_apart(link, queue, target, giants) if giants else 0)
            session.queues.ensure(link, target)
        raise UnroutableError(f"the queue {target!r} was deleted while replaying")

    def _replay_apart(self, link: Link, queue: str, target: str, letters: Sequence[_Entry]) -> int:
        """Where no script can write to both queues: the copies are confirmed, and then the letters deleted."""
        stream, group = self._session.keys.stream(queue), self._session.options.group
        held = self._call_many(link, [("XPENDING", stream, group, entry[0], entry[0], 1) for entry in letters])
        free = [
            letter for letter, rows in zip(letters, held, strict=True) if isinstance(rows, ResponseError) or not rows
        ]
        if free:
            self._session.carry(target, [fields.for_producer(content) for _, content in free], 0.0, False)
            checked(self._call(link, ("XDEL", stream, *(entry_id for entry_id, _ in free))), f"replay {queue!r}")
        return len(free)

    def _page(self, link: Link, queue: str, start: bytes, end: bytes, wanted: int) -> tuple[Sequence[_Entry], bytes]:
        """Some entries, and where the next page starts; b"" when there is none."""
        count = min(_PAGE, wanted)
        reply = self._call(link, ("XRANGE", self._session.keys.stream(queue), start, end, "COUNT", count))
        page = checked(reply, f"list {queue!r}")
        return page, b"(" + page[-1][0] if len(page) == count else b""

    def _last_id(self, link: Link, queue: str) -> bytes:
        """What is there now ends here; b"" when there is nothing."""
        reply = self._call(link, ("XREVRANGE", self._session.keys.stream(queue), "+", "-", "COUNT", 1))
        last = checked(reply, f"look at {queue!r}")
        return last[0][0] if last else b""

    def _call(self, link: Link, command: Command) -> Any:
        try:
            return link.call(command)
        except LOST as exc:
            raise unreachable(exc, self._session.options) from exc

    def _call_many(self, link: Link, commands: Sequence[Command]) -> list[Any]:
        try:
            return link.call_many(commands)
        except LOST as exc:
            raise unreachable(exc, self._session.options) from exc


def _source(queue: str, content: Sequence[bytes]) -> str:
    source = meta_text(fields.decode(content)[3], SOURCE_QUEUE)
    if not source:
        raise UnroutableError(f"a dead letter in {queue!r} does not say which queue it came from; give replay a target")
    return source
