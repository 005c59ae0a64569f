"""On which terms a task runs: how long it may take, and what decides about another attempt."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol


class Policy(Protocol):
    """What decides about another attempt; a :class:`~qbridge_core.RetryPolicy`, which describes its methods."""

    @property
    def has_delays(self) -> bool:
        """False when each attempt follows at once."""
        ...

    def is_final(self, exc: BaseException) -> bool:
        """True when the exception is one that a retry cannot help."""
        ...

    def rule_for(self, exc: BaseException) -> int | None:
        """The position of the first rule that matches the exception."""
        ...

    def next_delay(self, attempts: int, rule: int | None = None) -> float | None:
        """Seconds until the next attempt after ``attempts`` failed ones; ``None`` when there is none."""
        ...

    def pause(self, times: int) -> float:
        """Seconds to wait when something has happened so many times that is no failed attempt."""
        ...


@dataclass(frozen=True, slots=True)
class Terms:
    """What holds for each run of a task.

    Attributes:
        timeout: seconds that it may take.
        policy: retries and their delays.
    """

    timeout: float
    policy: Policy
