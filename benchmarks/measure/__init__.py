"""One module for each measurement: its cases, and how one of them is measured."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from benchmarks.bench import Bench
from benchmarks.contestants import CONTESTANTS, Contestant


@dataclass(frozen=True)
class Case:
    """One cell of a table: a contestant in a measurement, with what varies.

    Attributes:
        measurement: its name.
        contestant: who is measured.
        measure: measures once, and returns figures by name.
        label: what varies, as the tables show it.
        once: measured in the first round only, since no target is judged by it in each round.
        long: left out of the quick form.
    """

    measurement: str
    contestant: Contestant
    measure: Callable[[Bench], dict[str, float]] = field(compare=False)
    label: str = ""
    once: bool = False
    long: bool = False


def taking_part(measurement: str) -> list[Contestant]:
    """The contestants of a measurement."""
    return [contestant for contestant in CONTESTANTS if contestant.takes_part(measurement)]
