"""Tries again what fails as long as something is not up yet."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final, TypeVar

from qbridge_core.runtime.clock import monotonic
from qbridge_core.runtime.pause import GrowingPause

T = TypeVar("T")
_SAY_EVERY: Final = 10.0


def keep_trying(
    attempt: Callable[[], T],
    deadline: float,
    awaited: type[Exception],
    say: Callable[[float, Exception], None],
) -> T:
    """Call something until it succeeds; what it raised last is raised once the time is over.

    Args:
        attempt: is called at least once.
        deadline: until when it is called again (monotonic time).
        awaited: what does not end it; anything else does.
        say: called now and then with the seconds that are left, and why they are needed.
    """
    pause, say_at = GrowingPause(0.1, 2.0), 0.0
    while True:
        try:
            return attempt()
        except awaited as exc:
            now = monotonic()
            if now >= deadline:
                raise
            if now >= say_at:
                say_at = now + _SAY_EVERY
                say(deadline - now, exc)
            time.sleep(min(pause.next(), deadline - now))
