"""Collects spans and measurements, in this process and in child processes, for tests of tracing."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from opentelemetry import trace
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from qbridge_core import connect
from qbridge_core.contrib.opentelemetry import Tracing
from support.handlers import note, notes

WAY = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
"""A ``traceparent``: the example of the W3C recommendation on Trace Context."""


@dataclass(frozen=True)
class Seen:
    """A span that has ended, from whichever process."""

    name: str
    kind: str
    trace: str
    id: str
    parent: str | None
    links: tuple[tuple[str, str], ...]
    attributes: dict[str, Any]
    is_error: bool
    message: str | None
    events: list[dict[str, Any]]
    start: str
    end: str

    @classmethod
    def of(cls, text: str) -> Seen:
        """Read what the SDK writes of a span."""
        span = json.loads(text)
        return cls(
            span["name"],
            span["kind"].removeprefix("SpanKind."),
            span["context"]["trace_id"],
            span["context"]["span_id"],
            span["parent_id"],
            tuple((link["context"]["trace_id"], link["context"]["span_id"]) for link in span["links"]),
            span["attributes"],
            span["status"]["status_code"] == "ERROR",
            span["status"].get("description"),
            span["events"],
            span["start_time"],
            span["end_time"],
        )


class Telemetry:
    """Providers of a test's own, and what came of them."""

    def __init__(self) -> None:
        self._exporter = InMemorySpanExporter()
        self.tracer_provider = TracerProvider()
        self.tracer_provider.add_span_processor(SimpleSpanProcessor(self._exporter))
        self._reader = InMemoryMetricReader()
        self.meter_provider = MeterProvider([self._reader])
        self.tracer = self.tracer_provider.get_tracer("tests")

    def tracing(self, **arguments: Any) -> Tracing:
        """The plugin, with these providers."""
        return Tracing(self.tracer_provider, self.meter_provider, **arguments)

    def ended(self) -> tuple[ReadableSpan, ...]:
        """The spans that have ended, as the SDK has them."""
        return self._exporter.get_finished_spans()

    def spans(self, name: str = "") -> list[Seen]:
        """The spans that have ended and whose name begins so, in order of their start."""
        seen = [Seen.of(span.to_json()) for span in self.ended()]
        return sorted((span for span in seen if span.name.startswith(name)), key=lambda span: span.start)

    def span(self, name: str) -> Seen:
        """The only span whose name begins so."""
        (span,) = self.spans(name)
        return span

    def points(self, name: str) -> list[Any]:
        """The data points of a metric."""
        data = self._reader.get_metrics_data()
        scopes = [] if data is None else [scope for each in data.resource_metrics for scope in each.scope_metrics]
        return [
            point
            for scope in scopes
            for metric in scope.metrics
            if metric.name == name
            for point in metric.data.data_points
        ]


def found_from(trace_id: str, spans: Iterable[Seen]) -> list[Seen]:
    """What somebody finds who looks at a trace, and at those that have links into it, and so on."""
    spans = sorted(spans, key=lambda span: span.start)
    found = {trace_id}
    while more := {span.trace for span in spans if span.trace not in found and any(t in found for t, _ in span.links)}:
        found |= more
    return [span for span in spans if span.trace in found]


class _FileExporter(SpanExporter):
    """Writes each span as a line."""

    def __init__(self, path: str) -> None:
        self._path = path

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """Write them."""
        for span in spans:
            note(self._path, span.to_json(indent=None))
        return SpanExportResult.SUCCESS


@contextlib.contextmanager
def traced_child(path: str) -> Iterator[None]:
    """A lifespan for child processes: their spans go to a file, which :func:`spans_in` reads."""
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(_FileExporter(path)))
    trace.set_tracer_provider(provider)
    yield
    provider.shutdown()


def spans_in(path: str) -> list[Seen]:
    """The spans that child processes have written."""
    return [Seen.of(line) for line in notes(path)]


def repaired(payload: dict[str, str]) -> None:
    """A handler for child processes: it fails until its file is there, and then publishes another task."""
    if not Path(payload["file"]).exists():
        raise ValueError("not repaired yet")
    if payload["url"]:
        with connect(payload["url"], plugins=[Tracing()]) as client:
            client.send(payload["next"], "from the handler")
    else:
        trace.get_tracer("tests").start_span("inner").end()
