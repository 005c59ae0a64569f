"""The plugin."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from typing import Any, Final, Literal, get_args

from opentelemetry.metrics import MeterProvider
from opentelemetry.trace import TracerProvider

from qbridge_core import ConfigurationError, TaskContext, hookimpl
from qbridge_core.contrib.opentelemetry.conventions import Server
from qbridge_core.contrib.opentelemetry.instruments import Instruments
from qbridge_core.contrib.opentelemetry.processing import Processing
from qbridge_core.contrib.opentelemetry.sending import Sending
from qbridge_core.contrib.opentelemetry.settling import Settling

Propagation = Literal["link", "parent"]


class Tracing:
    """Makes spans and measurements of messages that are sent, processed and settled. Thread-safe.

    Give an object of it in ``plugins`` of ``connect``, of ``TaskManager``, or of both: the same object, so that the
    client of a manager does nothing twice.

    In a child process (``executor="process"``) the providers are those that are set there, whatever was given here.

    Args:
        tracer_provider: makes the spans; ``None`` for the global one, also one that is set later.
        meter_provider: the same for measurements.
        propagation: how the span of a run belongs to the one that has sent the message: ``"link"`` begins a trace of
            its own, linked to the producer's, as the semantic conventions want it; ``"parent"`` puts it into the trace
            of the producer.
        redact: as that of ``TaskManager``: called with the text of an exception, and with a traceback, before they go
            into a span; returns what may be shown.

    Raises:
        ConfigurationError: an argument is none of these.
    """

    def __init__(
        self,
        tracer_provider: TracerProvider | None = None,
        meter_provider: MeterProvider | None = None,
        propagation: Propagation = "link",
        redact: Callable[[str], str] | None = None,
    ) -> None:
        _check(tracer_provider, meter_provider, propagation, redact)
        self._propagation: Final[Propagation] = propagation
        self._is_child = propagation == "parent"
        self._redact = redact
        self._instruments = Instruments(tracer_provider, meter_provider)
        self._sending = Sending(self._instruments)
        self._settling = Settling(self._instruments, self._is_child)

    def __reduce__(self) -> tuple[Any, ...]:
        return Tracing, (None, None, self._propagation, self._redact)

    @hookimpl
    def qbridge_before_publish(
        self, queue: str, message_id: str | None, headers: Mapping[str, str], system: str, server: Server
    ) -> Mapping[str, str]:
        """Begin the span of a call that publishes; return the headers that carry its context."""
        return self._sending.begin(queue, message_id, headers, system, server)

    @hookimpl
    def qbridge_published(
        self, queue: str, count: int, duration: float, exception: BaseException | None, system: str, server: Server
    ) -> None:
        """End it."""
        self._sending.end(queue, count, duration, exception, system, server)

    @hookimpl
    def qbridge_task_run(self, task: TaskContext, system: str, server: Server) -> AbstractContextManager[None]:
        """Make the span of a run."""
        return Processing(self._instruments, task, system, server, self._is_child, self._redact)

    @hookimpl
    def qbridge_task_settled(
        self,
        queue: str,
        task_id: str,
        attempt: int,
        outcome: str,
        reason: str | None,
        wait: float | None,
        settling: float,
        message_id: str | None,
        headers: Mapping[str, Any],
        system: str,
        server: Server,
    ) -> None:
        """Make the span of a settlement."""
        self._settling.record(
            queue, task_id, attempt, outcome, reason, wait, settling, message_id, headers, system, server
        )


def _check(tracer_provider: object, meter_provider: object, propagation: object, redact: object) -> None:
    if tracer_provider is not None and not isinstance(tracer_provider, TracerProvider):
        raise ConfigurationError(f"tracer_provider must be a TracerProvider of OpenTelemetry, not {tracer_provider!r}")
    if meter_provider is not None and not isinstance(meter_provider, MeterProvider):
        raise ConfigurationError(f"meter_provider must be a MeterProvider of OpenTelemetry, not {meter_provider!r}")
    if propagation not in get_args(Propagation):
        raise ConfigurationError(f'propagation must be "link" or "parent", not {propagation!r}')
    if redact is not None and not callable(redact):
        raise ConfigurationError(f"redact must be a function of a text, not {redact!r}")
