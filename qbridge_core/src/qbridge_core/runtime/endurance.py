"""Keeps a thread alive on which others rely, whatever one of its turns raises."""

from __future__ import annotations

from types import TracebackType
from typing import Final

from qbridge_core.runtime.logs import logger
from qbridge_core.runtime.outage import Outage

_log: Final = logger("qbridge.worker")


class Endurance:
    """A ``with`` block around one turn of a long-lived thread: what is raised there is logged, and goes no further.

    An error that comes back in each turn is said once, then once a minute. The pause before the next turn is the
    thread's own. For threads that run no user code: there nothing that ends a block is meant to end the thread.

    Args:
        what: what goes on in spite of it, for the log.
    """

    def __init__(self, what: str) -> None:
        self._what = what
        self._outage = Outage()

    def __enter__(self) -> None:
        """Begin a turn."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> bool:
        """End it, with whatever was raised."""
        if error is None:
            return False
        if self._outage.is_news(error):
            _log.error("%s goes on after an unexpected error", self._what, exc_info=error)
        return True
