"""``TaskManager(lifespan=…)`` in threads and on a loop: opened once for all tasks, and closed after the last."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import signal
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest

from qbridge_core import (
    ConfigurationError,
    IdleTimeoutError,
    Outcome,
    QBridgeError,
    TaskContext,
    TaskManager,
    current_task,
    hookimpl,
)
from qbridge_memory import MemoryClient
from support.lifespans import never_yields, never_yields_on_loop
from support.wait import wait_for


class Journal:
    """What happened, in order; and lifespans and handlers that write it."""

    def __init__(self) -> None:
        self.events: list[str] = []
        self.states: list[object] = []
        self.threads: dict[str, int] = {}
        self.entered = threading.Event()
        self.begun = threading.Event()
        self.go_on = threading.Event()

    def note(self, event: str) -> None:
        """Write an event, and where it happened."""
        self.events.append(event)
        self.threads[event] = threading.get_ident()

    @contextlib.contextmanager
    def plain(self) -> Iterator[object]:
        """A lifespan that yields a new object."""
        self.note("enter")
        self.entered.set()
        yield object()
        self.note("leave")

    @contextlib.asynccontextmanager
    async def with_loop(self) -> AsyncIterator[object]:
        """The same for ``async with``."""
        await asyncio.sleep(0.01)
        self.note("enter")
        self.entered.set()
        yield object()
        await asyncio.sleep(0.01)
        self.note("leave")

    def function(self, payload: object) -> None:
        """A handler."""
        self.states.append(current_task().state)
        self.note("task")

    async def coroutine(self, payload: object) -> None:
        """The same on a loop."""
        await asyncio.sleep(0)
        self.function(payload)

    def waiting_function(self, payload: object) -> None:
        """A handler that takes until it is told to go on."""
        self.begun.set()
        self.go_on.wait(60.0)
        self.note("task")

    async def waiting_coroutine(self, payload: object) -> None:
        """The same on a loop, and it does not follow a cancellation."""
        self.begun.set()
        while not self.go_on.is_set():
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.sleep(0.01)
        self.note("task")


@pytest.fixture
def journal() -> Iterator[Journal]:
    """An empty journal; whoever waits for it goes on at the end of the test."""
    journal = Journal()
    yield journal
    journal.go_on.set()


class TellingOfStarts:
    """A plugin that hears of them."""

    def __init__(self, journal: Journal) -> None:
        self.journal = journal

    @hookimpl
    def qbridge_worker_started(self) -> None:
        """Note it."""
        self.journal.note("worker started")

    @hookimpl
    def qbridge_task_started(self) -> None:
        """Note it."""
        self.journal.note("task started")


@contextlib.contextmanager
def broken() -> Iterator[None]:
    """Fail to be entered."""
    raise LookupError("no database")
    yield


@contextlib.asynccontextmanager
async def broken_on_loop() -> AsyncIterator[None]:
    """The same for ``async with``."""
    raise LookupError("no database")
    yield


def manager(client: MemoryClient, handler: Any, lifespan: Any, **arguments: Any) -> TaskManager:
    """A manager of the queue ``q``."""
    return TaskManager(client, handler, "q", "d", lifespan=lifespan, **{"max_retries": 0, **arguments})


kinds = pytest.mark.parametrize("handler", ["function", "coroutine"])
lifespans = pytest.mark.parametrize("lifespan", ["plain", "with_loop"])


@kinds
@lifespans
def test_a_lifespan_is_entered_once_and_left_after_the_last_task(
    client: MemoryClient, journal: Journal, handler: str, lifespan: str
) -> None:
    """Whichever kinds the two are: all tasks see the one object that it yields."""
    client.send_many("q", range(20))
    with manager(client, getattr(journal, handler), getattr(journal, lifespan)) as running:
        assert running.run_until_idle(30.0).succeeded == 20
        assert journal.events == ["enter", *["task"] * 20]
    assert journal.events == ["enter", *["task"] * 20, "leave"]
    assert len(set(map(id, journal.states))) == 1
    assert journal.states[0] is not None
    assert journal.threads["enter"] == journal.threads["leave"]
    assert (journal.threads["enter"] == journal.threads["task"]) is (handler == "coroutine")


@kinds
def test_each_start_enters_a_new_one(client: MemoryClient, journal: Journal, handler: str) -> None:
    """A manager that is started again calls its factory again."""
    twice = manager(client, getattr(journal, handler), journal.with_loop)
    for _ in range(2):
        client.send("q", 1)
        twice.run_until_idle(30.0)
    assert journal.events == ["enter", "task", "leave"] * 2
    assert journal.states[0] is not journal.states[1]


@kinds
def test_a_class_and_a_partial_are_lifespans_too(client: MemoryClient, journal: Journal, handler: str) -> None:
    """Whatever makes a context manager when it is called."""

    class Pool:
        def __init__(self, size: int = 1) -> None:
            self.size = size

        async def __aenter__(self) -> Pool:
            return self

        async def __aexit__(self, *problem: object) -> None:
            journal.note(f"closed {self.size}")

    for lifespan in (Pool, functools.partial(Pool, 2), lambda: Pool(size=3)):
        client.send("q", 1)
        manager(client, getattr(journal, handler), lifespan).run_until_idle(30.0)
    assert [event for event in journal.events if event != "task"] == ["closed 1", "closed 2", "closed 3"]
    assert all(isinstance(state, Pool) for state in journal.states)


@pytest.mark.parametrize("in_loop", [True, False])
def test_the_state_is_in_the_context_of_a_task(client: MemoryClient, in_loop: bool) -> None:
    """A handler with a second argument finds it there, and so do hooks; without a lifespan it is None."""
    seen: list[object] = []

    class Plugin:
        @hookimpl
        def qbridge_task_started(self) -> None:
            seen.append(current_task().state)

        @hookimpl
        def qbridge_task_succeeded(self) -> None:
            seen.append(current_task().state)

    def handler(payload: object, task: TaskContext) -> None:
        seen.append(task.state)

    async def handler_in_loop(payload: object, task: TaskContext) -> None:
        seen.append(task.state)

    for lifespan in (lambda: contextlib.nullcontext("the state"), None):
        client.send("q", 1)
        manager(client, handler_in_loop if in_loop else handler, lifespan, plugins=[Plugin()]).run_until_idle(30.0)
    assert seen == ["the state"] * 3 + [None] * 3


def test_coroutines_and_their_lifespan_share_a_loop(client: MemoryClient) -> None:
    """What it opens on the loop can be awaited by handlers, and its tasks run beside them until it is left."""
    events: list[str] = []

    @contextlib.asynccontextmanager
    async def lifespan() -> AsyncIterator[asyncio.Queue[asyncio.Future[str]]]:
        requests: asyncio.Queue[asyncio.Future[str]] = asyncio.Queue()

        async def serve() -> None:
            while True:
                (await requests.get()).set_result("answer")

        async with asyncio.TaskGroup() as group:
            server = group.create_task(serve())
            yield requests
            events.append("cancelled" if server.done() else "running")
            server.cancel()

    async def handler(payload: object) -> None:
        answer = asyncio.get_running_loop().create_future()
        await current_task().state.put(answer)
        events.append(await answer)

    client.send_many("q", range(3))
    assert manager(client, handler, lifespan).run_until_idle(30.0).succeeded == 3
    assert events == ["answer"] * 3 + ["running"]


def test_the_loop_of_a_lifespan_turns_beside_functions(client: MemoryClient) -> None:
    """A function can have something awaited there."""

    @contextlib.asynccontextmanager
    async def lifespan() -> AsyncIterator[Callable[[Any], Any]]:
        loop = asyncio.get_running_loop()
        yield lambda coroutine: asyncio.run_coroutine_threadsafe(coroutine, loop).result(10.0)

    def handler(payload: object) -> None:
        assert current_task().state(asyncio.to_thread(lambda: 5)) == 5

    client.send("q", 1)
    assert manager(client, handler, lifespan).run_until_idle(30.0).succeeded == 1


# ---------------------------------------------------------------------- what goes wrong


@kinds
@pytest.mark.parametrize("lifespan", [broken, broken_on_loop])
@pytest.mark.parametrize("how", ["start", "with", "run_until_idle"])
def test_what_entering_raises_ends_the_start(
    client: MemoryClient, journal: Journal, handler: str, lifespan: Any, how: str
) -> None:
    """It is raised as it is; nothing was taken from the queue, and no hook heard of a start."""
    client.send("q", 1)
    failing = manager(client, getattr(journal, handler), lifespan, plugins=[TellingOfStarts(journal)])
    with pytest.raises(LookupError, match="no database"):
        {"start": failing.start, "with": failing.__enter__, "run_until_idle": failing.run_until_idle}[how]()
    assert isinstance(failing.error, LookupError)
    assert not failing.running
    assert client.stats("q").ready == 1
    assert journal.events == []


@pytest.mark.parametrize("kind", ["nothing", "coroutine", "generator", "entered before"])
def test_a_function_that_makes_no_fresh_context_manager_ends_the_start(client: MemoryClient, kind: str) -> None:
    """What it returns is only seen then; the error says what is wanted."""
    used = broken()
    with pytest.raises(LookupError):
        used.__enter__()
    made: dict[str, Callable[[], Any]] = {
        "nothing": lambda: None,
        "coroutine": lambda: asyncio.sleep(0),
        "generator": lambda: iter(()),
        "entered before": lambda: used,
    }
    with pytest.raises(
        ConfigurationError, match="entered before" if kind == "entered before" else "asynccontextmanager"
    ):
        manager(client, print, made[kind]).start()


def test_a_function_that_returns_none_is_told_to_yield(client: MemoryClient) -> None:
    """The error names it, and says where to open and to close."""

    def forgetful() -> Any:
        pass

    with pytest.raises(ConfigurationError, match=r"forgetful returned None\..*must be yielded once"):
        manager(client, print, forgetful).start()


@contextlib.contextmanager
def yields_twice() -> Iterator[None]:
    """Close nothing."""
    yield
    yield


@contextlib.asynccontextmanager
async def yields_twice_on_loop() -> AsyncIterator[None]:
    """The same for ``async with``."""
    yield
    yield


@kinds
@pytest.mark.parametrize("lifespan", [never_yields, never_yields_on_loop])
def test_g18_a_lifespan_that_never_yields_is_named(
    client: MemoryClient, journal: Journal, handler: str, lifespan: Any
) -> None:
    """contextlib says that a generator did not, and not which one, nor what is expected of it."""
    client.send("q", 1)
    with pytest.raises(ConfigurationError, match=rf"lifespan must yield once, and {lifespan.__name__} does not"):
        manager(client, getattr(journal, handler), lifespan).start()
    assert client.stats("q").ready == 1


@kinds
@pytest.mark.parametrize("lifespan", [yields_twice, yields_twice_on_loop])
def test_g18_a_lifespan_that_yields_twice_is_named(
    client: MemoryClient, journal: Journal, caplog: pytest.LogCaptureFixture, handler: str, lifespan: Any
) -> None:
    """That is seen at its end, and logged as what else goes wrong there."""
    with manager(client, getattr(journal, handler), lifespan):
        pass
    assert f"lifespan must yield once, and {lifespan.__name__} does not: it yielded again" in caplog.text


def test_what_a_lifespan_enters_and_never_yields_is_not_taken_for_it(client: MemoryClient) -> None:
    """What is raised in it is raised as it is."""

    @contextlib.contextmanager
    def lifespan() -> Iterator[None]:
        with never_yields():
            yield

    with pytest.raises(RuntimeError, match="generator didn't yield"):
        manager(client, print, lifespan).start()


@kinds
@pytest.mark.parametrize("raises", [False, True])
def test_what_leaving_raises_is_logged_and_hides_nothing(
    client: MemoryClient, journal: Journal, caplog: pytest.LogCaptureFixture, handler: str, raises: bool
) -> None:
    """The block's own error comes out, or none."""

    @contextlib.asynccontextmanager
    async def lifespan() -> AsyncIterator[None]:
        yield
        raise LookupError("cannot close")

    expected = pytest.raises(KeyError) if raises else contextlib.nullcontext()
    with expected, manager(client, getattr(journal, handler), lifespan):
        if raises:
            raise KeyError("the block's own")
    assert "cannot close" in caplog.text


