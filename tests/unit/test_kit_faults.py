"""The fixture ``qbridge``: what goes wrong in a test because it was asked to."""

from __future__ import annotations

import asyncio
import functools
import time
from collections.abc import Callable
from typing import Any

import pytest

from qbridge_core import (
    App,
    BrokerUnavailableError,
    ConfigurationError,
    ConstantBackoff,
    PublishUnconfirmedError,
    Reason,
    Retry,
    Snooze,
)
from qbridge_pytest import Kit, WorkerDiedError
from qbridge_pytest.lines import CAN_BEGIN_LATE
from qbridge_pytest.points import NAMED, lines_of

RUN = ["sent", "received", "crashed", "received", "succeeded"]


class Handler:
    """Notes what becomes of its runs."""

    def __init__(self) -> None:
        self.begun: list[Any] = []
        self.ended: list[Any] = []
        self.cleaned: list[Any] = []

    def __call__(self, payload: object) -> None:
        """Run."""
        self.begun.append(payload)
        try:
            self.ended.append(payload)
        finally:
            self.cleaned.append(payload)


class AsyncHandler(Handler):
    """The same on an event loop."""

    async def __call__(self, payload: object) -> None:  # type: ignore[override]
        """Run."""
        self.begun.append(payload)
        await asyncio.sleep(0)
        self.ended.append(payload)


def what(qbridge: Kit, task_id: str) -> list[str]:
    """What happened to a task."""
    return [step.what for step in qbridge.history(task_id)]


@pytest.mark.parametrize("make", [Handler, AsyncHandler])
@pytest.mark.parametrize(
    ("after", "begun", "ended"), [("received", 1, 1), ("start", 1, 1), ("done", 2, 2), ("settled", 1, 1)]
)
def test_a_worker_dies_where_it_was_told_to(
    qbridge: Kit, make: Callable[[], Handler], after: str, begun: int, ended: int
) -> None:
    """Its message comes again, unless that was settled; a handler that has begun runs twice."""
    handler = make()
    qbridge.manager(handler, "jobs", "jobs.dead", max_retries=0)
    qbridge.crash(after=after)
    task_id = qbridge.client.send("jobs", 1)
    report = qbridge.run()
    assert (len(handler.begun), len(handler.ended), qbridge.faults) == (begun, ended, 1)
    assert report.succeeded == 1
    assert report.dead_lettered == 0
    told = ["sent", "received", "succeeded", "crashed"] if after == "settled" else RUN
    assert what(qbridge, task_id) == told


def test_a_death_in_a_handler_runs_what_it_has_to_let_go(qbridge: Kit) -> None:
    """It is raised there, and is no exception that a handler would take for a failure of its own."""
    cleaned: list[int] = []

    def handler(payload: int) -> None:
        try:
            mails.send("mails", payload)
        except Exception:
            cleaned.append(-1)
        finally:
            cleaned.append(payload)

    mails = qbridge.client
    mails.declare("mails")
    qbridge.manager(handler, "jobs", "jobs.dead")
    qbridge.crash(after="publish")
    mails.send("jobs", 3)
    qbridge.run()
    assert cleaned == [3, 3]
    assert len(qbridge.sent("mails", payload=3)) == 2


def test_a_worker_may_die_before_its_handler_sends_anything(qbridge: Kit) -> None:
    """Then one message is sent, and a producer outside of a handler is left alone."""
    app = App()

    @app.task(name="first", queue="first")
    async def first() -> None:
        await second.asend()

    @app.task(name="second", queue="second")
    def second() -> None:
        """Do nothing."""

    qbridge.open(app)
    qbridge.crash(before="publish")
    task_id = first.send()
    qbridge.run()
    assert what(qbridge, task_id) == RUN
    assert len(qbridge.sent(second)) == 1


@pytest.mark.parametrize("point", [{"before": "publish"}, {"after": "publish"}])
def test_a_coroutine_that_sends_dies_alone(qbridge: Kit, point: dict[str, str]) -> None:
    """At once, and its event loop sends on for the coroutines beside it."""
    app = App()

    @app.task(name="note", queue="notes")
    def note(number: int) -> None:
        """Do nothing."""

    @app.task(name="order", queue="orders", task_timeout=20)
    async def order(number: int) -> None:
        await note.asend(number)

    qbridge.open(app)
    app.send_many([order.message(number) for number in range(5)])
    qbridge.crash(**point)
    started = time.monotonic()
    qbridge.run()
    assert time.monotonic() - started < 5
    assert qbridge.faults == 1
    twice = "after" in point
    assert len(qbridge.sent(note)) == 5 + twice
    assert {each.payload["number"] for each in qbridge.sent(note)} == set(range(5))


