"""Delivers delayed messages when they are due."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import groupby
from typing import Any, Final

from redis.exceptions import ResponseError

from qbridge_core.backend import monotonic
from qbridge_redis.connection.connection import RedisConnection
from qbridge_redis.connection.errors import is_missing_group, refused
from qbridge_redis.protocol.keys import Keys
from qbridge_redis.protocol.scripts import NEXT_DUE, PROMOTE, Command
from qbridge_redis.state.context import log

LONGEST_DELAY: Final = 100 * 365 * 86_400.0
"""Seconds. Due times are scores: microseconds, exact in a double for the next centuries (redis.io/commands/zadd)."""
_POLL: Final = 0.25
_LONGEST_POLL: Final = 1.0
_EACH_SECOND: Final = 1000  # queues; what this client delays itself is due when it is due, however many there are
_BATCH: Final = 100
_WARN_EVERY: Final = 60.0
_FEW: Final = 8  # queues that are looked at one by one
_PAGE: Final = 500  # queues of one look, which the server does nothing beside


class Delays:
    """The delayed messages of some queues of one server. ``deliver_due`` is for one thread, the rest for any.

    Args:
        keys: of the queues.

    Attributes:
        due_at: when to call ``deliver_due`` again (monotonic time).
    """

    def __init__(self, keys: Keys) -> None:
        self._keys = keys
        self.due_at = 0.0
        self._warn_at: dict[str, float] = {}

    def deliver_due(self, connection: RedisConnection, queues: Sequence[str]) -> None:
        """Move what is due to its queue, a batch of each one."""
        keys = self._keys
        # Set first: what another thread sets while the replies are on their way must not be overwritten.
        self.due_at = monotonic() + min(max(_POLL, self._looks(len(queues)) / _EACH_SECOND), _LONGEST_POLL)
        due = queues if len(queues) <= _FEW else self._due(connection, queues)
        commands: list[Command] = [PROMOTE([keys.stream(q), keys.delayed(q)], _BATCH) for q in due]
        if not commands:
            return
        for queue, reply in zip(due, connection.call_many(commands), strict=True):
            self._plan(queue, reply)

    def _due(self, connection: RedisConnection, queues: Sequence[str]) -> list[str]:
        """Those of many queues that have a message which is due, or that nobody can tell it of."""
        due: list[str] = []
        pages = list(self._pages(queues))
        replies = connection.call_many([NEXT_DUE([self._keys.delayed(q) for q in page]) for page in pages])
        for page, reply in zip(pages, replies, strict=True):
            if isinstance(reply, ResponseError):
                due += page
                continue
            positions, wait = reply
            due += [page[position - 1] for position in positions]
            if wait >= 0:
                self.due_at = min(self.due_at, monotonic() + wait / 1_000_000)
        return due

    def _pages(self, queues: Sequence[str]) -> Iterator[Sequence[str]]:
        """Those of many queues that one command may look at."""
        for start in range(0, len(queues), _PAGE):
            yield queues[start : start + _PAGE]

    def _looks(self, queues: int) -> int:
        """How many queues a client looks at that looks at so many here."""
        return queues

    def _plan(self, queue: str, reply: Any) -> None:
        if isinstance(reply, ResponseError):
            if not is_missing_group(reply):  # the reader makes it again
                self._warn(queue, reply)
            return
        self._warn_at.pop(queue, None)
        moved, wait, stuck = reply
        if stuck:
            log.error(
                "a delayed message of %s cannot be delivered, it is tried again in a minute: %s",
                queue,
                stuck.decode("utf-8", "replace"),
            )
        if moved >= _BATCH:
            wait = 0
        if wait >= 0:
            self.due_at = min(self.due_at, monotonic() + wait / 1_000_000)

    def _warn(self, queue: str, reply: ResponseError) -> None:
        """It is tried four times a second until it works; the log need not say so each time."""
        now = monotonic()
        if now >= self._warn_at.get(queue, now):
            self._warn_at[queue] = now + _WARN_EVERY
            log.warning("delayed messages of %s have to wait: %s", queue, refused(reply, "deliver them"))


class DelaysOfSlots(Delays):
    """The same at a master of a cluster, where one command may look at the queues of one hash slot.

    Args:
        keys: of the queues.
        masters: how many masters the client looks after.
    """

    def __init__(self, keys: Keys, masters: Callable[[], int]) -> None:
        super().__init__(keys)
        self._masters = masters

    def _pages(self, queues: Sequence[str]) -> Iterator[Sequence[str]]:
        slot = self._keys.slot
        for _, group in groupby(sorted(queues, key=slot), slot):
            yield from super()._pages(list(group))

    def _looks(self, queues: int) -> int:
        return queues * self._masters()
