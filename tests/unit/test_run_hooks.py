"""The hook around a run: entered and left where the handler runs, once, whatever becomes of the handler."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from contextvars import ContextVar
from pathlib import Path
from typing import Any

import pytest

from qbridge_core import ConfigurationError, HandlerTimeout, Outcome, TaskContext, TaskManager, current_task, hookimpl
from qbridge_core.work.poison.importing import setup_of
from qbridge_memory import MemoryClient
from support.handlers import notes, work
from support.run_plugins import Noting, noting, see, see_later
from support.wait import wait_for

entered_by: ContextVar[str] = ContextVar("entered_by", default="")


class Around:
    """Remembers what it enters and leaves, and where."""

    def __init__(self, name: str = "a", calls: list[tuple[Any, ...]] | None = None) -> None:
        self.name = name
        self.calls = [] if calls is None else calls
        self.threads: list[int] = []
        self.abandoned: list[tuple[str, str, int]] = []

    @hookimpl
    def qbridge_task_run(self, task: TaskContext) -> AbstractContextManager[None]:
        """Around each run."""
        return self._around(task)

    @contextmanager
    def _around(self, task: TaskContext) -> Iterator[None]:
        entered_by.set(entered_by.get() + self.name)
        self.calls.append(("enter", self.name, task.task_id))
        self.threads.append(threading.get_ident())
        try:
            yield
        except BaseException as exc:
            self.calls.append(("leave", self.name, type(exc)))
            raise
        else:
            self.calls.append(("leave", self.name, None))
        finally:
            self.threads.append(threading.get_ident())

    @hookimpl
    def qbridge_task_abandoned(self, queue: str, task_id: str, attempt: int) -> None:
        """Remember."""
        self.abandoned.append((queue, task_id, attempt))

    @property
    def ends(self) -> list[type[BaseException] | None]:
        """With what it was left."""
        return [what for word, _, what in self.calls if word == "leave"]


def make(client: MemoryClient, handler: Any, *plugins: object, **options: Any) -> TaskManager:
    """A manager with one worker."""
    return TaskManager(client, handler, "q", "d", plugins=plugins, **{"max_workers": 1, **options})


def as_handler(kind: str, function: Callable[[Any], None]) -> Any:
    """The function, or a coroutine function that calls it."""

    async def coroutine(payload: Any) -> None:
        await asyncio.sleep(0)
        function(payload)

    return coroutine if kind == "coroutine" else function


KINDS = pytest.mark.parametrize("kind", ["function", "coroutine"])


@KINDS
def test_it_is_entered_and_left_where_the_handler_runs(client: MemoryClient, kind: str) -> None:
    """In its thread and its context; the first plugin is the outer one."""
    calls: list[tuple[Any, ...]] = []
    first, second = Around("a", calls), Around("b", calls)
    seen: list[Any] = []
    handler = as_handler(kind, lambda _: seen.append((entered_by.get(), threading.get_ident())))
    client.send("q", 1, task_id="t")
    make(client, handler, first, second).run_until_idle(10.0)
    assert calls == [("enter", "a", "t"), ("enter", "b", "t"), ("leave", "b", None), ("leave", "a", None)]
    ((names, thread),) = seen
    assert names == "ab"
    assert {*first.threads, *second.threads} == {thread}
    assert entered_by.get() == ""


@KINDS
def test_the_hooks_that_follow_see_what_it_has_set(client: MemoryClient, kind: str) -> None:
    """They are in the context of the run, whose settlement may belong to what was begun there."""
    seen: list[tuple[str, str]] = []

    class Following(Around):
        @hookimpl
        def qbridge_task_failed(self) -> None:
            seen.append(("failed", entered_by.get()))

        @hookimpl
        def qbridge_task_settled(self, outcome: str) -> None:
            seen.append((outcome, entered_by.get()))

    tried: list[Any] = []

    def handler(payload: Any) -> None:
        tried.append(payload)
        if len(tried) == 1:
            raise ValueError

    client.send("q", 1)
    make(client, as_handler(kind, handler), Following(), max_retries=1).run_until_idle(10.0)
    assert seen == [("failed", "a"), ("retried", "a"), ("succeeded", "a")]


@KINDS
def test_it_sees_the_exception_and_cannot_swallow_it(client: MemoryClient, kind: str) -> None:
    """The task has failed, whatever ``__exit__`` says."""
    seen: list[BaseException | None] = []

    class Swallowing(AbstractContextManager[None]):
        def __exit__(self, kind: Any, error: BaseException | None, traceback: Any) -> bool:
            seen.append(error)
            return True

    class Plugin:
        @hookimpl
        def qbridge_task_run(self) -> Any:
            return Swallowing()

    raised = ValueError("x")

    def failing(_: object) -> None:
        raise raised

    client.send("q", 1)
    report = make(client, as_handler(kind, failing), Plugin(), max_retries=0).run_until_idle(10.0)
    assert report[Outcome.FAILED] == 1
    assert seen == [raised]


@KINDS
@pytest.mark.parametrize("where", ["make", "enter", "leave"])
def test_a_plugin_that_raises_is_harmless(
    client: MemoryClient, kind: str, where: str, caplog: pytest.LogCaptureFixture
) -> None:
    """The task succeeds, the other plugin is entered and left, and the log has the traceback."""

    class Broken(AbstractContextManager[None]):
        def __enter__(self) -> None:
            if where == "enter":
                raise RuntimeError("a bug of the plugin")

        def __exit__(self, *_: object) -> None:
            if where == "leave":
                raise RuntimeError("a bug of the plugin")

    class Plugin:
        @hookimpl
        def qbridge_task_run(self) -> Any:
            if where == "make":
                raise RuntimeError("a bug of the plugin")
            return Broken()

    around = Around()
    client.send("q", 1)
    report = make(client, as_handler(kind, lambda _: None), around, Plugin()).run_until_idle(10.0)
    assert report.succeeded == 1
    assert around.ends == [None]
    (record,) = [each for each in caplog.records if "qbridge_task_run raised" in each.getMessage()]
    assert record.exc_info is not None


def test_a_plugin_may_want_nothing_around_a_run(client: MemoryClient) -> None:
    """It returns None then."""

    class Plugin:
        @hookimpl
        def qbridge_task_run(self) -> None: ...

    client.send("q", 1)
    assert make(client, lambda _: None, Plugin()).run_until_idle(10.0).succeeded == 1


def test_a_run_that_is_interrupted_leaves_in_its_own_thread(client: MemoryClient) -> None:
    """The handler ends soon after its time, so nobody is told that it was abandoned."""
    around = Around()

    def handler(_: object) -> None:
        while True:
            time.sleep(0.001)

    client.send("q", 1)
    with make(client, handler, around, task_timeout=0.2, max_retries=0) as manager:
        manager.run_until_idle(10.0)
        wait_for(lambda: around.ends)
    assert around.ends == [HandlerTimeout]
    assert len(set(around.threads)) == 1
    assert around.abandoned == []


@KINDS
def test_an_abandoned_run_is_left_once_in_another_thread(client: MemoryClient, kind: str) -> None:
    """A second after its time, while the handler hangs; when that comes back nothing more happens."""
    around, release, back = Around(), threading.Event(), threading.Event()

    def hang(_: object) -> None:
        release.wait(30)
        back.set()

    client.send("q", 1, task_id="t")
    with make(client, as_handler(kind, hang), around, task_timeout=0.2, max_retries=0):
        wait_for(lambda: around.abandoned)
        assert around.ends == [HandlerTimeout]
        release.set()
        assert back.wait(10)
    assert around.ends == [HandlerTimeout]
    assert around.threads[0] != around.threads[1]
    assert around.abandoned == [("q", "t", 1)]


def test_a_coroutine_that_follows_its_cancellation_leaves_on_the_loop(client: MemoryClient) -> None:
    """With the ``CancelledError`` that ends it."""
    around = Around()

    async def handler(_: object) -> None:
        await asyncio.sleep(3600)

    client.send("q", 1)
    make(client, handler, around, task_timeout=0.2, max_retries=0).run_until_idle(10.0)
    wait_for(lambda: around.ends)
    assert around.ends == [asyncio.CancelledError]
    assert len(set(around.threads)) == 1
    assert around.abandoned == []


def test_a_coroutine_that_ignores_its_cancellation_is_abandoned(client: MemoryClient) -> None:
    """Its run is left for it, while the loop goes on with others."""
    around, release = Around(), threading.Event()

    async def handler(_: object) -> None:
        while not release.is_set():
            with suppress(asyncio.CancelledError):
                await asyncio.sleep(0.01)

    client.send("q", 1, task_id="t")
    with make(client, handler, around, task_timeout=0.2, max_retries=0):
        wait_for(lambda: around.abandoned)
        release.set()
    assert around.ends == [HandlerTimeout]


@KINDS
def test_what_a_stop_leaves_behind_is_left_once(client: MemoryClient, kind: str) -> None:
    """The grace period is over, the message goes back, and the handler hangs in its thread."""
    around, began, release = Around(), threading.Event(), threading.Event()

    def hang(_: object) -> None:
        began.set()
        release.wait(30)

    client.send("q", 1)
    with make(client, as_handler(kind, hang), around, grace_period=0.1):
        assert began.wait(10)
    assert around.ends == [HandlerTimeout]
    release.set()
    assert around.abandoned == []  # its time was not over


def test_a_plugin_that_hangs_at_the_end_does_not_keep_the_task(client: MemoryClient) -> None:
    """The task is acknowledged, once, by another thread."""
    release, runs = threading.Event(), []

    class Plugin:
        @hookimpl
        @contextmanager
        def qbridge_task_run(self) -> Iterator[None]:
            yield
            release.wait(30)

    client.send("q", 1)
    manager = make(client, runs.append, Plugin(), task_timeout=0.2)
    assert manager.run_until_idle(20.0).succeeded == 1
    release.set()
    assert runs == [1]


def test_a_plugin_that_hangs_at_the_beginning_costs_the_time_of_the_task(client: MemoryClient) -> None:
    """The handler does not run, and the attempt has timed out."""
    release, runs = threading.Event(), []

    class Plugin:
        @hookimpl
        def qbridge_task_run(self) -> None:
            release.wait(30)

    client.send("q", 1)
    report = make(client, runs.append, Plugin(), task_timeout=0.2, max_retries=0).run_until_idle(20.0)
    release.set()
    assert report[Outcome.TIMED_OUT] == 1
    assert runs == []


def test_what_is_entered_too_late_is_left_at_once(client: MemoryClient) -> None:
    """The watch has left what was there a second after the timeout; the plugin that took so long is left by itself."""
    around, late, go = Around("a"), Around("b"), threading.Event()

    class Plugin:
        @hookimpl
        def qbridge_task_run(self) -> None:
            go.wait(30)

    client.send("q", 1)
    with make(client, lambda _: None, around, Plugin(), late, task_timeout=0.2, max_retries=0):
        wait_for(lambda: around.ends)
        go.set()
        wait_for(lambda: late.ends)
    assert around.ends == late.ends == [HandlerTimeout]


def test_the_task_is_known_there(client: MemoryClient) -> None:
    """As to the handler: by its argument and by ``current_task()``."""
    seen: list[tuple[str, str, object]] = []

    class Plugin:
        @hookimpl
        def qbridge_task_run(self, task: TaskContext, system: str, server: object) -> None:
            seen.append((task.task_id, system, server))
            assert current_task().task_id == task.task_id

    client.send("q", 1, task_id="t")
    make(client, lambda _: None, Plugin()).run_until_idle(10.0)
    assert seen == [("t", "memory", None)]


# ------------------------------------------------------------------ in child processes


@pytest.mark.parametrize("handler", [see, see_later], ids=["function", "coroutine"])
@pytest.mark.parametrize("plugin", [Noting(), "support.run_plugins:noting"], ids=["pickled", "named"])
def test_children_enter_and_leave_it(client: MemoryClient, tmp_path: Path, handler: Any, plugin: object) -> None:
    """In the process that runs the handler, and in the handler's context."""
    file = str(tmp_path / "notes")
    client.send("q", {"file": file, "do": "raise"}, task_id="t", headers={"file": file})
    make(client, handler, plugin, executor="process", max_retries=0).run_until_idle(60.0)
    lines = [line.partition(" ") for line in notes(file)]
    assert [rest for _, _, rest in lines] == ["entered memory t", "sees memory t", "left memory t ValueError"]
    (pid,) = {pid for pid, _, _ in lines}
    assert int(pid) != threading.get_native_id()


