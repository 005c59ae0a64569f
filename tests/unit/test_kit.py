"""The fixture ``qbridge``: handlers run by the code of production, in virtual time."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import freezegun
import pytest
import time_machine

from qbridge_core import (
    App,
    CloudEventsFormat,
    ConfigurationError,
    ConstantBackoff,
    ExponentialBackoff,
    IdleTimeoutError,
    Outcome,
    QueuePausedError,
    Reason,
    Snooze,
    TaskContext,
    current_task,
)
from qbridge_core.backend import monotonic
from qbridge_pytest import Kit

DAY = 86_400


def fail(payload: object) -> None:
    """Fail."""
    raise ValueError(f"no {payload}")


def shop() -> App:
    """An app with a task that sends another."""
    app = App()

    @app.task(name="bill", queue="bills", max_retries=2, backoff=ConstantBackoff(3_600))
    def bill(order: int) -> None:
        if order < 0:
            raise ValueError(f"no order {order}")
        mail.options(delay=600, headers={"locale": "de"}).send(f"bill {order}")

    @app.task(name="mail", queue="mails", max_retries=0)
    def mail(text: str) -> None:
        """Send nothing."""

    return app


# ---------------------------------------------------------------------- time


def test_thirty_days_of_backoff_pass_in_no_time(qbridge: Kit) -> None:
    """Each attempt comes after its delay, with exponential backoff and jitter, and nobody waits for it."""
    runs: list[datetime] = []

    def handler(payload: object) -> None:
        runs.append(qbridge.now)
        if qbridge.now < end:
            raise ValueError

    end = qbridge.now + timedelta(days=30)
    qbridge.manager(handler, "q", "d", max_retries=1_000, backoff=ExponentialBackoff(base=1, cap=10 * DAY))
    qbridge.client.send("q", 1)
    began = monotonic()
    report = qbridge.run()
    lasted = monotonic() - began
    assert report.succeeded == 1
    assert report.retried == len(runs) - 1 > 15
    assert runs[-1] >= end
    assert runs == sorted(runs)
    assert lasted < 5.0  # a machine at leisure takes 0.05 s


def test_what_is_due_comes_in_its_order(qbridge: Kit) -> None:
    """Of several queues the first that is due is the first to run, at exactly its time."""
    ran: list[tuple[object, float]] = []

    def handler(payload: object) -> None:
        ran.append((payload, (qbridge.now - began).total_seconds()))

    began = qbridge.now
    for queue in ("a", "b"):
        qbridge.manager(handler, queue, "d")
    for queue, delay in (("a", 3_600.0), ("b", 0.25), ("b", 86_400.5), ("a", 7.0)):
        qbridge.client.send(queue, delay, delay=delay)
    qbridge.run()
    assert ran == [(0.25, 0.25), (7.0, 7.0), (3_600.0, 3_600.0), (86_400.5, 86_400.5)]


def test_time_stands_still_while_something_runs(qbridge: Kit) -> None:
    """What is due later does not overtake what runs now, however long that takes in real time."""
    order: list[object] = []
    begun, release = threading.Event(), threading.Event()

    def handler(payload: object) -> None:
        if payload == "slow":
            begun.set()
            assert release.wait(30)
        order.append(payload)

    qbridge.manager(handler, "q", "d", max_workers=2)
    qbridge.client.send("q", "later", delay=1)
    qbridge.client.send("q", "slow")
    timer = threading.Timer(0.3, release.set)
    timer.start()
    qbridge.run()
    assert order == ["slow", "later"]


def test_time_can_be_moved_while_a_handler_runs(qbridge: Kit) -> None:
    """What comes due meanwhile runs beside it; the running handler has its real timeout still."""
    begun, later, left = threading.Event(), threading.Event(), []

    def handler(payload: object) -> None:
        if payload == "later":
            later.set()
            return
        begun.set()
        assert later.wait(30)
        left.append(current_task().remaining)

    qbridge.manager(handler, "q", "d", max_workers=2, task_timeout=60)
    with qbridge.working():
        qbridge.client.send("q", "first")
        qbridge.client.send("q", "later", delay=3_600)
        assert begun.wait(30)
        qbridge.advance("1h")
        assert later.wait(30)
        qbridge.run()
    assert 0 < left[0] <= 60


def test_a_part_of_the_time_can_pass(qbridge: Kit) -> None:
    """``ahead`` says how far: what is due later stays, and the clock stands there at the end."""
    ran: list[object] = []
    qbridge.manager(ran.append, "q", "d")
    began = qbridge.now
    for minutes in (0, 30, 60, 61):
        qbridge.client.send("q", minutes, delay=minutes * 60)
    qbridge.run(ahead=0)
    assert (ran, qbridge.now) == ([0], began)
    qbridge.run(ahead="1h")
    assert (ran, qbridge.now) == ([0, 30, 60], began + timedelta(hours=1))
    qbridge.advance(60)
    assert qbridge.run(ahead=0).succeeded == 1


def test_a_handler_that_times_out_does_so_in_real_time(qbridge: Kit) -> None:
    """Time is not moved to end it, and the clock of the test does not keep it from ending."""
    release = threading.Event()
    qbridge.manager(lambda _: release.wait(30), "q", "d", max_retries=0, task_timeout=0.2)
    qbridge.client.send("q", 1)
    began = qbridge.now
    assert qbridge.run()[Outcome.TIMED_OUT] == 1
    release.set()
    assert qbridge.now == began
    assert qbridge.letters("q")[0].reason is Reason.TIMED_OUT


def test_what_never_ends_is_given_up(qbridge: Kit) -> None:
    """``timeout`` is real time; the error says what is left, and how much time was spent."""

    def snooze(payload: object) -> None:
        raise Snooze(DAY)

    qbridge.manager(snooze, "q", "d")
    qbridge.client.send("q", 1)
    with pytest.raises(
        IdleTimeoutError, match=r"after 0\.3 s, in which [\d,.]+ h of virtual time passed .*'q': "
    ) as info:
        qbridge.run(timeout=0.3)
    assert info.value.report is not None
    assert info.value.report[Outcome.SNOOZED] > 1


def test_a_handler_cannot_wait_for_itself(qbridge: Kit) -> None:
    """It is told so, and its task fails."""
    qbridge.manager(lambda _: qbridge.run(), "q", "d", max_retries=0)
    qbridge.client.send("q", 1)
    qbridge.run()
    assert "run() is called while it runs: by a handler" in qbridge.letters("q")[0].exception_message


def test_nobody_waits_for_handlers_of_a_run_that_has_failed(qbridge: Kit) -> None:
    """A handler that hangs costs the timeout of the run, and no grace period."""
    release = threading.Event()
    qbridge.manager(lambda _: release.wait(60), "q", "d", task_timeout=60)
    qbridge.client.send("q", 1)
    began = monotonic()
    with pytest.raises(IdleTimeoutError, match="'q': 0 ready, 1 in flight, 0 delayed"):
        qbridge.run(timeout=0.2)
    assert monotonic() - began < 20.0
    release.set()


def test_a_long_story_is_cut(qbridge: Kit) -> None:
    """Of a task that was tried very often the first steps are shown and the last ones, and of tasks so many."""
    qbridge.manager(fail, "q", "d", max_retries=50)
    qbridge.client.send_many("q", range(9))
    qbridge.run()
    lines = qbridge.story().splitlines()
    assert lines[1].endswith("sent to 'q'")
    assert lines[7] == "  (91 more)"
    assert "dead-lettered to 'd'" in lines[13]
    assert (len(lines), lines[-1]) == (61, "(and 66 lines more)")
    qbridge.allow_letters()


def test_a_paused_queue_is_told_of(qbridge: Kit) -> None:
    """Nobody would do its work."""
    qbridge.manager(str, "q", "d")
    qbridge.client.pause("q")
    qbridge.client.send("q", 1)
    with pytest.raises(QueuePausedError, match="left to do is in 'q', and nobody takes it while that is paused"):
        qbridge.run()


def test_the_queues_of_a_pool_are_worked_off(qbridge: Kit) -> None:
    """One manager has several of them; a paused one is told of when the others are empty."""
    app = App()
    app.pool("all", queues={"one": 2, "two": 1}, max_workers=2)
    for queue in ("one", "two"):
        app.task(name=queue, queue=queue)(lambda: None)
    qbridge.open(app)
    one, two = app.tasks
    one.options(delay=60).send()
    two.options(delay=30).send()
    assert qbridge.run().succeeded == 2
    qbridge.client.pause("two")
    one.send()
    two.send()
    with pytest.raises(QueuePausedError, match="left to do is in 'two'") as info:
        qbridge.run()
    assert info.value.report is not None
    assert info.value.report.succeeded == 1


def test_what_expires_does_so_in_virtual_time(qbridge: Kit) -> None:
    """Counted from when it was sent, by the clock of the test."""
    app = App()
    app.task(name="t", queue="q")(lambda: None)
    (task,) = app.tasks
    qbridge.open(app)
    qbridge.advance("30d")
    task.options(expires=60).send()
    qbridge.run()
    task.options(expires=60).send()
    qbridge.advance("2m")
    assert qbridge.run()[Outcome.EXPIRED] == 1
    assert [letter.reason for letter in qbridge.letters("q")] == [Reason.EXPIRED]


@pytest.mark.parametrize("tool", ["freezegun", "time-machine"])
def test_tools_that_stop_the_clock_do_no_harm(qbridge: Kit, tool: str) -> None:
    """They choose what a handler sees; the broker goes by the clock of the test."""
    seen: list[datetime] = []

    def handler(payload: object) -> None:
        seen.append(datetime.now(UTC))
        if len(seen) < 3:
            raise ValueError

    then = datetime(2030, 1, 1, tzinfo=UTC)
    stop: Any = freezegun.freeze_time(then) if tool == "freezegun" else time_machine.travel(then, tick=False)
    began = qbridge.now
    with stop:
        qbridge.manager(handler, "q", "d", backoff=ConstantBackoff(DAY))
        qbridge.client.send("q", 1)
        assert qbridge.run().succeeded == 1
    assert seen == [then] * 3
    assert qbridge.now - began == timedelta(days=2)


# ---------------------------------------------------------------------- what works


def test_an_app_sends_to_the_broker_of_the_test(qbridge: Kit) -> None:
    """With all that its tasks send in turn, and each in its queue's own way."""
    app = shop()
    qbridge.open(app)
    bill, _ = app.tasks
    bill.send(7)
    assert qbridge.run().succeeded == 2
    (sent,) = qbridge.sent("mails")
    assert (sent.payload, sent.headers, sent.delay, sent.task) == ({"text": "bill 7"}, {"locale": "de"}, 600.0, "mail")


