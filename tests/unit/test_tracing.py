"""The plugin for OpenTelemetry by itself: its names and arguments, and what it makes of what is published."""

from __future__ import annotations

import pickle
import re
import subprocess
import sys
from typing import Any

import pytest
from opentelemetry.context import Context
from opentelemetry.semconv._incubating.attributes import messaging_attributes
from opentelemetry.semconv._incubating.metrics import messaging_metrics
from opentelemetry.semconv.attributes import error_attributes, exception_attributes, server_attributes
from opentelemetry.semconv.schemas import Schemas

from qbridge_core import ConfigurationError, PublishUnconfirmedError, QueueClient, __version__
from qbridge_core.contrib import opentelemetry
from qbridge_core.contrib.opentelemetry import Tracing, conventions
from qbridge_core.contrib.opentelemetry.carrier import extracted
from qbridge_kombu import KombuClient
from qbridge_memory import MemoryClient
from qbridge_rabbitmq import RabbitMQClient
from qbridge_redis import RedisClient
from support.tracing import WAY, Telemetry

BROKER = ("rabbitmq", ("broker.example", 5672))
TRACE, SPAN = (f"0x{part}" for part in WAY.split("-")[1:3])


@pytest.fixture
def telemetry() -> Telemetry:
    """Providers of this test's own."""
    return Telemetry()


def publish(tracing: Tracing, *messages: tuple[str, dict[str, str]], error: BaseException | None = None) -> list[Any]:
    """Do with the plugin what a client does for one call; the headers that it adds to each message."""
    added = [tracing.qbridge_before_publish("jobs", name, headers, *BROKER) for name, headers in messages]
    tracing.qbridge_published("jobs", len(messages), 0.25, error, *BROKER)
    return added


# ---------------------------------------------------------------------- names


def test_all_names_are_those_of_the_semantic_conventions() -> None:
    """What does not begin with ``qbridge.`` is in the installed semantic conventions, and is not deprecated there."""
    known, deprecated = set(), set()
    for module in (messaging_attributes, messaging_metrics, error_attributes, exception_attributes, server_attributes):
        with open(str(module.__file__)) as source:
            for name, text in re.findall(r'^[A-Z_]+: Final = "([\w.]+)"\n"""(.*?)"""', source.read(), re.S | re.M):
                (deprecated if text.strip().startswith("Deprecated") else known).add(name)
    ours = {value for name, value in vars(conventions).items() if name.isupper() and isinstance(value, str)}
    theirs = {name for name in ours if "." in name and not name.startswith(("qbridge.", "https:"))}
    assert len(theirs) == 17
    assert theirs <= known - deprecated


def test_values_are_those_of_the_semantic_conventions() -> None:
    """The kinds of operations and the broker that the conventions know have their values."""
    operations = {each.value for each in messaging_attributes.MessagingOperationTypeValues}
    assert {"send", "process", "settle"} <= operations
    assert messaging_attributes.MessagingSystemValues.RABBITMQ.value == "rabbitmq"
    assert error_attributes.ErrorTypeValues.OTHER.value == conventions.OTHER_ERROR
    assert Schemas.V1_44_0.value == conventions.SCHEMA_URL


def test_spans_say_which_conventions_they_follow(telemetry: Telemetry) -> None:
    """The scope has the version of QBridge and the schema of the conventions."""
    publish(telemetry.tracing(), ("m", {}))
    (span,) = telemetry.ended()
    scope = span.instrumentation_scope
    assert (scope.name, scope.version, scope.schema_url) == ("qbridge", __version__, conventions.SCHEMA_URL)


@pytest.mark.parametrize(
    ("client", "server"),
    [
        (RabbitMQClient("amqp://mq.example"), ("mq.example", 5672)),
        (RabbitMQClient("amqps://mq.example/shop"), ("mq.example", 5671)),
        (RabbitMQClient("amqp://a.example,b.example"), None),
        (RedisClient("redis://[::1]:6380/1"), ("::1", 6380)),
        (RedisClient("unix:///run/redis.sock"), ("/run/redis.sock", None)),
        (RedisClient("redis+sentinel://a.example/main"), None),
        (RedisClient("redis+cluster://a.example"), None),
        (KombuClient("kombu+redis://r.example:6379/0", allow_loss=True), ("r.example", 6379)),
        (KombuClient("kombu+amqp://mq.example"), ("mq.example", None)),
        (KombuClient("kombu+filesystem:///tmp/q", allow_loss=True), None),
        (MemoryClient(), None),
    ],
)
def test_a_client_knows_its_server_where_that_is_one(
    client: QueueClient, server: tuple[str, int | None] | None
) -> None:
    """Host and port as in the URL; of several hosts nobody knows which one it will be."""
    assert client.server == server


