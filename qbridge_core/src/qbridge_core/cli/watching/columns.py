"""The columns of a table of queues."""

from __future__ import annotations

from typing import Final

from qbridge_core.cli.output import UNKNOWN
from qbridge_core.cli.watching.overview import Row

COLUMNS: Final = ("queue", "ready", "in flight", "delayed", "dead", "oldest", "consumers", "in/s", "out/s", "paused")
_UNITS: Final = ((86_400, "d"), (3_600, "h"), (60, "min"))
_TENTHS_BELOW: Final = 100


def cells(row: Row) -> tuple[object, ...]:
    """What the columns show of a queue."""
    return (
        row.queue, row.ready, row.in_flight, row.delayed, row.dead, duration(row.oldest_age), row.consumers,
        rate(row.in_rate), rate(row.out_rate), paused(row.paused),
    )  # fmt: skip


def duration(seconds: float | None) -> str:
    """A time in its largest unit."""
    if seconds is None:
        return UNKNOWN
    for length, unit in _UNITS:
        if seconds >= length:
            return f"{seconds / length:,.0f} {unit}"
    return f"{seconds:.0f} s"


def rate(per_second: float | None) -> str:
    """Messages in a second."""
    if per_second is None:
        return UNKNOWN
    return f"{per_second:.1f}" if per_second < _TENTHS_BELOW else f"{per_second:,.0f}"


def paused(is_paused: bool | None) -> str:
    """Whether it is."""
    return UNKNOWN if is_paused is None else "paused" if is_paused else ""