def test_an_app_is_afterwards_as_it_was() -> None:
    """Open with its own broker, or not open at all; what it declared before is remembered."""
    open_one, closed_one = shop(), shop()
    with open_one.open("memory://") as own:
        with Kit() as kit:
            kit.open(open_one)
            kit.open(closed_one)
            open_one.tasks[1].send("x")
            assert kit.client.stats("mails").ready == 1
        open_one.tasks[1].send("y")
        assert own.stats("mails").ready == 1
    assert not closed_one.is_connected


def test_an_app_can_be_opened_by_two_kits(qbridge: Kit) -> None:
    """The inner one has it until its end, and then the outer one again."""
    app = shop()
    qbridge.open(app)
    with Kit() as inner:
        inner.open(app)
        app.tasks[1].send("inner")
    app.close()
    app.tasks[1].send("outer")
    assert [each.payload for each in qbridge.sent("mails")] == [{"text": "outer"}]


def test_nobody_reaches_another_broker_meanwhile(qbridge: Kit) -> None:
    """A program under test that opens its app, and closes it, has the broker of the test."""
    app = shop()
    qbridge.open(app)
    with app.open("redis://nowhere.invalid:1/") as client:
        assert client is qbridge.client
    app.close()
    app.tasks[0].send(1)
    qbridge.sent("bills", payload={"order": 1})


