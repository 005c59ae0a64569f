"""A broker in memory, and what works with it, by a clock that stands still until somebody moves it."""

from __future__ import annotations

import gc
import sys
import threading
import weakref
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest

from qbridge_core import App, ConfigurationError, ConstantBackoff, Delivery, TaskManager, current_task
from qbridge_core.backend import monotonic
from qbridge_memory import MemoryClient, reset
from qbridge_memory.stored import Event
from qbridge_pytest.clock import VirtualClock, seconds_of
from support.wait import wait_for


@pytest.fixture
def time() -> VirtualClock:
    """It stands still."""
    return VirtualClock()


@pytest.fixture
def client(time: VirtualClock) -> Iterator[MemoryClient]:
    """With a queue ``q``."""
    with MemoryClient(clock=time.clock) as client:
        client.declare("q", "d")
        yield client


def waits(thread: threading.Thread) -> bool:
    """Whether a thread is where it is told of something."""
    frame = sys._current_frames().get(thread.ident or 0)
    return frame is not None and frame.f_code is threading.Condition.wait.__code__


def test_a_receive_that_waits_gets_what_comes_due(client: MemoryClient, time: VirtualClock) -> None:
    """At once, when the clock is moved, and not before; the time for which it waits is real."""
    client.publish("q", b"x", delay=3_600)
    received: list[Delivery] = []
    waiting = threading.Thread(target=lambda: received.extend(client.receive("q", 1, 60.0)))
    waiting.start()
    wait_for(lambda: waits(waiting))
    time.advance(3_599.9)
    assert client.outlook(["q"]) == (0, 0, 3_600.0)
    assert waits(waiting)
    began = monotonic()
    time.advance_to(3_600.0)
    waiting.join(30.0)
    assert [delivery.body for delivery in received] == [b"x"]
    assert monotonic() - began < 10.0
    assert client.receive("q", 1, 0.01) == []  # ends, though no time passes


def test_what_waits_for_any_queue_gets_what_comes_due(client: MemoryClient, time: VirtualClock) -> None:
    """A request for several queues is told of a jump, too."""
    client.publish("q", b"x", delay=3_600)
    received: list[Delivery] = []
    waiting = threading.Thread(target=lambda: received.extend(client.receive_any({"q": 1, "d": 1}, 60.0)))
    waiting.start()
    wait_for(lambda: waits(waiting))
    time.advance(3_600)
    waiting.join(30.0)
    assert [delivery.body for delivery in received] == [b"x"]


def test_all_that_is_written_has_the_time_of_the_clock(client: MemoryClient, time: VirtualClock) -> None:
    """When it was sent, came due, failed and was tried, through a manager that takes the clock from its client."""
    began, dues = time.now, []

    def fail(payload: object) -> None:
        dues.append(current_task().due_at)
        raise ValueError

    time.advance(86_400)
    client.send("q", 1)
    time.advance(60)
    with TaskManager(client, fail, "q", "d", max_retries=1, backoff=ConstantBackoff(600)):
        wait_for(lambda: client.count("q").delayed == 1, 30.0)
        time.advance(600)
        wait_for(lambda: client.count("d").ready == 1, 30.0)
    (letter,) = client.dead_letters("d")
    assert letter.sent_at == began + timedelta(days=1)
    first, second = began + timedelta(days=1, seconds=60), began + timedelta(days=1, seconds=660)
    assert dues == [None, second]
    assert (letter.first_failed_at, letter.last_failed_at) == (first.timestamp(), second.timestamp())
    close = timedelta(seconds=30)  # the run itself takes real time
    tried = [attempt.began_at or began for attempt in letter.history]
    assert all(when - close < at <= when for at, when in zip(tried, (first, second), strict=True))
    client.replay("d")
    (delivery,) = client.receive("q")
    assert delivery.due_at == second
    client.reject(delivery, requeue=False)
    assert client.dead_letters("d")[0].last_failed_at == second.timestamp()