@kinds
def test_a_lifespan_that_ends_too_early_ends_the_worker(client: MemoryClient, journal: Journal, handler: str) -> None:
    """A task group whose task fails cancels what it belongs to: the block's end raises the reason."""

    async def fail() -> None:
        await asyncio.to_thread(journal.begun.wait, 30.0)
        raise LookupError("the connection is gone")

    @contextlib.asynccontextmanager
    async def lifespan() -> AsyncIterator[None]:
        async with asyncio.TaskGroup() as group:
            group.create_task(fail())
            yield

    running = manager(client, getattr(journal, handler), lifespan)
    running.__enter__()
    assert running.running
    journal.begun.set()
    assert running.wait(10.0)
    with pytest.raises(ExceptionGroup) as caught:
        running.__exit__(None, None, None)
    assert isinstance(caught.value.exceptions[0], LookupError)


def test_a_handler_that_cancels_the_lifespan_ends_the_worker(client: MemoryClient, journal: Journal) -> None:
    """Whoever cancels all tasks of a loop finds it too; the error says so."""

    async def handler(payload: object) -> None:
        for task in asyncio.all_tasks() - {asyncio.current_task()}:
            task.cancel()

    client.send("q", 1)
    with pytest.raises(QBridgeError, match="lifespan was cancelled"):
        manager(client, handler, journal.with_loop).start()


