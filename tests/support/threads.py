"""The threads that a test has started, told from those that others have left behind."""

from __future__ import annotations

import threading


class NewThreads:
    """Those that began after this was made: a handler that an earlier test gave up may run on meanwhile."""

    def __init__(self) -> None:
        self._before = set(threading.enumerate())

    def names(self, prefix: str = "") -> list[str]:
        """The names, sorted, of those that live and whose names begin so."""
        found = {thread for thread in threading.enumerate() if thread.name.startswith(prefix)}
        return sorted(thread.name for thread in found - self._before)

    def count(self, name: str) -> int:
        """How many live that have this name."""
        return self.names(name).count(name)
