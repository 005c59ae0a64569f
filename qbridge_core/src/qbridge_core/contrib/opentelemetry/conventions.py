"""The names of spans, attributes and metrics.

Those of messaging are of OpenTelemetry's semantic conventions 1.44.0
(https://opentelemetry.io/docs/specs/semconv/messaging/), which are still in development there. They are written out,
because the package that has them, ``opentelemetry-semantic-conventions``, pins a release of the API.
"""

from __future__ import annotations

from typing import Final

SCHEMA_URL: Final = "https://opentelemetry.io/schemas/1.44.0"

SYSTEM: Final = "messaging.system"
DESTINATION_NAME: Final = "messaging.destination.name"
OPERATION_NAME: Final = "messaging.operation.name"
OPERATION_TYPE: Final = "messaging.operation.type"
MESSAGE_ID: Final = "messaging.message.id"
BATCH_MESSAGE_COUNT: Final = "messaging.batch.message_count"
RABBITMQ_ROUTING_KEY: Final = "messaging.rabbitmq.destination.routing_key"
SERVER_ADDRESS: Final = "server.address"
SERVER_PORT: Final = "server.port"
ERROR_TYPE: Final = "error.type"
EXCEPTION_TYPE: Final = "exception.type"
EXCEPTION_MESSAGE: Final = "exception.message"
EXCEPTION_STACKTRACE: Final = "exception.stacktrace"

EXCEPTION_EVENT: Final = "exception"
OTHER_ERROR: Final = "_OTHER"
"""The ``error.type`` of what has no better one."""
TIMEOUT_ERROR: Final = "timeout"
"""The ``error.type`` of a run that took too long: one of QBridge's own."""
CANCELLED_ERROR: Final = "cancelled"
"""The ``error.type`` of a run that a stop has ended: one of QBridge's own."""

SENT_MESSAGES: Final = "messaging.client.sent.messages"
CONSUMED_MESSAGES: Final = "messaging.client.consumed.messages"
OPERATION_DURATION: Final = "messaging.client.operation.duration"
PROCESS_DURATION: Final = "messaging.process.duration"
DURATION_BUCKETS: Final = (0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0)
"""Seconds; what the conventions advise for both durations."""

TASK_ID: Final = "qbridge.task.id"
TASK_ATTEMPT: Final = "qbridge.task.attempt"
TASK_REPLAYS: Final = "qbridge.task.replays"
TASK_OUTCOME: Final = "qbridge.task.outcome"
TASK_REASON: Final = "qbridge.task.reason"
TASK_WAIT: Final = "qbridge.task.wait"
"""Seconds from when the task might have run to its start."""

_RABBITMQ: Final = "rabbitmq"

Attributes = dict[str, str | int | float]
Server = tuple[str, int | None] | None
"""Host and port of the broker, where that is one server."""


def operation(name: str, kind: str, queue: str, system: str, server: Server) -> Attributes:
    """The attributes that all spans and measurements of an operation have.

    On RabbitMQ the destination is ``{exchange}:{routing key}:{queue}`` without what is empty and without what is there
    twice (semantic conventions for RabbitMQ). QBridge publishes to the default exchange, whose name is empty, and the
    routing key is the name of the queue; so that name is left.
    """
    attributes: Attributes = {
        SYSTEM: system, DESTINATION_NAME: queue, OPERATION_NAME: name, OPERATION_TYPE: kind,
    }  # fmt: skip
    if server is not None:
        attributes[SERVER_ADDRESS] = server[0]
        if server[1] is not None:
            attributes[SERVER_PORT] = server[1]
    return attributes


def send_attributes(queue: str, system: str, server: Server) -> Attributes:
    """Those of a span about sending."""
    attributes = operation("send", "send", queue, system, server)
    if system == _RABBITMQ:
        attributes[RABBITMQ_ROUTING_KEY] = queue
    return attributes
