"""Delivers delayed messages when they are due."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from itertools import groupby
from typing import Any, Final

from redis.exceptions import ResponseError

from qbridge_core.backend import Outage, monotonic
from qbridge_redis.connection.connection import RedisConnection
from qbridge_redis.connection.errors import code, is_missing_group, refused
from qbridge_redis.protocol.keys import Keys
from qbridge_redis.protocol.scripts import NEXT_DUE, PROMOTE, Command
from qbridge_redis.state.context import log

LONGEST_DELAY: Final = 100 * 365 * 86_400.0
"""Seconds. Due times are scores: microseconds, exact in a double for the next centuries (redis.io/commands/zadd)."""
_POLL: Final = 0.25
_LONGEST_POLL: Final = 1.0
_EACH_SECOND: Final = 1000  # queues; what this client delays itself is due when it is due, however many there are
_BATCH: Final = 100
_FORGOTTEN: Final = 15.0  # seconds, after which a queue that is not looked at any more does not count
_NAMED: Final = 3
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
        self._outage = Outage(forget_after=_FORGOTTEN)

    def deliver_due(self, connection: RedisConnection, queues: Sequence[str]) -> None:
        """Move what is due to its queue, a batch of each one."""
        keys = self._keys
        # Set first: what another thread sets while the replies are on their way must not be overwritten.
        self.due_at = monotonic() + min(max(_POLL, self._looks(len(queues)) / _EACH_SECOND), _LONGEST_POLL)
        due = queues if len(queues) <= _FEW else self._due(connection, queues)
        commands: list[Command] = [PROMOTE([keys.stream(q), keys.delayed(q)], _BATCH) for q in due]
        if not commands:
            return
        refusals: dict[str, ResponseError] = {}
        for queue, reply in zip(due, connection.call_many(commands), strict=True):
            if not isinstance(reply, ResponseError):
                self._plan(queue, reply)
            elif not is_missing_group(reply):  # the reader makes it again
                refusals[queue] = reply
        self._tell(due, refusals)

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

    def _tell(self, queues: Sequence[str], refusals: Mapping[str, ResponseError]) -> None:
        """It is tried four times a second until it works, and one cause stops many queues: the log has one story."""
        for queue in refusals:
            self._outage.lost(queue)
        for reply in {code(reply): reply for reply in refusals.values()}.values():
            if self._outage.is_news(code(reply)):
                what = refused(reply, "deliver them")
                log.warning("delayed messages of %s have to wait, if there are any: %s", _some(refusals), what)
        for queue in queues:
            seconds = None if queue in refusals else self._outage.back(queue)
            if seconds is not None:
                log.info("delayed messages are delivered again after %.1f s", seconds)


def _some(queues: Collection[str]) -> str:
    """The names of a few, and how many there are."""
    names = ", ".join(sorted(queues)[:_NAMED])
    return names if len(queues) <= _NAMED else f"{names} and {len(queues) - _NAMED} other queues"


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
