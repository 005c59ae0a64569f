"""Deletes what waits in a queue, or in its delays."""

from __future__ import annotations

from typing import Final

from qbridge_rabbitmq.queues import delays
from qbridge_rabbitmq.queues.declarations import Declarations
from qbridge_rabbitmq.queues.pending_delays import PendingDelays
from qbridge_rabbitmq.queues.requests import Requests

_PERMISSION: Final = "read"


class Purging:
    """For any thread but the I/O thread.

    Args:
        requests: asks the broker.
        declarations: knows how.
        pending: remembers what was delayed.
    """

    def __init__(self, requests: Requests, declarations: Declarations, pending: PendingDelays) -> None:
        self._requests = requests
        self._declarations = declarations
        self._pending = pending

    def ready(self, queue: str) -> int:
        """Delete the ready messages; return how many."""
        return self._purge(queue) or 0

    def delayed(self, queue: str) -> int:
        """Delete what waits in the delay levels; return how many.

        All levels that there can be are asked for, since somebody may have deleted one of them. A message goes from a
        higher one to a lower one, and so does this. What is just on its way from one to the next may be missed, so
        those that exist are gone through twice; the broker lets nobody touch it there.
        """
        if not delays.fit(queue):
            return 0
        names = [delays.name(queue, level) for level in reversed(range(delays.LEVELS))]
        purged = {name: self._purge(name) for name in names}
        there = [name for name, count in purged.items() if count is not None]
        total = sum(count or 0 for count in purged.values()) + sum(self._purge(name) or 0 for name in there)
        self._pending.forget(queue)
        return total

    def _purge(self, name: str) -> int | None:
        return self._requests.call(f"queue {name!r}", self._declarations.purge(name), _PERMISSION)