def test_a_span_without_a_server_has_no_attributes_for_it() -> None:
    """And none for a port where there is a socket."""
    assert "server.address" not in conventions.operation("send", "send", "jobs", "memory", None)
    socket = conventions.operation("send", "send", "jobs", "redis", ("/run/redis.sock", None))
    assert (socket["server.address"], "server.port" in socket) == ("/run/redis.sock", False)


def test_the_public_name_of_the_plugin() -> None:
    """The package has the plugin, and nothing else that somebody might build on."""
    assert opentelemetry.__all__ == ["Tracing"]


# ---------------------------------------------------------------------- arguments


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ({"tracer_provider": "otlp"}, "tracer_provider must be a TracerProvider of OpenTelemetry, not 'otlp'"),
        ({"meter_provider": 3}, "meter_provider must be a MeterProvider of OpenTelemetry, not 3"),
        ({"propagation": "child"}, 'propagation must be "link" or "parent", not \'child\''),
        ({"redact": "yes"}, "redact must be a function of a text, not 'yes'"),
    ],
)
def test_wrong_arguments_are_refused(arguments: dict[str, Any], complaint: str) -> None:
    """What cannot be used is refused with the words that say what can."""
    with pytest.raises(ConfigurationError, match=re.escape(complaint)):
        Tracing(**arguments)


def test_a_copy_in_another_process_has_the_providers_of_that_process(telemetry: Telemetry) -> None:
    """The plugin goes into child processes with its settings and without its providers, which cannot go there."""
    copy = pickle.loads(pickle.dumps(telemetry.tracing(propagation="parent", redact=str.upper)))
    publish(copy, ("m", {}))
    assert telemetry.spans() == []
    assert (copy._propagation, copy._redact) == ("parent", str.upper)


def test_what_is_missing_is_named() -> None:
    """Without opentelemetry-api the import says what to install."""
    program = """
import sys
sys.modules["opentelemetry"] = None
try:
    import qbridge_core.contrib.opentelemetry
except Exception as exc:
    print(type(exc).__name__, exc)
"""
    result = subprocess.run([sys.executable, "-W", "error", "-c", program], capture_output=True, text=True, check=True)
    assert result.stdout.startswith("ConfigurationError traces need opentelemetry-api; run: pip install")
    assert '"qbridge-core[opentelemetry]"' in result.stdout


def test_the_api_is_enough() -> None:
    """Without an SDK nothing fails, no header is added, and nothing is printed."""
    program = """
import sys
sys.modules["opentelemetry.sdk"] = None
from qbridge_core import TaskManager, connect
from qbridge_core.contrib.opentelemetry import Tracing
tracing = Tracing()
with connect("memory://", plugins=[tracing]) as client:
    client.declare("q", "d")
    client.send("q", 1)
    delivery, = client.receive("q", max_messages=1, timeout=1.0)
    print(delivery.headers)
    client.reject(delivery, requeue=True)
    print(TaskManager(client, lambda _: None, "q", "d", plugins=[tracing]).run_until_idle())
"""
    result = subprocess.run([sys.executable, "-W", "error", "-c", program], capture_output=True, text=True, check=True)
    assert (result.stdout, result.stderr) == ("{}\n1 succeeded\n", "")


# ---------------------------------------------------------------------- messages that are published


def test_a_message_carries_the_context_of_its_span(telemetry: Telemetry) -> None:
    """The span of a message is of the kind PRODUCER, a child of the current one, and in the headers as W3C has it."""
    with telemetry.tracer.start_as_current_span("request"):
        (added,) = publish(telemetry.tracing(), ("m-1", {}))
    request, span = telemetry.spans()
    assert (span.name, span.kind, span.trace, span.parent) == ("send jobs", "PRODUCER", request.trace, request.id)
    assert (f"0x{added['traceparent'].split('-')[1]}", f"0x{added['traceparent'].split('-')[2]}") == (
        span.trace,
        span.id,
    )
    assert span.attributes == {
        "messaging.system": "rabbitmq",
        "messaging.destination.name": "jobs",
        "messaging.rabbitmq.destination.routing_key": "jobs",
        "messaging.operation.name": "send",
        "messaging.operation.type": "send",
        "messaging.message.id": "m-1",
        "server.address": "broker.example",
        "server.port": 5672,
    }


