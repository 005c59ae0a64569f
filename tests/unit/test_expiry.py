"""Tasks that expire: what has not begun in time is a dead letter, and what has begun is not."""

from __future__ import annotations

import json
import re
import time
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from qbridge_core import App, ConfigurationError, JSONFormat, Outcome, Reason, Retry, Snooze, TaskManager
from qbridge_memory import MemoryClient
from support.apps import client_of, raw
from support.formats import ListFormat, publish
from support.handlers import Gone


def send(client: MemoryClient, expires_at: object, payload: object = None) -> None:
    """Send an envelope of another producer."""
    document = {"payload": payload, "task_id": "t", "expires_at": expires_at}
    client.publish("q", json.dumps(document).encode())


async def nothing_later(payload: object) -> None:
    """Do nothing."""


def fail(payload: object) -> None:
    """Fail."""
    raise Gone(f"had {payload}")


@pytest.mark.parametrize(
    ("handler", "arguments"), [(fail, {}), (nothing_later, {}), (fail, {"executor": "process", "max_workers": 1})]
)
def test_g13_what_has_expired_is_a_letter_and_never_runs(
    client: MemoryClient, handler: Any, arguments: dict[str, Any]
) -> None:
    """Its reason is ``expired``; no run is counted, and it says when its time was over."""
    send(client, 1_000_000_000)
    send(client, time.time() - 5)
    report = TaskManager(client, handler, "q", "d", **arguments).run_until_idle(60.0)
    assert report.counts == {Outcome.EXPIRED: 2}
    second, first = sorted(client.dead_letters("d"), key=lambda letter: len(letter.exception_message))
    assert (first.reason, first.attempts, first.task_id) == (Reason.EXPIRED, 0, "t")
    assert first.exception_message.endswith("s before a worker could begin it, 2001-09-09T01:46:40.000+00:00")
    assert re.match(r"it expired \d+\.\d\d\d s before", second.exception_message)


def test_what_has_not_expired_runs(client: MemoryClient) -> None:
    """A time to come changes nothing, nor does one that is null."""
    send(client, time.time() + 3600)
    send(client, None)
    assert TaskManager(client, str, "q", "d").run_until_idle().counts == {Outcome.SUCCEEDED: 2}


@pytest.mark.parametrize("wrong", ["soon", True, [1], {}])
def test_g13_an_expiry_that_is_no_time_is_malformed(client: MemoryClient, wrong: object) -> None:
    """Nobody guesses whether the task is to run."""
    send(client, wrong)
    TaskManager(client, str, "q", "d").run_until_idle()
    (letter,) = client.dead_letters("d")
    assert (letter.reason, letter.task_id) == (Reason.MALFORMED, "t")
    assert letter.exception_message.startswith('"expires_at" is a JSON ')


@pytest.mark.parametrize("asked", [Gone("once"), Retry(after=0.1), Snooze(0.1)])
def test_what_has_begun_in_time_does_not_expire(client: MemoryClient, asked: Exception) -> None:
    """It is retried, or put off by its handler, as any other, though its time is over by then."""
    runs: list[float] = []

    def handler(payload: object) -> None:
        runs.append(time.time())
        if len(runs) == 1:
            time.sleep(max(0.0, expires_at - time.time()) + 0.01)
            raise asked

    expires_at = time.time() + 2.0  # a busy machine begins later
    send(client, expires_at)
    report = TaskManager(client, handler, "q", "d").run_until_idle(60.0)
    assert report.succeeded == 1
    assert runs[0] < expires_at < runs[1]


def test_a_letter_that_expired_runs_when_it_is_replayed(client: MemoryClient) -> None:
    """Somebody wants it to run by then."""
    send(client, time.time() - 5)
    manager = TaskManager(client, str, "q", "d")
    manager.run_until_idle()
    client.replay("d")
    assert manager.run_until_idle().counts == {Outcome.EXPIRED: 1, Outcome.SUCCEEDED: 1}


def test_a_letter_that_expired_runs_in_a_worker_of_dead_letters(client: MemoryClient) -> None:
    """In a dead-letter queue that is worked on it is a task like others."""
    send(client, time.time() - 5)
    TaskManager(client, str, "q", "d").run_until_idle()
    assert TaskManager(client, str, "d", "dd").run_until_idle().counts == {Outcome.SUCCEEDED: 1}


def test_what_expires_while_it_is_delayed_is_a_letter(client: MemoryClient) -> None:
    """It is looked at when its time to run has come."""
    publish(client, "q", due_at=time.time() + 1, expires_at=time.time() + 0.5)
    report = TaskManager(client, str, "q", "d", formats=[ListFormat()]).run_until_idle(60.0)
    assert report[Outcome.EXPIRED] == 1
    assert report.succeeded == 0


def test_the_options_of_a_task_say_when_it_expires(app: App) -> None:
    """Seconds from when the message is made, or a time; in the envelope it is a number."""
    ran: list[str] = []

    @app.task(name="run")
    def run(what: str) -> None:
        ran.append(what)

    sender = run.options(expires=0.3)
    kept = sender.message("kept")
    sender.send("late")
    time.sleep(0.4)
    run.options(expires=60).send("in time")
    run.options(expires=datetime.now(UTC) - timedelta(hours=1)).send("past")
    app.send_many([kept])
    report = app.run_until_idle()
    assert ran == ["in time"]
    assert report.counts == {Outcome.EXPIRED: 3, Outcome.SUCCEEDED: 1}
    letters = [json.loads(letter.body) for letter in client_of(app).dead_letters("default.dead")]
    assert all(abs(each["expires_at"] - time.time()) < 7200 for each in letters)


def test_an_expired_task_that_nobody_knows_does_not_wait(app: App) -> None:
    """No newer worker could run it."""
    app._patience = 60.0
    app.task(name="run")(lambda: None)
    raw(app, task="other", expires_at=1)
    assert app.run_until_idle().counts == {Outcome.EXPIRED: 1}


def test_other_formats_carry_the_expiry_beside_the_body(app: App) -> None:
    """In a header, where the body is all payload."""
    app.queue("default", formats=[JSONFormat])
    app.task(name="run")(lambda what: None)
    app.task(name="other")(lambda: None)
    (run, _) = app.tasks
    run.options(expires=datetime(2001, 9, 9, 1, 46, 40, tzinfo=UTC), task_id="t").send("now")
    assert app.run_until_idle().counts == {Outcome.EXPIRED: 1}
    (letter,) = client_of(app).dead_letters("default.dead")
    assert (letter.body, letter.task_id) == (b'{"what":"now"}', "t")
    assert letter.headers == {
        "qbridge-task": "run",
        "qbridge-task-id": "t",
        "qbridge-expires-at-ms": "1000000000000",
    }


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"expires": 0}, "expires must be a positive number of seconds, or a datetime"),
        ({"expires": timedelta(60)}, "or a datetime with a time zone, not datetime.timedelta"),
        ({"expires": datetime(2030, 1, 1)}, "with a time zone"),  # noqa: DTZ001
        ({"expires": 30, "delay": 60}, "may run in 60 s and expires before that would never run"),
    ],
)
def test_an_expiry_that_makes_no_sense_is_refused(app: App, options: dict[str, Any], text: str) -> None:
    """At once, before anything is sent."""
    task = app.task(name="run")(lambda: None)
    with pytest.raises(ConfigurationError, match=text):
        task.options(**options)
