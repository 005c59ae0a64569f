"""Shows figures in a registry of ``prometheus_client``."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import accumulate
from typing import Final

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from qbridge_core.telemetry.catalogue import METRICS, Kind
from qbridge_core.telemetry.catalogue import Metric as Described
from qbridge_core.telemetry.figures import Figures

_INFINITE: Final = "+Inf"


class FiguresCollector(Collector):
    """A collector of what ``Figures`` hold. It asks nobody, so a scrape waits for nothing."""

    def __init__(self, figures: Figures) -> None:
        self._figures = figures

    def describe(self) -> Iterable[Metric]:
        """The metrics without values: a registry refuses a second one of the same name."""
        return [_family(metric) for metric in METRICS]

    def collect(self) -> Iterable[Metric]:
        """The metrics that have values."""
        reading = self._figures.read()
        families = {metric: _family(metric) for metric in METRICS}
        for (metric, labels), value in (*reading.counters.items(), *reading.gauges.items()):
            families[metric].add_metric(labels, value)  # type: ignore[attr-defined]
        for (metric, labels), (counts, total) in reading.distributions.items():
            families[metric].add_metric(labels, _buckets(metric.bounds, counts), total)  # type: ignore[attr-defined]
        return [family for family in families.values() if family.samples]


def _family(metric: Described) -> Metric:
    kinds = {Kind.COUNTER: CounterMetricFamily, Kind.HISTOGRAM: HistogramMetricFamily, Kind.GAUGE: GaugeMetricFamily}
    family: Metric = kinds[metric.kind](metric.name, metric.text, labels=metric.labels)
    return family


def _buckets(bounds: Sequence[float], counts: Sequence[int]) -> list[tuple[str, float]]:
    names = [*map(str, bounds), _INFINITE]
    return list(zip(names, accumulate(counts), strict=True))
