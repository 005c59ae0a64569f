"""Moments and lengths of time as they are shown."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Final

_UNITS: Final = ((86_400.0, "d"), (3_600.0, "h"), (60.0, "min"))


def moment(seconds: float) -> datetime:
    """A Unix time, to the millisecond (UTC)."""
    return datetime.fromtimestamp(round(seconds, 3), UTC)


def length(seconds: float) -> str:
    """A length of time in the largest unit of which it has one."""
    for size, name in _UNITS:
        if seconds >= size:
            return f"{seconds / size:.3g} {name}"
    return f"{seconds:.3g} s"
