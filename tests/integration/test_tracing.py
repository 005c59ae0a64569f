"""Traces of tasks from the producer to the end, on each backend and with each executor."""

from __future__ import annotations

import asyncio
import sys
import threading
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any
from urllib.parse import urlsplit

import pytest
from opentelemetry import baggage, context, trace

from qbridge_core import (
    QueueClient,
    Reject,
    Retry,
    Snooze,
    TaskManager,
    connect,
    hookimpl,
)
from qbridge_core.work.readahead import ReadAhead
from support.tracing import Seen, Telemetry, found_from, repaired, spans_in, traced_child
from support.wait import wait_for

BACKENDS = ("memory", "rabbitmq", "redis")
EXECUTORS = ("threads", "coroutines", "processes")


@pytest.fixture
def telemetry() -> Telemetry:
    """Providers of this test's own."""
    return Telemetry()


@pytest.fixture
def url(request: pytest.FixtureRequest, unique_name: str) -> str:
    """The URL of the backend that the test names, or of memory."""
    backend = getattr(request, "param", "memory")
    if backend == "memory":
        return f"memory://{unique_name}"
    address: str = request.getfixturevalue("amqp_url" if backend == "rabbitmq" else "redis_url")
    return address


def handler_for(executor: str, client: QueueClient, telemetry: Telemetry) -> Callable[[Any], object]:
    """A handler that fails until the file of its payload is there, and then publishes another task."""

    def work(payload: dict[str, str]) -> None:
        if not Path(payload["file"]).exists():
            raise ValueError("not repaired yet")
        client.send(payload["next"], "from the handler")

    async def work_on_loop(payload: dict[str, str]) -> None:
        await asyncio.sleep(0)
        await asyncio.to_thread(work, payload)

    return {"threads": work, "coroutines": work_on_loop, "processes": repaired}[executor]


def story(url: str, queue: str, executor: str, telemetry: Telemetry, path: Path, propagation: str) -> list[Seen]:
    """Send a task that fails twice, is dead-lettered, sent back and succeeds; all spans of it, with the request's."""
    tracing = telemetry.tracing(propagation=propagation)
    children, file = str(path / "children"), path / "repaired"
    more: dict[str, Any] = {}
    if executor == "processes":
        more = {"executor": "process", "lifespan": partial(traced_child, children)}
    with connect(url, plugins=[tracing]) as client:
        for name in (queue, f"{queue}-next"):
            client.declare(name, f"{queue}-dead")
        manager = TaskManager(
            client, handler_for(executor, client, telemetry), queue, f"{queue}-dead",
            max_retries=1, max_workers=1, plugins=[tracing], **more,
        )  # fmt: skip
        payload = {"file": str(file), "next": f"{queue}-next", "url": "" if url.startswith("memory") else url}
        with telemetry.tracer.start_as_current_span("request"):
            client.send(queue, payload, task_id="task-1")
        manager.run_until_idle(60.0)
        file.touch()
        assert client.replay(f"{queue}-dead") == 1
        manager.run_until_idle(60.0)
        client.purge(f"{queue}-next")
    return sorted([*telemetry.spans(), *spans_in(children)], key=lambda span: span.start)


@pytest.mark.parametrize("executor", EXECUTORS)
@pytest.mark.parametrize("url", BACKENDS, indirect=True)
def test_a_task_is_found_from_its_producers_trace(
    url: str, executor: str, unique_name: str, telemetry: Telemetry, tmp_path: Path
) -> None:
    """Runs, retry, dead letter, the run after the replay, and what that one publishes, are linked to the request."""
    queue = unique_name
    spans = story(url, queue, executor, telemetry, tmp_path, "link")
    found = found_from(telemetry.span("request").trace, spans)
    assert [span for span in found if span.name != "inner"] == [span for span in spans if span.name != "inner"]
    kinds = {span.name: span.kind for span in spans}
    inner = "inner" if "inner" in kinds else f"send {queue}-next"
    assert kinds == {
        "request": "INTERNAL",
        f"send {queue}": "PRODUCER",
        f"process {queue}": "CONSUMER",
        f"retry {queue}": "CLIENT",
        f"dead_letter {queue}": "CLIENT",
        f"ack {queue}": "CLIENT",
        inner: "INTERNAL" if inner == "inner" else "PRODUCER",
    }
    sent = next(span for span in spans if span.name == f"send {queue}")
    runs = [span for span in spans if span.name == f"process {queue}"]
    told = ("qbridge.task.attempt", "qbridge.task.replays", "error.type")
    assert [tuple(run.attributes.get(name) for name in told) for run in runs] == [
        (1, None, "ValueError"),
        (2, None, "ValueError"),
        (1, 1, None),
    ]
    assert [run.is_error for run in runs] == [True, True, False]
    broker = None if url.startswith("memory") else urlsplit(url)
    assert {
        (span.attributes.get("server.address"), span.attributes.get("server.port"))
        for span in spans
        if span.name != "request" and span.name != "inner"
    } == {(broker and broker.hostname, broker and broker.port)}
    assert {run.links for run in runs} == {((sent.trace, sent.id),)}
    assert {run.parent for run in runs} == {None}
    (published,) = (span for span in spans if span.name == inner)
    assert (published.trace, published.parent) == (runs[2].trace, runs[2].id)


