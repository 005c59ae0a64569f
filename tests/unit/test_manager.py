"""``TaskManager``: its arguments, and what becomes of a run."""

from __future__ import annotations

import asyncio
import math
import re
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from qbridge_core import (
    ConfigurationError,
    ConstantBackoff,
    ExceptionRule,
    IdleTimeoutError,
    NotConnectedError,
    Outcome,
    QBridgeError,
    Reason,
    Reject,
    Retry,
    Snooze,
    TaskManager,
    TooManyStuckTasksError,
    connect,
)
from qbridge_memory import MemoryClient
from support.wait import wait_for


async def coroutine_function(payload: object) -> None:
    """What somebody has to await."""


async def asynchronous_generator(payload: object) -> AsyncIterator[object]:
    """What somebody has to go through."""
    yield payload


class AsyncCallable:
    """An object whose call is a coroutine function."""

    async def __call__(self, payload: object) -> None:
        """Do nothing."""


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("queue_client", value) for value in (None, MemoryClient, 3)),
        *(("handler", value) for value in (None, "print", 3)),
        *(("input_queue", value) for value in ("", None, 3, b"q")),
        *(("dead_letter_queue", value) for value in ("", None, 3)),
        *(("max_retries", value) for value in (-1, 1.5, "3", None, True)),
        *(("task_timeout", value) for value in (0, -1, math.nan, math.inf, "10", None, True)),
        *(("max_workers", value) for value in (0, -1, 1.5, "4", True)),
        *(("backoff", value) for value in (None, 2.0, "exponential")),
        *(("grace_period", value) for value in (-1, math.nan, math.inf, None)),
        *(("max_message_bytes", value) for value in (0, -1, 1.5, "1")),
        *(("max_abandoned", value) for value in (0, -1, 1.5, "1")),
        *(("retry_rules", value) for value in ("OSError", ExceptionRule(OSError), [OSError], None)),
        *(("redact", value) for value in ("password", 1, True, ["a"])),
        *(("plugins", value) for value in (1, None)),
        *(("dead_letter_on", value) for value in ("ValueError", ValueError, [ValueError()], [int])),
    ],
)
def test_a_wrong_argument_is_named(client: MemoryClient, name: str, value: Any) -> None:
    """Each argument is checked when the manager is created, and the error names it."""
    arguments = {"queue_client": client, "handler": print, "input_queue": "q", "dead_letter_queue": "d", name: value}
    with pytest.raises(ConfigurationError, match=name):
        TaskManager(**arguments)


def test_an_unknown_argument_is_refused(client: MemoryClient) -> None:
    """A misspelled argument is not ignored."""
    with pytest.raises(TypeError, match="max_retry"):
        TaskManager(client, print, "q", "d", max_retry=3)  # type: ignore[call-arg]


def test_one_queue_for_both_is_refused(client: MemoryClient) -> None:
    """Dead letters in the input queue would be run again for ever."""
    with pytest.raises(ConfigurationError, match="must differ"):
        TaskManager(client, print, "q", "q")


def test_a_client_that_is_not_connected_is_refused() -> None:
    """The error says what to call."""
    with pytest.raises(NotConnectedError, match=r"connect\(\)"):
        TaskManager(MemoryClient(), print, "q", "d")


@pytest.mark.parametrize("handler", [lambda: None, lambda a, b, c: None, lambda *, a: None, lambda a, *, b: None])
def test_a_handler_that_cannot_take_a_payload_is_refused(client: MemoryClient, handler: Any) -> None:
    """It would fail for every task; the error shows what it takes instead."""
    with pytest.raises(ConfigurationError, match=r"must accept one argument.*<lambda>\(.*\) does not: "):
        TaskManager(client, handler, "q", "d")


