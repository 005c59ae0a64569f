"""Lifecycle hooks: called with what they promise, checked when registered, harmless when they fail."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import Any, ClassVar

import pytest

from qbridge_core import (
    ConfigurationError,
    ConstantBackoff,
    Failure,
    Outcome,
    Reason,
    Reject,
    TaskManager,
    TooManyStuckTasksError,
    hookimpl,
    worker_identity,
)
from qbridge_core.task.lifecycle import Lifecycle, _nothing
from qbridge_memory import MemoryClient

NAMES = [
    "worker_started",
    "worker_stopping",
    "task_started",
    "task_succeeded",
    "task_failed",
    "task_timed_out",
    "task_retried",
    "task_dead_lettered",
]


class Recorder:
    """Implements every hook and remembers the calls."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, dict[str, Any]]] = []

    def _add(self, name: str, **arguments: Any) -> None:
        self.calls.append((name, arguments))

    @hookimpl
    def qbridge_worker_started(self, queue: str, worker: str) -> None:
        """Remember."""
        self._add("worker_started", queue=queue, worker=worker)

    @hookimpl
    def qbridge_worker_stopping(self, queue: str, worker: str, reason: str) -> None:
        """Remember."""
        self._add("worker_stopping", queue=queue, worker=worker, reason=reason)

    @hookimpl
    def qbridge_task_started(self, queue: str, task_id: str, attempt: int) -> None:
        """Remember."""
        self._add("task_started", queue=queue, task_id=task_id, attempt=attempt)

    @hookimpl
    def qbridge_task_succeeded(self, queue: str, task_id: str, attempt: int, duration: float) -> None:
        """Remember."""
        self._add("task_succeeded", queue=queue, task_id=task_id, attempt=attempt, duration=duration)

    @hookimpl
    def qbridge_task_failed(self, queue: str, task_id: str, attempt: int, exception: BaseException) -> None:
        """Remember."""
        self._add("task_failed", queue=queue, task_id=task_id, attempt=attempt, exception=exception)

    @hookimpl
    def qbridge_task_timed_out(self, queue: str, task_id: str, attempt: int, timeout: float) -> None:
        """Remember."""
        self._add("task_timed_out", queue=queue, task_id=task_id, attempt=attempt, timeout=timeout)

    @hookimpl
    def qbridge_task_retried(self, queue: str, task_id: str, attempt: int, delay: float) -> None:
        """Remember."""
        self._add("task_retried", queue=queue, task_id=task_id, attempt=attempt, delay=delay)

    @hookimpl
    def qbridge_task_dead_lettered(self, queue: str, task_id: str, failure: Failure) -> None:
        """Remember."""
        self._add("task_dead_lettered", queue=queue, task_id=task_id, failure=failure)


def run(client: MemoryClient, handler: Any, *plugins: object, **options: Any) -> list[tuple[str, dict[str, Any]]]:
    """Run what is in the queue; return the calls about tasks."""
    recorder = Recorder()
    with TaskManager(client, handler, "q", "d", max_workers=1, plugins=[*plugins, recorder], **options) as manager:
        manager.run_until_idle(10.0)
    return [call for call in recorder.calls if not call[0].startswith("worker_")]


def test_the_worker_tells_of_its_start_and_its_end(client: MemoryClient) -> None:
    """Both hooks name the queue and the process, once."""
    recorder = Recorder()
    TaskManager(client, print, "q", "d", max_workers=1, plugins=[recorder]).run_until_idle(10.0)
    worker = {"queue": "q", "worker": worker_identity()}
    stopping = {**worker, "reason": "stop() was called"}
    assert recorder.calls == [("worker_started", worker), ("worker_stopping", stopping)]


def test_a_worker_that_ends_because_of_an_error_says_so(client: MemoryClient) -> None:
    """The reason of its end is the error."""
    recorder, release = Recorder(), threading.Event()
    client.send_many("q", range(3))
    manager = TaskManager(
        client, lambda _: release.wait(30), "q", "d", max_workers=1, task_timeout=0.1, max_abandoned=1,
        grace_period=0.1, plugins=[recorder],
    )  # fmt: skip
    with pytest.raises(TooManyStuckTasksError):
        manager.start()
    release.set()
    (reason,) = [arguments["reason"] for name, arguments in recorder.calls if name == "worker_stopping"]
    assert reason.startswith("TooManyStuckTasksError: 2 handlers did not end")


class Named(Recorder):
    """A plugin that is found by its name."""

    made: ClassVar[list[Recorder]] = []

    def __init__(self) -> None:
        super().__init__()
        self.made.append(self)


named = Recorder()