def test_an_included_app_counts_as_the_whole(qbridge: Kit) -> None:
    """The app that includes it has the connection."""
    whole, part = App(), shop()
    whole.include(part)
    qbridge.open(part)
    whole.tasks[0].send(1)
    assert qbridge.run().succeeded == 2


async def double(payload: int) -> None:
    """Wait for something on the loop of the worker."""
    await asyncio.sleep(0)
    done.append(payload * 2)


done: list[int] = []


@pytest.mark.parametrize("executor", ["thread", "process"])
def test_managers_are_those_of_production(qbridge: Kit, executor: Any) -> None:
    """Their arguments are checked, and coroutines and child processes run as ever."""
    done.clear()
    manager = qbridge.manager(double, "q", "d", max_workers=2, executor=executor)
    qbridge.client.send_many("q", [1, 2])
    assert qbridge.run().succeeded == 2
    assert qbridge.run().succeeded == 0
    assert manager.report().succeeded == 2
    assert sorted(done) == ([2, 4] if executor == "thread" else [])
    with pytest.raises(ConfigurationError, match="must differ"):
        qbridge.manager(double, "q", "q")


def test_what_ends_a_manager_ends_the_run(qbridge: Kit) -> None:
    """An error of its lifespan is that of ``run``."""

    class Broken:
        def __enter__(self) -> None:
            raise OSError("no database")

        def __exit__(self, *_: object) -> None:
            """Leave."""

    qbridge.manager(str, "q", "d", lifespan=Broken)
    with pytest.raises(OSError, match="no database"):
        qbridge.run()


