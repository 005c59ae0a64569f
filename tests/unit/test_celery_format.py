"""Messages that the real Celery has written are tasks of an app."""

from __future__ import annotations

import json
import logging
import pickle
import re
import tracemalloc
import zlib
from collections.abc import Callable
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from time import tzset
from typing import Any
from uuid import UUID

import pytest
from celery import chain, chord, group

from qbridge_core import (
    App,
    CeleryFormat,
    DeadLetter,
    Delivery,
    EnvelopeFormat,
    Outcome,
    PayloadError,
    Reason,
    Retry,
    TaskContext,
    TaskManager,
    connect,
)
from qbridge_core.contract.envelope import MalformedTaskError, UnsupportedTaskError
from qbridge_core.task.formats.base import Outgoing
from support.apps import client_of
from support.celery_tasks import URL, Producer, works
from support.wait import wait_for

HEADERS = {"task": "shop.add", "id": "a-1"}
NO_MORE = {"callbacks": None, "errbacks": None, "chain": None, "chord": None}


@pytest.fixture(params=[2, 1], ids=["protocol 2", "protocol 1"])
def producer(request: pytest.FixtureRequest, unique_name: str) -> Producer:
    """A program of Celery's that writes each of its protocols."""
    return Producer(unique_name, task_protocol=request.param)


def letters(app: App, queue: str) -> list[DeadLetter]:
    """The dead letters of a queue."""
    return list(client_of(app).dead_letters(f"{queue}.dead"))


def message(body: object, headers: dict[str, Any] | None = None, **more: Any) -> Delivery:
    """A message as anybody may write it."""
    found = body if isinstance(body, bytes) else json.dumps(body).encode()
    return Delivery(found, "emails", HEADERS if headers is None else headers, **more)


def outgoing(payload: object, **more: Any) -> Outgoing:
    """A task that is to be written."""
    return Outgoing(**{"payload": payload, "task_id": "a-1", "message_id": "m-1", "queue": "emails", "name": "shop.add"}
                    | more)  # fmt: skip


def test_positional_and_keyword_arguments_are_parameters(producer: Producer, unique_name: str) -> None:
    """As they would be at a worker of Celery's; the id is the task's."""
    ids: list[str] = []
    with works(unique_name) as (app, calls):

        @app.task(name="shop.note", queue=unique_name)
        def note(task: TaskContext, who: str) -> None:
            ids.append(f"{task.task_id} {who}")

        producer.add.delay(1)
        producer.add.apply_async((2,), {"more": 3})
        producer.add.delay(more=4, number=5)
        producer.celery.send_task("shop.note", ["ann"], task_id="note-1")
        assert app.run_until_idle().succeeded == 4
    assert calls == [(1, 0), (2, 3), (5, 4)]
    assert ids == ["note-1 ann"]


def test_values_that_json_does_not_have_are_what_celerys_worker_would_get(producer: Producer, unique_name: str) -> None:
    """Times, dates, UUIDs, decimals and bytes have marks in kombu's JSON, nested ones too."""
    values = [
        datetime(2030, 1, 2, tzinfo=UTC), date(2030, 1, 2), time(3, 4, 5), UUID(int=7), Decimal("1.10"),
        b"text", b"\xff\x00", float("inf"), {"__type__": "mine"},
    ]  # fmt: skip
    with works(unique_name) as (app, calls):
        producer.add.delay(values, more={"at": values[0]})
        app.run_until_idle()
    assert calls == [(values, {"at": values[0]})]


@pytest.mark.parametrize("compression", ["gzip", "bzip2", "lzma"])
def test_a_compressed_body_is_unpacked(producer: Producer, unique_name: str, compression: str) -> None:
    """``task_compression`` of a producer needs no setting here."""
    with works(unique_name) as (app, calls):
        producer.add.apply_async(("x" * 10_000,), compression=compression)
        app.run_until_idle()
    assert calls == [("x" * 10_000, 0)]


