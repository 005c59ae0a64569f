"""Whether a process is alive and ready, as probes ask for it."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from qbridge_core.runtime.logs import logger
from qbridge_core.runtime.outage import Outage

_log: Final = logger("qbridge.health")
_said: Final = Outage()
_DURATION: Final = re.compile(r" for \d+ s$")
_CALL: Final = re.compile(r'File "(.+?)", line (\d+), in (\S+)')

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


def say_dead(health: Health) -> None:
    """Say in the log that a worker is not alive; once a minute, however many notice it: pages, a file, a supervisor."""
    if _said.is_news(_DURATION.sub("", health.reason)):
        where = ", ".join(f"{file}:{line} in {name}" for file, line, name in _CALL.findall(health.stack))
        _log.error("%s%s", health.reason, f"; it is at {where}" if where else "")


class Verdicts:
    """Says in the log, once, that a worker is not alive any more: whoever ends it tells nobody why."""

    def __init__(self) -> None:
        self._was_alive = True

    def note(self, health: Health) -> Health:
        """Say it if it is news; return what was given."""
        if self._was_alive and not health.alive:
            say_dead(health)
        self._was_alive = health.alive
        return health


def together(parts: Iterable[Health]) -> Health:
    """That of several which are one worker: alive and ready when all of them are."""
    parts = list(parts)
    for part in parts:
        if not part.alive:
            return part
    return next((part for part in parts if not part.ready), Health(alive=True, ready=True))