# ---------------------------------------------------------------------- stopping


@kinds
def test_g16_a_lifespan_is_left_when_the_running_tasks_have_ended(
    client: MemoryClient, journal: Journal, handler: str
) -> None:
    """A graceful stop waits for them first, and for the leaving then."""
    client.send("q", 1)
    running = manager(client, getattr(journal, f"waiting_{handler}"), journal.with_loop)
    with running:
        assert journal.begun.wait(10.0)
        threading.Timer(0.3, journal.go_on.set).start()
    assert journal.events == ["enter", "task", "leave"]


@kinds
def test_g16_a_lifespan_is_left_though_handlers_hang(client: MemoryClient, journal: Journal, handler: str) -> None:
    """A thread that does not return, or a coroutine that ignores its cancellation, keeps it from nothing."""
    client.send_many("q", [1, 2])
    with manager(
        client, getattr(journal, f"waiting_{handler}"), journal.with_loop, grace_period=0.2, task_timeout=60.0
    ) as running:
        assert journal.begun.wait(10.0)
        begin = time.monotonic()
        running.stop()
    assert journal.events == ["enter", "leave"]
    assert time.monotonic() - begin < 0.2 + 2.5
    assert client.stats("q").ready == 2


def test_a_coroutine_that_is_cancelled_by_the_stop_ends_before_the_lifespan(
    client: MemoryClient, journal: Journal
) -> None:
    """What it does in the end still finds open what it uses."""

    async def handler(payload: object) -> None:
        journal.begun.set()
        try:
            await asyncio.sleep(3600)
        finally:
            await asyncio.sleep(0.05)
            journal.note("cleaned up")

    client.send("q", 1)
    with manager(client, handler, journal.with_loop, grace_period=0.1, task_timeout=60.0):
        assert journal.begun.wait(10.0)
    assert journal.events == ["enter", "cleaned up", "leave"]


