"""Tasks of an app in messages of other formats."""

from __future__ import annotations

import json
from typing import Any

import pytest
from pydantic import BaseModel, field_validator

from qbridge_core import (
    App,
    ConfigurationError,
    Delivery,
    EnvelopeFormat,
    Format,
    JSONFormat,
    Outcome,
    PayloadError,
    RawFormat,
    Reason,
    Task,
)
from support.apps import client_of, letters
from support.formats import ListFormat, publish


class Count(BaseModel):
    """A number whose validator has a bug."""

    number: int

    @field_validator("number")
    @classmethod
    def check(cls, number: int) -> int:
        """Know some numbers."""
        return {7: 7}[number]


class Broken(ListFormat):
    """A format with a bug."""

    def read(self, delivery: Delivery, max_bytes: int) -> Task:
        """Fail."""
        raise LookupError(delivery.body)


def app_with(app: App, *formats: Format | type[Format], **options: Any) -> list[object]:
    """What the task ``count`` was called with, on a queue of these formats."""
    found: list[object] = []
    app.queue("default", formats=formats)

    @app.task(name="count", **options)
    def count(number: int, unit: str = "m") -> None:
        found.append((number, unit))

    client_of(app).declare("default", "default.dead")
    return found


@pytest.mark.parametrize("first", [EnvelopeFormat, JSONFormat, ListFormat])
@pytest.mark.parametrize("also", [EnvelopeFormat, JSONFormat, ListFormat])
def test_the_first_format_is_written_and_all_are_read(app: App, first: type[Format], also: type[Format]) -> None:
    """So producers and workers switch in either order: a worker with both runs what each of them writes."""
    seen = app_with(app, *dict.fromkeys((first, also)))
    (task,) = app.tasks
    old = App()
    old.queue("default", formats=[also])
    older = old.task(name="count")(task.function)
    ids = [task.options(task_id="one").send(1), task.send(number=2, unit="km")]
    client_of(app).publish_many("default", [older.message(3).content])
    assert app.run_until_idle().counts == {Outcome.SUCCEEDED: 3}
    assert sorted(map(str, seen)) == ["(1, 'm')", "(2, 'km')", "(3, 'm')"]
    assert ids[0] == "one"


def test_positional_arguments_get_the_names_of_parameters(app: App) -> None:
    """Beside keyword arguments; what does not fit is a letter that says why."""
    seen = app_with(app, ListFormat)
    client = client_of(app)
    publish(client, "default", 1, name="count")
    publish(client, "default", 2, "km", name="count")
    publish(client, "default", 3, name="count", kwargs={"unit": "mi"})
    publish(client, "default", 1, 2, 3, name="count")
    publish(client, "default", 1, name="count", kwargs={"number": 2})
    publish(client, "default", name="count")
    publish(client, "default", name="other")
    app.run_until_idle()
    assert sorted(map(str, seen)) == ["(1, 'm')", "(2, 'km')", "(3, 'mi')"]
    texts = sorted(text for _, text in letters(app))
    assert texts == [
        "count: payload.number: it is missing",
        "count: payload: expected 2 positional arguments at most, there are 3",
        "count: payload: there is a positional argument, too: number",
        "no task of 'default' is called 'other'; this program has count",
    ]


@pytest.mark.parametrize("kwargs", [{}, {"numbers": [1, 2]}])
def test_a_whole_payload_is_the_only_argument(app: App, kwargs: dict[str, Any]) -> None:
    """By position or by name."""
    seen: list[object] = []
    app.queue("default", formats=[ListFormat])

    @app.task(name="add", whole_payload=True)
    def add(numbers: list[int]) -> None:
        seen.append(numbers)

    client_of(app).declare("default", "default.dead")
    publish(client_of(app), "default", *([] if kwargs else [[1, 2]]), name="add", kwargs=kwargs)
    assert app.run_until_idle().succeeded == 1
    assert seen == [[1, 2]]


def test_a_queue_may_be_for_one_task(app: App) -> None:
    """What other programs write need not name it; others that are sent there still have their names."""
    seen = app_with(app, JSONFormat("count"))

    @app.task(name="other")
    def other(number: int) -> None:
        seen.append(number)

    app.tasks[0].send(1)
    other.send(2)
    client = client_of(app)
    client.publish("default", b'{"number": 3}')
    assert app.run_until_idle().succeeded == 3
    assert sorted(map(str, seen)) == ["(1, 'm')", "(3, 'm')", "2"]
    assert [dict(each.message(number=1).content.headers) for each in app.tasks] == [{}, {"qbridge-task": "other"}]


