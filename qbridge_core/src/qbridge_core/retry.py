"""Retry policies as values: how often, and how long to wait in between.

The delays are handed to the broker, which holds the message: no worker sleeps, and a restart forgets nothing.
"""

from __future__ import annotations

import logging
import random
from dataclasses import dataclass
from typing import Final, Protocol, runtime_checkable

from qbridge_core.checks import is_number, require_seconds
from qbridge_core.errors import ConfigurationError

_log: Final = logging.getLogger("qbridge.worker")
# Of our own: drawing from the shared generator would change what a program with a fixed seed gets.
_random: Final = random.Random()  # noqa: S311 - it spreads load and hides nothing


@runtime_checkable
class Backoff(Protocol):
    """Anything that says how many seconds to wait after the n-th failed attempt (n counts from 1)."""

    def delay(self, attempt: int) -> float:
        """Seconds to wait before the attempt that follows ``attempt``."""
        ...


@dataclass(frozen=True, slots=True)
class ConstantBackoff:
    """The same delay before every retry; 0 means at once."""

    seconds: float = 0.0

    def __post_init__(self) -> None:
        require_seconds("seconds", self.seconds)

    def delay(self, attempt: int) -> float:
        """Seconds to wait before the attempt that follows ``attempt``."""
        del attempt
        return self.seconds


IMMEDIATELY: Final = ConstantBackoff(0.0)
"""The default: retry at once."""


@dataclass(frozen=True, slots=True)
class ExponentialBackoff:
    """``base``, ``base * factor``, ``base * factor²``, … seconds, never more than ``cap``.

    With ``jitter`` (the default) the delay is drawn between 0 and that value, so that tasks which failed together
    do not come back together ("full jitter": AWS Architecture Blog, "Exponential Backoff And Jitter").
    """

    base: float = 1.0
    factor: float = 2.0
    cap: float = 300.0
    jitter: bool = True

    def __post_init__(self) -> None:
        require_seconds("base", self.base)
        require_seconds("cap", self.cap)
        if not is_number(self.factor) or self.factor < 1:
            raise ConfigurationError(f"factor must be a number of at least 1, not {self.factor!r}")

    def delay(self, attempt: int) -> float:
        """Seconds to wait before the attempt that follows ``attempt``."""
        try:
            ceiling = min(self.cap, self.base * self.factor ** max(0, attempt - 1))
        except OverflowError:
            ceiling = self.cap
        return _random.uniform(0.0, ceiling) if self.jitter else ceiling


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """How many retries follow the first failed run, and after what delays.

    Attributes:
        max_retries: 3 means at most 4 failed runs.
        backoff: the delays.
        dead_letter_on: exceptions of these types are never retried.
    """

    max_retries: int = 3
    backoff: Backoff = IMMEDIATELY
    dead_letter_on: tuple[type[BaseException], ...] = ()

    def __post_init__(self) -> None:
        if isinstance(self.max_retries, bool) or not isinstance(self.max_retries, int) or self.max_retries < 0:
            raise ConfigurationError(f"max_retries must be an integer of at least 0, not {self.max_retries!r}")
        if isinstance(self.backoff, type) or not isinstance(self.backoff, Backoff):
            raise ConfigurationError(f"backoff must be an object with a delay(attempt) method, not {self.backoff!r}")
        if not all(isinstance(kind, type) and issubclass(kind, BaseException) for kind in self.dead_letter_on):
            raise ConfigurationError(f"dead_letter_on must hold exception classes, not {self.dead_letter_on!r}")

    def is_final(self, exc: BaseException) -> bool:
        """True when the exception is one that a retry cannot help."""
        return issubclass(type(exc), self.dead_letter_on)

    def next_delay(self, attempts: int) -> float | None:
        """Seconds until the next attempt after ``attempts`` failed ones; ``None`` when there is none."""
        if attempts > self.max_retries:
            return None
        try:
            return require_seconds("the backoff's delay", self.backoff.delay(attempts))
        except Exception:  # noqa: BLE001 - a backoff is foreign code; the task must be retried all the same
            _log.exception("the backoff cannot be used; retrying at once")
            return 0.0
