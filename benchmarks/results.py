"""The samples of a run, their medians, and how they are kept in a JSON file."""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.contestants import QBRIDGE

HIGHER_IS_BETTER = {"per_second", "efficiency"}


@dataclass(frozen=True)
class Sample:
    """One measurement of one case: figures by name, or the error."""

    measurement: str
    broker: str
    contestant: str
    kind: str
    label: str
    round: int
    figures: dict[str, float] = field(default_factory=dict)
    error: str = ""


@dataclass(frozen=True)
class Row:
    """A case over all rounds: the medians of those that succeeded, and the errors of the others."""

    measurement: str
    broker: str
    contestant: str
    kind: str
    label: str
    figures: dict[str, float]
    error: str = ""


@dataclass
class Results:
    """A run: where it was, and what was measured."""

    machine: dict[str, Any]
    samples: list[Sample] = field(default_factory=list)

    def rows(self, measurement: str, broker: str | None = None, kind: str | None = None) -> list[Row]:
        """The rows of a measurement in the order in which they were first measured."""
        groups: dict[tuple[str, ...], list[Sample]] = {}
        for sample in self.samples:
            if sample.measurement == measurement and broker in (None, sample.broker) and kind in (None, sample.kind):
                groups.setdefault((sample.broker, sample.contestant, sample.label), []).append(sample)
        return [_row(group) for group in groups.values()]

    def best(self, measurement: str, broker: str, kind: str, figure: str, label: str | None = None) -> Row | None:
        """The best row of a kind, None when nothing of it was measured."""
        rows = [
            row for row in self.rows(measurement, broker, kind) if figure in row.figures and label in (None, row.label)
        ]
        choose = max if figure in HIGHER_IS_BETTER else min
        return choose(rows, key=lambda row: row.figures[figure], default=None)

    def brokers(self, measurement: str) -> list[str]:
        """The brokers of a measurement."""
        return list(dict.fromkeys(sample.broker for sample in self.samples if sample.measurement == measurement))

    def by_round(self) -> list[Results]:
        """Each round by itself: a run of its own, though on the same servers."""
        numbers = sorted({sample.round for sample in self.samples})
        return [
            Results(self.machine, [sample for sample in self.samples if sample.round == number]) for number in numbers
        ]

    def save(self, path: Path) -> None:
        """Write everything."""
        path.write_text(json.dumps(asdict(self), indent=1) + "\n")

    @classmethod
    def load(cls, path: Path) -> Results:
        """Read what `save` wrote."""
        data = json.loads(path.read_text())
        return cls(data["machine"], [Sample(**sample) for sample in data["samples"]])


def _row(group: Iterable[Sample]) -> Row:
    samples = list(group)
    good = [sample.figures for sample in samples if not sample.error]
    values = {name: [figures[name] for figures in good] for name in (good[0] if good else ())}
    last = samples[-1]
    return Row(
        last.measurement,
        last.broker,
        last.contestant,
        last.kind,
        last.label,
        {name: statistics.median(each) for name, each in values.items()},
        "; ".join(dict.fromkeys(sample.error for sample in samples if sample.error)),
    )


def ratio(results: Results, row: Row, kind: str, figure: str) -> float | None:
    """How many times better a row of QBridge is than the best of another kind."""
    best = results.best(row.measurement, row.broker, kind, figure, row.label)
    if best is None or figure not in row.figures or row.kind != QBRIDGE:
        return None
    own, other = row.figures[figure], best.figures[figure]
    return own / other if figure in HIGHER_IS_BETTER else other / own
