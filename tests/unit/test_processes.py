"""Handlers in child processes: what they see, what becomes of their tasks, and that nothing of them is left."""

from __future__ import annotations

import json
import os
import signal
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from qbridge_core import (
    ConfigurationError,
    ConstantBackoff,
    Delivery,
    ExceptionRule,
    Outcome,
    Reason,
    RemoteError,
    TaskManager,
    hookimpl,
)
from qbridge_core.runtime.exits import describe_exit
from qbridge_memory import MemoryClient
from support.handlers import Gone, Service, forget_to_await, notes, work, work_later
from support.programs import children_of, is_alive
from support.wait import wait_for

Make = Callable[..., TaskManager]


@pytest.fixture
def make(client: MemoryClient) -> Make:
    """Make a manager whose handlers run in one child process."""

    def make(handler: Callable[[Any], object] = work, **arguments: Any) -> TaskManager:
        arguments = {"max_workers": 1, "max_retries": 0, **arguments}
        return TaskManager(client, handler, "q", "d", executor="process", **arguments)

    return make


@pytest.fixture
def journal(tmp_path: Path) -> str:
    """The file that the handlers of a test write to."""
    return str(tmp_path / "journal")


@pytest.fixture(autouse=True)
def nothing_is_left() -> Iterator[None]:
    """No test leaves a child process, a thread or a descriptor behind."""
    descriptors, threads = _descriptors(), threading.active_count()
    servers = set(children_of(os.getpid()))  # of other tests, where all run in one process
    yield
    wait_for(lambda: servers.issuperset(children_of(os.getpid())), 10.0, "the child processes are gone")
    wait_for(lambda: threading.active_count() <= threads, 10.0, "the threads have ended")
    assert _descriptors() <= descriptors


def _descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def pids(journal: str) -> list[int]:
    """The processes that wrote to the journal, in order."""
    return [int(line.split()[1]) for line in notes(journal)]


# ---------------------------------------------------------------------- running


def test_g10_handlers_run_in_child_processes(client: MemoryClient, make: Make, journal: str) -> None:
    """Each worker has one child process that runs task after task, and none of them runs here."""
    client.send_many("q", [{"file": journal} for _ in range(40)])
    assert make(max_workers=2).run_until_idle(60.0).succeeded == 40
    assert len(pids(journal)) == 40
    assert 1 <= len(set(pids(journal))) <= 2
    assert os.getpid() not in pids(journal)


@pytest.mark.parametrize("kind", ["partial", "object", "method", "coroutine function"])
def test_g10_whatever_can_be_pickled_is_a_handler(client: MemoryClient, make: Make, journal: str, kind: str) -> None:
    """Partials, objects, their methods and coroutine functions work as they do in threads."""
    handlers: dict[str, Any] = {
        "partial": partial(work),
        "object": Service(journal),
        "method": Service(journal).__call__,
        "coroutine function": work_later,
    }
    client.send("q", {"file": journal})
    assert make(handlers[kind]).run_until_idle(60.0).succeeded == 1
    assert len(notes(journal)) == 1


@pytest.mark.parametrize("kind", ["lambda", "closure", "object"])
def test_g10_a_handler_that_cannot_be_imported_is_refused(make: Make, kind: str) -> None:
    """The error comes when the manager is made, and says what to do."""

    def closure(payload: object) -> None: ...

    handlers: dict[str, Any] = {
        "lambda": lambda payload: None,
        "closure": closure,
        "object": partial(print, sep=threading.Lock()),
    }
    with pytest.raises(ConfigurationError, match="top level of a module"):
        make(handlers[kind])


def test_g10_an_exception_class_that_cannot_be_imported_is_refused(make: Make) -> None:
    """The child processes must know the classes in ``dead_letter_on`` and in the rules."""
    local = type("Local", (Exception,), {"__module__": __name__})
    with pytest.raises(ConfigurationError, match="exception classes"):
        make(dead_letter_on=[local])
    with pytest.raises(ConfigurationError, match="exception classes"):
        make(retry_rules=[ExceptionRule(local)])


