"""Retry policies: how often, and after what delays."""

from __future__ import annotations

import math
from typing import Any

import pytest

from qbridge_core import (
    Backoff,
    ConfigurationError,
    ConstantBackoff,
    ExceptionRule,
    ExponentialBackoff,
    LinearBackoff,
    Retry,
    RetryPolicy,
    Snooze,
)
from qbridge_core.contract.checks import require_seconds
from qbridge_core.task.retry import IMMEDIATELY

NOT_SECONDS: list[Any] = [-1, -0.001, math.nan, math.inf, -math.inf, "1", None, True, [1], 1j]


@pytest.mark.parametrize("max_retries", [0, 1, 3, 10])
def test_max_retries_is_the_number_of_runs_after_the_first(max_retries: int) -> None:
    """``max_retries=3`` allows 4 failed runs, the last without a successor."""
    policy = RetryPolicy(max_retries)
    delays = [policy.next_delay(attempts) for attempts in range(1, max_retries + 2)]
    assert delays == [0.0] * max_retries + [None]


def test_a_count_beyond_the_limit_is_over() -> None:
    """A message that failed under a higher limit before is not retried."""
    assert RetryPolicy(1).next_delay(10**12) is None


@pytest.mark.parametrize("value", [-1, 1.0, "3", None, True, math.nan])
def test_max_retries_is_checked(value: Any) -> None:
    """Only integers of at least 0 are counts; the error names the argument and the value."""
    with pytest.raises(ConfigurationError, match=r"max_retries .*" + str(value)):
        RetryPolicy(value)


@pytest.mark.parametrize("value", [None, 2.0, "exponential", object()])
def test_a_backoff_must_have_a_delay(value: Any) -> None:
    """Anything without ``delay`` is refused; the error names the argument."""
    with pytest.raises(ConfigurationError, match="backoff"):
        RetryPolicy(3, value)


@pytest.mark.parametrize("value", [(ValueError("x"),), (int,), ("ValueError",)])
def test_dead_letter_on_holds_exception_classes(value: Any) -> None:
    """An instance or a name in its place is refused; the error names the argument."""
    with pytest.raises(ConfigurationError, match="dead_letter_on"):
        RetryPolicy(3, IMMEDIATELY, value)


def test_final_exceptions_include_their_subclasses() -> None:
    """``dead_letter_on`` works as ``except`` does."""
    policy = RetryPolicy(3, IMMEDIATELY, (LookupError,))
    assert policy.is_final(KeyError("x"))
    assert not policy.is_final(ValueError("x"))
    assert not RetryPolicy().is_final(ValueError("x"))


def test_a_negative_delay_is_none() -> None:
    """A custom backoff that goes below zero means: at once."""

    class Negative:
        def delay(self, attempt: int) -> float:
            return -5.0

    assert RetryPolicy(3, Negative()).next_delay(1) == 0.0


def test_the_backoff_sees_the_number_of_the_failed_attempt() -> None:
    """Attempts are counted from 1."""
    seen = []

    class Recording:
        def delay(self, attempt: int) -> float:
            seen.append(attempt)
            return 0.0

    for attempts in (1, 2, 3):
        RetryPolicy(3, Recording()).next_delay(attempts)
    assert seen == [1, 2, 3]


def test_a_constant_backoff_is_constant() -> None:
    """The same delay before every retry; none by default."""
    assert [ConstantBackoff(2.5).delay(n) for n in (1, 2, 50)] == [2.5] * 3
    assert IMMEDIATELY.delay(1) == ConstantBackoff().delay(7) == 0.0


def test_g7_a_linear_backoff_grows_by_its_step() -> None:
    """Each delay is the step longer than the one before, and never more than the cap."""
    assert [LinearBackoff(first=2.0, step=3.0, cap=9.0).delay(n) for n in range(1, 6)] == [2.0, 5.0, 8.0, 9.0, 9.0]
    assert [LinearBackoff().delay(n) for n in (1, 2, 3)] == [1.0, 2.0, 3.0]
    assert LinearBackoff(step=0.5).delay(10**400) == 300.0


def test_g7_a_linear_backoff_can_be_spread() -> None:
    """With jitter, delays differ and keep within the value of their attempt."""
    delays = [LinearBackoff(first=8.0, step=8.0, cap=100.0, jitter=True).delay(2) for _ in range(500)]
    assert all(0.0 <= delay <= 16.0 for delay in delays)
    assert min(delays) < 4.0
    assert max(delays) > 12.0


def test_an_exponential_backoff_grows_to_its_cap() -> None:
    """Each delay is the factor times the one before, and never more than the cap."""
    backoff = ExponentialBackoff(base=1.0, factor=3.0, cap=20.0, jitter=False)
    assert [backoff.delay(n) for n in range(1, 6)] == [1.0, 3.0, 9.0, 20.0, 20.0]


@pytest.mark.parametrize("attempt", [1_000, 10_000, 10**9])
def test_an_exponential_backoff_does_not_overflow(attempt: int) -> None:
    """After ever so many attempts the delay is the cap."""
    assert ExponentialBackoff(factor=2.0, cap=300.0, jitter=False).delay(attempt) == 300.0


def test_an_exponential_backoff_of_zero_stays_zero() -> None:
    """A base of 0 means at once, for every attempt."""
    assert ExponentialBackoff(base=0.0).delay(50) == 0.0


