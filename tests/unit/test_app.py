"""An app: its tasks are sent by name, found by workers, and run as each of them says."""

from __future__ import annotations

import asyncio
import functools
import json
import threading
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from qbridge_core import (
    App,
    ConfigurationError,
    IdleTimeoutError,
    Outcome,
    Reason,
    Reject,
    TaskContext,
    current_task,
)
from support.apps import client_of, letters


def test_a_task_runs_with_the_arguments_that_were_sent(app: App) -> None:
    """They travel by name, what is left to its default does not, and ``send`` returns the id of the task."""
    ran: list[object] = []

    @app.task(name="add", queue="sums")
    def add(first: int, second: int = 5, *, third: str = "x") -> None:
        ran.append((current_task().task_id, first, second, third))

    task_id = add.send(1, third="y")
    (message,) = [client_of(app).receive("sums", 1, 5.0)[0]]
    assert json.loads(message.body) == {
        "payload": {"first": 1, "third": "y"},
        "task_id": task_id,
        "retry": 0,
        "task": "add",
    }
    client_of(app).reject(message)
    report = app.run_until_idle()
    assert ran == [(task_id, 1, 5, "y")]
    assert report.counts == {Outcome.SUCCEEDED: 1}


def test_a_bare_decorator_uses_the_default_queue_and_the_name_of_the_function(app: App) -> None:
    """The name is made of the module and the function."""
    from support.shop import plain

    assert plain.resize.name == "support.shop.plain.resize"
    assert plain.resize.queue == "default"


def test_a_plain_call_calls_the_function(app: App) -> None:
    """Nothing is sent, and what it returns comes back."""

    @app.task(name="double")
    def double(number: int) -> int:
        """Twice as much."""
        return 2 * number

    assert double(4) == 8
    assert double.__doc__ == "Twice as much."


def test_coroutines_and_functions_share_a_queue(app: App) -> None:
    """Both run, each with its own task."""
    ran: dict[str, str] = {}

    @app.task(name="quick")
    async def quick() -> None:
        await asyncio.sleep(0)
        ran["quick"] = current_task().task_id

    @app.task(name="slow")
    def slow() -> None:
        ran["slow"] = current_task().task_id

    expected = {"quick": quick.send(), "slow": slow.send()}
    assert app.run_until_idle().succeeded == 2
    assert ran == expected


@pytest.mark.parametrize("kind", ["function", "coroutine"])
def test_the_context_is_injected_and_no_part_of_the_payload(app: App, kind: str) -> None:
    """The first parameter gets it when it is annotated so; a sender knows nothing of it."""
    seen: list[object] = []

    def function(task: TaskContext, url: str) -> None:
        seen.append((task.task_id, task.queue, url))

    async def coroutine(task: TaskContext, url: str) -> None:
        seen.append((task.task_id, task.queue, url))

    task: Any = app.task(name="deliver", queue="webhooks")(function if kind == "function" else coroutine)
    task.options(task_id="order-7").send("http://example.org")
    app.run_until_idle()
    assert seen == [("order-7", "webhooks", "http://example.org")]


def test_a_plain_call_gets_a_context_of_its_own(app: App) -> None:
    """So a test can call a task that wants one; within another task it is that one's."""

    @app.task(name="inner", queue="inner")
    def inner(task: TaskContext, mark: str) -> tuple[str, int, str]:
        return task.queue, task.attempt, mark

    seen: list[object] = []

    @app.task(name="outer", queue="outer")
    def outer() -> None:
        seen.append(inner("within"))

    assert inner("alone") == ("inner", 1, "alone")
    outer.send()
    app.run_until_idle()
    assert seen == [("outer", 1, "within")]