def test_children_enter_it_for_each_of_many_tasks(client: MemoryClient, tmp_path: Path) -> None:
    """Also for those that they are given together."""
    file = str(tmp_path / "notes")
    for number in range(50):
        client.send("q", {"file": file}, task_id=str(number), headers={"file": file})
    assert make(client, see, noting, executor="process").run_until_idle(60.0).succeeded == 50
    lines = [line.partition(" ")[2] for line in notes(file)]
    assert sorted(lines) == sorted(f"{word} memory {n}" for n in range(50) for word in ("entered", "sees", "left"))


def test_a_child_that_is_late_leaves_it(client: MemoryClient, tmp_path: Path) -> None:
    """Before it is killed: the handler is interrupted."""
    file = str(tmp_path / "notes")
    client.send("q", {"file": file, "do": "sleep"}, task_id="t", headers={"file": file})
    make(client, see, noting, executor="process", task_timeout=1.5, max_retries=0).run_until_idle(60.0)
    wait_for(lambda: len(notes(file)) == 3)
    assert notes(file)[-1].endswith("left memory t HandlerTimeout")


def test_a_plugin_that_children_cannot_have_is_refused(client: MemoryClient) -> None:
    """At once, with what to do; one without the hook may be what it likes."""

    class Local:
        @hookimpl
        def qbridge_task_run(self) -> None: ...

    class Other:
        @hookimpl
        def qbridge_task_started(self) -> None: ...

    with pytest.raises(ConfigurationError, match=r"cannot be sent there .* name it, plugins=\['module:name'\]"):
        make(client, work, Local(), executor="process")
    make(client, work, Other(), executor="process")


def test_the_child_of_a_suspect_has_those_plugins_that_it_can_have() -> None:
    """A message that may have killed its worker runs there with them; others are left out."""
    from qbridge_core.task.runhooks import RunHooks

    assert b"run_plugins" in setup_of(work, None, RunHooks.of([noting], "memory", None))

    class Local:
        @hookimpl
        def qbridge_task_run(self) -> None: ...

    assert setup_of(work, None, RunHooks.of([Local()], "memory", None)) == setup_of(work, None, None)
