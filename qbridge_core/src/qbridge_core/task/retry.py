"""Retry policies as values: how often, and how long to wait in between.

The delays are handed to the broker, which holds the message: no worker sleeps, and a restart forgets nothing.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final, Protocol, runtime_checkable

from qbridge_core.contract.checks import is_number, require_seconds
from qbridge_core.errors import ConfigurationError
from qbridge_core.runtime.logs import logger
from qbridge_core.runtime.randomness import random_between
from qbridge_core.task import foreign
from qbridge_core.task.terms import Terms

_log: Final = logger("qbridge.worker")


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
class LinearBackoff:
    """``first``, ``first + step``, ``first + 2 * step``, … seconds, never more than ``cap``.

    ``jitter`` draws each delay between 0 and that value, as for :class:`ExponentialBackoff`; here it is off by default,
    so that the delays are the ones that were written down.
    """

    first: float = 1.0
    step: float = 1.0
    cap: float = 300.0
    jitter: bool = False

    def __post_init__(self) -> None:
        require_seconds("first", self.first)
        require_seconds("step", self.step)
        require_seconds("cap", self.cap)

    def delay(self, attempt: int) -> float:
        """Seconds to wait before the attempt that follows ``attempt``."""
        try:
            ceiling = min(self.cap, self.first + self.step * max(0, attempt - 1))
        except OverflowError:
            ceiling = self.cap
        return random_between(0.0, ceiling) if self.jitter else ceiling


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
        return random_between(0.0, ceiling) if self.jitter else ceiling


@dataclass(frozen=True, slots=True)
class ExceptionRule:
    """How failures with certain exceptions are retried.

    Attributes:
        exceptions: an exception class or a tuple of them; subclasses count, as for ``except``.
        backoff: the delays after such a failure; ``None`` means the policy's own.
        max_retries: how many failed runs may be followed by another one when the last of them failed like this; 0
            means no retry, ``None`` the policy's own limit. All failed runs of the message count, whatever their
            exceptions, because the message carries one count.
    """

    exceptions: type[BaseException] | tuple[type[BaseException], ...]
    backoff: Backoff | None = None
    max_retries: int | None = None

    def __post_init__(self) -> None:
        if self.exceptions == () or not _are_exceptions(self.exceptions):
            raise ConfigurationError(f"exceptions must be an exception class or a tuple of them: {self.exceptions!r}")
        if self.backoff is not None:
            _require_backoff(self.backoff)
        if self.max_retries is not None:
            _require_retries(self.max_retries)


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """How many retries follow the first failed run, and after what delays.

    Attributes:
        max_retries: 3 means at most 4 failed runs.
        backoff: the delays.
        dead_letter_on: exceptions of these types are never retried.
        rules: exceptions with numbers of their own; the first rule that matches counts, after ``dead_letter_on``.
    """

    max_retries: int = 3
    backoff: Backoff = IMMEDIATELY
    dead_letter_on: tuple[type[BaseException], ...] = ()
    rules: tuple[ExceptionRule, ...] = ()

    def __post_init__(self) -> None:
        _require_retries(self.max_retries)
        _require_backoff(self.backoff)
        if not isinstance(self.dead_letter_on, tuple) or not _are_exceptions(self.dead_letter_on):
            raise ConfigurationError(f"dead_letter_on must hold exception classes, not {self.dead_letter_on!r}")
        if not isinstance(self.rules, tuple) or not all(isinstance(rule, ExceptionRule) for rule in self.rules):
            raise ConfigurationError(f"rules must be a tuple of ExceptionRule objects, not {self.rules!r}")

    @property
    def has_delays(self) -> bool:
        """False when each attempt follows at once."""
        backoffs = (self.backoff, *(rule.backoff for rule in self.rules if rule.backoff is not None))
        return any(backoff != IMMEDIATELY for backoff in backoffs)

    def is_final(self, exc: BaseException) -> bool:
        """True when the exception is one that a retry cannot help."""
        return issubclass(type(exc), self.dead_letter_on)

    def rule_for(self, exc: BaseException) -> int | None:
        """The position of the first rule that matches the exception; ``None`` when the policy's own numbers hold."""
        kind = type(exc)  # isinstance would ask a property of the exception
        return next((number for number, rule in enumerate(self.rules) if issubclass(kind, rule.exceptions)), None)

    def next_delay(self, attempts: int, rule: int | None = None) -> float | None:
        """Seconds until the next attempt after ``attempts`` failed ones; ``None`` when there is none.

        Args:
            attempts: failed runs so far.
            rule: what ``rule_for`` said of the last one's exception.
        """
        own = None if rule is None else self.rules[rule]
        limit = self.max_retries if own is None or own.max_retries is None else own.max_retries
        if attempts > limit:
            return None
        return _delay(self.backoff if own is None or own.backoff is None else own.backoff, attempts)

    def pause(self, times: int) -> float:
        """Seconds to wait when something has happened so many times that is no failed attempt."""
        return _delay(self.backoff, times)


def terms_of(
    max_retries: int = 3,
    backoff: Backoff = IMMEDIATELY,
    task_timeout: float = 10.0,
    dead_letter_on: Iterable[type[BaseException]] = (),
    retry_rules: Iterable[ExceptionRule] = (),
) -> Terms:
    """The terms of a task of an app, by the names that its settings have there.

    Raises:
        ConfigurationError: one of them is wrong.
    """
    policy = RetryPolicy(max_retries, backoff, _tuple_of(dead_letter_on), _tuple_of(retry_rules))
    return Terms(require_seconds("task_timeout", task_timeout, positive=True), policy)


def _tuple_of(value: Any) -> Any:
    """What cannot be gone through, such as one class, stays as it is: the policy says what is wrong with it."""
    return tuple(value) if isinstance(value, Iterable) else value


def _delay(backoff: Backoff, times: int) -> float:
    if type(backoff) in _OURS:
        return backoff.delay(times)
    return foreign.call("the backoff's delay()", times, lambda: _foreign_delay(backoff, times), 0.0)


def _foreign_delay(backoff: Backoff, times: int) -> float:
    try:
        return require_seconds("the backoff's delay", backoff.delay(times))
    except BaseException:  # noqa: BLE001 - a backoff is foreign code; the task must be retried all the same
        _log.exception("the backoff cannot be used; retrying at once")
        return 0.0


_OURS: Final = (ConstantBackoff, LinearBackoff, ExponentialBackoff)


def _require_retries(value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise ConfigurationError(f"max_retries must be an integer of at least 0, not {value!r}")


def _require_backoff(value: object) -> None:
    if isinstance(value, type) or not isinstance(value, Backoff):
        raise ConfigurationError(
            f"backoff must be an object with a delay(attempt) method, for example ConstantBackoff(5), not {value!r}"
        )


def _are_exceptions(value: object) -> bool:
    """True for what ``except`` takes: an exception class, or a tuple of them."""
    kinds = value if isinstance(value, tuple) else (value,)
    return all(isinstance(kind, type) and issubclass(kind, BaseException) for kind in kinds)