def test_g4_few_bytes_that_unpack_to_many_are_malformed() -> None:
    """No more is unpacked than a body may have."""
    bomb = message(zlib.compress(b"[" + b" " * 20_000_000), {**HEADERS, "compression": "application/x-gzip"})
    tracemalloc.start()
    try:
        with pytest.raises(MalformedTaskError, match="more than 100000 bytes, unpacked"):
            CeleryFormat().read(bomb, 100_000)
        assert tracemalloc.get_traced_memory()[1] < 2_000_000
    finally:
        tracemalloc.stop()


def test_an_eta_is_waited_for(producer: Producer, unique_name: str) -> None:
    """Given as a time or as a countdown; one that is past is none, and waiting is no attempt."""
    attempts: list[int] = []
    with works(unique_name) as (app, calls):

        @app.task(name="shop.note", queue=unique_name)
        def note(task: TaskContext) -> None:
            attempts.append(task.attempt)

        due = datetime.now(UTC) + timedelta(seconds=0.7)
        producer.celery.send_task("shop.note", eta=due)
        producer.add.apply_async((1,), eta=datetime(2020, 1, 1))  # noqa: DTZ001 - naive means UTC there
        producer.add.apply_async((2,), countdown=0.2)
        app.run_until_idle()
        assert datetime.now(UTC) >= due
    assert (calls, attempts) == ([(1, 0), (2, 0)], [1])


def test_g7_what_waits_for_its_eta_holds_up_nobody(producer: Producer, unique_name: str) -> None:
    """The broker has it meanwhile, and who is behind it runs."""
    with works(unique_name) as (app, calls):
        producer.add.apply_async((1,), countdown=3600)
        producer.add.delay(2)
        (manager,) = app.managers()
        with manager:
            wait_for(lambda: calls == [(2, 0)])
            wait_for(lambda: client_of(app).stats(unique_name).delayed == 1)


@pytest.mark.parametrize(("utc", "hours"), [(True, 0), (False, 5)])
def test_a_time_without_a_zone_is_utc_or_local(monkeypatch: pytest.MonkeyPatch, utc: bool, hours: int) -> None:
    """Protocol 1 says which, for a producer that has turned ``enable_utc`` off."""
    monkeypatch.setenv("TZ", "EST+5")
    tzset()
    try:
        body = {"task": "add", "id": "a", "args": [], "kwargs": {}, "utc": utc, "eta": "2030-01-02T03:00:00"}
        task = CeleryFormat().read(message(body, {}), 1000)
    finally:
        monkeypatch.undo()
        tzset()
    assert task.due_at == datetime(2030, 1, 2, 3 + hours, tzinfo=UTC).timestamp()


def test_what_has_expired_is_a_letter_that_has_not_run(producer: Producer, unique_name: str) -> None:
    """One that has not expired runs."""
    with works(unique_name) as (app, calls):
        producer.add.apply_async((1,), expires=datetime(2020, 1, 1, tzinfo=UTC), task_id="late")
        producer.add.apply_async((2,), expires=60)
        producer.add.apply_async((3,), expires=datetime(2020, 1, 1, tzinfo=UTC), retries=1)
        report = app.run_until_idle()
        found = letters(app, unique_name)
    assert calls == [(2, 0)]
    assert report.counts == {Outcome.SUCCEEDED: 1, Outcome.EXPIRED: 2}
    assert [(letter.reason, letter.attempts) for letter in found] == [(Reason.EXPIRED, 0)] * 2
    assert found[0].task_id == "late"