def test_a_header_that_a_format_writes_is_refused(app: App) -> None:
    """It would say something else of the task."""
    app_with(app, JSONFormat)
    (count,) = app.tasks
    with pytest.raises(PayloadError, match=r"have names that its format writes: qbridge-task$"):
        count.options(headers={"qbridge-task": "other", "tenant": "blue"}).send(1)


def test_a_payload_of_json_has_its_version_beside_it(app: App) -> None:
    """An older one is upgraded, a newer one waits for a newer worker."""
    seen = app_with(app, JSONFormat)
    (count,) = app.tasks
    older = count.message(1).content
    count.version(2)(lambda payload: {"number": payload["number"] * 1000})
    newer = count.message(2).content
    count.version(3)(lambda payload: payload)
    newest = count.message(3).content
    client_of(app).publish_many("default", [older, newer, newest])
    assert app.run_until_idle().succeeded == 3
    assert sorted(map(str, seen)) == ["(1000, 'm')", "(2, 'm')", "(3, 'm')"]
    assert (dict(older.headers), newest.headers["qbridge-task-version"]) == ({"qbridge-task": "count"}, "3")


def test_what_names_no_task_is_a_letter(app: App) -> None:
    """It says which tasks there are."""
    app_with(app, JSONFormat)
    client_of(app).publish("default", b"{}")
    app.run_until_idle()
    assert letters(app) == [(Reason.MALFORMED, "nothing says which task this is: count")]


def test_bytes_are_the_payload_of_a_task(app: App) -> None:
    """Sent and received as they are, where a task takes the whole payload."""
    seen: list[object] = []
    app.queue("default", formats=[RawFormat("store")])

    @app.task(name="store", whole_payload=True)
    def store(image: Any) -> None:
        seen.append(image)

    store.send(b"\x00\xff")
    store.send("grün")
    client_of(app).publish("default", b"{}")
    assert app.run_until_idle().succeeded == 3
    assert set(seen) == {b"\x00\xff", "grün".encode(), b"{}"}
    with pytest.raises(PayloadError, match="is a dict: RawFormat writes bytes"):
        store.send({})


def test_a_name_that_no_task_can_have_is_refused() -> None:
    """At once."""
    for make in (JSONFormat, RawFormat):
        with pytest.raises(ConfigurationError, match="task must be the name of a task"):
            make("")


@pytest.mark.parametrize(
    ("formats", "text"),
    [("celery", "formats must be a list"), ([Format], "Format needs arguments"), ([], "one at least")],
)
def test_wrong_formats_of_a_queue_are_refused(app: App, formats: Any, text: str) -> None:
    """When the queue is described, not when a worker starts."""
    with pytest.raises(ConfigurationError, match=text):
        app.queue("default", formats=formats)


@pytest.mark.parametrize("where", ["the app", "an included app", "an app that is included then", "a pool"])
def test_settings_that_come_after_a_message_count_for_the_next_one(app: App, where: str) -> None:
    """Wherever they are given: a module may be imported when something was sent already."""
    other = App()

    @app.task(name="count")
    def count(number: int) -> None: ...

    if where == "an included app":
        app.include(other)
    assert b"payload" in count.message(1).content.body
    if where == "a pool":
        app.pool("all", queues={"default": 1}, formats=[JSONFormat])
    else:
        (app if where == "the app" else other).queue("default", formats=[JSONFormat])
    if where == "an app that is included then":
        app.include(other)
    assert count.message(1).content.body == b'{"number":1}'


def test_g13_no_message_ends_a_worker_whatever_reads_it(app: App) -> None:
    """What a format or a model raises makes a letter; those behind it run."""
    seen: list[int] = []
    app.queue("default", formats=[EnvelopeFormat, Broken], max_workers=1)

    @app.task(name="count")
    def count(count: Count) -> None:
        seen.append(count.number)

    client = client_of(app)
    client.declare("default", "default.dead")
    document = {"task": "count", "payload": {"count": {"number": 8}}}
    client.publish("default", json.dumps(document).encode(), message_id="m-1")
    publish(client, "default")
    count.send(Count(number=7))
    report = app.run_until_idle()
    assert report.counts == {Outcome.MALFORMED: 2, Outcome.SUCCEEDED: 1}
    assert seen == [7]
    found = {letter.exception_type: letter for letter in client.dead_letters("default.dead")}
    assert {(each.reason, each.attempts) for each in found.values()} == {(Reason.MALFORMED, 0)}
    assert (found["KeyError"].task_id, found["KeyError"].exception_message) == ("m-1", "8")
    assert "in check" in found["KeyError"].traceback
    assert "in read" in found["LookupError"].traceback