def test_a_handler_of_one_line_can_die_at_its_start(qbridge: Kit) -> None:
    """A lambda too, and what stands behind a partial."""
    runs: list[int] = []

    def noted(runs: list[int], payload: int) -> None: runs.append(payload)  # fmt: skip

    for handler, queue in ((lambda payload: runs.append(payload or 0), "a"), (functools.partial(noted, runs), "b")):
        qbridge.manager(handler, queue, f"{queue}.dead")
        qbridge.client.send(queue, 1)
        qbridge.crash(after="start", of=queue)
        assert [each.line for each in lines_of(handler)]
    qbridge.run()
    assert (runs, qbridge.faults) == ([1, 1], 2)


@pytest.mark.parametrize("make", [Handler, AsyncHandler])
def test_workers_die_at_the_start_as_often_as_is_asked_for(qbridge: Kit, make: Callable[[], Handler]) -> None:
    """The same thread too: it goes on as another worker would."""
    handler = make()
    qbridge.manager(handler, "jobs", "jobs.dead", max_workers=1)
    qbridge.client.send_many("jobs", range(3))
    for _ in range(5):
        qbridge.crash(after="start")
    qbridge.run()
    assert qbridge.faults == 5
    assert sorted(handler.begun) == [0, 1, 2]


@pytest.mark.skipif(not CAN_BEGIN_LATE, reason="threads that run already are not watched")
def test_a_start_is_watched_while_managers_work(qbridge: Kit) -> None:
    """Also if nothing was to be watched when they began."""
    handler = Handler()
    qbridge.manager(handler, "jobs", "jobs.dead")
    with qbridge.working():
        qbridge.client.send("jobs", 1)
        qbridge.run()
        qbridge.crash(after="start")
        qbridge.client.send("jobs", 2)
        qbridge.run()
    assert (qbridge.faults, handler.begun) == (1, [1, 2])


@pytest.mark.skipif(CAN_BEGIN_LATE, reason="threads that run already are watched")
def test_a_start_that_cannot_be_watched_is_refused(qbridge: Kit) -> None:
    """Instead of never coming."""
    qbridge.manager(Handler(), "jobs", "jobs.dead")
    with qbridge.working(), pytest.raises(ConfigurationError, match="before anything works"):
        qbridge.crash(after="start")


def test_a_run_ends_before_a_broker_that_is_down_comes_back(qbridge: Kit) -> None:
    """What is ready there waits for the next one."""
    handler = Handler()
    qbridge.manager(handler, "jobs", "jobs.dead")
    qbridge.client.send("jobs", 1)
    before = qbridge.now
    qbridge.broker_down("20m")
    started = time.monotonic()
    qbridge.run(ahead="5m")
    assert time.monotonic() - started < 5
    assert (handler.begun, (qbridge.now - before).total_seconds()) == ([], 300)
    qbridge.run()
    assert handler.begun == [1]


def test_a_death_counts_no_attempt(qbridge: Kit) -> None:
    """What a worker has not lived to settle did not happen: neither a failure nor a retry."""
    runs: list[int] = []

    def fail(payload: object) -> None:
        runs.append(1)
        raise ValueError(payload)

    qbridge.manager(fail, "jobs", "jobs.dead", max_retries=1, backoff=ConstantBackoff(3600))
    for _ in range(2):
        qbridge.crash(after="done", of="jobs")
    qbridge.client.send("jobs", 1)
    report = qbridge.run()
    (letter,) = qbridge.letters("jobs")
    assert (letter.reason, letter.attempts, len(runs)) == (Reason.FAILED, 2, 4)
    assert (report.retried, report.dead_lettered) == (1, 1)


def test_a_death_of_another_queue_is_left_to_it(qbridge: Kit) -> None:
    """``of`` says whose worker dies."""
    handler = Handler()
    for queue in ("a", "b"):
        qbridge.manager(handler, queue, "dead")
    qbridge.crash(after="start", of="b")
    first, second = qbridge.client.send("a", 1), qbridge.client.send("b", 2)
    qbridge.run()
    assert "crashed" not in what(qbridge, first)
    assert what(qbridge, second) == RUN


def test_a_fault_of_a_task_is_left_to_it(qbridge: Kit) -> None:
    """Its queue may have tasks of other kinds, which come there before."""
    app = App()

    @app.task(name="pay", queue="work")
    def pay() -> None:
        mail.send()

    @app.task(name="mail", queue="work")
    def mail() -> None:
        """Do nothing."""

    qbridge.open(app)
    qbridge.crash(after="done", of=mail)
    qbridge.deliver_twice(of=pay)
    task_id = pay.send()
    qbridge.run()
    assert what(qbridge, task_id) == ["sent", "received", "ack lost", "received", "succeeded"]
    first, second = qbridge.sent(mail)
    assert what(qbridge, first.task_id) == RUN
    assert "crashed" not in what(qbridge, second.task_id)