UNSUPPORTED: dict[str, tuple[Callable[[Any], object], str]] = {
    "chain": (lambda add: chain(add.s(1), add.s(2)).apply_async(), "next task|has a link,"),
    "chord": (lambda add: chord([add.s(1)], add.s(2)).apply_async(), "part of a chord|celery.chord_unlock is a task"),
    "link": (lambda add: add.apply_async((1,), link=add.s(2)), "has a link,"),
    "link_error": (lambda add: add.apply_async((1,), link_error=add.s(2)), "has a link_error"),
    "chunks": (lambda add: add.chunks(zip(range(4)), 2).apply_async(), "celery.starmap is a task that is part"),
    "map": (lambda add: add.map([1, 2]).apply_async(), "celery.map is a task that is part"),
}


@pytest.mark.parametrize("kind", UNSUPPORTED)
def test_what_would_be_done_in_part_is_not_run_at_all(producer: Producer, unique_name: str, kind: str) -> None:
    """It is a letter at once, whose message goes back to Celery unchanged when it is replayed there."""
    send, text = UNSUPPORTED[kind]
    producer.celery.conf.result_backend = "cache+memory://"
    with works(unique_name) as (app, calls):
        send(producer.add)
        report = app.run_until_idle()
        found = letters(app, unique_name)
    assert calls == []
    assert report.counts == {Outcome.UNSUPPORTED: len(found)}
    assert {letter.reason for letter in found} == {Reason.UNSUPPORTED}
    assert [letter for letter in found if re.search(text, letter.exception_message)]


def test_g17_a_pickle_is_not_read(unique_name: str) -> None:
    """Its letter says what to change."""
    with works(unique_name) as (app, calls):
        Producer(unique_name).add.apply_async((1,), serializer="pickle")
        app.run_until_idle()
        (found,) = letters(app, unique_name)
    assert calls == []
    assert (found.reason, found.task_id) == (Reason.UNSUPPORTED, found.headers["id"])
    assert "task_serializer" in found.exception_message


@pytest.mark.parametrize("kind", ["x-yaml", "x-msgpack", "x-python-serialize", "data"])
def test_what_another_serializer_has_written_is_unsupported(kind: str) -> None:
    """Celery could run it; so its letter goes back there with the others."""
    delivery = message("a: 5", {"task": "add", "id": "7", "content-type": f"application/{kind}"})
    with pytest.raises(UnsupportedTaskError, match=rf"\(application/{kind}\): let producers write JSON"):
        CeleryFormat().read(delivery, 1000)


def test_the_tasks_of_a_group_run(producer: Producer, unique_name: str) -> None:
    """Each is whole in itself: only a chord waits for all of them."""
    with works(unique_name) as (app, calls):
        group(producer.add.s(number) for number in range(3)).apply_async()
        app.run_until_idle()
    assert sorted(calls) == [(0, 0), (1, 0), (2, 0)]


def test_g5_the_retries_of_celery_count(producer: Producer, unique_name: str) -> None:
    """A task that Celery has tried twice has two attempts less, and at least one; a letter begins anew."""
    attempts: list[tuple[str, int]] = []
    with works(unique_name) as (app, _):

        @app.task(name="shop.fail", queue=unique_name, max_retries=3)
        def fail(task: TaskContext) -> None:
            attempts.append((task.task_id, task.attempt))
            raise Retry("once more")

        for task_id, retries in (("two", 2), ("nine", 9)):
            producer.celery.send_task("shop.fail", task_id=task_id, retries=retries)
        app.run_until_idle()
        assert sorted(attempts) == [("nine", 10), ("two", 3), ("two", 4)]
        attempts.clear()
        assert client_of(app).replay(f"{unique_name}.dead") == 2
        app.run_until_idle()
    assert [attempt for task_id, attempt in sorted(attempts) if task_id == "nine"] == [1, 2, 3, 4]


def test_that_results_are_not_written_is_said_once(unique_name: str, caplog: pytest.LogCaptureFixture) -> None:
    """Celery asks for results unless it is told not to, so there is a line for all of them."""
    producer = Producer(unique_name)
    with works(unique_name) as (app, _):
        producer.add.apply_async((1,), ignore_result=True)
        app.run_until_idle()
        assert not [each for each in caplog.records if "results" in each.getMessage()]
        producer.add.delay(1)
        producer.add.delay(2)
        app.run_until_idle()
    found = [each for each in caplog.records if "no results are written" in each.getMessage()]
    assert [each.levelno for each in found] == [logging.WARNING]


