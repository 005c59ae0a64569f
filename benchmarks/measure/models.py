"""As consuming is measured, with a pydantic model in each message that the handler gets made and checked."""

from __future__ import annotations

from functools import partial

from benchmarks.bench import Bench
from benchmarks.contestants import MODELS, Contestant
from benchmarks.measure import Case, taking_part
from benchmarks.measure.consume import TASKS, rates


def cases() -> list[Case]:
    """Those that know models."""
    return [Case(MODELS, contestant, partial(measure, contestant)) for contestant in taking_part(MODELS)]


def measure(contestant: Contestant, bench: Bench) -> dict[str, float]:
    """The handlers do nothing with it; the bare clients make the model, too."""
    return rates(bench.consume(contestant, bench.order(contestant, "work", bench.scaled(TASKS), mode="models")))