def test_each_task_has_retries_and_a_timeout_of_its_own(app: App) -> None:
    """Two tasks of one queue, and what is said of one is nothing to the other."""

    @app.task(name="never", max_retries=0)
    def never() -> None:
        raise ValueError("never")

    @app.task(name="twice", max_retries=1, dead_letter_on=[LookupError])
    def twice(error: bool) -> None:
        raise (LookupError if error else ValueError)("twice")

    @app.task(name="late", max_retries=0, task_timeout=0.2)
    def late() -> None:
        threading.Event().wait(0.5)

    never.send()
    late.send()
    app.send_many([twice.message(False), twice.message(True)])
    report = app.run_until_idle()
    assert report.counts == {Outcome.RETRIED: 1, Outcome.FAILED: 3, Outcome.TIMED_OUT: 1}


def test_what_a_task_raises_to_control_its_end_works_as_ever(app: App) -> None:
    """`Reject`, for one."""

    @app.task(name="no")
    def no() -> None:
        raise Reject("never")

    no.send()
    app.run_until_idle()
    assert letters(app) == [(Reason.REJECTED, "never")]


def test_send_many_mixes_tasks_and_keeps_the_order_of_each_queue(app: App) -> None:
    """The ids come back in the order of the messages; those that are delayed follow the others."""
    ran: list[object] = []

    @app.task(name="a", queue="a")
    def a(number: int) -> None:
        ran.append(number)

    @app.task(name="b", queue="b")
    def b(number: int) -> None:
        ran.append(-number)

    app.queue("a", max_workers=1)
    app.queue("b", max_workers=1)
    messages = [a.message(1), b.message(1), a.options(delay=0.2, task_id="late").message(3), a.message(2)]
    ids = app.send_many(iter(messages))
    assert ids == [message.task_id for message in messages]
    assert ids[2] == "late"
    app.run_until_idle()
    assert [number for number in ran if isinstance(number, int) and number > 0] == [1, 2, 3]
    assert -1 in ran


def test_send_many_takes_no_message_of_another_app(app: App) -> None:
    """It would go to a broker where nobody works on it; that of an app which is included is one of its own."""
    other = App()

    @other.task(name="elsewhere")
    def elsewhere() -> None:
        pass

    with app.open("memory://") as client:
        client.declare("default")
        with pytest.raises(ConfigurationError, match="'elsewhere' is a task of another app"):
            app.send_many([elsewhere.message()])
        with pytest.raises(ConfigurationError, match="include that in this one"):
            asyncio.run(app.asend_many([elsewhere.message()]))
        assert client.stats("default").ready == 0
        app.include(other)
        assert len(app.send_many([elsewhere.message()]) + other.send_many([elsewhere.message()])) == 2
        assert client.stats("default").ready == 2


def test_send_many_sends_nothing_when_one_of_them_is_no_message(app: App) -> None:
    """It says what to write."""

    @app.task(name="a")
    def a(number: int) -> None:
        """Do nothing."""

    mixed: Any = [a.message(1), {"number": 2}]
    with pytest.raises(ConfigurationError, match=r"send_many takes messages of tasks, not dict: write app\.send_many"):
        app.send_many(mixed)
    assert app.run_until_idle().counts == {}


def test_options_say_more_of_a_message(app: App) -> None:
    """A delay, a time, an id and headers."""
    seen: list[object] = []

    @app.task(name="a")
    def a(task: TaskContext) -> None:
        seen.append((task.task_id, dict(task.headers), task.due_at is not None))

    assert a.options(task_id="order-7", headers={"tenant": "blue"}).send() == "order-7"
    a.options(task_id="late", delay=0.1).send()
    a.options(task_id="at", at=datetime.now(UTC) + timedelta(seconds=0.1)).send()
    a.options(task_id="past", at=datetime(2020, 1, 1, tzinfo=UTC), publish_timeout=5.0).send()
    app.run_until_idle()
    assert sorted(map(str, seen)) == sorted(
        map(str, [("order-7", {"tenant": "blue"}, False), ("late", {}, True), ("at", {}, True), ("past", {}, False)])
    )


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"delay": -1}, "delay must be a number"),
        ({"at": datetime(2020, 1, 1)}, "at must be a datetime with a time zone"),  # noqa: DTZ001
        ({"at": datetime(2020, 1, 1, tzinfo=UTC), "delay": 1.0}, "delay and at both say when"),
        ({"publish_timeout": "soon"}, "timeout"),
    ],
)
def test_options_that_make_no_sense_are_refused(app: App, options: dict[str, Any], match: str) -> None:
    """Before anything is sent."""
    task = app.task(name="a")(lambda: None)
    with pytest.raises(ConfigurationError, match=match):
        task.options(**options)


