"""Tells the supervisor again and again whether this worker process is alive and ready."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from qbridge_core.runtime.clock import monotonic
from qbridge_core.telemetry.health import Health

EVERY: Final = 2.0
_UNREADY: Final = 0.5


class Beats:
    """Called whenever the main thread comes round; says something every other second, sooner while it is not ready.

    Args:
        say: sends it.
        has_room: whether that would not have to wait.
        ask: tells the health.
        stall: seconds of silence after which it would be taken for dead.
    """

    def __init__(
        self, say: Callable[[list[Any]], None], has_room: Callable[[], bool], ask: Callable[[], Health], stall: float
    ) -> None:
        self._say = say
        self._has_room = has_room
        self._ask = ask
        self._every = min(EVERY, stall / 4)
        self._due_at = 0.0

    def turn(self) -> None:
        """Say it if it is time to."""
        now = monotonic()
        if now >= self._due_at and self._has_room():
            health = self._ask()
            self._due_at = now + (self._every if health.ready else min(_UNREADY, self._every))
            self._say(told(health))


def told(health: Health) -> list[Any]:
    """As JSON knows it."""
    return [health.alive, health.ready, health.reason, health.stack]


def heard(words: list[Any]) -> Health:
    """What a process has told.

    Raises:
        ValueError: it has told something else.
    """
    match words:
        case [bool(alive), bool(ready), str(reason), str(stack)]:
            return Health(alive, ready, reason, stack)
    raise ValueError("no health")