@pytest.mark.parametrize("url", BACKENDS, indirect=True)
def test_what_is_sent_together_has_one_span(url: str, unique_name: str, telemetry: Telemetry) -> None:
    """On every backend the runs of all tasks of a ``send_many`` are linked to the one span of the call."""
    tracing = telemetry.tracing()
    with connect(url, plugins=[tracing]) as client:
        client.declare(unique_name, f"{unique_name}-dead")
        client.send_many(unique_name, range(3))
        TaskManager(client, lambda _: None, unique_name, f"{unique_name}-dead", plugins=[tracing]).run_until_idle(60.0)
    sent = telemetry.span("send")
    assert sent.attributes["messaging.batch.message_count"] == 3
    assert [run.links for run in telemetry.spans("process")] == [((sent.trace, sent.id),)] * 3


@pytest.mark.parametrize("executor", EXECUTORS)
def test_as_a_parent_the_producer_has_everything_in_its_trace(
    url: str, executor: str, unique_name: str, telemetry: Telemetry, tmp_path: Path
) -> None:
    """With ``propagation="parent"`` there is one trace, and the runs are children of what has sent the message."""
    spans = story(url, unique_name, executor, telemetry, tmp_path, "parent")
    sent = next(span for span in spans if span.name == f"send {unique_name}")
    assert {span.trace for span in spans} == {sent.trace}
    runs = [span for span in spans if span.kind == "CONSUMER"]
    assert len(runs) == 3
    assert {(run.parent, run.links) for run in runs} == {(sent.id, ((sent.trace, sent.id),))}
    by_id = {run.id: run for run in runs}
    of = [by_id[str(span.parent)] if span.parent in by_id else sent for span in spans if span.name.startswith("retry")]
    assert of == [sent if executor == "processes" else runs[0]]


def consume(client: QueueClient, handler: Callable[[Any], object], telemetry: Telemetry, **arguments: Any) -> str:
    """Work off the queue ``q``; what came of it."""
    tracing = arguments.pop("tracing", None) or telemetry.tracing()
    plugins = [tracing, *arguments.pop("plugins", ())]
    manager = TaskManager(client, handler, "q", "d", plugins=plugins, **arguments)
    return str(manager.run_until_idle(60.0))


@pytest.fixture
def client() -> Any:
    """A client of a broker of its own, with the queue ``q`` and its dead letters in ``d``, and without plugins."""
    with connect("memory://") as client:
        client.declare("q", "d")
        yield client


@pytest.mark.parametrize("executor", ["threads", "coroutines"])
def test_what_becomes_of_a_run_belongs_to_it(client: QueueClient, executor: str, telemetry: Telemetry) -> None:
    """A settlement is a child of its run, and says what became of the task, why, and how long it had waited."""

    def work(payload: object) -> None:
        if payload:
            raise ValueError

    async def work_on_loop(payload: object) -> None:
        work(payload)

    client.send_many("q", [0, 1])
    consume(client, work if executor == "threads" else work_on_loop, telemetry, max_retries=1)
    runs = {run.id: run for run in telemetry.spans("process")}
    told = [
        (span.name, runs[str(span.parent)].attributes["qbridge.task.id"] == span.attributes["qbridge.task.id"])
        for span in telemetry.spans()
        if span.kind == "CLIENT"
    ]
    assert sorted(told) == [("ack q", True), ("dead_letter q", True), ("retry q", True)]
    letter = telemetry.span("dead_letter").attributes
    assert letter.pop("qbridge.task.wait") >= 0.0
    assert letter.pop("messaging.message.id") == letter.pop("qbridge.task.id")
    assert letter == {
        "messaging.system": "memory",
        "messaging.destination.name": "q",
        "messaging.operation.name": "dead_letter",
        "messaging.operation.type": "settle",
        "qbridge.task.attempt": 2,
        "qbridge.task.outcome": "dead-lettered",
        "qbridge.task.reason": "failed",
    }