def test_options_leave_the_task_as_it_is(app: App) -> None:
    """They make another one, whose messages they are for; what later ones do not say stays, and it cannot be called."""

    @app.task(name="add")
    def add(number: int) -> int:
        return number + 1

    late = add.options(task_id="order-7", delay=60)
    assert (late.message(1).task_id, late.message(1).options.delay) == ("order-7", 60)
    with pytest.raises(ConfigurationError, match=r"write add\.options\(…\)\.send\(…\)"):
        late(1)
    assert add(1) == 2
    sooner = late.options(delay=5, headers={"tenant": "blue"}).message(1)
    assert (sooner.task_id, sooner.options.delay, sooner.options.headers) == ("order-7", 5, {"tenant": "blue"})
    with pytest.raises(ConfigurationError, match="delay and at both say when"):
        late.options(at=datetime.now(UTC))
    assert add.message(1).options.delay == 0
    assert app.tasks == [add]


def test_asend_sends_from_a_coroutine(app: App) -> None:
    """It is there, and its options too."""

    @app.task(name="a")
    def a(number: int) -> None:
        """Do nothing."""

    async def send() -> list[str]:
        return [await a.asend(1), await a.options(task_id="order-7").asend(number=2)]

    assert asyncio.run(send())[1] == "order-7"
    assert app.run_until_idle().succeeded == 2


def test_whole_payload_passes_it_undivided(app: App) -> None:
    """The payload is the value of the only parameter."""
    seen: list[object] = []

    @app.task(name="a", whole_payload=True)
    def a(task: TaskContext, event: dict[str, Any]) -> None:
        seen.append(event)

    a.send({"kind": "paid"})
    message = client_of(app).receive("default", 1, 5.0)[0]
    assert json.loads(message.body)["payload"] == {"kind": "paid"}
    client_of(app).reject(message)
    app.run_until_idle()
    assert seen == [{"kind": "paid"}]


def test_run_until_idle_gives_up(app: App) -> None:
    """With the queues, and what was done by then."""
    app.task(name="a", queue="a")(lambda: None).options(delay=60).send()
    with pytest.raises(IdleTimeoutError, match=r"there is still work in a after 0\.3 s") as caught:
        app.run_until_idle(0.3)
    assert caught.value.report is not None


def test_some_queues_only_can_be_worked_off(app: App) -> None:
    """The others keep what they have."""
    for name in ("a", "b"):
        app.task(name=name, queue=name)(lambda: None).send()
    assert app.run_until_idle(queues=["a"]).succeeded == 1
    assert client_of(app).stats("b").ready == 1
    with pytest.raises(ConfigurationError, match="no task of this app has the queue 'c'; there are a, b"):
        app.run_until_idle(queues=["c"])


@pytest.mark.parametrize("beside", [False, True])
def test_a_coroutine_that_a_decorator_hides_runs(app: App, beside: bool) -> None:
    """Whether other tasks of its queue run on an event loop or not."""
    ran: list[int] = []

    async def hidden(number: int) -> None:
        await asyncio.sleep(0)
        ran.append(number)

    @app.task(name="hidden", max_retries=0)
    @functools.wraps(hidden)
    def wrapper(number: int) -> Any:
        return hidden(number)

    if beside:

        @app.task(name="plain")
        async def plain() -> None: ...

    wrapper.send(5)
    assert app.run_until_idle().counts == {Outcome.SUCCEEDED: 1}
    assert ran == [5]
