"""The clock of everything that waits: it goes on while a test has frozen or moved the time.

freezegun replaces ``time.monotonic``, wherever a module holds it, by one that stands still; with it no timeout would
end, and no delay. A program that tests its handlers so wants to choose their date, not to stop the worker.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from typing import Any, Final, NamedTuple

_clocks: Final[Any] = time
if hasattr(time, "CLOCK_UPTIME_RAW"):  # macOS, where CLOCK_MONOTONIC is another clock than time.monotonic's
    _real: Callable[[], float] = functools.partial(time.clock_gettime, _clocks.CLOCK_UPTIME_RAW)
elif hasattr(time, "CLOCK_MONOTONIC"):
    _real = functools.partial(time.clock_gettime, time.CLOCK_MONOTONIC)
else:
    _real = functools.partial(time.monotonic)

monotonic: Final = _real
"""Seconds, as ``time.monotonic`` would tell them; can be compared with its values. No Python function is called."""


class Clock(NamedTuple):
    """What tells a client, and the managers that use it, the time of what they write and of what is delayed.

    Timeouts, and whatever else waits for a thread or a broker, go by ``monotonic`` of this module in any case.

    Attributes:
        wall: Unix time in seconds.
        monotonic: seconds that never go back; by these delays are measured.
        listen: has a function called after each jump of a clock that does not go by itself but is moved by a test; of
            methods, only as long as their object lives. ``None`` for one that goes by itself.
    """

    wall: Callable[[], float]
    monotonic: Callable[[], float]
    listen: Callable[[Callable[[], None]], None] | None = None


def _wall() -> float:
    return time.time()  # looked up each time: a test may have replaced it, and then means the dates that are written


SYSTEM_CLOCK: Final = Clock(_wall, monotonic)