@pytest.mark.parametrize(
    ("mistake", "text"),
    [
        (lambda kit: kit.run(), "nothing works in this test: give it an app"),
        (lambda kit: kit.open("shop"), "open takes an App, not a str"),
        (lambda kit: kit.run(timeout=0), "more than 0"),
        (lambda kit: kit.run(ahead="soon"), "ahead must be a length of time"),
        (lambda kit: kit.advance(-1), "by must be a length of time"),
        (lambda kit: kit.sent("emials"), "there is no queue 'emials' in this test; there are none"),
        (lambda kit: kit.not_sent("emials"), "there is no queue 'emials'"),
        (lambda kit: kit.letters("emials"), "there is no queue 'emials'"),
        (lambda kit: kit.history("t"), "no message of this test belongs to the task 't'"),
    ],
)
def test_a_mistake_is_explained(qbridge: Kit, mistake: Any, text: str) -> None:
    """The error says what to do; a wrong name of a queue never makes a test green."""
    with pytest.raises(ConfigurationError, match=text):
        mistake(qbridge)


def test_an_app_is_opened_once(qbridge: Kit) -> None:
    """A second time is a mistake, as in production."""
    app = shop()
    qbridge.open(app)
    with pytest.raises(ConfigurationError, match="open here already"):
        qbridge.open(app)


# ---------------------------------------------------------------------- what happened


@pytest.fixture
def mails(qbridge: Kit) -> Iterator[Kit]:
    """A queue with three messages."""
    qbridge.client.declare("mails", "mails.dead")
    qbridge.client.send("mails", {"to": "ann", "order": {"id": 7, "items": [1, 2]}}, task_id="a", headers={"h": "1"})
    qbridge.client.send("mails", {"to": "bob", "order": {"id": 7, "items": [1, 3]}}, task_id="b", delay=90)
    qbridge.client.publish("mails", b"no task")
    return qbridge


@pytest.mark.parametrize(
    ("wanted", "found"),
    [
        ({}, ["a", "b", ""]),
        ({"payload": {"to": "ann"}}, ["a"]),
        ({"payload": {"order": {"id": 7}}}, ["a", "b"]),
        ({"payload": {"order": {"items": [1, 3]}}}, ["b"]),
        ({"payload": {"order": {"items": [1]}}}, []),
        ({"payload": {"order": {"id": 7.0}}}, ["a", "b"]),
        ({"payload": {"order": {"id": True}}}, []),
        ({"payload": {"cc": None}}, []),
        ({"payload": {"to": pytest.approx}}, []),
        ({"headers": {"h": "1"}}, ["a"]),
        ({"headers": {}}, ["a", "b", ""]),
        ({"delay": "1m 30s"}, ["b"]),
        ({"delay": 0}, ["a", ""]),
        ({"task_id": "b", "payload": {"to": "ann"}}, []),
    ],
)
def test_messages_are_found_by_a_part_of_them(mails: Kit, wanted: dict[str, Any], found: list[str]) -> None:
    """Only what is told is looked at, at any depth; a list is whole. The opposite assertion says the opposite."""
    if found:
        assert [each.task_id for each in mails.sent("mails", **wanted)] == found
        with pytest.raises(AssertionError, match="like this w"):
            mails.not_sent("mails", **wanted)
    else:
        mails.not_sent("mails", **wanted)
        with pytest.raises(AssertionError, match="nothing like this was sent"):
            mails.sent("mails", **wanted)


