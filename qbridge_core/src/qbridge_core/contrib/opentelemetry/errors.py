"""Marks spans of what has failed."""

from __future__ import annotations

from opentelemetry.trace import Span, Status, StatusCode

from qbridge_core.contrib.opentelemetry.conventions import (
    ERROR_TYPE,
    EXCEPTION_EVENT,
    EXCEPTION_MESSAGE,
    EXCEPTION_STACKTRACE,
    EXCEPTION_TYPE,
    OTHER_ERROR,
)
from qbridge_core.task.explanation import Explanation


def mark_failed(span: Span, error_type: str, explanation: Explanation | None) -> None:
    """Mark a span as failed.

    Args:
        span: it has not ended.
        error_type: the class of the error.
        explanation: of the exception, if there was one; redacted.
    """
    span.set_attribute(ERROR_TYPE, error_type)
    span.set_status(Status(StatusCode.ERROR, None if explanation is None else explanation.message))
    if explanation is not None:
        # An event of the span, and not a record of a log: the API has those under a private name only.
        span.add_event(
            EXCEPTION_EVENT,
            {
                EXCEPTION_TYPE: explanation.exception_type,
                EXCEPTION_MESSAGE: explanation.message,
                EXCEPTION_STACKTRACE: explanation.traceback,
            },
        )


def error_type_of(explanation: Explanation) -> str:
    """The class of the error: the full name of the exception's type, as dead letters have it."""
    return explanation.exception_type or OTHER_ERROR