@pytest.mark.parametrize(("name", "found"), [("named", lambda: named), ("Named", lambda: Named.made[-1])])
def test_a_plugin_can_be_named(client: MemoryClient, name: str, found: Callable[[], Recorder]) -> None:
    """``module:name`` is imported; of a class an object is made."""
    client.send("q", 1, task_id="t")
    TaskManager(client, lambda _: None, "q", "d", plugins=[f"{__name__}:{name}"]).run_until_idle(10.0)
    assert ("task_started", {"queue": "q", "task_id": "t", "attempt": 1}) in found().calls


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("announcer", "named as 'module:name', not 'announcer'"),
        ("qbridge_nowhere:x", "cannot be had: ModuleNotFoundError"),
        ("qbridge_core:nothing", "cannot be had: AttributeError"),
        ("qbridge_core:Failure", "cannot be had: TypeError"),
        ("qbridge_core:connect", "has no hooks"),
    ],
)
def test_a_name_that_leads_nowhere_is_refused(client: MemoryClient, name: str, message: str) -> None:
    """The error says what is wrong with it."""
    with pytest.raises(ConfigurationError, match=message):
        TaskManager(client, print, "q", "d", plugins=[name])


def test_a_successful_task_is_started_and_succeeds(client: MemoryClient) -> None:
    """Both hooks name the queue, the task and the attempt; the second knows the duration."""
    client.send("q", 1, task_id="t")
    started, succeeded = run(client, lambda _: None)
    task = {"queue": "q", "task_id": "t", "attempt": 1}
    assert started == ("task_started", task)
    assert succeeded[0] == "task_succeeded"
    assert 0 <= succeeded[1].pop("duration") < 5
    assert succeeded[1] == task


def test_a_failing_task_tells_its_whole_story(client: MemoryClient) -> None:
    """Each failed attempt is told with its exception, then what becomes of the task."""
    error = ValueError("x")

    def handler(payload: object) -> None:
        raise error

    client.send("q", 1, task_id="t")
    calls = run(client, handler, max_retries=1, backoff=ConstantBackoff(0.01))
    assert [name for name, _ in calls] == [
        "task_started", "task_failed", "task_retried", "task_started", "task_failed", "task_dead_lettered",
    ]  # fmt: skip
    assert calls[1][1] == {"queue": "q", "task_id": "t", "attempt": 1, "exception": error}
    assert calls[2][1] == {"queue": "q", "task_id": "t", "attempt": 1, "delay": 0.01}
    assert calls[3][1]["attempt"] == 2
    failure = calls[5][1].pop("failure")
    assert calls[5][1] == {"queue": "q", "task_id": "t"}
    assert (failure.reason, failure.attempts, failure.exception_type) == (Reason.FAILED, 2, "ValueError")


def test_a_timeout_has_a_hook_of_its_own(client: MemoryClient) -> None:
    """A run that took too long is ``timed_out`` and not ``failed``."""
    release = threading.Event()
    client.send("q", 1, task_id="t")
    calls = run(client, lambda _: release.wait(20), max_retries=0, task_timeout=0.05)
    release.set()
    assert [name for name, _ in calls] == ["task_started", "task_timed_out", "task_dead_lettered"]
    assert calls[1][1] == {"queue": "q", "task_id": "t", "attempt": 1, "timeout": 0.05}
    assert calls[2][1]["failure"].reason is Reason.TIMED_OUT


def test_a_malformed_message_is_only_dead_lettered(client: MemoryClient) -> None:
    """Nothing started, so nothing but the dead letter is told."""
    client.publish("q", b"{", message_id="m")
    ((name, arguments),) = run(client, lambda _: None)
    assert (name, arguments["task_id"], arguments["failure"].reason) == ("task_dead_lettered", "m", Reason.MALFORMED)


def test_a_rejected_task_is_failed_and_dead_lettered(client: MemoryClient) -> None:
    """A handler that rejects its task is told as a failure without a retry."""

    def handler(payload: object) -> None:
        raise Reject("never")

    client.send("q", 1)
    calls = run(client, handler)
    assert [name for name, _ in calls] == ["task_started", "task_failed", "task_dead_lettered"]
    assert calls[2][1]["failure"].reason is Reason.REJECTED


@pytest.mark.parametrize("name", NAMES)
def test_a_hook_that_raises_is_harmless(client: MemoryClient, name: str, caplog: pytest.LogCaptureFixture) -> None:
    """The task's outcome, the worker and the other plugins are as without it, and the log has its traceback."""

    def raising() -> None:
        raise RuntimeError("a bug of the plugin")

    plugin = type("Plugin", (), {f"qbridge_{name}": staticmethod(hookimpl(raising))})()

    def handler(payload: str) -> None:
        if payload == "bad":
            raise ValueError
        if payload == "slow":
            release.wait(20)

    release = threading.Event()
    client.send_many("q", ["bad", "slow", "good"])
    manager = TaskManager(client, handler, "q", "d", max_retries=1, task_timeout=0.1, max_workers=1, plugins=[plugin])
    report = manager.run_until_idle(10.0)
    release.set()
    assert (report.succeeded, report[Outcome.FAILED], report[Outcome.TIMED_OUT], report.retried) == (1, 1, 1, 2)
    (record, *_) = [r for r in caplog.records if f"qbridge_{name}" in r.getMessage()]
    assert record.exc_info is not None


