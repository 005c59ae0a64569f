"""The clock of everything that waits: it goes on while a test has frozen or moved the time.

freezegun replaces ``time.monotonic``, wherever a module holds it, by one that stands still; with it no timeout would
end, and no delay. A program that tests its handlers so wants to choose their date, not to stop the worker.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from typing import Any, Final

_clocks: Final[Any] = time
if hasattr(time, "CLOCK_UPTIME_RAW"):  # macOS, where CLOCK_MONOTONIC is another clock than time.monotonic's
    _real: Callable[[], float] = functools.partial(time.clock_gettime, _clocks.CLOCK_UPTIME_RAW)
elif hasattr(time, "CLOCK_MONOTONIC"):
    _real = functools.partial(time.clock_gettime, time.CLOCK_MONOTONIC)
else:
    _real = functools.partial(time.monotonic)

monotonic: Final = _real
"""Seconds, as ``time.monotonic`` would tell them; can be compared with its values. No Python function is called."""