def test_the_nearest_messages_are_shown_with_their_differences(mails: Kit) -> None:
    """The one with the fewest first, each key that differs with both values."""
    with pytest.raises(AssertionError) as info:
        mails.sent("mails", payload={"to": "bob", "order": {"id": 8}, "cc": "eve"}, headers={"h": "2"})
    assert str(info.value).splitlines() == [
        "nothing like this was sent to 'mails':",
        "    payload: {'cc': 'eve', 'order': {'id': 8}, 'to': 'bob'}",
        "    headers: {'h': '2'}",
        "3 messages were sent there; the nearest:",
        "  task : payload None",
        "    payload is None; wanted {'cc': 'eve', 'order': {'id': 8}, 'to': 'bob'}",
        "    headers['h'] is missing; wanted '2'",
        "  task b: payload {'order': {'id': 7, 'items': [1, 3]}, 'to': 'bob'}, delay 90 s",
        "    payload['order']['id'] is 7; wanted 8",
        "    payload['cc'] is missing; wanted 'eve'",
        "    headers['h'] is missing; wanted '2'",
        "  task a: payload {'order': {'id': 7, 'items': [1, 2]}, 'to': 'ann'}, headers {'h': '1'}",
        "    payload['to'] is 'ann'; wanted 'bob'",
        "    payload['order']['id'] is 7; wanted 8",
        "    payload['cc'] is missing; wanted 'eve'",
        "    headers['h'] is '1'; wanted '2'",
    ]


def test_a_task_is_named_by_itself(qbridge: Kit) -> None:
    """Messages of other tasks of its queue do not count, and those under its older names do."""
    app = App()
    app.task(name="new", queue="q", aliases=["old"])(lambda n: None)
    app.task(name="other", queue="q")(lambda n: None)
    qbridge.open(app)
    new, other = app.tasks
    other.send(1)
    qbridge.not_sent(new)
    with pytest.raises(AssertionError, match="nothing was sent to 'q' for new"):
        qbridge.sent(new, payload={"n": 1})
    qbridge.client.publish("q", b'{"task": "old", "payload": {"n": 2}}')
    new.send(3)
    assert [each.payload for each in qbridge.sent(new)] == [{"n": 2}, {"n": 3}]


def test_letters_are_those_of_their_queue(qbridge: Kit) -> None:
    """Also where two queues share their dead letters; the name of the dead-letter queue gets all."""
    for queue in ("a", "b"):
        qbridge.manager(fail, queue, "d", max_retries=0)
        qbridge.client.send(queue, queue)
    qbridge.client.send("d", "no letter")
    qbridge.run()
    assert [letter.payload for letter in qbridge.letters("a")] == ["a"]
    with pytest.raises(AssertionError, match="one dead letter that it did not expect") as info:
        qbridge.check_letters()
    assert "task " in str(info.value)
    assert "of 'b': failed: ValueError: no b" in str(info.value)
    assert 'raise ValueError(f"no {payload}")' in str(info.value)
    assert sorted(letter.payload for letter in qbridge.letters("d")) == ["a", "b"]
    qbridge.check_letters()


def test_letters_and_messages_of_a_task_are_no_others(qbridge: Kit) -> None:
    """Of another task in its queue, or of the same name in another app; what cannot be read is no task's."""
    apps = App(), App()
    for number, app in enumerate(apps):
        app.task(name="mail", queue=f"q{number}", max_retries=0)(fail)
        app.task(name="bill", queue=f"q{number}", max_retries=0)(fail)
        qbridge.open(app)
    (mail, bill), (other_mail, _) = apps[0].tasks, apps[1].tasks
    other_mail.send(0)
    qbridge.not_sent(mail)
    mail.send(1)
    qbridge.client.declare("elsewhere")
    qbridge.client.publish("elsewhere", b'{"task": "mail", "payload": {"payload": 2}}')
    bill.send(3)
    qbridge.client.publish("q0", b"no task")
    assert [each.payload["payload"] for each in qbridge.sent(mail)] == [1, 2]
    qbridge.run()
    assert [letter.payload for letter in qbridge.letters(mail)] == [{"payload": 1}]
    qbridge.allow_letters(other_mail)
    with pytest.raises(AssertionError, match="2 dead letters that it did not expect"):
        qbridge.check_letters()
    qbridge.allow_letters(bill, "q0")
    qbridge.check_letters()