def test_a_child_process_says_nothing_of_results(caplog: pytest.LogCaptureFixture) -> None:
    """It reads what its worker has read."""
    delivery = message([[], {}, NO_MORE], {**HEADERS, "ignore_result": False})
    for own, lines in ((pickle.loads(pickle.dumps(CeleryFormat())), 0), (CeleryFormat(), 1)):
        assert own.read(delivery, 1000).name == "shop.add"
        assert len([each for each in caplog.records if "no results are written" in each.getMessage()]) == lines


def test_a_name_that_nobody_knows_waits_like_any_other(producer: Producer, unique_name: str) -> None:
    """After that it is a letter with the reason ``unknown task``."""
    with works(unique_name) as (app, _):
        producer.celery.send_task("shop.new", task_id="new-1")
        app.run_until_idle()
        (found,) = letters(app, unique_name)
    assert (found.reason, found.task_id) == (Reason.UNKNOWN_TASK, "new-1")
    assert "'shop.new'" in found.exception_message


def test_arguments_that_do_not_fit_are_a_letter(producer: Producer, unique_name: str) -> None:
    """As with any other format."""
    with works(unique_name) as (app, calls):
        producer.celery.send_task("shop.add", [1, 2, 3])
        producer.celery.send_task("shop.add", [1], {"number": 1})
        producer.celery.send_task("shop.add", [])
        app.run_until_idle()
        found = letters(app, unique_name)
    assert calls == []
    assert {letter.reason for letter in found} == {Reason.MALFORMED}
    assert [letter.attempts for letter in found] == [0, 0, 0]


def test_a_handler_without_an_app_gets_arguments_as_they_are(unique_name: str) -> None:
    """It knows no names of parameters."""
    Producer(unique_name).add.delay(1, more=2)
    payloads: list[object] = []
    with connect(URL) as client:
        manager = TaskManager(client, payloads.append, unique_name, f"{unique_name}.dead", formats=[CeleryFormat])
        manager.run_until_idle()
    assert payloads == [{"args": [1], "kwargs": {"more": 2}}]


@pytest.mark.parametrize(
    "delivery",
    [
        message([[], {}]),
        message([1, {}, None]),
        message([[], [], {}]),
        message([[], {}, "chain"]),
        message("text"),
        message(b"\xff"),
        message(b"[" * 100_000),
        message([[{"__type__": "uuid", "__value__": "7"}], {}, {}]),
        message([[{"__type__": "datetime", "__value__": 7}], {}, {}]),
        message([[], {}, {}], {"task": 7, "id": "a"}),
        message([[], {}, {}], {"task": "", "id": "a"}),
        message([[], {}, {}], {"task": "a", "id": "x" * 256}),
        message([[], {}, {}], {**HEADERS, "eta": "soon"}),
        message([[], {}, {}], {**HEADERS, "expires": 7}),
        message({"args": [], "kwargs": {}, "task": "a", "id": "a", "utc": False, "eta": "0001-01-01T00:00:00"}, {}),
        message([[], {}, {}], {**HEADERS, "compression": "application/x-gzip"}),
        message([[], {}, {"x": " " * 200_000}]),
    ],
)
def test_g13_what_cannot_be_read_is_malformed(delivery: Delivery) -> None:
    """Whatever somebody writes between the marks of Celery."""
    assert CeleryFormat().accepts(delivery)
    with pytest.raises(MalformedTaskError):
        CeleryFormat().read(delivery, 150_000)


