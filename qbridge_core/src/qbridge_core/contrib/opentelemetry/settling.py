"""Spans and measurements of settlements."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any, Final

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.trace import Link, NonRecordingSpan, SpanKind

from qbridge_core.contrib.opentelemetry.carrier import origin
from qbridge_core.contrib.opentelemetry.conventions import (
    MESSAGE_ID,
    TASK_ATTEMPT,
    TASK_ID,
    TASK_OUTCOME,
    TASK_REASON,
    TASK_WAIT,
    Server,
    operation,
)
from qbridge_core.contrib.opentelemetry.instruments import Instruments
from qbridge_core.contrib.opentelemetry.processing import process_span

_NAMES: Final = {"succeeded": "ack", "retried": "retry", "dead-lettered": "dead_letter", "snoozed": "snooze"}
"""The operation that leads to each outcome."""
_NANOSECONDS: Final = 1_000_000_000


class Settling:
    """Records settlements that are over. Thread-safe.

    Args:
        instruments: make the spans.
        is_child: as of :class:`~qbridge_core.contrib.opentelemetry.processing.Processing`.
    """

    def __init__(self, instruments: Instruments, is_child: bool) -> None:
        self._instruments = instruments
        self._is_child = is_child

    def record(
        self,
        queue: str,
        task_id: str,
        attempt: int,
        outcome: str,
        reason: str | None,
        wait: float | None,
        seconds: float,
        message_id: str | None,
        headers: Mapping[str, Any],
        system: str,
        server: Server,
    ) -> None:
        """A message was settled, which took so many seconds until now; the arguments are those of the hook."""
        now = time.time_ns()
        name = _NAMES.get(outcome, outcome)
        measured = operation(name, "settle", queue, system, server)
        self._instruments.operation_duration.record(seconds, measured)
        told = {
            MESSAGE_ID: message_id,
            TASK_ID: task_id or None,
            TASK_ATTEMPT: attempt,
            TASK_OUTCOME: outcome,
            TASK_REASON: None if reason is None else str(reason),
            TASK_WAIT: wait,
        }
        attributes = measured | {name: value for name, value in told.items() if value is not None}
        parent, links = self._parent(headers)
        began = now - int(seconds * _NANOSECONDS)
        span = self._instruments.tracer.start_span(f"{name} {queue}", parent, SpanKind.CLIENT, attributes, links, began)
        span.end(now)

    def _parent(self, headers: Mapping[str, Any]) -> tuple[Context, list[Link]]:
        """The run; where that was in another process, or nowhere, what would be the parent of its span."""
        run = process_span.get()
        if run is None:
            return origin(headers, Context(), self._is_child)
        return trace.set_span_in_context(NonRecordingSpan(run), Context()), []