def test_a_moment_is_one_of_the_clock_of_the_client(time: VirtualClock) -> None:
    """A task that is sent for tomorrow waits until it is tomorrow there."""
    app = App()

    @app.task(name="t", queue="q")
    def task() -> None:
        """Do nothing."""

    time.advance(30 * 86_400)
    with app.open("memory://", clock=time.clock) as client:
        tomorrow = time.now + timedelta(days=1)
        app.send_many([task.options(at=tomorrow).message(), task.options(at=time.now).message(), task.message()])
        task.options(at=tomorrow).send()
        assert (client.count("q").ready, client.count("q").delayed) == (2, 2)
        assert {held.due_at for held in client.delayed("q")} == {tomorrow}


def test_a_broker_with_a_name_has_one_clock(time: VirtualClock, unique_name: str) -> None:
    """Its clients share that of the first one, and another is refused."""
    url = f"memory://{unique_name}"
    assert MemoryClient(url, clock=time.clock).clock == MemoryClient(url).clock == time.clock
    with pytest.raises(ConfigurationError, match=rf"another clock: call reset\('{unique_name}'\)"):
        MemoryClient(url, clock=VirtualClock().clock)
    reset(unique_name)
    with pytest.raises(ConfigurationError, match="clock must be a Clock"):
        MemoryClient(clock=time)


def test_a_clock_keeps_no_broker(time: VirtualClock) -> None:
    """A clock that lives longer than the brokers of many tests holds none of them."""
    gone = weakref.ref(MemoryClient(clock=time.clock)._broker)
    gc.collect()
    assert gone() is None
    time.advance(1)


def test_a_journal_has_all_that_happened(time: VirtualClock) -> None:
    """Each event with its queue, its time, its delay and where the message went."""
    events: list[Event] = []
    with MemoryClient(clock=time.clock, journal=events.append) as client:
        client.declare("q", "d")
        client.publish("q", b"1", delay=5)
        time.advance(5)
        client.reject(client.receive("q")[0])
        client.reject(client.receive("q")[0], requeue=False)
        client.replay("d", letters=client.dead_letters("d"))
        client.ack(client.receive("q")[0])
        client.publish("q", b"2")
        client.receive("q")
    at = events[0].at
    assert [(event.what, event.queue, event.at - at, event.delay, event.target) for event in events] == [
        ("put", "q", 0.0, 5.0, ""),
        ("taken", "q", 5.0, 0.0, ""),
        ("given back", "q", 5.0, 0.0, ""),
        ("taken", "q", 5.0, 0.0, ""),
        ("moved", "q", 5.0, 0.0, "d"),
        ("put", "q", 5.0, 0.0, ""),
        ("taken", "q", 5.0, 0.0, ""),
        ("removed", "q", 5.0, 0.0, ""),
        ("put", "q", 5.0, 0.0, ""),
        ("taken", "q", 5.0, 0.0, ""),
        ("given back", "q", 5.0, 0.0, ""),
    ]


@pytest.mark.parametrize(
    ("given", "seconds"),
    [
        (90, 90.0), (0.5, 0.5), ("90s", 90.0), ("1h", 3_600.0), ("1h 30m", 5_400.0), ("1.5h", 5_400.0),
        ("30d", 2_592_000.0), ("250ms", 0.25), ("2w", 1_209_600.0), (timedelta(minutes=1), 60.0),
    ],
)  # fmt: skip
def test_a_length_of_time_can_be_written(given: object, seconds: float) -> None:
    """As a number of seconds, with units, or as a timedelta."""
    assert seconds_of("by", given) == seconds


@pytest.mark.parametrize("given", ["", "1", "h", "1 hour", "1h x", "-1s", -1, float("nan"), float("inf"), True, None])
def test_what_is_no_length_of_time_is_refused(given: object) -> None:
    """The error shows what can be written; what could mean two things is refused."""
    with pytest.raises(ConfigurationError, match='by must be a length of time, as 90, "90s"'):
        seconds_of("by", given)


def test_the_clock_begins_now(time: VirtualClock) -> None:
    """At a full second, so that the dates of a test are easy to read."""
    assert timedelta() <= datetime.now(UTC) - time.now < timedelta(seconds=60)
    assert time.now.microsecond == 0