@pytest.mark.parametrize(
    "delivery",
    [
        message([[{"__type__": "mine", "__value__": 1}], {}, {}]),
        message([[], {}, {}], {**HEADERS, "compression": "application/zstd"}),
    ],
)
def test_what_only_celery_can_read_is_unsupported(delivery: Delivery) -> None:
    """It is whole, and may be sent back to Celery."""
    with pytest.raises(UnsupportedTaskError):
        CeleryFormat().read(delivery, 150_000)


def test_headers_that_a_broker_has_made_texts_of_are_read() -> None:
    """As those of a letter that was exported and imported are."""
    plain = {**HEADERS, "retries": "2", "eta": "null", "expires": "2099-01-01T00:00:00Z", "timelimit": "[null, null]"}
    delivery = message([[], {}, NO_MORE], plain)
    task = CeleryFormat().read(delivery, 1000)
    assert (task.due_at, task.expires_at) == (None, datetime(2099, 1, 1, tzinfo=UTC).timestamp())
    assert delivery.attempts == 2


@pytest.mark.parametrize(
    "delivery",
    [
        message({"payload": {"args": [], "kwargs": {}, "task": "x", "id": "y"}, "task_id": "a"}, {}),
        message({"payload": 1}),
        message({"args": [], "kwargs": {}, "task": "x"}, {}),
        message([[], {}, {}], {}),
        message(b"", {}),
        message(b'{"args": "kwargs" "args"', {}),
    ],
)
def test_messages_of_others_are_left_to_others(delivery: Delivery) -> None:
    """An envelope too whose producer has headers of these names, or keys of these names in its payload."""
    assert not CeleryFormat().accepts(delivery)


def test_both_formats_are_read_whichever_comes_first(unique_name: str) -> None:
    """Producers and workers switch in either order."""
    producer = Producer(unique_name)
    for formats in ([CeleryFormat(), EnvelopeFormat()], [EnvelopeFormat(), CeleryFormat()]):
        with works(unique_name, *formats) as (app, calls):
            producer.add.delay(1)
            (task,) = app.tasks
            task.send(2, more=3)
            client_of(app).publish(unique_name, b'{"task": "shop.add", "payload": {"number": 4}}')
            app.run_until_idle()
        assert calls == [(1, 0), (2, 3), (4, 0)]


def test_what_is_written_is_what_celery_reads() -> None:
    """Protocol 2: no more than strings in headers, the content type among them."""
    written = CeleryFormat().write(outgoing({"number": 1}, headers={"tenant": "blue"}, expires_at=1_900_000_000.0))
    assert json.loads(written.body) == [[], {"number": 1}, NO_MORE]
    assert written.headers == {
        "tenant": "blue", "task": "shop.add", "id": "a-1", "root_id": "a-1", "lang": "py",
        "content-type": "application/json", "expires": "2030-03-17T17:46:40+00:00",
    }  # fmt: skip
    assert written.message_id == "m-1"


def test_what_is_written_is_read(unique_name: str) -> None:
    """With its version, and an argument that is no object for a task that takes its payload whole."""
    own = CeleryFormat()
    for payload, call in (({"number": 1}, ([], {"number": 1})), ([1, 2], ([[1, 2]], {}))):
        written = own.write(outgoing(payload, version=3, expires_at=1_900_000_000.0))
        task = own.read(Delivery(written.body, "emails", written.headers), 1000)
        assert (task.args, task.payload) == call
        assert (task.name, task.task_id, task.document) == ("shop.add", "a-1", {"version": 3})
        assert task.expires_at == 1_900_000_000.0


@pytest.mark.parametrize(
    ("task", "text"),
    [
        (outgoing({"x": {1, 2}}), "cannot be written as JSON"),
        (outgoing({}, headers={"id": "mine", "retries": "1"}), "headers of its own that are called id, retries"),
        (outgoing({}, name=None), "names its task"),
    ],
)
def test_what_it_cannot_say_is_refused(task: Outgoing, text: str) -> None:
    """Before anything is sent."""
    with pytest.raises(PayloadError, match=text):
        CeleryFormat().write(task)