@pytest.mark.parametrize("handler", [lambda a: None, lambda a, b=1: None, lambda *a: None, print, int, dict.fromkeys])
def test_any_callable_with_one_argument_is_a_handler(client: MemoryClient, handler: Any) -> None:
    """Functions, classes, bound methods and builtins."""
    TaskManager(client, handler, "q", "d")


@pytest.mark.parametrize(
    ("make", "advice"),
    [
        (coroutine_function, "async def` and await it"),
        (lambda payload: (each for each in payload), "go through it, and return"),
        (asynchronous_generator, "async def` and go through it"),
    ],
    ids=["coroutine", "generator", "asynchronous generator"],
)
def test_a_hidden_coroutine_is_a_failure(client: MemoryClient, make: Callable[[Any], object], advice: str) -> None:
    """A handler that returns what somebody would have to run has not done its work: the task is not acknowledged."""

    def handler(payload: object) -> object:
        return make([payload])

    client.send("q", 1)
    manager = TaskManager(client, handler, "q", "d", max_retries=0, max_workers=1)
    report = manager.run_until_idle(10.0)
    assert (report.succeeded, report[Outcome.FAILED]) == (0, 1)
    assert re.search(f"would never run; .*{advice}", client.dead_letters("d")[0].exception_message)


class Unprintable(Exception):
    """An exception whose text cannot be read."""

    def __str__(self) -> str:
        raise RuntimeError("no text")

    __repr__ = __str__


class Service:
    """Somebody's class."""

    class Failed(Exception):
        """An exception that is named after the class that it belongs to."""


RAISED: dict[str, BaseException] = {
    "SystemExit": SystemExit(1),
    "KeyboardInterrupt": KeyboardInterrupt(),
    "GeneratorExit": GeneratorExit(),
    "BaseException": BaseException("x"),
    "asyncio.exceptions.CancelledError": asyncio.CancelledError(),
    "StopIteration": StopIteration(1),
    "MemoryError": MemoryError(),
    "RecursionError": RecursionError(),
    f"{__name__}.Unprintable": Unprintable(),
    f"{__name__}.Service.Failed": Service.Failed(),
    "BaseExceptionGroup": BaseExceptionGroup("g", [SystemExit(1)]),
    "qbridge_core.errors.ConfigurationError": ConfigurationError("from a handler"),
    "qbridge_core.errors.NotConnectedError": NotConnectedError("from a handler"),
    "None.Odd": type("Odd", (Exception,), {"__module__": None})(),
}
"""What handlers may raise, by the name that a dead letter gives to it."""


@pytest.mark.parametrize("kind", ["def", "async def"])
@pytest.mark.parametrize("name", RAISED)
def test_whatever_a_handler_raises_is_its_failure(client: MemoryClient, name: str, kind: str) -> None:
    """The task is dead-lettered with the exception's full name, and the worker goes on."""

    def handler(payload: str) -> None:
        if payload == "bad":
            raise RAISED[name]

    async def coroutine(payload: str) -> None:
        handler(payload)

    client.send_many("q", ["bad", "good"])
    called: Callable[[str], object] = handler if kind == "def" else coroutine
    report = TaskManager(client, called, "q", "d", max_retries=1, max_workers=1).run_until_idle(10.0)
    assert (report.succeeded, report.retried, report[Outcome.FAILED]) == (1, 1, 1)
    letter = client.dead_letters("d")[0]
    # Python turns a StopIteration into another error where it leaves a coroutine.
    assert letter.exception_type == ("RuntimeError" if (name, kind) == ("StopIteration", "async def") else name)
    assert letter.attempts == 2


def test_a_dead_letter_shows_the_handlers_traceback(client: MemoryClient) -> None:
    """The traceback starts in the handler, not in QBridge."""

    def helper() -> None:
        raise ValueError("deep down")

    def handler(payload: object) -> None:
        helper()

    client.send("q", 1)
    TaskManager(client, handler, "q", "d", max_retries=0, max_workers=1).run_until_idle(10.0)
    text = client.dead_letters("d")[0].traceback
    assert "in handler" in text
    assert "in helper" in text
    assert "ValueError: deep down" in text
    assert "worker.py" not in text