def test_a_hook_may_take_fewer_arguments(client: MemoryClient) -> None:
    """A plugin names the arguments that it wants."""
    seen = []

    class Plugin:
        @hookimpl
        def qbridge_task_started(self, task_id: str) -> None:
            seen.append(task_id)

    client.send("q", 1, task_id="t")
    run(client, lambda _: None, Plugin())
    assert seen == ["t"]


def test_a_misspelled_hook_is_refused(client: MemoryClient) -> None:
    """The error names the hook that does not exist."""

    class Plugin:
        @hookimpl
        def qbridge_task_suceeded(self) -> None: ...

    with pytest.raises(ConfigurationError, match=r"qbridge_task_suceeded; is it qbridge_task_succeeded\?$"):
        TaskManager(client, print, "q", "d", plugins=[Plugin()])


def test_a_hook_without_its_mark_is_refused(client: MemoryClient) -> None:
    """It would never be called; the error says what to write."""

    class Plugin:
        @hookimpl
        def qbridge_task_started(self) -> None: ...

        def qbridge_task_succeeded(self) -> None: ...

    with pytest.raises(ConfigurationError, match=r"qbridge_task_succeeded .* write @hookimpl"):
        TaskManager(client, print, "q", "d", plugins=[Plugin()])


@pytest.mark.parametrize("plugin", [object(), Recorder.__init__])
def test_a_plugin_without_hooks_is_refused(client: MemoryClient, plugin: object) -> None:
    """Nothing of it would ever be called."""
    with pytest.raises(ConfigurationError, match="has no hooks: methods marked with @hookimpl"):
        TaskManager(client, print, "q", "d", plugins=[plugin])


def test_a_class_instead_of_a_plugin_is_refused(client: MemoryClient) -> None:
    """Its hooks would lack their self in each call."""
    with pytest.raises(ConfigurationError, match=r"is a class: give an object of it, Recorder\(\)"):
        TaskManager(client, print, "q", "d", plugins=[Recorder])


def test_a_class_of_static_hooks_can_be_a_plugin(client: MemoryClient) -> None:
    """It needs no object."""

    class Plugin:
        @staticmethod
        @hookimpl
        def qbridge_task_succeeded(task_id: str) -> None: ...

    TaskManager(client, print, "q", "d", plugins=[Plugin])


def test_a_hook_with_a_wrong_argument_is_refused(client: MemoryClient) -> None:
    """The error names the argument that the hook does not have."""

    class Plugin:
        @hookimpl
        def qbridge_task_started(self, payload: object) -> None: ...

    with pytest.raises(ConfigurationError, match=r"asks for payload; there are queue, "):
        TaskManager(client, print, "q", "d", plugins=[Plugin()])


def test_a_plugin_given_twice_is_refused(client: MemoryClient) -> None:
    """Its hooks would be called twice."""
    plugin = Recorder()
    with pytest.raises(ConfigurationError, match="is given twice"):
        TaskManager(client, print, "q", "d", plugins=[plugin, plugin])


@pytest.mark.parametrize("name", NAMES)
def test_a_hook_that_nobody_implements_is_not_called(name: str) -> None:
    """Without subscribers there is no call through pluggy at all."""
    assert getattr(Lifecycle([]), name) is _nothing
    assert getattr(Lifecycle([Recorder()]), name) is not _nothing


def test_plugins_of_two_managers_are_apart(client: MemoryClient) -> None:
    """A plugin hears of the manager that it was given to."""
    mine, other = Recorder(), Recorder()
    TaskManager(client, print, "other", "d", plugins=[other])
    client.send("q", 1)
    TaskManager(client, lambda _: None, "q", "d", max_workers=1, plugins=[mine]).run_until_idle(10.0)
    assert mine.calls
    assert other.calls == []


def test_hook_failures_are_logged_as_errors(caplog: pytest.LogCaptureFixture) -> None:
    """A plugin's failure is no small matter: its record is an error of ``qbridge.plugins``."""

    class Plugin:
        @hookimpl
        def qbridge_worker_started(self) -> None:
            raise RuntimeError

    Lifecycle([Plugin()]).worker_started(queue="q", worker="w")
    assert [(r.name, r.levelno) for r in caplog.records] == [("qbridge.plugins", logging.ERROR)]