@kinds
@lifespans
@pytest.mark.parametrize("now", [False, True])
def test_g16_a_lifespan_that_is_never_left_does_not_hold_the_stop(
    client: MemoryClient, journal: Journal, caplog: pytest.LogCaptureFixture, handler: str, lifespan: str, now: bool
) -> None:
    """It has what is left of the grace period, and two seconds at least; half a second when somebody is in a hurry."""

    @contextlib.contextmanager
    def plain() -> Iterator[None]:
        yield
        journal.go_on.wait(60.0)

    @contextlib.asynccontextmanager
    async def with_loop() -> AsyncIterator[None]:
        yield
        await asyncio.to_thread(journal.go_on.wait, 60.0)

    hanging = plain if lifespan == "plain" else with_loop
    running = manager(client, getattr(journal, handler), hanging, grace_period=60.0 if now else 0.1)
    with running:
        begin = time.monotonic()
        running.stop(now=now)
        seconds = time.monotonic() - begin
    assert seconds < (5.0 if now else 10.0), "it is waited for as long as it takes, or for the whole grace period"
    assert "the lifespan was not left in time" in caplog.text


@kinds
@lifespans
def test_g16_a_stop_does_not_wait_until_a_lifespan_is_entered(
    client: MemoryClient, journal: Journal, handler: str, lifespan: str
) -> None:
    """One that can be cancelled is, a blocking one is left alone; no task is taken, and there is no error."""

    @contextlib.contextmanager
    def plain() -> Iterator[None]:
        journal.begun.set()
        journal.go_on.wait(60.0)
        yield

    @contextlib.asynccontextmanager
    async def with_loop() -> AsyncIterator[None]:
        journal.begun.set()
        try:
            await asyncio.sleep(3600)
        finally:
            journal.note("cancelled")
        yield

    client.send("q", 1)
    running = manager(client, getattr(journal, handler), plain if lifespan == "plain" else with_loop)
    starter = threading.Thread(target=running.start)
    starter.start()
    assert journal.begun.wait(10.0)
    begin = time.monotonic()
    running.stop()
    starter.join(10.0)
    assert not starter.is_alive()
    assert time.monotonic() - begin < 2.6
    assert running.error is None
    assert client.stats("q").ready == 1
    assert journal.events == (["cancelled"] if lifespan == "with_loop" else [])