@pytest.mark.parametrize("max_retries", [0, 1, 3])
def test_a_task_runs_once_more_than_it_is_retried(client: MemoryClient, max_retries: int) -> None:
    """``max_retries=3`` means at most 4 failed runs."""
    runs = []

    def handler(payload: object) -> None:
        runs.append(payload)
        raise ValueError

    client.send("q", 1)
    TaskManager(client, handler, "q", "d", max_retries=max_retries, max_workers=1).run_until_idle(10.0)
    assert len(runs) == max_retries + 1
    assert client.dead_letters("d")[0].attempts == max_retries + 1


def test_the_count_goes_on_in_another_worker(client: MemoryClient) -> None:
    """What failed under one manager is not given all its attempts again by the next."""
    runs: Counter[str] = Counter()

    def failing(payload: str) -> None:
        runs[payload] += 1
        if runs[payload] == 2:
            stopping.set()
        raise ValueError

    stopping = threading.Event()
    client.send("q", "x")
    with TaskManager(client, failing, "q", "d", max_retries=10**6, max_workers=1):
        assert stopping.wait(10)
    before = runs["x"]
    TaskManager(client, failing, "q", "d", max_retries=before, max_workers=1).run_until_idle(10.0)
    assert runs["x"] == before + 1


def test_exceptions_can_be_final(client: MemoryClient) -> None:
    """``dead_letter_on`` spares what no retry can help."""

    def handler(payload: object) -> None:
        raise KeyError(payload)

    client.send("q", 1)
    manager = TaskManager(client, handler, "q", "d", max_workers=1, dead_letter_on=[LookupError])
    assert str(manager.run_until_idle(10.0)) == "1 dead-lettered (failed)"


def test_a_handler_can_reject_postpone_and_retry(client: MemoryClient) -> None:
    """``Reject`` ends the task, ``Snooze`` costs nothing, ``Retry`` costs an attempt."""
    runs: Counter[str] = Counter()

    def handler(payload: str) -> None:
        runs[payload] += 1
        if runs[payload] > 1 and payload != "retry":
            return
        raise {"reject": Reject("never"), "snooze": Snooze(0.01), "retry": Retry("again", after=0.01)}[payload]

    client.send_many("q", ["reject", "snooze", "retry"])
    report = TaskManager(client, handler, "q", "d", max_retries=1, max_workers=1).run_until_idle(10.0)
    assert runs == {"reject": 1, "snooze": 2, "retry": 2}
    assert (report[Outcome.REJECTED], report[Outcome.SNOOZED], report.retried, report[Outcome.FAILED]) == (1, 1, 1, 1)


# ---------------------------------------------------------------------- timeouts


def test_the_clock_starts_with_the_run(client: MemoryClient) -> None:
    """Time in the queue does not count: four tasks of one worker that take longer together all succeed."""
    client.send_many("q", range(4))
    manager = TaskManager(client, lambda _: time.sleep(0.2), "q", "d", task_timeout=0.6, max_workers=1)
    assert str(manager.run_until_idle(10.0)) == "4 succeeded"


def test_a_stuck_worker_is_replaced(client: MemoryClient) -> None:
    """With every slot stuck, as many other tasks run at once as before: the pool has not shrunk."""
    release = threading.Event()
    barrier = threading.Barrier(3, timeout=10)

    def handler(payload: str) -> None:
        if payload == "stuck":
            release.wait(30)
        else:
            barrier.wait()

    client.send_many("q", ["stuck"] * 6 + ["together"] * 6)
    manager = TaskManager(client, handler, "q", "d", max_retries=0, task_timeout=0.3, max_workers=3)
    try:
        report = manager.run_until_idle(20.0)
    finally:
        release.set()
    assert (report.succeeded, report[Outcome.TIMED_OUT]) == (6, 6)


