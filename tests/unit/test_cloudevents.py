"""Events of CloudEvents 1.0, written and read by its SDK and by QBridge."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from cloudevents.core.bindings import amqp, rabbitmq
from cloudevents.core.v1.event import CloudEvent

from qbridge_core import (
    App,
    CloudEventsFormat,
    ConfigurationError,
    EnvelopeFormat,
    JSONFormat,
    Message,
    Outcome,
    Outgoing,
    PayloadError,
    RawFormat,
    Reason,
    TaskManager,
)
from qbridge_memory import MemoryClient
from support.apps import client_of

MEDIA = "content-type"
WHOLE = {"specversion": "1.0", "type": "run", "source": "/", "id": "1"}


def event(data: Any = None, **attributes: Any) -> CloudEvent:
    """An event of the SDK."""
    own = {"type": "run", "source": "/shop", "id": "e-1", "specversion": "1.0", "time": datetime.now(UTC)}
    return CloudEvent(attributes={**own, "datacontenttype": "application/json", **attributes}, data=data)


def structured(given: CloudEvent) -> Message:
    """What the SDK makes of it, attributes and data in the body."""
    made = rabbitmq.to_structured_event(given)
    return Message(made.body, {**made.headers, MEDIA: str(made.content_type)})


def unmarked(given: CloudEvent) -> Message:
    """The same where the media type is lost."""
    return Message(rabbitmq.to_structured_event(given).body)


def binary(given: CloudEvent) -> Message:
    """What the SDK makes of it, attributes in headers, as on RabbitMQ."""
    made = rabbitmq.to_binary_event(given)
    return Message(made.body, {**made.headers, MEDIA: str(made.content_type)})


def of_amqp(given: CloudEvent) -> Message:
    """The same as on AMQP 1.0."""
    made = amqp.to_binary_event(given)
    headers = {**made.application_properties, MEDIA: made.properties["content-type"]}
    return Message(made.application_data, {name: str(value) for name, value in headers.items()})


MODES = [structured, unmarked, binary, of_amqp]
Mode = Callable[[CloudEvent], Message]


def work_off(client: MemoryClient, *messages: Message) -> list[Any]:
    """What a handler gets of these messages."""
    client.publish_many("q", messages)
    seen: list[Any] = []
    formats = [RawFormat(), JSONFormat(), EnvelopeFormat(), CloudEventsFormat()]
    TaskManager(client, seen.append, "q", "d", max_workers=1, max_retries=0, formats=formats).run_until_idle()
    return seen


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("data", [{"number": 7, "text": "grün"}, {}])
def test_events_of_the_sdk_are_read(client: MemoryClient, mode: Mode, data: object) -> None:
    """In each mode the payload is the data, before formats that would take anything."""
    assert work_off(client, mode(event(data))) == [data]


@pytest.mark.parametrize("data", [[1, None], "text", 5, False])
def test_any_json_is_data(client: MemoryClient, data: object) -> None:
    """In each mode; the media type may be left out."""
    beside = {f"ce-{name}": value for name, value in WHOLE.items()}
    body = json.dumps(data).encode()
    messages = [Message(body, beside), Message(json.dumps({**WHOLE, "data": data}).encode())]
    messages.append(Message(body, {**beside, MEDIA: "application/vnd.shop+JSON; charset=utf-8"}))
    assert work_off(client, *messages) == [data] * 3


@pytest.mark.parametrize("mode", MODES)
def test_data_that_is_no_json_stays_bytes(client: MemoryClient, mode: Mode) -> None:
    """However much it looks like JSON."""
    assert work_off(client, mode(event(b"123", datacontenttype="application/octet-stream"))) == [b"123"]


def test_an_event_without_data_has_none(client: MemoryClient) -> None:
    """In either mode."""
    bare = {f"ce-{name}": value for name, value in WHOLE.items()}
    assert work_off(client, Message(b"", bare), Message(json.dumps(WHOLE).encode())) == [None, None]


@pytest.mark.parametrize("mode", MODES)
def test_the_type_of_an_event_is_the_name_of_a_task(app: App, mode: Mode) -> None:
    """And its id the id; what has expired does not run."""
    seen: list[object] = []
    app.queue("default", formats=[CloudEventsFormat])

    @app.task(name="run")
    def run(number: int) -> None:
        seen.append(number)

    client = client_of(app)
    client.declare("default", "default.dead")
    past = datetime.now(UTC) - timedelta(hours=1)
    client.publish_many(
        "default",
        [
            mode(event({"number": 7})),
            mode(event({"number": 8}, expirytime=past.isoformat())),
            mode(event({"number": 9}, expirytime=(past + timedelta(hours=2)).isoformat())),
            mode(event({"number": 9}, type="other", id="e-2")),
        ],
    )
    report = app.run_until_idle()
    assert report.counts == {Outcome.SUCCEEDED: 2, Outcome.EXPIRED: 1, Outcome.UNKNOWN_TASK: 1}
    assert sorted(map(str, seen)) == ["7", "9"]
    letters = {letter.reason: letter.task_id for letter in client.dead_letters("default.dead")}
    assert letters == {Reason.EXPIRED: "e-1", Reason.UNKNOWN_TASK: "e-2"}


def test_an_event_without_data_calls_a_task_without_parameters(app: App) -> None:
    """There is nothing that it could lack."""
    app.queue("default", formats=[CloudEventsFormat])
    app.task(name="run")(lambda: None)
    client_of(app).declare("default", "default.dead")
    client_of(app).publish("default", b'{"specversion": "1.0", "type": "run", "source": "/", "id": "1"}')
    assert app.run_until_idle().succeeded == 1


@pytest.mark.parametrize("is_binary", [False, True])
def test_the_sdk_reads_what_is_sent(app: App, is_binary: bool) -> None:
    """Every attribute is what it says, in each mode."""
    app.queue("default", formats=[CloudEventsFormat("/shop/orders", binary=is_binary)])

    @app.task(name="run")
    def run(number: int) -> None: ...

    run.version(2)(lambda payload: payload)
    message = run.options(task_id="t-1", expires=60, headers={"tenant": "blue"}).message(number=7).content
    headers = dict(message.headers)
    read = rabbitmq.from_rabbitmq_event(rabbitmq.RabbitMQMessage(headers, headers[MEDIA], message.body))
    assert read.get_data() == {"number": 7}
    assert (read.get_id(), read.get_type(), read.get_source()) == ("t-1", "run", "/shop/orders")
    assert abs(read.get_time().timestamp() - time.time()) < 60
    told = datetime.fromisoformat(str(read.get_extension("expirytime")))
    assert 0 < told.timestamp() - time.time() <= 60.001
    assert str(read.get_extension("qbridgeversion")) == "2"
    assert headers["tenant"] == "blue"


@pytest.mark.parametrize("is_binary", [False, True])
def test_bytes_travel_in_events(is_binary: bool) -> None:
    """As they are, or encoded where the body is JSON; both are read as bytes."""
    made = CloudEventsFormat(binary=is_binary).write(Outgoing(b"\xff\x00", "t-1", "m-1", "q", "run"))
    with MemoryClient() as client:
        client.declare("q", "d")
        assert work_off(client, made) == [b"\xff\x00"]


@pytest.mark.parametrize(
    ("body", "headers", "reason", "text"),
    [
        ({"specversion": "0.3"}, {}, Reason.UNSUPPORTED, "it is of CloudEvents '0.3'; 1.0 is read"),
        ({"source": ""}, {}, Reason.MALFORMED, "the event has no 'source'"),
        ({"id": 5}, {}, Reason.MALFORMED, "the event has no 'id', which is a string"),
        ({"data_base64": "?"}, {}, Reason.MALFORMED, "data_base64 cannot be decoded"),
        ({"data_base64": 5}, {}, Reason.MALFORMED, "data_base64 cannot be decoded"),
        ({"expirytime": "soon"}, {}, Reason.MALFORMED, "'expirytime' is no time as RFC 3339 has it"),
        ({"qbridgeversion": "x"}, {}, Reason.MALFORMED, "'qbridgeversion' is 'x', not a whole number"),
        ([], {MEDIA: "application/cloudevents+json"}, Reason.MALFORMED, "the event is a JSON array, not an object"),
        ([], {MEDIA: "application/cloudevents-batch+json"}, Reason.UNSUPPORTED, "events are read as JSON, one each"),
        ({}, {MEDIA: "application/cloudevents+avro"}, Reason.UNSUPPORTED, "events are read as JSON, one each"),
    ],
)
def test_g13_what_is_no_event_that_can_be_read_is_a_letter(
    client: MemoryClient, body: Any, headers: dict[str, str], reason: Reason, text: str
) -> None:
    """It says which attribute is wrong, and never runs."""
    document = {**WHOLE, **body} if isinstance(body, dict) else body
    assert work_off(client, Message(json.dumps(document).encode(), headers)) == []
    (letter,) = client.dead_letters("d")
    assert letter.reason is reason
    assert text in letter.exception_message


def test_g13_data_that_is_not_what_it_says_is_a_letter_with_its_id(client: MemoryClient) -> None:
    """Also where the attributes are in headers."""
    given = binary(event({}))
    assert work_off(client, Message(b"{,}", given.headers)) == []
    (letter,) = client.dead_letters("d")
    assert (letter.reason, letter.task_id) == (Reason.MALFORMED, "e-1")
    assert letter.exception_message.startswith("the body is not JSON")


def test_wrong_arguments_are_refused() -> None:
    """Where they are given; and what has no name is not written."""
    with pytest.raises(ConfigurationError, match="source must be a URI reference"):
        CloudEventsFormat("")
    with pytest.raises(ConfigurationError, match="binary must be True or False"):
        CloudEventsFormat(binary=1)  # type: ignore[arg-type]
    with pytest.raises(PayloadError, match="'t-1' has no name, which is the type of an event"):
        CloudEventsFormat().write(Outgoing({}, "t-1", "m-1", "q"))
    for name in "content-type", "ce-type", "cloudEvents:subject":
        with pytest.raises(PayloadError, match=f"'t-1' have names that its format writes: {name}"):
            CloudEventsFormat().write(Outgoing({}, "t-1", "m-1", "q", "run", headers={name: "x"}))
