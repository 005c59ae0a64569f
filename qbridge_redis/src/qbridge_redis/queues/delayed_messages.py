"""Messages that are held back, taken in hand. The id of one is its due time, in microseconds, and a digest."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Final

from qbridge_core.backend import Chosen, DelayedMessage, LettersGoneError
from qbridge_redis.connection.connection import RedisConnection
from qbridge_redis.connection.errors import checked
from qbridge_redis.protocol import fields
from qbridge_redis.protocol.scripts import LOOK_DELAYED, TAKE_DELAYED
from qbridge_redis.queues.admin import ask
from qbridge_redis.state.context import NodeContext

_PAGE: Final = 100
_PURGE_PAGE: Final = 1_000
_ID: Final = re.compile(r"(0|[1-9][0-9]{0,17})-([0-9a-f]{40})")
_Name = tuple[str, str]
_BEGINNING: Final[_Name] = ("", "")


class DelayedMessages:
    """The sorted sets of one server. Thread-safe."""

    def __init__(self, context: NodeContext) -> None:
        self._context = context

    def look(self, queue: str, limit: int, after: str | None) -> list[DelayedMessage]:
        """The next ones behind one, which may be gone."""
        behind = _BEGINNING if after is None else _name(after)
        if behind is None:
            raise LettersGoneError([after or ""])
        found: list[DelayedMessage] = []
        with self._context.pool.connection() as connection:
            while len(found) < limit:
                wanted = min(_PAGE, limit - len(found))
                page = self._page(connection, queue, behind, wanted, content=True)
                found += [_message(name, parts) for name, parts in page]
                if len(page) < wanted:
                    break
                behind = page[-1][0]
        return found

    def release(self, queue: str) -> int:
        """Deliver all that are held back now, a page in one atomic step."""
        released = 0
        with self._context.pool.connection() as connection:
            left = self._count(connection, queue)
            while left > 0:
                page = self._page(connection, queue, _BEGINNING, min(_PAGE, left), content=False)
                if not page:
                    break
                released += len(self._take(connection, queue, [name for name, _ in page], release=True))
                left -= len(page)
        return released

    def take(self, queue: str, chosen: Chosen, *, release: bool) -> int:
        """Release or delete those that are named, in the order in which they are due; return how many."""
        done = 0
        with self._context.pool.connection() as connection:
            for names in _pages(chosen):
                taken = self._take(connection, queue, names, release=release)
                done += sum(chosen.take(_id(name)) for name in taken)
        return done

    def purge(self, queue: str) -> int:
        """Delete all that are held back now."""
        purged, key = 0, self._context.keys.delayed(queue)
        with self._context.pool.connection() as connection:
            left = self._count(connection, queue)
            while left > 0:
                command = ("ZREMRANGEBYRANK", key, 0, min(_PURGE_PAGE, left) - 1)
                removed = checked(ask(self._context, connection, [command])[0], f"purge what is delayed of {queue!r}")
                if not removed:
                    break
                purged += removed
                left -= removed
        return purged

    def _count(self, connection: RedisConnection, queue: str) -> int:
        (reply,) = ask(self._context, connection, [("ZCARD", self._context.keys.delayed(queue))])
        return int(checked(reply, f"count {queue!r}"))

    def _page(
        self, connection: RedisConnection, queue: str, behind: _Name, count: int, *, content: bool
    ) -> list[tuple[_Name, Sequence[bytes]]]:
        command = LOOK_DELAYED([self._context.keys.delayed(queue)], *behind, count, int(content))
        rows = checked(ask(self._context, connection, [command])[0], f"list what is delayed of {queue!r}")
        return [((due.decode(), digest.decode()), parts) for due, digest, parts in rows]

    def _take(self, connection: RedisConnection, queue: str, names: Sequence[_Name], *, release: bool) -> list[_Name]:
        """Those that were there. May be asked for again when a reply is lost: each is taken once."""
        keys = self._context.keys
        parts = [part for name in names for part in name]
        command = TAKE_DELAYED([keys.stream(queue), keys.delayed(queue)], int(release), *parts)
        what = "release" if release else "delete"
        positions = checked(ask(self._context, connection, [command])[0], f"{what} what is delayed of {queue!r}")
        return [names[position - 1] for position in positions]


def _name(delayed_id: str) -> _Name | None:
    found = _ID.fullmatch(delayed_id)
    return None if found is None else (found[1], found[2])


def _id(name: _Name) -> str:
    return f"{name[0]}-{name[1]}"


def _pages(chosen: Chosen) -> Iterator[list[_Name]]:
    """The names that may be those of messages, in the order in which they are due, some at a time."""
    names = sorted((name for each in chosen.ids if (name := _name(each)) is not None), key=lambda name: int(name[0]))
    for start in range(0, len(names), _PAGE):
        yield names[start : start + _PAGE]


def _message(name: _Name, content: Sequence[bytes]) -> DelayedMessage:
    body, headers, message_id, meta = fields.decode(content)
    due_ms = int(name[0]) // 1_000 if name[0].isdigit() else 0  # somebody else may have written anything
    return DelayedMessage.from_headers(body, headers, meta, delayed_id=_id(name), due_ms=due_ms, message_id=message_id)
