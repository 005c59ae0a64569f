"""What the workers of an app make of messages that do not fit, and of those that are older or newer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from qbridge_core import (
    App,
    ConfigurationError,
    IdleTimeoutError,
    Outcome,
    PayloadError,
    Reason,
)
from support.apps import client_of, letters, raw


@pytest.fixture
def numbers(app: App) -> list[object]:
    """What the task ``count`` was called with."""
    found: list[object] = []

    @app.task(name="count", aliases=["tally"])
    def count(number: int, unit: str = "m") -> None:
        found.append((number, unit))

    return found


def test_another_language_can_write_what_a_task_reads(app: App, numbers: list[object]) -> None:
    """A name and a payload are enough, and an alias is a name."""
    raw(app, task="count")
    raw(app, task="tally", payload={"unit": "km", "number": 2}, anything="else")
    assert app.run_until_idle().succeeded == 2
    assert sorted(map(str, numbers)) == ["(1, 'm')", "(2, 'km')"]


@pytest.mark.parametrize(
    ("document", "reason", "text"),
    [
        (
            {"task": "other"},
            Reason.UNKNOWN_TASK,
            "no task of 'default' is called 'other'; this program has count, tally",
        ),
        ({"task": "count", "version": 2}, Reason.UNKNOWN_TASK, "version 2 of count, which is 1 here"),
        ({"task": "count", "payload": {"number": 1, "colour": 1}}, Reason.MALFORMED, "no parameters: colour"),
        ({}, Reason.MALFORMED, 'the JSON object has no "task", which names the task: count, tally'),
        ({"task": 5}, Reason.MALFORMED, 'the JSON object has a number as "task"'),
        ({"task": "count", "version": "2"}, Reason.MALFORMED, '"version" is a string of 1 characters'),
        ({"task": "count", "payload": [1]}, Reason.MALFORMED, "count: payload: expected an object with the names"),
        ({"task": "count", "payload": {}}, Reason.MALFORMED, "count: payload.number: it is missing"),
        ({"task": "count", "payload": {"number": "1"}}, Reason.MALFORMED, "payload.number: expected a whole number"),
    ],
)
def test_g13_what_does_not_fit_is_a_letter_and_never_runs(
    app: App, numbers: list[object], document: dict[str, object], reason: Reason, text: str
) -> None:
    """With the path and what was there."""
    raw(app, **document)
    app.run_until_idle()
    ((found, message),) = letters(app)
    assert found is reason
    assert text in message
    assert numbers == []


@pytest.mark.parametrize("document", [{"task": "other"}, {"task": "count", "version": 2}])
def test_what_a_newer_program_knows_waits_for_it(
    app: App, numbers: list[object], document: dict[str, object], unique_name: str
) -> None:
    """Producers may be deployed first: an old worker hands it back, uncounted, and the new one runs it."""
    app._patience = 60.0
    raw(app, **document)
    with pytest.raises(IdleTimeoutError) as caught:
        app.run_until_idle(1.0)
    assert set(caught.value.report.counts) <= {Outcome.SNOOZED}

    @app.task(name="other")
    def other(number: int) -> None:
        numbers.append(number)

    (count,) = [task for task in app.tasks if task.name == "count"]
    count.version(2)(lambda payload: payload)
    client_of(app).release_delayed("default")
    app.run_until_idle()
    assert len(numbers) == 1


def test_older_payloads_are_made_into_those_of_today(app: App) -> None:
    """One step after the other; a payload of today is left alone, and says which version it is."""
    seen: list[object] = []

    @app.task(name="move")
    def move(metres: float) -> None:
        seen.append(metres)

    @move.version(2)
    def _(payload: dict[str, Any]) -> dict[str, Any]:
        return {"km": payload["number"]}

    @move.version(3)
    def _(payload: dict[str, Any]) -> dict[str, Any]:
        return {"metres": payload["km"] * 1000.0}

    move.send(3.0)
    raw(app, task="move")
    raw(app, task="move", version=2, payload={"km": 2})
    app.run_until_idle()
    assert sorted(map(str, seen)) == ["1000.0", "2000.0", "3.0"]
    with pytest.raises(ConfigurationError, match=r"move has payloads of version 3, so the next one is version\(4\)"):
        move.version(3)


def test_an_upgrade_that_fails_makes_a_letter(app: App) -> None:
    """The payload was none of the older version."""
    move = app.task(name="move")(lambda metres: None)
    move.version(2)(lambda payload: {"metres": payload["missing"]})
    raw(app, task="move")
    app.run_until_idle()
    ((reason, text),) = letters(app)
    assert (reason, text) == (Reason.MALFORMED, "move: payload: it is of version 1, and its upgrade raised KeyError")


def test_a_payload_that_does_not_fit_is_not_sent(app: App, numbers: list[object]) -> None:
    """The error names the field and the arguments that there are."""
    (count,) = app.tasks
    with pytest.raises(PayloadError, match=r"count: payload\.number: expected a whole number, there is a string"):
        count.send("1")
    with pytest.raises(PayloadError, match=r"count: missing a required argument: 'number'; it takes number, unit=…"):
        count.send()
    with pytest.raises(PayloadError, match=r"count: got an unexpected keyword argument 'colour'"):
        count.message(1, colour="red")


def test_what_json_cannot_say_is_not_sent(app: App) -> None:
    """Also where an annotation allows anything."""
    anything: Callable[..., Any] = lambda thing: None  # noqa: E731
    with pytest.raises(PayloadError, match="cannot be written as JSON"):
        app.task(name="a")(anything).send({1, 2})


def test_a_task_that_has_got_another_queue_is_named_where_its_messages_were(app: App, numbers: list[object]) -> None:
    """The letter says where it can be sent to, and is run there."""

    @app.task(name="moved", aliases=["old"], queue="news")
    def moved(number: int) -> None:
        numbers.append(number)

    for name in ("moved", "old"):
        raw(app, task=name)
    app.run_until_idle()
    assert {text for _, text in letters(app)} == {
        f"no task of 'default' is called '{name}' (one of 'news' is: it can be replayed with that as its target); "
        "this program has count, tally"
        for name in ("moved", "old")
    }
    assert client_of(app).replay("default.dead", target="news") == 2
    assert app.run_until_idle().succeeded == 2
    assert numbers == [1, 1]
