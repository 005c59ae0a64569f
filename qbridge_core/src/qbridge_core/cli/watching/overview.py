"""Looks at queues: one row for each, with what the broker tells, and ``None`` for what it does not."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import Any, Final

from qbridge_core.cli.presence import doubt_about, listed
from qbridge_core.contract.checks import check_queue_name
from qbridge_core.contract.client import QueueClient
from qbridge_core.errors import QBridgeError, UnsupportedError
from qbridge_core.runtime.clock import monotonic

_LIST_EVERY: Final = 10.0  # seconds: on Redis listing goes through all keys of the server
_SHARE: Final = 50  # of the time at most that part, where it takes long
_COUNTS: Final = ("ready", "in_flight", "delayed", "dead", "consumers")


@dataclass(frozen=True, slots=True)
class Row:
    """A queue: the fields of ``QueueStats``, with ``None`` for those that the broker does not tell.

    Attributes:
        in_flight: what all clients hold; what this one holds itself, nothing, is of no interest.
    """

    queue: str
    dead_letter_queue: str | None
    ready: int
    in_flight: int | None
    delayed: int
    dead: int | None
    oldest_age: float | None
    consumers: int | None
    in_rate: float | None
    out_rate: float | None
    paused: bool | None

    @property
    def is_empty(self) -> bool:
        """Whether nothing at all is known to be there, as of a queue that does not exist."""
        return not any(getattr(self, name) for name in _COUNTS)

    def as_json(self) -> dict[str, Any]:
        """For programs."""
        return asdict(self)


class Overview:
    """The queues that somebody has named, or all that the broker lists.

    Args:
        client: asks the broker.
        names: of the queues; none for all but those that are the dead-letter queue of another one.

    Raises:
        ConfigurationError: one is no name.
        UnsupportedError: there are none, and the broker cannot list its queues.
    """

    def __init__(self, client: QueueClient, names: Sequence[str]) -> None:
        self._client = client
        self._names = [check_queue_name(name) for name in dict.fromkeys(names)]
        self._known: dict[str, str | None] = {}
        self._list_at = self._search_at = monotonic()
        self._there: set[str] = set()
        self._absent: set[str] = set()
        self._lists = False  # the broker has listed its queues
        if not names and not client.capabilities.queues:
            raise UnsupportedError("this broker cannot list its queues; name those that you want to see")

    def look(self) -> list[Row]:
        """Ask the broker about each queue.

        Raises:
            QBridgeError: it cannot be asked.
        """
        if not self._names and monotonic() >= self._list_at:
            self._list()
        known = self._known
        letters = set(known.values())
        names = self._names or [name for name in known if name not in letters]
        return [self._row(name, known.get(name)) for name in names]

    def missing(self, rows: Sequence[Row]) -> list[str]:
        """Those of the named queues that do not exist, as far as the broker lists what does."""
        suspects = [row.queue for row in rows if row.is_empty] if self._names else []
        known = self._listed() if suspects else {}
        return [name for name in suspects if known and name not in known]

    def absent(self, rows: Sequence[Row]) -> set[str]:
        """As ``missing``, for each look: what was there once counts as there, and others are looked for now and then.

        Never raises: a user that may not list queues, for one, is told of none.
        """
        self._there.update(row.queue for row in rows if not row.is_empty)
        unsure = {row.queue for row in rows} - self._there if self._names else set[str]()
        if unsure and monotonic() >= self._search_at:
            began = monotonic()
            with suppress(QBridgeError):
                known = self._listed()
                self._there.update(unsure & known.keys())
                self._absent = unsure - known.keys() if known else set()
            self._search_at = _next_listing(began)
        return self._absent & unsure - self._there

    def doubts(self, rows: Sequence[Row]) -> list[str]:
        """What is to be said of the named queues that hold nothing, where the broker lists none.

        Raises:
            QBridgeError: the broker cannot be asked.
        """
        suspects = [row.queue for row in rows if row.is_empty and row.dead is None] if self._names else []
        if not suspects or self._lists or self._listed():  # then ``missing`` tells for sure
            return []
        return [text for name in suspects if (text := doubt_about(self._client, name))]

    def _listed(self) -> dict[str, str | None]:
        known = listed(self._client)
        self._lists = self._lists or bool(known)
        return known

    def _list(self) -> None:
        began = monotonic()
        self._known = self._client.queues()
        self._list_at = _next_listing(began)

    def _row(self, name: str, dead_letter_queue: str | None) -> Row:
        stats = self._client.describe(name)
        return Row(
            queue=name,
            dead_letter_queue=dead_letter_queue,
            ready=stats.ready,
            in_flight=stats.unsettled,
            delayed=stats.delayed,
            dead=stats.dead,
            oldest_age=stats.oldest_age,
            consumers=stats.consumers,
            in_rate=stats.in_rate,
            out_rate=stats.out_rate,
            paused=stats.paused,
        )


def _next_listing(began: float) -> float:
    """When queues may be listed again, after they were, from ``began`` until now (monotonic times)."""
    ended = monotonic()
    return ended + max(_LIST_EVERY, _SHARE * (ended - began))
