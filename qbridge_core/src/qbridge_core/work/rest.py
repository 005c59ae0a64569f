"""How often the managers of a process do what they do though nothing comes for them.

A look of the watch and a request for messages wake a thread each. Once a second that is nothing for one manager, and
most of what an idle process of a thousand managers would do. So those whose queues are idle share a number of both.
"""

from __future__ import annotations

from typing import Final

_EACH_SECOND: Final = 25
_LONGEST: Final = 60.0
MANY: Final = _EACH_SECOND
"""With fewer managers than this in a process none of them does anything less often."""
IDLE_AFTER: Final = 10.0
"""Seconds without a message after which a queue is idle."""


def pause(managers: int) -> float:
    """Seconds between two looks, or requests, of each of so many managers."""
    return min(managers / _EACH_SECOND, _LONGEST)
