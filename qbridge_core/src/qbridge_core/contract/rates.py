"""How quickly messages come into queues and leave them."""

from __future__ import annotations

import threading
from typing import Final

from qbridge_core.runtime.clock import monotonic

_REMEMBERED: Final = 10_000


class Rates:
    """Rates of queues whose broker counts the messages that ever came, from one look to the next. Thread-safe."""

    def __init__(self) -> None:
        self._last: dict[str, tuple[float, int, int]] = {}
        self._lock = threading.Lock()

    def of(self, queue: str, added: int, held: int) -> tuple[float | None, float | None]:
        """Messages that came and that left in a second, since the last call for the queue; ``None`` the first time.

        Args:
            queue: its name.
            added: how many have ever come into it.
            held: how many of those are there now.
        """
        now, gone = monotonic(), added - held
        with self._lock:
            before = self._last.pop(queue, None)
            if len(self._last) >= _REMEMBERED:
                del self._last[next(iter(self._last))]  # the one that was looked at longest ago
            self._last[queue] = now, added, gone
        if before is None or now <= before[0] or added < before[1] or gone < before[2]:  # it may have been made anew
            return None, None
        seconds = now - before[0]
        return (added - before[1]) / seconds, (gone - before[2]) / seconds
