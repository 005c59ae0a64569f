"""What a worker does with its runs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from qbridge_core.runtime.clock import SYSTEM_CLOCK, Clock
from qbridge_core.task.explanation import Owns
from qbridge_core.task.formats.chosen import Formats


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """What a worker does with its runs.

    Attributes:
        queue: the input queue.
        max_crashes: so many deaths of processes are enough.
        processes: True when handlers run in processes of their own, whose deaths are charged to their tasks alone.
        redact: what may be shown of a text from a handler's exception.
        owns: tells the handler's own code, for the place of a failure.
        clock: tells the times that are written beside messages.
        formats: of what formats the messages are; ``None`` for the envelope alone.
    """

    queue: str
    max_crashes: int
    processes: bool = False
    redact: Callable[[str], str] | None = None
    owns: Owns | None = None
    clock: Clock = SYSTEM_CLOCK
    formats: Formats | None = None
