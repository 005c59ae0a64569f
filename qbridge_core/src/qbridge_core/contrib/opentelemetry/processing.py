"""The span of a run, which is current as long as the handler runs."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import AbstractContextManager
from contextvars import ContextVar
from types import TracebackType
from typing import Final

from opentelemetry import context, trace
from opentelemetry.trace import SpanContext, SpanKind

from qbridge_core import HandlerTimeout, RetryPolicy, TaskContext
from qbridge_core.contrib.opentelemetry.carrier import origin
from qbridge_core.contrib.opentelemetry.conventions import (
    CANCELLED_ERROR,
    ERROR_TYPE,
    MESSAGE_ID,
    TASK_ATTEMPT,
    TASK_ID,
    TASK_REPLAYS,
    TIMEOUT_ERROR,
    Server,
    operation,
)
from qbridge_core.contrib.opentelemetry.errors import error_type_of, mark_failed
from qbridge_core.contrib.opentelemetry.instruments import Instruments
from qbridge_core.runtime.clock import monotonic
from qbridge_core.task.explanation import Explanation
from qbridge_core.task.verdict import Action, judge

Redact = Callable[[str], str]

process_span: Final[ContextVar[SpanContext | None]] = ContextVar("qbridge_process_span", default=None)
"""The span of the run whose context this is, also when it has ended: its settlement belongs to it."""
_NO_RULES: Final = RetryPolicy()


class Processing(AbstractContextManager[None]):
    """Around a handler.

    Args:
        instruments: makes the span.
        task: the task.
        system: the messaging system.
        server: where that is.
        is_child: whether the creation context of the message is the parent of the span, and not only linked.
        redact: makes texts of exceptions fit to be shown.
    """

    def __init__(
        self,
        instruments: Instruments,
        task: TaskContext,
        system: str,
        server: Server,
        is_child: bool,
        redact: Redact | None,
    ) -> None:
        self._instruments = instruments
        self._task = task
        self._measured = operation("process", "process", task.queue, system, server)
        self._is_child = is_child
        self._redact = redact

    def __enter__(self) -> None:
        parent, links = origin(self._task.headers, context.get_current(), self._is_child)
        attributes = {**self._measured, TASK_ID: self._task.task_id, TASK_ATTEMPT: self._task.attempt}
        if self._task.message_id is not None:
            attributes[MESSAGE_ID] = self._task.message_id
        if self._task.replays:
            attributes[TASK_REPLAYS] = self._task.replays
        self._span = self._instruments.tracer.start_span(
            f"process {self._task.queue}", parent, SpanKind.CONSUMER, attributes, links
        )
        process_span.set(self._span.get_span_context())
        self._thread = threading.get_ident()
        self._token = context.attach(trace.set_span_in_context(self._span, parent))
        self._began_at = monotonic()

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, frames: TracebackType | None
    ) -> None:
        duration = monotonic() - self._began_at
        error_type, explanation = self._judged(exc)
        if error_type is not None:
            self._measured[ERROR_TYPE] = error_type
            mark_failed(self._span, error_type, explanation)
        self._span.end()
        self._instruments.consumed.add(1, self._measured)
        self._instruments.process_duration.record(duration, self._measured)
        if threading.get_ident() == self._thread:  # otherwise the run was abandoned, and this is a copy of its context
            context.detach(self._token)

    def _judged(self, exc: BaseException | None) -> tuple[str | None, Explanation | None]:
        """The class of the error with which the run has ended, if it has, and what is told of it."""
        if self._task.cancelled or isinstance(exc, HandlerTimeout):  # its result does not count, whatever it is
            return (CANCELLED_ERROR if self._task.remaining else TIMEOUT_ERROR), None
        if exc is None:
            return None, None
        verdict = judge(exc, _NO_RULES)
        if verdict.action is Action.POSTPONE:
            return None, None
        explanation = verdict.explanation.redacted(self._redact)
        return error_type_of(explanation), explanation