def test_who_is_dead_sends_nothing(qbridge: Kit) -> None:
    """What a handler sends while it lets go what it holds nobody gets, as after a real death."""
    app = App()

    @app.task(name="note", queue="notes")
    def note(text: str) -> None:
        """Do nothing."""

    @app.task(name="order", queue="orders")
    def order() -> None:
        try:
            note.send("begun")
        finally:
            note.send("ended")
            app.send_many([note.message("counted")])

    @app.task(name="order-async", queue="async-orders")
    async def order_async() -> None:
        try:
            await note.asend("begun")
        finally:
            await note.asend("ended")

    qbridge.open(app)
    for each, told in ((order, ["begun", "begun", "ended", "counted"]), (order_async, ["begun", "begun", "ended"])):
        before = qbridge.now
        qbridge.advance(1)
        qbridge.crash(after="publish", of=each)
        each.send()
        qbridge.run()
        assert [sent.payload["text"] for sent in qbridge.sent(note) if sent.sent_at > before] == told


def test_an_acknowledgement_can_be_lost(qbridge: Kit) -> None:
    """The message comes again although its run has succeeded."""
    handler = Handler()
    qbridge.manager(handler, "jobs", "jobs.dead")
    qbridge.deliver_twice()
    task_id = qbridge.client.send("jobs", 1)
    qbridge.run()
    assert handler.ended == [1, 1]
    assert what(qbridge, task_id) == ["sent", "received", "ack lost", "received", "succeeded"]


def test_a_broker_that_is_down_refuses_producers_and_comes_back(qbridge: Kit) -> None:
    """In virtual time, which goes on as soon as a worker waits for it."""
    handler = Handler()
    qbridge.manager(handler, "jobs", "jobs.dead")
    qbridge.client.send("jobs", 1)
    before = qbridge.now
    qbridge.broker_down("20m")
    with pytest.raises(BrokerUnavailableError, match="down for another 1200 s"):
        qbridge.client.send("jobs", 2)
    assert qbridge.run().succeeded == 1
    assert (qbridge.now - before).total_seconds() == 1200
    qbridge.client.send("jobs", 3)
    assert qbridge.run().succeeded == 1


@pytest.fixture
def runs(qbridge: Kit) -> list[int]:
    """Those of a task that waits to be run; in it the broker goes down for an hour."""
    begun: list[int] = []

    def handler(payload: int) -> None:
        begun.append(payload)
        qbridge.broker_down("1h")

    qbridge.manager(handler, "jobs", "jobs.dead")
    qbridge.client.send("jobs", 1)
    return begun


def test_what_ends_while_the_broker_is_down_is_settled_when_it_is_back(qbridge: Kit, runs: list[int]) -> None:
    """A run goes on, and is not repeated (G3)."""
    assert qbridge.run().succeeded == 1
    assert runs == [1]


def test_what_a_worker_has_when_it_is_stopped_is_settled_though_the_broker_is_down(
    qbridge: Kit, runs: list[int]
) -> None:
    """Time stands still while it stops, so that no broker could come back to it."""
    started = time.monotonic()
    qbridge.run(ahead="5m")
    assert time.monotonic() - started < 10
    qbridge.advance("1h")
    qbridge.run()
    assert runs == [1]


def test_a_slow_confirmation_takes_time_and_may_come_too_late(qbridge: Kit) -> None:
    """The message is there all the same."""
    client = qbridge.client
    client.declare("jobs")
    before = qbridge.now
    qbridge.slow_publish(4)
    client.send("jobs", 1)
    assert (qbridge.now - before).total_seconds() == 4
    qbridge.slow_publish("30s")
    with pytest.raises(PublishUnconfirmedError, match="within 10 s"):
        client.send("jobs", 2)
    assert (qbridge.now - before).total_seconds() == 14
    qbridge.slow_publish(0)
    client.send("jobs", 3)
    assert [each.payload for each in qbridge.sent("jobs")] == [1, 2, 3]


def test_wrong_points_are_refused(qbridge: Kit) -> None:
    """With those that there are."""
    with pytest.raises(ConfigurationError, match="no crash point 'ack'; there are 'received', 'start'"):
        qbridge.crash(after="ack")
    with pytest.raises(ConfigurationError, match='after="done"'):
        qbridge.crash()


def retry_or_snooze(payload: int) -> None:
    """Ask for another run."""
    if payload:
        raise Retry(after=60)
    raise Snooze(60)


def test_the_lines_of_a_handler_are_those_that_run() -> None:
    """Not the one that says that it is a function, nor its docstring; none for what is not written in Python."""
    first = retry_or_snooze.__code__.co_firstlineno
    assert [each.line - first for each in lines_of(retry_or_snooze)] == [2, 3, 4]
    assert lines_of(len) == []
    assert lines_of(Handler())
    assert len(set(NAMED)) == len(NAMED)
    assert not issubclass(WorkerDiedError, Exception)