def test_the_pool_does_not_grow_either(client: MemoryClient) -> None:
    """After timeouts no more tasks than ``max_workers`` are run at once, the stuck ones aside."""
    release, lock = threading.Event(), threading.Lock()
    now, most = 0, 0

    def handler(payload: str) -> None:
        nonlocal now, most
        if payload == "stuck":
            release.wait(30)
            return
        with lock:
            now += 1
            most = max(most, now)
        time.sleep(0.02)  # long enough to overlap with others
        with lock:
            now -= 1

    client.send_many("q", ["stuck", "stuck", *("good" for _ in range(20))])
    # On a busy machine a good one may take its time, and would be one of the stuck ones with less.
    manager = TaskManager(client, handler, "q", "d", max_retries=1, task_timeout=1.0, max_workers=2)
    try:
        manager.run_until_idle(20.0)
    finally:
        release.set()
    assert most == 2


@pytest.mark.parametrize("late", ["returns", "raises"])
def test_g9_a_late_result_changes_nothing(client: MemoryClient, late: str) -> None:
    """A handler that ends after its timeout neither acknowledges nor fails its message once more."""
    release, ended = threading.Event(), threading.Event()
    before = workers()

    def handler(payload: object) -> None:
        try:
            release.wait(30)
            if late == "raises":
                raise ValueError
        finally:
            ended.set()

    client.send("q", 1)
    manager = TaskManager(client, handler, "q", "d", max_retries=0, task_timeout=0.1, max_workers=1)
    manager.run_until_idle(10.0)
    release.set()
    assert ended.wait(10)
    wait_for(lambda: workers() <= before, 10.0)
    assert str(manager.report()) == "1 dead-lettered (timed out)"
    (letter,) = client.dead_letters("d")
    assert (letter.reason, letter.exception_type) == (Reason.TIMED_OUT, "TimeoutError")


def test_a_dead_letter_shows_where_a_handler_was_stuck(client: MemoryClient) -> None:
    """The traceback of a timeout ends where the handler was."""
    release = threading.Event()

    def handler(payload: object) -> None:
        release.wait(30)

    client.send("q", 1)
    TaskManager(client, handler, "q", "d", max_retries=0, task_timeout=0.1, max_workers=1).run_until_idle(10.0)
    release.set()
    letter = client.dead_letters("d")[0]
    assert "release.wait(30)" in letter.traceback
    assert letter.exception_message == "the handler ran longer than 0.1 s"


def test_too_many_stuck_handlers_end_the_worker(client: MemoryClient) -> None:
    """Above ``max_abandoned`` the manager stops with an error, so that its process is started anew."""
    release = threading.Event()
    client.send_many("q", range(5))
    manager = TaskManager(
        client, lambda _: release.wait(30), "q", "d", max_retries=0, task_timeout=0.05, max_workers=1, max_abandoned=2
    )
    try:
        with pytest.raises(TooManyStuckTasksError, match="3 handlers"):
            manager.start()
    finally:
        release.set()
    stats = client.stats("q")
    assert (stats.in_flight, stats.ready + client.stats("d").ready) == (0, 5)


# ---------------------------------------------------------------------- running


def test_run_until_idle_of_an_empty_queue_returns_at_once(client: MemoryClient) -> None:
    """Nothing to do is an empty report, and ``print`` of it says so."""
    report = TaskManager(client, print, "q", "d", max_workers=1).run_until_idle(10.0)
    assert str(report) == "nothing happened"
    assert report.counts == {}


def test_run_until_idle_waits_for_delayed_tasks(client: MemoryClient) -> None:
    """A task that is due later belongs to the work that is left."""
    client.send("q", 1, delay=0.2)
    assert TaskManager(client, lambda _: None, "q", "d", max_workers=1).run_until_idle(10.0).succeeded == 1


