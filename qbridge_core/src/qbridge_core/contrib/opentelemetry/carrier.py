"""The context that travels in the headers of a message, under the names of W3C Trace Context, or as the program wants.

Which headers those are says ``OTEL_PROPAGATORS`` or ``opentelemetry.propagate.set_global_textmap``. They are headers of
the producer's, so every copy of the message carries them on: a retry, a dead letter, a replay.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from opentelemetry import propagate, trace
from opentelemetry.context import Context
from opentelemetry.trace import Link, Span, SpanContext


def injected(span: Span) -> dict[str, str]:
    """The headers that carry the context of a span on."""
    headers: dict[str, str] = {}
    propagate.inject(headers, trace.set_span_in_context(span))
    return headers


def extracted(headers: Mapping[str, Any], ambient: Context) -> tuple[Context, SpanContext | None]:
    """What the headers of a message carry.

    Args:
        headers: anybody may have written them.
        ambient: what to add it to.

    Returns:
        The ambient context with what was carried in it, and the creation context of the message, if it has one.
    """
    if not headers:
        return ambient, None
    carried = propagate.extract(_texts(headers), ambient)
    span = trace.get_current_span(carried)
    return carried, None if span is trace.get_current_span(ambient) else span.get_span_context()


def origin(headers: Mapping[str, Any], ambient: Context, is_child: bool) -> tuple[Context, list[Link]]:
    """The parent of a span about a message, and its links.

    A link to the creation context is always there. What else the message carries, as baggage, is in the context of the
    parent.

    Args:
        headers: those of the message.
        ambient: the context in which the span begins.
        is_child: whether the creation context is the parent, and not what the span begins in.
    """
    carried, creation = extracted(headers, ambient)
    if creation is None:
        return carried, []
    links = [Link(creation)]
    around = trace.get_current_span(ambient)
    if not is_child:
        return trace.set_span_in_context(around, carried), links
    if around.get_span_context().is_valid:
        links.append(Link(around.get_span_context()))
    return carried, links


def _texts(headers: Mapping[str, Any]) -> dict[str, str]:
    return {
        name: value.decode("ascii", "replace") if isinstance(value, bytes) else value
        for name, value in headers.items()
        if isinstance(value, str | bytes)
    }
