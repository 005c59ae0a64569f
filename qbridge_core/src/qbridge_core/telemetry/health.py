"""Whether a process is alive and ready, as probes ask for it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

STALL: Final = 30.0
"""Seconds that something of ours may be overdue before it counts as stuck."""
SILENCE: Final = 30.0
"""Seconds without an answer of the broker after which a worker is not ready."""


@dataclass(frozen=True, slots=True)
class Health:
    """What probes want to know of a worker.

    Attributes:
        alive: False when it does not do its work any more and will not by itself: start it again. A broker that is
            away changes nothing here.
        ready: it takes messages, and its broker has answered lately.
        reason: why it is not alive, or not ready; "" when it is both.
        stack: where the thread is that hangs, the outermost call first; "" when none does.
    """

    alive: bool
    ready: bool
    reason: str = ""
    stack: str = ""

    def __str__(self) -> str:
        state = "ready" if self.ready else "not ready" if self.alive else "not alive"
        return f"{state}: {self.reason}" if self.reason else state


def together(parts: Iterable[Health]) -> Health:
    """That of several which are one worker: alive and ready when all of them are."""
    parts = list(parts)
    for part in parts:
        if not part.alive:
            return part
    return next((part for part in parts if not part.ready), Health(alive=True, ready=True))