def test_letters_are_seen_though_the_client_was_closed(qbridge: Kit) -> None:
    """As a program does that is told to end."""
    qbridge.manager(fail, "q", "d", max_retries=0)
    qbridge.client.send("q", 1)
    qbridge.run()
    qbridge.client.disconnect()
    assert "one dead letter" in qbridge.unexpected_letters()
    qbridge.allow_letters()


def test_letters_can_be_allowed(qbridge: Kit) -> None:
    """Of some queues, or of all."""
    for queue in ("a", "b"):
        qbridge.manager(fail, queue, f"{queue}.dead", max_retries=0)
        qbridge.client.send(queue, queue)
    qbridge.run()
    qbridge.allow_letters("a")
    with pytest.raises(AssertionError, match="of 'b'"):
        qbridge.check_letters()
    qbridge.allow_letters()
    qbridge.check_letters()


def test_a_letter_that_was_sent_back_is_none_any_more(qbridge: Kit) -> None:
    """What counts is what is there at the end."""
    broken = [True]

    def handler(payload: object) -> None:
        if broken:
            raise ValueError

    qbridge.manager(handler, "q", "d", max_retries=0)
    task_id = qbridge.client.send("q", 1)
    qbridge.run()
    broken.clear()
    qbridge.client.replay("d")
    qbridge.run()
    qbridge.check_letters()
    assert len(qbridge.sent("q")) == 1
    assert [step.what for step in qbridge.history(task_id)] == [
        "sent", "received", "dead-lettered", "replayed", "received", "succeeded",
    ]  # fmt: skip


def test_the_history_of_a_task_tells_all_of_it(qbridge: Kit) -> None:
    """When it was sent, tried, put off and given up, each step with its time and its reason."""

    def handler(payload: object, task: TaskContext) -> None:
        if task.attempt == 1 and not task.history:
            raise Snooze(60)
        raise KeyError("x")

    qbridge.manager(handler, "q", "d", max_retries=1, backoff=ConstantBackoff(7_200))
    task_id = qbridge.client.send("q", 1, delay=5)
    qbridge.run()
    began = qbridge.history(task_id)[0].at
    steps = qbridge.history(task_id)
    assert [(step.what, (step.at - began).total_seconds(), step.delay, step.exception) for step in steps] == [
        ("sent", 0, 5.0, ""),
        ("received", 5, 0.0, ""),
        ("snoozed", 5, 60.0, "qbridge_core.Snooze"),
        ("received", 65, 0.0, ""),
        ("retried", 65, 7_200.0, "KeyError"),
        ("received", 7_265, 0.0, ""),
        ("dead-lettered", 7_265, 0.0, "KeyError: 'x'"),
    ]
    assert "test_kit.py" in steps[4].place
    assert str(steps[4]).split("  ")[1].startswith("retried, due in 2 h: KeyError at ")
    assert qbridge.story().splitlines()[:2] == [
        f"task {task_id}",
        f"  {began:%Y-%m-%d %H:%M:%S}  sent to 'q', due in 5 s",
    ]
    qbridge.letters("q")


def test_the_run_of_a_test_costs_little(qbridge: Kit) -> None:
    """A run with one task waits for no polls, and none of the workers' long ones when it ends them."""
    qbridge.manager(str, "q", "d")
    lasted: list[float] = []
    for _ in range(20):
        began = time.perf_counter()
        qbridge.client.send("q", 1)
        assert qbridge.run().succeeded == 1
        lasted.append(time.perf_counter() - began)
    assert min(lasted) < 0.1, "what a machine at leisure does in 0.01 s"
    assert sum(lasted) < 20.0


def test_what_is_sent_to_a_pool_is_read_in_its_formats(qbridge: Kit) -> None:
    """They are those of all queues of the pool, which have no settings of their own."""
    app = App()
    app.pool("web", queues={"urgent": 5, "normal": 1}, formats=[CloudEventsFormat()])

    @app.task(name="bill", queue="urgent")
    def bill(order: int) -> None:
        """Do nothing."""

    qbridge.open(app)
    task_id = bill.send(7)
    assert [each.task_id for each in qbridge.sent(bill, payload={"order": 7})] == [task_id]
