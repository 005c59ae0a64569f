"""So many letters a second."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Final

_TURN: Final = 1.0
"""Seconds for which letters are sent together: each look for letters may have to go through the whole queue."""


def turns(
    rate: float,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> Iterator[int]:
    """How many letters may be sent, each time that some may; without end. Waits in between.

    At no time more have been allowed than the rate allows, but for one turn's, and what could not be used in time is
    not made up for: a queue that was slow for a minute is not flooded after it.
    """
    size = max(1, int(rate * _TURN))
    due = clock()
    while True:
        now = clock()
        if now < due:
            sleep(due - now)
        else:
            due = now
        yield size
        due += size / rate
