"""What spans and measurements are made with."""

from __future__ import annotations

from typing import Final

from opentelemetry import metrics, trace
from opentelemetry.metrics import Histogram, Meter, MeterProvider
from opentelemetry.trace import TracerProvider

from qbridge_core import __version__
from qbridge_core.contrib.opentelemetry.conventions import (
    CONSUMED_MESSAGES,
    DURATION_BUCKETS,
    OPERATION_DURATION,
    PROCESS_DURATION,
    SCHEMA_URL,
    SENT_MESSAGES,
)

_SCOPE: Final = "qbridge"


class Instruments:
    """The tracer, and the instruments of the meter. Thread-safe.

    Args:
        tracer_provider: makes the tracer; ``None`` for the global one, also one that is set later.
        meter_provider: the same for the meter.
    """

    def __init__(self, tracer_provider: TracerProvider | None, meter_provider: MeterProvider | None) -> None:
        self.tracer = trace.get_tracer(_SCOPE, __version__, tracer_provider, SCHEMA_URL)
        meter = metrics.get_meter(_SCOPE, __version__, meter_provider, SCHEMA_URL)
        self.sent = meter.create_counter(
            SENT_MESSAGES, "{message}", "Number of messages producer attempted to send to the broker."
        )
        self.consumed = meter.create_counter(
            CONSUMED_MESSAGES, "{message}", "Number of messages that were delivered to the application."
        )
        self.operation_duration = _duration(
            meter, OPERATION_DURATION, "Duration of messaging operation initiated by a producer or consumer client."
        )
        self.process_duration = _duration(meter, PROCESS_DURATION, "Duration of processing operation.")


def _duration(meter: Meter, name: str, description: str) -> Histogram:
    return meter.create_histogram(name, "s", description, explicit_bucket_boundaries_advisory=DURATION_BUCKETS)