def test_coroutines_beside_each_other_are_each_in_their_own_span(client: QueueClient, telemetry: Telemetry) -> None:
    """What a coroutine does after it has waited for others is in the span of its own run."""

    async def work(payload: int) -> None:
        await asyncio.sleep(0)
        with telemetry.tracer.start_as_current_span(f"inner {payload}"):
            await asyncio.sleep(0.001)
        await asyncio.to_thread(telemetry.tracer.start_span(f"thread {payload}").end)

    ids = client.send_many("q", range(20))
    consume(client, work, telemetry, max_workers=20)
    runs = {run.attributes["qbridge.task.id"]: run.id for run in telemetry.spans("process")}
    expected = {f"{what} {number}": runs[name] for number, name in enumerate(ids) for what in ("inner", "thread")}
    assert {span.name: span.parent for span in telemetry.spans() if span.kind == "INTERNAL"} == expected


def test_what_was_only_read_ahead_has_no_span(
    client: QueueClient, telemetry: Telemetry, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A message that is fetched, and handed back because the worker stops, leaves none."""
    begun, go_on = threading.Event(), threading.Event()

    def work(_: object) -> None:
        begun.set()
        go_on.wait(30.0)

    class Releasing:
        @hookimpl
        def qbridge_worker_stopping(self) -> None:
            go_on.set()

    monkeypatch.setattr(ReadAhead, "more", lambda self, done, now: 4)
    client.send_many("q", range(5))
    manager = TaskManager(client, work, "q", "d", max_workers=1, plugins=[telemetry.tracing(), Releasing()])
    with manager:
        assert begun.wait(30.0)
        wait_for(lambda: client.stats("q").in_flight == 5)
    assert client.stats("q").ready == 4
    assert Counter(span.name for span in telemetry.spans()) == {"process q": 1, "ack q": 1}


def test_the_context_is_left_with_the_run(client: QueueClient, telemetry: Telemetry) -> None:
    """When the hooks after a run are called, its span is not current any more."""
    seen: list[bool] = []

    class Looking:
        @hookimpl
        def qbridge_task_succeeded(self) -> None:
            seen.append(trace.get_current_span().get_span_context().is_valid)

    client.send("q", 1)
    consume(client, lambda _: None, telemetry, plugins=[Looking()])
    assert seen == [False]


@pytest.mark.parametrize("executor", ["threads", "coroutines"])
def test_a_late_run_is_marked_and_ends_once(
    client: QueueClient, executor: str, telemetry: Telemetry, caplog: pytest.LogCaptureFixture
) -> None:
    """A run that does not end in time has one span, with ``timeout``, and OpenTelemetry complains of nothing."""
    release, returned = threading.Event(), threading.Event()

    def work(_: object) -> None:
        release.wait(30.0)
        returned.set()

    async def work_on_loop(_: object) -> None:
        while not release.is_set():
            try:
                await asyncio.sleep(0.02)
            except asyncio.CancelledError:
                continue
        returned.set()

    client.send("q", 1)
    handler = work if executor == "threads" else work_on_loop
    report = consume(client, handler, telemetry, task_timeout=0.2, max_retries=0, interrupt=False)
    wait_for(lambda: telemetry.spans("process"))
    release.set()
    assert returned.wait(30.0)
    assert report == "1 dead-lettered (timed out)"
    run = telemetry.span("process")
    assert (run.is_error, run.attributes["error.type"]) == (True, "timeout")
    assert not [record for record in caplog.records if record.name.startswith("opentelemetry")]
    (point,) = telemetry.points("messaging.process.duration")
    assert (point.count, point.attributes["error.type"]) == (1, "timeout")


def test_a_run_that_a_stop_has_ended_is_told_from_a_late_one(client: QueueClient, telemetry: Telemetry) -> None:
    """Its message goes back uncounted, so its span has ``cancelled``, and there is no settlement."""
    begun, release = threading.Event(), threading.Event()

    def work(_: object) -> None:
        begun.set()
        release.wait(30.0)

    client.send("q", 1)
    plugins = [telemetry.tracing()]
    with TaskManager(client, work, "q", "d", max_workers=1, grace_period=0.1, interrupt=False, plugins=plugins):
        assert begun.wait(30.0)
    wait_for(lambda: telemetry.spans("process"))
    release.set()
    (run,) = telemetry.spans()
    assert (run.name, run.is_error, run.attributes["error.type"]) == ("process q", True, "cancelled")


@pytest.mark.parametrize(
    ("error", "error_type", "message"),
    [
        (KeyError("a"), "KeyError", "'a'"),
        (Reject("no such customer"), "qbridge_core.Reject", "no such customer"),
        (Snooze(0.0), None, None),
    ],
)
def test_an_error_is_marked_and_a_postponement_is_none(
    client: QueueClient, telemetry: Telemetry, error: Exception, error_type: str | None, message: str | None
) -> None:
    """The span has the class of the exception, and the exception as an event; ``Snooze`` is no failure."""
    errors = [error]

    def work(_: object) -> None:
        if errors:
            raise errors.pop()

    client.send("q", 1)
    consume(client, work, telemetry, max_retries=0)
    run = telemetry.spans("process")[0]
    assert (run.is_error, run.attributes.get("error.type"), run.message) == (
        error_type is not None,
        error_type,
        message,
    )
    assert [event["attributes"]["exception.type"] for event in run.events] == ([error_type] if error_type else [])
    assert all("in work" in event["attributes"]["exception.stacktrace"] for event in run.events)


def test_a_retry_that_the_handler_asks_for_tells_of_its_cause(client: QueueClient, telemetry: Telemetry) -> None:
    """``raise Retry() from exc`` is marked with what has gone wrong."""

    def work(_: object) -> None:
        try:
            raise ConnectionError("reset")
        except ConnectionError as exc:
            raise Retry from exc

    client.send("q", 1)
    consume(client, work, telemetry, max_retries=0)
    assert telemetry.span("process").attributes["error.type"] == "ConnectionError"


def test_texts_of_exceptions_are_redacted(client: QueueClient, telemetry: Telemetry) -> None:
    """``redact`` sees message and traceback before they are in a span."""

    def work(_: object) -> None:
        raise ValueError("the password is hunter2")

    client.send("q", 1)
    tracing = telemetry.tracing(redact=lambda text: text.replace("hunter2", "***"))
    consume(client, work, telemetry, max_retries=0, tracing=tracing)
    run = telemetry.span("process")
    assert run.message == "the password is ***"
    assert "hunter2" not in telemetry.ended()[0].to_json()
    assert run.events


@pytest.mark.parametrize("propagation", ["link", "parent"])
def test_baggage_reaches_the_handler(url: str, telemetry: Telemetry, propagation: str) -> None:
    """What the producer has in its baggage the handler finds in its own."""
    found: list[object] = []
    tracing = telemetry.tracing(propagation=propagation)
    with connect(url, plugins=[tracing]) as client:
        client.declare("q", "d")
        token = context.attach(baggage.set_baggage("tenant", "acme"))
        client.send("q", 1)
        context.detach(token)
        consume(client, lambda _: found.append(baggage.get_baggage("tenant")), telemetry, tracing=tracing)
    assert found == ["acme"]


def test_runs_are_counted_and_timed(client: QueueClient, telemetry: Telemetry) -> None:
    """Each delivery to a handler is counted once, with the error of its run, and so is its duration."""

    def work(payload: int) -> None:
        if payload:
            raise ValueError

    client.send_many("q", [0, 0, 1])
    consume(client, work, telemetry, max_retries=1)
    consumed = telemetry.points("messaging.client.consumed.messages")
    assert {point.attributes.get("error.type"): point.value for point in consumed} == {None: 2, "ValueError": 2}
    durations = telemetry.points("messaging.process.duration")
    assert {point.attributes.get("error.type"): point.count for point in durations} == {None: 2, "ValueError": 2}
    assert all(0.0 <= point.min <= point.max < 60.0 for point in durations)
    settled = telemetry.points("messaging.client.operation.duration")
    assert {point.attributes["messaging.operation.name"]: point.count for point in settled} == {
        "ack": 2,
        "retry": 1,
        "dead_letter": 1,
    }


def test_a_malformed_message_is_found_from_its_producers_trace(url: str, telemetry: Telemetry) -> None:
    """What never becomes a run is linked to what has sent it by its dead letter."""
    tracing = telemetry.tracing()
    with connect(url, plugins=[tracing]) as client:
        client.declare("q", "d")
        client.publish("q", b"no JSON")
        consume(client, lambda _: None, telemetry, tracing=tracing)
    sent, letter = telemetry.spans()
    assert (letter.name, letter.links) == ("dead_letter q", ((sent.trace, sent.id),))
    assert letter.attributes["qbridge.task.reason"] == "malformed"


def test_without_the_plugin_nothing_of_it_is_called(client: QueueClient) -> None:
    """Installed and imported it costs no call, neither where messages are sent nor where they are processed."""
    called: set[str] = set()

    def profile(frame: FrameType, event: str, argument: object) -> None:
        called.add(str(frame.f_globals.get("__name__")))

    threading.setprofile(profile)  # in the threads of the worker
    sys.setprofile(profile)
    try:
        client.send_many("q", range(50))
        TaskManager(client, lambda _: None, "q", "d").run_until_idle(60.0)
    finally:
        sys.setprofile(None)
        threading.setprofile(None)
    assert "qbridge_core.work.worker" in called
    assert not [name for name in called if "opentelemetry" in name]