def test_run_until_idle_gives_up_with_a_report(client: MemoryClient) -> None:
    """After its timeout it says what was done, and what is left stays in the queue."""
    client.send("q", "now")
    client.send("q", "later", delay=60.0)
    with pytest.raises(IdleTimeoutError, match=r"'q' still has work after 0.3 s \(1 succeeded\)") as info:
        TaskManager(client, lambda _: None, "q", "d", max_workers=1).run_until_idle(0.3)
    assert info.value.report.succeeded == 1  # type: ignore[attr-defined]
    assert client.stats("q").delayed == 1


@pytest.mark.parametrize("timeout", [0, -1, math.nan, None, "1"])
def test_run_until_idle_checks_its_timeout(client: MemoryClient, timeout: Any) -> None:
    """The error names the argument, and nothing has run."""
    client.send("q", 1)
    with pytest.raises(ConfigurationError, match="timeout"):
        TaskManager(client, print, "q", "d").run_until_idle(timeout)
    assert client.stats("q").ready == 1


@pytest.mark.parametrize("poll_timeout", [0, -1, math.inf, None])
def test_start_checks_its_poll_timeout(client: MemoryClient, poll_timeout: Any) -> None:
    """The error names the argument, and the manager can be started afterwards."""
    manager = TaskManager(client, print, "q", "d", max_workers=1)
    with pytest.raises(ConfigurationError, match="poll_timeout"):
        manager.start(poll_timeout)
    assert str(manager.run_until_idle(10.0)) == "nothing happened"


def test_a_manager_runs_once_at_a_time(client: MemoryClient) -> None:
    """Starting it a second time is an error that says what to do; the first goes on."""
    with TaskManager(client, lambda _: None, "q", "d", max_workers=1) as manager:
        with pytest.raises(ConfigurationError, match="running already"):
            manager.start()
        with pytest.raises(ConfigurationError, match="running already"):
            manager.__enter__()
        client.send("q", 1)
        assert manager.run_until_idle(10.0).succeeded == 1


def test_a_manager_can_be_started_again(client: MemoryClient) -> None:
    """After a stop it is as new, and its report goes on."""
    manager = TaskManager(client, lambda _: None, "q", "d", max_workers=1)
    for _ in range(3):
        client.send("q", 1)
        with manager:
            manager.run_until_idle(10.0)
    assert manager.report().succeeded == 3


def in_background(manager: TaskManager, action: Callable[[], None]) -> None:
    """Do something while the manager runs, and wait for the end of its workers."""
    before = workers()
    with manager:
        wait_for(lambda: workers() - before, 10.0)
        action()
        wait_for(lambda: workers() <= before, 10.0)


def workers() -> set[threading.Thread]:
    """The threads of workers; those that other tests have left hanging belong to them."""
    return {thread for thread in threading.enumerate() if thread.name == "qbridge-worker"}


def test_a_client_that_was_disconnected_meanwhile_is_an_error(client: MemoryClient) -> None:
    """``start`` and the context manager raise when somebody else disconnects their client."""
    manager = TaskManager(client, print, "q", "d", max_workers=2)
    threading.Timer(0.1, client.disconnect).start()
    with pytest.raises(NotConnectedError):
        manager.start()
    client.connect()
    with pytest.raises(NotConnectedError):
        in_background(manager, client.disconnect)
    with pytest.raises(NotConnectedError):
        manager.start()


def test_an_error_in_the_block_is_not_hidden(client: MemoryClient) -> None:
    """What the ``with`` block raises comes out, also when the background thread failed too."""

    def fail() -> None:
        client.disconnect()
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        in_background(TaskManager(client, print, "q", "d", max_workers=1), fail)


def test_run_until_idle_says_when_the_manager_ended(client: MemoryClient) -> None:
    """A manager that had to stop is an error, not an endless wait."""
    client.send("q", 1)
    manager = TaskManager(client, lambda _: client.disconnect(), "q", "d", max_workers=1)
    with pytest.raises(QBridgeError):
        manager.run_until_idle(10.0)