def test_messages_that_are_published_together_share_a_span(telemetry: Telemetry) -> None:
    """One span for the call says how many they were, and all carry its context."""
    first, second = publish(telemetry.tracing(), ("m-1", {}), ("m-2", {}))
    span = telemetry.span("send jobs")
    assert first == second != {}
    assert span.attributes["messaging.batch.message_count"] == 2
    assert "messaging.message.id" not in span.attributes


def test_a_context_that_the_caller_has_given_stays(telemetry: Telemetry) -> None:
    """A message with a creation context of its own keeps it; the span is linked to it, and of the kind CLIENT."""
    assert publish(telemetry.tracing(), ("m-1", {"traceparent": WAY})) == [{}]
    span = telemetry.span("send jobs")
    assert (span.kind, span.links) == ("CLIENT", ((TRACE, SPAN),))


def test_a_failure_is_on_the_span_and_in_the_measurements(telemetry: Telemetry) -> None:
    """``error.type`` is the same on the span, the counter and the histogram, and nowhere after a success."""
    tracing = telemetry.tracing()
    publish(tracing, ("m-1", {}))
    publish(tracing, ("m-2", {}), error=PublishUnconfirmedError("no answer"))
    good, bad = telemetry.spans()
    name = "qbridge_core.errors.PublishUnconfirmedError"
    assert (good.is_error, "error.type" in good.attributes) == (False, False)
    assert (bad.is_error, bad.message, bad.attributes["error.type"]) == (True, "no answer", name)
    for metric in ("messaging.client.sent.messages", "messaging.client.operation.duration"):
        assert {point.attributes.get("error.type") for point in telemetry.points(metric)} == {None, name}


def test_what_is_published_is_counted_and_timed(telemetry: Telemetry) -> None:
    """The counter has the messages, the histogram the seconds of each call in the advised buckets."""
    publish(telemetry.tracing(), ("m-1", {}), ("m-2", {}))
    (sent,) = telemetry.points("messaging.client.sent.messages")
    (duration,) = telemetry.points("messaging.client.operation.duration")
    assert (sent.value, duration.count, duration.sum) == (2, 1, 0.25)
    assert duration.explicit_bounds == conventions.DURATION_BUCKETS
    assert dict(sent.attributes) == {
        "messaging.system": "rabbitmq",
        "messaging.destination.name": "jobs",
        "messaging.operation.name": "send",
        "messaging.operation.type": "send",
        "server.address": "broker.example",
        "server.port": 5672,
    }


def test_a_call_within_a_call_has_a_span_of_its_own(telemetry: Telemetry) -> None:
    """While a call goes through its messages, making them may publish others to another queue."""
    tracing = telemetry.tracing()
    outer = tracing.qbridge_before_publish("outer", "m-1", {}, "memory", None)
    inner = tracing.qbridge_before_publish("inner", "m-2", {}, "memory", None)
    tracing.qbridge_published("inner", 1, 0.1, None, "memory", None)
    again = tracing.qbridge_before_publish("outer", "m-3", {}, "memory", None)
    tracing.qbridge_published("outer", 2, 0.1, None, "memory", None)
    assert outer == again != inner
    assert [span.name for span in telemetry.spans()] == ["send outer", "send inner"]


def test_a_call_that_published_nothing_leaves_no_span(telemetry: Telemetry) -> None:
    """``send_many`` of an empty list is no operation on a message."""
    assert publish(telemetry.tracing()) == []
    assert telemetry.spans() == []
    assert telemetry.points("messaging.client.sent.messages") == []


# ---------------------------------------------------------------------- what comes in headers


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"traceparent": "nonsense"},
        {"traceparent": 7},
        {"traceparent": None},
        {"traceparent": [WAY]},
        {"traceparent": b"\xff\xfe"},
        {"traceparent": "00-00000000000000000000000000000000-0000000000000000-00"},
        {"tracestate": "a=b"},
    ],
)
def test_headers_without_a_usable_context_are_none(headers: dict[str, Any]) -> None:
    """Whatever a foreign producer has written there, the task runs, in a trace of its own."""
    _, creation = extracted(headers, Context())
    assert creation is None


def test_a_context_in_bytes_is_read() -> None:
    """Clients in other languages write headers as bytes on some brokers."""
    _, creation = extracted({"traceparent": WAY.encode()}, Context())
    assert creation is not None
    assert (f"{creation.trace_id:#034x}", f"{creation.span_id:#018x}") == (TRACE, SPAN)
