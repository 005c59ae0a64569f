"""The delays between attempts as one writes them in a terminal."""

from __future__ import annotations

from typing import Final

import click

from qbridge_core.errors import ConfigurationError
from qbridge_core.task.retry import Backoff, ConstantBackoff, ExponentialBackoff, LinearBackoff

_FORM: Final = "write seconds, as 5, or linear:FIRST[:LONGEST], or exponential:FIRST[:LONGEST]"
_LONGEST: Final = 300.0


def read_backoff(text: str) -> Backoff:
    """``5``, ``linear:2`` or ``exponential:1:600``: seconds, the first delay, and one that none exceeds.

    Raises:
        click.BadParameter: it cannot be read.
    """
    try:
        return _read(text)
    except ConfigurationError as exc:
        raise click.BadParameter(f"{text!r}: {exc}") from exc
    except ValueError:
        raise click.BadParameter(f"{text!r} is no backoff: {_FORM}") from None


def _read(text: str) -> Backoff:
    kind, *numbers = text.split(":")
    if kind == "linear" and len(numbers) in (1, 2):
        first, longest = _seconds(numbers)
        return LinearBackoff(first, first, longest)
    if kind == "exponential" and len(numbers) in (1, 2):
        first, longest = _seconds(numbers)
        return ExponentialBackoff(first, cap=longest)
    return ConstantBackoff(float(text))


def _seconds(numbers: list[str]) -> tuple[float, float]:
    first = float(numbers[0])
    return first, float(numbers[1]) if len(numbers) > 1 else max(first, _LONGEST)