def test_ctrl_c_while_a_lifespan_is_entered_stops_the_manager(client: MemoryClient, journal: Journal) -> None:
    """``with`` does not begin its block, and leaves nothing running."""

    @contextlib.asynccontextmanager
    async def lifespan() -> AsyncIterator[None]:
        journal.begun.set()
        await asyncio.sleep(3600)
        yield

    def press() -> None:
        journal.begun.wait(10.0)
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)

    running = manager(client, journal.function, lifespan)
    # A shell has its background jobs ignore Ctrl-C, and Python leaves that so.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        threading.Thread(target=press).start()
        with pytest.raises(KeyboardInterrupt):
            running.__enter__()
    finally:
        signal.signal(signal.SIGINT, before)
    assert not running.running


@pytest.mark.parametrize("how", ["no thread", "no loop"])
def test_g20_a_system_without_room_for_a_lifespan_ends_the_start(
    client: MemoryClient, journal: Journal, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    """The error is raised; nothing waits for a lifespan that nobody enters."""

    def refuse(*arguments: object) -> None:
        raise OSError("no room")

    if how == "no thread":
        monkeypatch.setattr("qbridge_core.execute.lifespanthread.LifespanThread.start", refuse)
    else:
        monkeypatch.setattr(asyncio, "new_event_loop", refuse)
    with pytest.raises(OSError, match="no room"):
        manager(client, journal.function, journal.with_loop).start()


@kinds
def test_a_stop_from_inside_a_lifespan_only_asks(client: MemoryClient, journal: Journal, handler: str) -> None:
    """It would wait for itself."""

    @contextlib.contextmanager
    def lifespan() -> Iterator[None]:
        running.stop()
        journal.note("asked" if running.running else "waited")
        yield

    client.send("q", 1)
    running = manager(client, getattr(journal, handler), lifespan)
    running.start()
    assert journal.events == ["asked"]
    assert client.stats("q").ready == 1


# ---------------------------------------------------------------------- a blocked loop


@pytest.mark.parametrize("prepared", [False, True])
def test_g10_a_lifespan_is_entered_anew_on_the_loop_that_replaces_a_blocked_one(
    client: MemoryClient, journal: Journal, prepared: bool
) -> None:
    """Tasks wait for it uncharged, however long it takes, and see its state; the old one is left when its loop can.

    With hooks they are prepared in threads before they reach the loop.
    """
    plugins = [TellingOfStarts(Journal())] if prepared else []
    loops: list[asyncio.AbstractEventLoop] = []

    @contextlib.asynccontextmanager
    async def lifespan() -> AsyncIterator[asyncio.AbstractEventLoop]:
        number = len(loops)
        loops.append(asyncio.get_running_loop())
        await asyncio.sleep(number * 1.0)
        yield loops[number]
        journal.note(f"leave {number}")

    async def handler(payload: str) -> None:
        assert current_task().state is asyncio.get_running_loop()
        if payload == "blocks" and current_task().attempt == 1:
            journal.go_on.wait(60.0)
        await asyncio.sleep(0)

    client.send_many("q", ["blocks", *(f"good-{n}" for n in range(10))])
    with manager(client, handler, lifespan, plugins=plugins, max_retries=1, task_timeout=0.4, max_workers=2) as running:
        wait_for(lambda: running.report().succeeded == 11, 20.0, "every task is done")
        assert running.report()[Outcome.TIMED_OUT] == 0
        assert running.report().retried == 1
        journal.go_on.set()
        wait_for(lambda: journal.events == ["leave 0"], 10.0, "the old one is left")
    assert journal.events == ["leave 0", "leave 1"]
    assert len(loops) == 2


def test_g9_a_prepared_task_waits_for_the_lifespan_of_a_new_loop_uncharged(
    client: MemoryClient, journal: Journal
) -> None:
    """One whose hooks were called while the old loop was blocked has its full time once it begins."""
    prepares, entering = threading.Event(), threading.Event()

    class Plugin:
        @hookimpl
        def qbridge_task_started(self, task_id: str, attempt: int) -> None:
            if task_id == "late" and attempt == 1:
                prepares.set()
                assert entering.wait(10.0)

    @contextlib.asynccontextmanager
    async def lifespan() -> AsyncIterator[asyncio.AbstractEventLoop]:
        if journal.begun.is_set():
            entering.set()
            await asyncio.sleep(1.2)
        yield asyncio.get_running_loop()

    async def handler(payload: str) -> None:
        assert current_task().state is asyncio.get_running_loop()
        if payload == "blocks" and current_task().attempt == 1:
            await asyncio.sleep(1.6)
            client.send("q", "late", task_id="late")
            await asyncio.to_thread(prepares.wait, 10.0)
            journal.begun.set()
            journal.go_on.wait(60.0)
        journal.note(f"{payload} {current_task().attempt} {current_task().remaining > 1.5}")

    client.send("q", "blocks")
    with manager(client, handler, lifespan, plugins=[Plugin()], max_retries=1, task_timeout=2.0) as running:
        wait_for(lambda: running.report().succeeded == 2, 20.0, "both are done")
    assert sorted(journal.events) == ["blocks 2 True", "late 1 True"]


def test_g10_a_lifespan_that_cannot_be_entered_anew_ends_the_worker(client: MemoryClient, journal: Journal) -> None:
    """``start`` raises the reason, and what was not done is in the queue again; only what blocked was charged."""
    attempts: dict[object, int] = {}

    @contextlib.asynccontextmanager
    async def lifespan() -> AsyncIterator[None]:
        if journal.begun.is_set():
            raise LookupError("no database")
        yield

    async def handler(payload: object) -> None:
        journal.begun.set()
        journal.go_on.wait(60.0)

    def look(payload: object, task: TaskContext) -> None:
        attempts[payload] = task.attempt

    client.send_many("q", range(5))
    begin = time.monotonic()
    with pytest.raises(LookupError, match="no database"):
        manager(client, handler, lifespan, max_retries=3, task_timeout=0.3, max_workers=1).start()
    assert time.monotonic() - begin < 10.0
    manager(client, look, None, max_retries=3).run_until_idle(30.0)
    assert attempts == {0: 2, 1: 1, 2: 1, 3: 1, 4: 1}


# ---------------------------------------------------------------------- wrong arguments


def _generator() -> Iterator[None]:
    yield


async def _async_generator() -> AsyncIterator[None]:
    yield


async def _coroutine() -> None: ...


@contextlib.contextmanager
def _with_argument(app: object) -> Iterator[None]:
    yield


class _NoManager: ...


@pytest.mark.parametrize(
    ("lifespan", "advice"),
    [
        (_generator, r"@contextlib\.contextmanager above _generator"),
        (functools.partial(_generator), r"@contextlib\.contextmanager above _generator"),
        (_async_generator, r"@contextlib\.asynccontextmanager above _async_generator"),
        (_coroutine, r"@contextlib\.asynccontextmanager"),
        (broken(), "lifespan=make, not lifespan=make()"),
        (broken_on_loop(), "lifespan=make, not lifespan=make()"),
        (contextlib.nullcontext(), "lifespan=make, not lifespan=make()"),
        (_with_argument, r"_with_argument does not allow: .*functools\.partial"),
        (_NoManager, "cannot be entered: _NoManager"),
        (_generator(), "contextlib.contextmanager"),
        ({"a": 1}, "contextlib.contextmanager"),
    ],
)
def test_g18_what_is_no_lifespan_is_refused_with_advice(client: MemoryClient, lifespan: Any, advice: str) -> None:
    """When the manager is made; the text says what to do."""
    with pytest.raises(ConfigurationError, match="lifespan.*" + advice.replace("make()", r"make\(\)")):
        manager(client, print, lifespan)


def test_g18_a_lifespan_that_no_child_process_can_import_is_refused(client: MemoryClient) -> None:
    """When the manager is made; the text says what to do."""
    with pytest.raises(ConfigurationError, match=r"enters the lifespan.*top level of a module"):
        manager(client, print, lambda: contextlib.nullcontext(5), executor="process")


@pytest.mark.parametrize("kind", ["function", "coroutine"])
def test_run_until_idle_waits_no_longer_for_a_lifespan_that_hangs(client: MemoryClient, kind: str) -> None:
    """It gives up after its ``timeout``, says what it has waited for, and leaves the task where it is."""
    release = threading.Event()

    @contextlib.contextmanager
    def hangs() -> Iterator[None]:
        release.wait(60.0)
        yield

    @contextlib.asynccontextmanager
    async def hangs_in_loop() -> AsyncIterator[None]:
        while not release.is_set():  # noqa: ASYNC110 - set by another thread
            await asyncio.sleep(0.01)
        yield

    async def coroutine(payload: object) -> None: ...

    client.send("q", 1)
    running = (
        manager(client, coroutine, hangs_in_loop) if kind == "coroutine" else manager(client, lambda _: None, hangs)
    )
    try:
        with pytest.raises(IdleTimeoutError, match="the lifespan for 'q' was not entered in time") as caught:
            running.run_until_idle(0.5)
        assert not release.is_set()
    finally:
        release.set()
    assert caught.value.report.succeeded == 0
    assert client.stats("q").ready == 1
