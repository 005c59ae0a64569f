"""Tasks that are called as Celery's are."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from qbridge_core import ConfigurationError, Outcome, PayloadError, TaskContext
from qbridge_core.app.connection import URL_VARIABLE
from qbridge_core.contrib.celery import CeleryApp
from support.apps import client_of


@pytest.fixture
def app(unique_name: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[CeleryApp]:
    """An app on a broker of its own."""
    monkeypatch.setenv(URL_VARIABLE, f"memory://{unique_name}")
    app = CeleryApp()
    yield app
    app.close()


def test_delay_and_apply_async_send_what_send_does(app: CeleryApp) -> None:
    """Bare or with settings; the id is a string, and ``id`` of itself."""
    calls: list[Any] = []

    @app.task(name="add")
    def add(task: TaskContext, number: int, more: int = 0) -> None:
        calls.append((task.task_id, number, more, dict(task.headers)))

    first = add.delay(1, more=2)
    second = add.apply_async((3,), {"more": 4}, task_id="two", headers={"tenant": "blue"})
    third = add.apply_async(kwargs={"number": 5})
    assert app.run_until_idle().succeeded == 3
    assert sorted(calls, key=lambda call: int(call[1])) == [
        (first.id, 1, 2, {}),
        ("two", 3, 4, {"tenant": "blue"}),
        (third, 5, 0, {}),
    ]
    assert (second, second.id) == ("two", "two")


def test_times_are_celerys(app: CeleryApp) -> None:
    """Seconds or a time, which is UTC when it does not say."""
    ran: list[float] = []

    @app.task(name="note")
    def note(which: int) -> None:
        ran.append(which)

    now = datetime.now(UTC)
    note.apply_async((2,), eta=(now + timedelta(seconds=0.8)).replace(tzinfo=None))
    note.apply_async((1,), countdown=0.3)
    note.apply_async((3,), expires=(now - timedelta(seconds=1)).replace(tzinfo=None))
    note.apply_async((0,), expires=60, eta=now - timedelta(seconds=1))
    report = app.run_until_idle()
    assert sorted(ran) == [0, 1, 2]
    assert datetime.now(UTC) >= now + timedelta(seconds=0.8)
    assert report.counts == {Outcome.SUCCEEDED: 3, Outcome.EXPIRED: 1}


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"link": None}, "has no 'link'; there are args, kwargs, countdown, eta, expires, task_id, headers"),
        ({"count_down": 3}, "did you mean 'countdown'"),
        ({"priority": 3}, "no 'priority'"),
        ({"countdown": 3, "eta": datetime(2030, 1, 1, tzinfo=UTC)}, "give one of them"),
        ({"countdown": -1}, "delay"),
        ({"eta": "soon"}, "datetime"),
    ],
)
def test_what_has_no_counterpart_is_refused(app: CeleryApp, options: dict[str, Any], text: str) -> None:
    """Nothing is sent then."""

    @app.task(name="note")
    def note() -> None: ...

    with pytest.raises(ConfigurationError, match=text):
        note.apply_async(**options)
    client = client_of(app)
    client.declare("default")
    assert client.stats("default").ready == 0


def test_arguments_are_checked_as_those_of_send_are(app: CeleryApp) -> None:
    """By the annotations of the function."""

    @app.task(name="double")
    def double(number: int) -> int:
        return 2 * number

    with pytest.raises(PayloadError, match="number"):
        double.delay("one")
    with pytest.raises(PayloadError, match="number"):
        double.apply_async()
    assert double(2) == 4
