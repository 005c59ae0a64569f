"""Spans and measurements of messages that are published."""

from __future__ import annotations

import threading
from collections.abc import Mapping

from opentelemetry.context import Context
from opentelemetry.trace import Link, Span, SpanKind

from qbridge_core.contract.dead_letter import Reason
from qbridge_core.contrib.opentelemetry.carrier import extracted, injected
from qbridge_core.contrib.opentelemetry.conventions import (
    BATCH_MESSAGE_COUNT,
    ERROR_TYPE,
    MESSAGE_ID,
    Server,
    operation,
    send_attributes,
)
from qbridge_core.contrib.opentelemetry.errors import error_type_of, mark_failed
from qbridge_core.contrib.opentelemetry.instruments import Instruments
from qbridge_core.task.explanation import Explanation


class _Call:
    """One call that publishes: its span, and the headers that carry it on."""

    __slots__ = ("headers", "message_id", "span")

    def __init__(self, span: Span, message_id: str | None) -> None:
        self.span = span
        self.message_id = message_id
        self.headers = injected(span)


class Sending:
    """One span for each call that publishes, from its first message to the confirmation of the last one. Thread-safe.

    All messages of the call carry its context, except those that have one of their own.
    """

    def __init__(self, instruments: Instruments) -> None:
        self._instruments = instruments
        self._here = threading.local()

    def begin(
        self, queue: str, message_id: str | None, headers: Mapping[str, str], system: str, server: Server
    ) -> Mapping[str, str]:
        """A message is about to be published; what to add to its headers."""
        _, creation = extracted(headers, Context())
        calls = self._calls()
        call = calls.get(queue)
        if call is None:
            # The kind says whether this span is the one that consumers link to.
            kind, links = (SpanKind.PRODUCER, []) if creation is None else (SpanKind.CLIENT, [Link(creation)])
            span = self._instruments.tracer.start_span(
                f"send {queue}", kind=kind, attributes=send_attributes(queue, system, server), links=links
            )
            call = calls[queue] = _Call(span, message_id)
        return call.headers if creation is None else {}

    def end(
        self, queue: str, count: int, duration: float, exception: BaseException | None, system: str, server: Server
    ) -> None:
        """The call is over."""
        call = self._calls().pop(queue, None)
        if call is None and not count:
            return
        measured = operation("send", "send", queue, system, server)
        explanation = None if exception is None else Explanation.from_exception(Reason.FAILED, exception)
        if explanation is not None:
            measured[ERROR_TYPE] = error_type_of(explanation)
        if call is not None:
            _end(call, count, explanation)
        self._instruments.sent.add(count, measured)
        self._instruments.operation_duration.record(duration, measured)

    def _calls(self) -> dict[str, _Call]:
        """Those of this thread: while one goes through its messages, these may be published to other queues."""
        calls: dict[str, _Call] | None = getattr(self._here, "calls", None)
        if calls is None:
            calls = self._here.calls = {}
        return calls


def _end(call: _Call, count: int, explanation: Explanation | None) -> None:
    span = call.span
    if span.is_recording():
        if count > 1:
            span.set_attribute(BATCH_MESSAGE_COUNT, count)
        elif call.message_id is not None:
            span.set_attribute(MESSAGE_ID, call.message_id)
        if explanation is not None:
            mark_failed(span, error_type_of(explanation), explanation)
    span.end()
