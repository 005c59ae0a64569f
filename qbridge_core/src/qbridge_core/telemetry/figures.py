"""What a process has counted and measured; and how one process tells another."""

from __future__ import annotations

import threading
from bisect import bisect_right
from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

from qbridge_core.telemetry.catalogue import BY_NAME, Kind, Metric

Labels = tuple[str, ...]
_HERE: Final = ""


@dataclass(slots=True)
class Distribution:
    """How many values fell into which bucket, and their sum.

    Attributes:
        counts: of each bucket alone; the last one has no upper bound.
        total: the sum of all values.
    """

    counts: list[int]
    total: float = 0.0

    def put(self, values: list[float], bounds: tuple[float, ...], times: int) -> None:
        """Put values into their buckets, each so often; a bound belongs below itself.

        Of sorted values a bucket costs one search.
        """
        values.sort()
        below = 0
        for place, bound in enumerate(bounds):
            upto = bisect_right(values, bound, below)
            self.counts[place] += (upto - below) * times
            below = upto
            if below == len(values):
                break
        else:
            self.counts[-1] += (len(values) - below) * times
        self.total += sum(values) * times

    def add(self, counts: list[int], total: float) -> None:
        """Add what another process has put into the same buckets."""
        self.counts = [one + other for one, other in zip(self.counts, counts, strict=True)]
        self.total += total


@dataclass(slots=True)
class _Series:
    """Everything, by metric and labels; of gauges what each process says."""

    counters: dict[tuple[Metric, Labels], float] = field(default_factory=dict)
    distributions: dict[tuple[Metric, Labels], Distribution] = field(default_factory=dict)
    gauges: dict[tuple[Metric, Labels], dict[Hashable, float]] = field(default_factory=dict)


class Reading(NamedTuple):
    """All figures at one moment."""

    counters: Mapping[tuple[Metric, Labels], float]
    distributions: Mapping[tuple[Metric, Labels], tuple[list[int], float]]
    gauges: Mapping[tuple[Metric, Labels], float]


class Figures:
    """What was counted here and, of those who tell, elsewhere. Thread-safe; nothing here waits.

    Attributes:
        changed: set by each change; whoever waits for the next one clears it first.
    """

    def __init__(self) -> None:
        self.changed = threading.Event()
        self._lock = threading.Lock()
        self._series = _Series()

    def count(self, metric: Metric, *labels: str, by: float = 1) -> None:
        """Count something; by 0 to have it shown before it happens, as rates need it."""
        with self._lock:
            counters, key = self._series.counters, (metric, labels)
            counters[key] = counters.get(key, 0) + by
        self.changed.set()

    def put(self, metric: Metric, values: list[float], *labels: str, times: int = 1) -> None:
        """Put values into the buckets of a histogram, each so often; they are sorted then."""
        with self._lock:
            self._distribution(metric, labels).put(values, metric.bounds, times)
        self.changed.set()

    def show(self, metric: Metric, value: float | None, *labels: str) -> None:
        """Show a value from now on; ``None`` for one that nobody knows."""
        with self._lock:
            self._show(metric, labels, _HERE, value)
        self.changed.set()

    def read(self) -> Reading:
        """All of it. The gauges of several processes are added up."""
        with self._lock:
            series = self._series
            return Reading(
                dict(series.counters),
                {key: (list(each.counts), each.total) for key, each in series.distributions.items()},
                {key: sum(told.values()) for key, told in series.gauges.items()},
            )

    # ------------------------------------------------------------------ from process to process

    def take(self) -> list[list[Any]]:
        """Take what was counted since the last time, to tell another process; gauges stay. JSON can express it."""
        with self._lock:
            series = self._series
            told: list[list[Any]] = [[metric.name, labels, by] for (metric, labels), by in series.counters.items()]
            told += [[m.name, labels, each.counts, each.total] for (m, labels), each in series.distributions.items()]
            told += [[metric.name, labels, sum(each.values())] for (metric, labels), each in series.gauges.items()]
            self._series = _Series(gauges=series.gauges)
        return told

    def add(self, told: list[list[Any]], source: Hashable) -> None:
        """Add what a process has taken; its gauges take the place of those that it told before.

        Raises:
            ValueError: somebody else has told that; nothing, or a part of it, was added.
        """
        try:
            with self._lock:
                self._forget(source)
                for name, labels, *values in told:
                    if name in BY_NAME:  # otherwise a newer version has told
                        self._add(BY_NAME[name], tuple(labels), source, values)
        except (TypeError, ValueError, AttributeError) as exc:
            raise ValueError(f"these are no figures: {exc}") from exc
        self.changed.set()

    def forget(self, source: Hashable) -> None:
        """A process is gone: what it has counted stays, what it had at the moment does not."""
        with self._lock:
            self._forget(source)
        self.changed.set()

    def _add(self, metric: Metric, labels: Labels, source: Hashable, values: list[Any]) -> None:
        if metric.kind is Kind.HISTOGRAM:
            self._distribution(metric, labels).add(*values)
        elif metric.kind is Kind.COUNTER:
            counters, key = self._series.counters, (metric, labels)
            counters[key] = max(counters.get(key, 0), counters.get(key, 0) + values[0])
        else:
            self._show(metric, labels, source, float(values[0]))

    def _distribution(self, metric: Metric, labels: Labels) -> Distribution:
        distributions, key = self._series.distributions, (metric, labels)
        if key not in distributions:
            distributions[key] = Distribution([0] * (len(metric.bounds) + 1))
        return distributions[key]

    def _show(self, metric: Metric, labels: Labels, source: Hashable, value: float | None) -> None:
        gauges, key = self._series.gauges, (metric, labels)
        if value is not None:
            gauges.setdefault(key, {})[source] = value
        elif key in gauges:
            self._without(key, source)

    def _forget(self, source: Hashable) -> None:
        for key in [key for key, told in self._series.gauges.items() if source in told]:
            self._without(key, source)

    def _without(self, key: tuple[Metric, Labels], source: Hashable) -> None:
        told = self._series.gauges[key]
        told.pop(source, None)
        if not told:
            del self._series.gauges[key]