def test_the_manager_leaves_the_client_connected(client: MemoryClient) -> None:
    """Its owner disconnects it."""
    with TaskManager(client, print, "q", "d", max_workers=1):
        pass
    assert client.connected


def test_a_stopped_manager_leaves_no_thread(client: MemoryClient) -> None:
    """Neither workers nor a supervisor are left."""
    before = set(threading.enumerate())
    client.send_many("q", range(20))
    TaskManager(client, lambda _: None, "q", "d", max_workers=8).run_until_idle(10.0)
    wait_for(lambda: not set(threading.enumerate()) - before, 5.0)


def test_the_number_of_workers_has_the_default_of_the_standard_library(
    client: MemoryClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """``max_workers=None`` means ``min(32, processors + 4)``."""
    for cpus, workers in ((2, 6), (64, 32), (1, 5)):
        monkeypatch.setattr("qbridge_core.work.plan.usable_processors", lambda cpus=cpus: cpus)
        assert TaskManager(client, print, "q", "d")._plan.workers == workers


def test_g7_an_exception_can_have_a_limit_of_its_own(client: MemoryClient) -> None:
    """Tasks that fail with different exceptions are retried as often as their rules say, also through ``Retry``."""
    runs: Counter[str] = Counter()

    def handler(payload: str) -> None:
        runs[payload] += 1
        if payload == "asks":
            raise Retry(after=0.01) from ConnectionResetError("away")
        raise {"os": ConnectionResetError, "key": KeyError, "value": ValueError}[payload](payload)

    client.send_many("q", ["os", "asks", "key", "value"])
    rules = [
        ExceptionRule(ConnectionError, ConstantBackoff(0.01), max_retries=4),
        ExceptionRule(KeyError, max_retries=0),
    ]
    manager = TaskManager(client, handler, "q", "d", max_retries=1, retry_rules=rules, max_workers=1)
    assert manager.run_until_idle(10.0).dead_lettered == 4
    assert runs == {"os": 5, "asks": 5, "key": 1, "value": 2}


def test_g7_a_rule_chooses_the_delay(client: MemoryClient) -> None:
    """The failed task waits at the broker as long as its exception's rule says, whatever the policy's backoff."""

    def handler(payload: object) -> None:
        raise TimeoutError("slow")

    client.send("q", 1)
    rules = [ExceptionRule(TimeoutError, ConstantBackoff(3600.0))]
    with TaskManager(client, handler, "q", "d", retry_rules=rules, max_workers=1) as manager:
        wait_for(lambda: manager.report().retried == 1, 10.0)
        assert client.stats("q").delayed == 1


def test_g19_a_worker_takes_what_its_client_may_send(client: MemoryClient) -> None:
    """Without a limit of its own a manager has the client's, so that a higher one need not be given twice."""
    done: list[int] = []
    client.max_message_bytes = 20 * 1024 * 1024
    client.send("q", "x" * (17 * 1024 * 1024))
    TaskManager(client, lambda payload: done.append(len(payload)), "q", "d", max_workers=1).run_until_idle(30)
    assert done == [17 * 1024 * 1024]


def test_g19_a_foreign_message_over_the_limit_can_be_listed_and_replayed() -> None:
    """The limit is for what is sent: copies of what is there already are made, whatever their size."""
    with connect("memory://large", max_message_bytes=5_000) as sender, connect("memory://large") as client:
        client.max_message_bytes = 1_000
        client.declare("q", "d")
        sender.send("q", "x" * 2_000)
        manager = TaskManager(client, print, "q", "d", max_workers=1)
        assert manager.run_until_idle(10)[Outcome.MALFORMED] == 1
        assert "the limit is 1000" in client.dead_letters("d")[0].exception_message
        assert client.replay("d") == 1
        assert len(client.receive("q", 1)[0].body) > 2_000