def test_g10_a_handler_that_no_child_can_load_ends_the_start(
    client: MemoryClient, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker that can never run anything says why instead of waiting for ever, and takes no message."""
    monkeypatch.setattr("support.handlers.late", _late, raising=False)
    monkeypatch.setattr(_late, "__module__", "support.handlers")
    monkeypatch.setattr(_late, "__qualname__", "late")
    client.send("q", {})
    with pytest.raises(ConfigurationError, match=r"could not load the handler: AttributeError.*late"):
        make(_late).start()
    assert client.stats("q").ready == 1


def _late(payload: object) -> None:
    """A handler that only this process has."""


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("executor", "processes"),
        ("executor", None),
        *(("max_tasks_per_child", value) for value in (0, -1, 1.5, "4", True)),
        *(("max_memory_per_child", value) for value in (0, -1, 1.5, "4", True)),
    ],
)
def test_a_wrong_argument_is_named(client: MemoryClient, name: str, value: Any) -> None:
    """Each argument is checked when the manager is created, and the error names it."""
    with pytest.raises(ConfigurationError, match=name):
        TaskManager(client, work, "q", "d", **{"executor": "process", name: value})


@pytest.mark.parametrize("name", ["max_tasks_per_child", "max_memory_per_child"])
def test_limits_of_children_need_children(client: MemoryClient, name: str) -> None:
    """A limit that would be ignored is an error."""
    with pytest.raises(ConfigurationError, match="executor='process'"):
        TaskManager(client, work, "q", "d", **{name: 1000})  # type: ignore[arg-type]


# ---------------------------------------------------------------------- what a handler sees and says


def test_g10_a_handler_sees_its_task(client: MemoryClient, make: Make, journal: str) -> None:
    """``current_task`` shows the task, the attempt, the headers and the deadline in the child process too."""
    payload = {"do": "describe", "file": journal, "id": "x"}
    client.send("q", payload, task_id="mine", headers={"tenant": "ä"})
    assert make(max_retries=1).run_until_idle(60.0).succeeded == 1
    seen = [json.loads(line) for line in notes(journal) if line.startswith("[")]
    assert seen == [["mine", "q", attempt, {"tenant": "ä"}, False, True] for attempt in (1, 2)]


def test_g13_an_exception_is_described_as_in_a_thread(client: MemoryClient, make: Make) -> None:
    """Type, text and traceback of the dead letter begin with the handler's own frame."""
    client.send("q", {"do": "raise", "what": "Gone", "text": "ünder way"})
    assert make().run_until_idle(60.0)[Outcome.FAILED] == 1
    (letter,) = client.dead_letters("d")
    assert (letter.exception_type, letter.attempts) == ("support.handlers.Gone", 1)
    assert letter.exception_message.startswith("ünder way")
    lines = letter.traceback.splitlines()
    assert lines[0] == "Traceback (most recent call last):"
    assert lines[1].endswith("in work")
    assert lines[-1].startswith("support.handlers.Gone: ünder")


@pytest.mark.parametrize(
    ("payload", "name"),
    [
        ({"do": "raise unpicklable"}, "support.handlers.Unpicklable"),
        ({"do": "raise", "what": "SystemExit"}, "SystemExit"),
        ({"do": "raise", "what": "HandlerTimeout"}, "qbridge_core.HandlerTimeout"),
        ({"do": "unheard of"}, "KeyError"),
        (3, "TypeError"),
    ],
)
def test_g10_whatever_a_handler_raises_is_its_failure(
    client: MemoryClient, make: Make, payload: Any, name: str
) -> None:
    """An exception that cannot travel, and one that would end a process, end the task and not the child."""
    client.send_many("q", [payload, {}])
    report = make().run_until_idle(60.0)
    assert (report[Outcome.FAILED], report.succeeded) == (1, 1)
    assert client.dead_letters("d")[0].exception_type == name


def test_g10_a_coroutine_that_nobody_runs_is_a_failure(client: MemoryClient, make: Make) -> None:
    """A handler that returns something to await has not done its work."""
    client.send("q", {})
    assert make(forget_to_await).run_until_idle(60.0)[Outcome.FAILED] == 1
    assert "never run" in client.dead_letters("d")[0].exception_message


def test_g7_requests_and_rules_cross_the_border(client: MemoryClient, make: Make, tmp_path: Path) -> None:
    """``Reject``, ``Retry``, ``Snooze``, ``dead_letter_on`` and the rules decide by type in the child process."""
    tasks: dict[str, dict[str, Any]] = {
        "reject": {"do": "reject"},
        "retry": {"do": "retry"},
        "snooze": {"do": "snooze"},
        "final": {"do": "raise", "what": "SystemExit"},
        "rule": {"do": "raise", "what": "OSError"},
        "usual": {"do": "raise unpicklable"},
    }
    for name, task in tasks.items():
        client.send("q", {**task, "file": str(tmp_path / name)}, task_id=name)
    report = make(
        max_retries=1,
        dead_letter_on=[SystemExit],
        retry_rules=[ExceptionRule(EnvironmentError, max_retries=3), ExceptionRule(Gone, max_retries=2)],
    ).run_until_idle(60.0)
    runs = {name: len(notes(tmp_path / name)) for name in tasks}
    assert runs == {"reject": 1, "retry": 3, "snooze": 2, "final": 1, "rule": 4, "usual": 2}
    assert (report.succeeded, report[Outcome.SNOOZED]) == (1, 1)
    letters = {letter.task_id: letter for letter in client.dead_letters("d")}
    assert letters["reject"].reason is Reason.REJECTED
    assert letters["retry"].exception_message == "because"


def test_hooks_get_the_texts_of_an_exception(client: MemoryClient, make: Make) -> None:
    """The exception stays in its process; what hooks get describes it."""
    seen: list[BaseException] = []

    class Plugin:
        @hookimpl
        def qbridge_task_failed(self, exception: BaseException) -> None:
            seen.append(exception)

    client.send_many("q", [{"do": "raise", "what": "OSError", "text": "away"}, {"do": "exit"}])
    make(plugins=[Plugin()], max_crashes=2).run_until_idle(60.0)
    assert all(isinstance(exc, RemoteError) for exc in seen)
    assert [str(exc) for exc in seen] == ["OSError: away", *["the process that ran it exited with status 3"] * 2]


def test_what_a_handler_prints_is_not_lost(client: MemoryClient, make: Make, capfd: pytest.CaptureFixture[str]) -> None:
    """A child's output is flushed after each task, so that a killed child takes none with it."""
    client.send("q", "printed in a child")
    make(print).run_until_idle(60.0)
    assert "printed in a child" in capfd.readouterr().out


# ---------------------------------------------------------------------- timeouts


@pytest.mark.parametrize("deed", ["sleep", "hold the interpreter", "be stubborn", "clean up"])
def test_g10_a_timeout_ends_the_process(client: MemoryClient, make: Make, journal: str, deed: str) -> None:
    """Whatever the handler does, its process is gone soon and another one runs the next task."""
    client.send_many("q", [{"do": deed, "file": journal}, {"file": journal}])
    with make(task_timeout=1.0) as manager:
        wait_for(lambda: manager.report().succeeded == 1, 60.0, "the next task is done")
        first, *_, last = [int(line.split()[1]) for line in notes(journal) if line.startswith("-")]
        assert first != last
        wait_for(lambda: not is_alive(first), 30.0, "the stuck process is gone")
    (letter,) = client.dead_letters("d")
    assert (letter.reason, letter.crashes, letter.exception_type) == (Reason.TIMED_OUT, 0, "TimeoutError")
    assert letter.traceback == ""


def test_g10_a_handler_may_clean_up_before_it_is_killed(client: MemoryClient, make: Make, journal: str) -> None:
    """``HandlerTimeout`` is raised in it first, even while it sleeps, and it sees that it is cancelled."""
    client.send("q", {"do": "clean up", "file": journal})
    with make(task_timeout=1.0):
        wait_for(lambda: "cancelled True" in notes(journal), 60.0, "the handler cleans up")


def test_g10_a_coroutine_is_cancelled_and_its_process_replaced(client: MemoryClient, make: Make, journal: str) -> None:
    """A waiting coroutine is interrupted like a function."""
    client.send_many("q", [{"do": "sleep"}, {"file": journal}])
    report = make(work_later, task_timeout=1.0).run_until_idle(60.0)
    assert (report.succeeded, report[Outcome.TIMED_OUT]) == (1, 1)


def test_g10_what_a_handler_started_is_killed_with_it(client: MemoryClient, make: Make, journal: str) -> None:
    """A timeout ends the processes that the handler waits for as well."""
    client.send("q", {"do": "start a process", "file": journal})
    assert make(task_timeout=2.0).run_until_idle(60.0)[Outcome.TIMED_OUT] == 1
    grandchild = int(notes(journal)[-1].split()[1])
    wait_for(lambda: not is_alive(grandchild), 30.0, "the process of the process is gone")


def test_g10_many_timeouts_at_once_stop_nobody(client: MemoryClient, make: Make, journal: str) -> None:
    """Processes that are being killed do not count as stuck threads."""
    client.send_many("q", [{"do": "be stubborn", "file": journal}] * 8 + [{}])
    report = make(task_timeout=0.5, max_workers=4, max_abandoned=1).run_until_idle(90.0)
    assert (report.succeeded, report[Outcome.TIMED_OUT]) == (1, 8)


# ---------------------------------------------------------------------- crashes


@pytest.mark.parametrize(
    ("task", "how"),
    [
        ({"do": "segfault"}, "died of SIGSEGV"),
        ({"do": "kill"}, "died of SIGKILL"),
        ({"do": "exit"}, "exited with status 3"),
        ({"do": "exit", "status": 0}, "exited with status 0"),
    ],
)
def test_g6_a_task_that_kills_its_process_is_found(
    client: MemoryClient, make: Make, journal: str, task: dict[str, Any], how: str
) -> None:
    """After ``max_crashes`` deaths it is dead-lettered with the signal's name, no attempt counted, and nobody else."""
    client.send("q", {**task, "file": journal, "id": "pill"})
    client.send_many("q", [{"file": journal, "id": n} for n in range(20)])
    report = make(max_retries=5, max_crashes=3, max_workers=2).run_until_idle(90.0)
    assert (report.succeeded, report.retried, report[Outcome.CRASHED]) == (20, 2, 1)
    names = [line.split()[0] for line in notes(journal)]
    assert {name: names.count(name) for name in names} == {"pill": 3, **{str(n): 1 for n in range(20)}}
    (letter,) = client.dead_letters("d")
    assert (letter.reason, letter.crashes, letter.attempts) == (Reason.CRASHED, 3, 0)
    assert letter.exception_message == f"the process that ran it {how}"
    assert letter.source_queue == "q"


def test_g6_crashes_and_failures_are_counted_apart(client: MemoryClient, make: Make) -> None:
    """A crash uses up no attempt, and a failure counts as no crash."""
    client.send_many("q", [{"do": "raise unpicklable"}, {"do": "exit"}])
    report = make(max_retries=2, max_crashes=2).run_until_idle(60.0)
    assert (report[Outcome.FAILED], report[Outcome.CRASHED]) == (1, 1)
    letters = {letter.reason: letter for letter in client.dead_letters("d")}
    assert (letters[Reason.FAILED].attempts, letters[Reason.FAILED].crashes) == (3, 0)
    assert (letters[Reason.CRASHED].attempts, letters[Reason.CRASHED].crashes) == (0, 2)


def test_g6_a_crash_waits_as_long_as_a_failure(client: MemoryClient, make: Make) -> None:
    """A task that kills its process follows the backoff, since memory may be short only for now."""
    client.send("q", {"do": "kill"})
    with make(backoff=ConstantBackoff(3600.0)):
        wait_for(lambda: client.stats("q").delayed == 1, 60.0)


def test_g6_the_end_is_seen_though_a_fork_holds_the_connection(client: MemoryClient, make: Make) -> None:
    """A process that the handler forked keeps its end of the socket open; the death is noticed all the same."""
    client.send("q", {"do": "fork and die", "seconds": 20})
    assert make(max_crashes=2, task_timeout=60.0).run_until_idle(60.0)[Outcome.CRASHED] == 1


def test_g6_an_idle_child_that_dies_harms_no_task(client: MemoryClient, make: Make, journal: str) -> None:
    """A child killed between two tasks is replaced, and nothing is counted."""
    with make() as manager:
        for n in range(3):
            client.send("q", {"file": journal})
            wait_for(lambda n=n: manager.report().succeeded == n + 1, 60.0)  # type: ignore[misc]
            os.kill(pids(journal)[-1], 9)
        report = manager.report()
    assert (report.retried, report.dead_lettered) == (0, 0)
    assert len(set(pids(journal))) == 3


def test_g6_a_task_that_a_dead_child_had_not_begun_is_not_charged(
    client: MemoryClient, make: Make, journal: str
) -> None:
    """A child may die with a task that waits in its socket: another one runs that, and nothing is counted."""
    with make() as manager:
        client.send("q", {"file": journal})
        wait_for(lambda: manager.report().succeeded == 1, 60.0)
        os.kill(pids(journal)[0], signal.SIGSTOP)
        client.send("q", {"file": journal})
        wait_for(lambda: client.stats("q").in_flight == 1, 60.0)
        os.kill(pids(journal)[0], signal.SIGKILL)
        wait_for(lambda: manager.report().succeeded == 2, 60.0)
        report = manager.report()
    assert (report.retried, report.dead_lettered) == (0, 0)


@pytest.mark.parametrize("task", [{}, {"in C": True}], ids=["os.fork", "fork in C"])
@pytest.mark.parametrize("handler", [work, work_later], ids=["function", "coroutine"])
def test_g2_a_fork_that_returns_acknowledges_nothing(
    client: MemoryClient, make: Make, tmp_path: Path, handler: Callable[[Any], object], task: dict[str, Any]
) -> None:
    """Copies of the child process end with the run that made them, and the next task is done when it is done."""
    forks, journal, go = tmp_path / "forks", tmp_path / "journal", tmp_path / "go"
    client.send("q", {**task, "do": "fork", "file": str(forks)})
    client.send("q", {"do": "wait for a file", "file": str(journal), "until": str(go)})
    with make(handler) as manager:
        wait_for(lambda: notes(journal), 60.0, "the next task runs")
        child = pids(str(journal))[0]
        wait_for(lambda: len(notes(forks)) == 5, 60.0, "there are four processes")
        copies = {int(line.split()[1]) for line in notes(forks)} - {child}
        wait_for(lambda: not any(map(is_alive, copies)), 30.0, "the copies have ended")
        assert manager.report().succeeded == 1
        go.touch()
        wait_for(lambda: manager.report().succeeded == 2, 60.0, "the next task is done")
    assert pids(str(journal)) == [child, child], "one run, by the process of the first task"


@pytest.mark.parametrize(
    ("how", "argument", "status"),
    [("exit", None, 0), ("exit", 7, 7), ("exit", "a text", 1), ("raise", "no number", 1), ("wait", 3600, -15)],
)
def test_g2_a_fork_ends_as_it_wants_and_harms_no_task(
    client: MemoryClient, make: Make, journal: str, how: str, argument: object, status: int
) -> None:
    """``sys.exit``, an exception and SIGTERM end a forked process, and its end is not taken for the task's."""
    client.send("q", {"do": "fork and leave", "file": journal, "how": how, "argument": argument})
    client.send_many("q", [{"file": journal}] * 3)
    report = make().run_until_idle(60.0)
    assert (report.succeeded, report.retried, report.dead_lettered) == (4, 0, 0)
    assert f"status {status}" in notes(journal)
    assert len({line.split()[1] for line in notes(journal) if line.startswith("-")}) == 1


def test_g2_a_report_about_another_task_ends_the_child(client: MemoryClient, make: Make, tmp_path: Path) -> None:
    """A child that reports an end twice is killed; the task that it was given meanwhile runs again, uncounted."""
    first, journal, go = tmp_path / "first", tmp_path / "journal", tmp_path / "go"
    client.send("q", {"do": "speak twice", "file": str(first)})
    client.send("q", {"do": "wait for a file", "file": str(journal), "until": str(go)})
    with make() as manager:
        wait_for(lambda: set(pids(str(journal))) - set(pids(str(first))), 60.0, "another child runs the next task")
        assert not is_alive(pids(str(first))[0])
        assert manager.report().succeeded == 1
        go.touch()
        wait_for(lambda: manager.report().succeeded == 2, 60.0, "the next task is done")
        report = manager.report()
    assert (report.retried, report.dead_lettered) == (0, 0)


class CountingClient(MemoryClient):
    """A client of a backend that sees the death of a worker, and here sees none."""

    capabilities = replace(MemoryClient.capabilities, crashes=True)


def test_g6_a_task_that_killed_its_own_process_need_not_run_alone(journal: str, tmp_path: Path) -> None:
    """Its guilt is beyond doubt, so it is retried and dead-lettered while a long task goes on beside it."""
    go = tmp_path / "go"
    with CountingClient() as client:
        client.declare("q", "d")
        client.send("q", {"do": "wait for a file", "file": journal, "until": str(go)})
        client.send("q", {"do": "kill"})
        manager = TaskManager(client, work, "q", "d", executor="process", max_workers=2, task_timeout=600.0)
        with manager:
            wait_for(lambda: manager.report()[Outcome.CRASHED] == 1, 60.0)
            go.touch()
        assert manager.report().succeeded == 1


class SuspiciousClient(CountingClient):
    """A client of a broker that says at the first delivery that the worker before may have died of it."""

    def receive(self, queue: str, max_messages: int = 1, timeout: float = 0.0) -> list[Delivery]:
        """Receive, and suspect what comes from the queue itself."""
        batch = super().receive(queue, max_messages, timeout)
        for delivery in batch:
            delivery.suspected = queue == "q"
        return batch


def test_g6_a_task_that_may_have_killed_the_worker_itself_runs_alone(journal: str) -> None:
    """Child processes do not protect the worker from everything, so its death makes suspects with them too."""
    with SuspiciousClient() as client:
        client.declare("q", "d")
        client.send("q", {"do": "describe", "file": journal})
        manager = TaskManager(client, work, "q", "d", executor="process", max_workers=2, max_retries=0)
        assert manager.run_until_idle(60.0)[Outcome.FAILED] == 1
    (seen,) = [json.loads(line) for line in notes(journal) if line.startswith("[")]
    assert seen[1] == "q.suspects"


def test_the_end_of_a_process_in_words() -> None:
    """Signals have names where they have them."""
    assert describe_exit(0) == "exited with status 0"
    assert describe_exit(-6) == "died of SIGABRT"
    assert describe_exit(-50) == "died of signal 50"


# ---------------------------------------------------------------------- replacement and stop


def test_a_child_is_replaced_after_so_many_tasks(client: MemoryClient, make: Make, journal: str) -> None:
    """``max_tasks_per_child`` bounds what one process does."""
    client.send_many("q", [{"file": journal} for _ in range(7)])
    assert make(max_tasks_per_child=3).run_until_idle(60.0).succeeded == 7
    seen = pids(journal)
    assert [seen.count(pid) for pid in dict.fromkeys(seen)] == [3, 3, 1]


def test_a_child_that_holds_too_much_memory_is_replaced(client: MemoryClient, make: Make, journal: str) -> None:
    """``max_memory_per_child`` counts bytes in memory after each task."""
    sizes = [0, 0, 300_000_000, 0]
    client.send_many("q", [{"do": "swell", "bytes": size, "file": journal} for size in sizes])
    assert make(max_memory_per_child=250_000_000).run_until_idle(60.0).succeeded == 4
    seen = pids(journal)
    assert [seen.count(pid) for pid in dict.fromkeys(seen)] == [3, 1]


def test_g16_stopping_lets_a_task_end(client: MemoryClient, make: Make, journal: str) -> None:
    """What runs is finished within the grace period, and its process ends with it."""
    client.send("q", {"file": journal})
    with make() as manager:
        wait_for(lambda: notes(journal), 60.0)
    assert manager.report().succeeded == 1


def test_g16_what_does_not_end_in_time_is_killed_and_goes_back(client: MemoryClient, make: Make, journal: str) -> None:
    """After the grace period the process is gone before its message is in the queue again."""
    client.send("q", {"do": "be stubborn", "file": journal})
    with make(task_timeout=600.0, grace_period=0.1) as manager:
        wait_for(lambda: notes(journal), 60.0)
    assert manager.report()[Outcome.HANDED_BACK] == 1
    assert not is_alive(int(notes(journal)[0].split()[1]))
    (delivery,) = client.receive("q")
    assert (delivery.attempts, delivery.crashes) == (0, 0)
    client.reject(delivery, requeue=True)