def test_jitter_spreads_between_zero_and_the_ceiling() -> None:
    """With jitter, the default, delays differ and keep within the ceiling of their attempt."""
    delays = [ExponentialBackoff(base=8.0, cap=100.0).delay(2) for _ in range(500)]
    assert all(0.0 <= delay <= 16.0 for delay in delays)
    assert min(delays) < 4.0
    assert max(delays) > 12.0


@pytest.mark.parametrize("value", NOT_SECONDS)
@pytest.mark.parametrize(
    ("make", "name"),
    [
        (ConstantBackoff, "seconds"),
        (lambda value: LinearBackoff(first=value), "first"),
        (lambda value: LinearBackoff(step=value), "step"),
        (lambda value: LinearBackoff(cap=value), "cap"),
        (lambda value: ExponentialBackoff(base=value), "base"),
        (lambda value: ExponentialBackoff(cap=value), "cap"),
        (lambda value: ExponentialBackoff(factor=value), "factor"),
        (lambda value: require_seconds("grace_period", value), "grace_period"),
    ],
)
def test_durations_are_checked(make: Any, name: str, value: Any) -> None:
    """What is not a finite number of at least 0 is refused; the error names the argument."""
    with pytest.raises(ConfigurationError, match=name):
        make(value)


def test_a_factor_below_one_is_refused() -> None:
    """A backoff that shrinks is a mistake."""
    with pytest.raises(ConfigurationError, match="factor"):
        ExponentialBackoff(factor=0.5)


def test_zero_is_no_positive_duration() -> None:
    """Where a duration must be positive, 0 is refused, and the error says so."""
    with pytest.raises(ConfigurationError, match="task_timeout must be a positive number"):
        require_seconds("task_timeout", 0, positive=True)


@pytest.mark.parametrize("backoff", [ConstantBackoff(), LinearBackoff(), ExponentialBackoff()])
def test_the_backoffs_fulfil_their_protocol(backoff: object) -> None:
    """What QBridge ships is what it asks of others."""
    assert isinstance(backoff, Backoff)


@pytest.mark.parametrize("seconds", [5, 0.5])
def test_a_delay_in_the_place_of_a_reason_is_refused(seconds: Any) -> None:
    """``Retry(5)`` would be retried at once, in silence."""
    with pytest.raises(ConfigurationError, match=r"reason must be text, not .*Retry\(after="):
        Retry(seconds)


@pytest.mark.parametrize("seconds", [-1, float("nan"), float("inf"), 10**400, True, "1"])
def test_a_request_for_an_impossible_delay_says_so(seconds: float) -> None:
    """What no broker can wait for is an error where it is written."""
    with pytest.raises(ConfigurationError, match="seconds"):
        Snooze(seconds)
    with pytest.raises(ConfigurationError, match="after"):
        Retry(after=seconds)


class TooBusy(ConnectionError):
    """A subclass, to be found by its base class."""


def test_g7_the_first_rule_that_matches_counts() -> None:
    """A rule holds for its exceptions and their subclasses, in the order given; the rest follow the policy."""
    policy = RetryPolicy(
        1,
        rules=(
            ExceptionRule((TimeoutError, ConnectionError), ConstantBackoff(5.0), max_retries=3),
            ExceptionRule(OSError, ConstantBackoff(7.0)),
        ),
    )
    delays = {
        type(exc): [policy.next_delay(attempts, policy.rule_for(exc)) for attempts in (1, 2, 4)]
        for exc in (TooBusy(), FileNotFoundError(), ValueError())
    }
    assert delays == {TooBusy: [5.0, 5.0, None], FileNotFoundError: [7.0, None, None], ValueError: [0.0, None, None]}


def test_g7_a_rule_without_a_backoff_has_the_policys_own() -> None:
    """What a rule does not say, the policy does."""
    policy = RetryPolicy(3, ConstantBackoff(2.0), rules=(ExceptionRule(OSError, max_retries=1),))
    assert [policy.next_delay(attempts, 0) for attempts in (1, 2)] == [2.0, None]


class Liar(Exception):
    """It claims to be of another class."""

    @property  # type: ignore[misc]
    def __class__(self) -> type:
        return OSError


def test_g7_an_exception_that_lies_about_its_class_is_taken_for_what_it_is() -> None:
    """The real class decides, not what a property says."""
    assert RetryPolicy(rules=(ExceptionRule(OSError),)).rule_for(Liar()) is None


@pytest.mark.parametrize("value", [OSError(), "OSError", int, (OSError, "x"), [OSError], (), None])
def test_g7_a_rule_needs_exception_classes(value: Any) -> None:
    """An instance, a name, a list or nothing in their place is refused; the error names the argument."""
    with pytest.raises(ConfigurationError, match="exceptions"):
        ExceptionRule(value)


@pytest.mark.parametrize(("name", "value"), [("backoff", 2.0), ("backoff", ConstantBackoff), ("max_retries", -1)])
def test_g7_a_rule_is_checked_like_a_policy(name: str, value: Any) -> None:
    """A backoff or a limit that cannot be used is refused when the rule is made."""
    with pytest.raises(ConfigurationError, match=name):
        ExceptionRule(OSError, **{name: value})


@pytest.mark.parametrize("value", [[ExceptionRule(OSError)], (OSError,), None])
def test_g7_a_policy_takes_a_tuple_of_rules(value: Any) -> None:
    """A policy is a value that nobody can change later."""
    with pytest.raises(ConfigurationError, match="rules"):
        RetryPolicy(rules=value)
