"""Quick tasks that go to a child process together: for each of them holds what holds for one alone."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from qbridge_core import Delivery, Outcome, Reason, RetryPolicy, TaskManager, hookimpl
from qbridge_core.execute.processes import program
from qbridge_core.execute.processes.batch import Batch
from qbridge_core.execute.processes.child import Child
from qbridge_core.task.run import Run
from qbridge_core.task.terms import Terms
from qbridge_core.work.readahead import ReadAhead
from qbridge_memory import MemoryClient
from support.handlers import notes, work
from support.wait import wait_for

_AHEAD = 30
Make = Callable[..., TaskManager]


@pytest.fixture
def sizes(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many tasks each message to a child has had; how many are read ahead does not depend on the machine."""
    sizes: list[int] = []
    begin = Child.begin

    def counted(child: Child, runs: list[Run]) -> None:
        sizes.append(len(runs))
        begin(child, runs)

    monkeypatch.setattr(Child, "begin", counted)
    monkeypatch.setattr(ReadAhead, "more", lambda self, done, now: _AHEAD)
    return sizes


@pytest.fixture
def make(client: MemoryClient, sizes: list[int]) -> Make:
    """Make a manager whose handlers run in one child process, which gets many tasks together."""

    def make(**arguments: Any) -> TaskManager:
        arguments = {"max_workers": 1, "max_retries": 0, **arguments}
        return TaskManager(client, work, "q", "d", executor="process", **arguments)

    return make


@pytest.fixture
def journal(tmp_path: Path) -> str:
    """The file that the handlers of a test write to."""
    return str(tmp_path / "journal")


def runs(journal: str) -> list[str]:
    """The ids of the tasks, each time that one began."""
    return [line.split()[0] for line in notes(journal)]


def test_quick_tasks_share_their_way_to_a_child(client: MemoryClient, make: Make, sizes: list[int]) -> None:
    """Three hundred tasks cost a child no more than thirty messages."""
    client.send_many("q", [{}] * 300)
    assert make().run_until_idle(60.0).succeeded == 300
    assert len(sizes) <= 30, sizes


def test_g6_among_tasks_that_came_together_only_the_one_that_kills_is_charged(
    client: MemoryClient, make: Make, sizes: list[int], journal: str
) -> None:
    """Those before it have succeeded and those behind it run once, uncounted, in the next process."""
    client.send_many("q", [{"file": journal, "id": n, "do": "kill" if n == 12 else "nothing"} for n in range(25)])
    report = make(max_crashes=2).run_until_idle(60.0)
    assert (report.succeeded, report.retried, report[Outcome.CRASHED]) == (24, 1, 1)
    assert runs(journal) == [str(n) for n in [*range(25), 12]]
    assert sizes[0] == 25
    (letter,) = client.dead_letters("d")
    assert (letter.reason, letter.crashes, letter.attempts) == (Reason.CRASHED, 2, 0)


def test_g5_a_failure_is_counted_once_and_for_itself(client: MemoryClient, make: Make, journal: str) -> None:
    """Tasks behind one that fails, is postponed or is none at all are not counted, and run in their order."""
    deeds = {5: {"do": "raise unpicklable"}, 6: {"do": "snooze"}, 15: {"do": "reject"}}
    tasks = [{"file": journal, "id": n, **deeds.get(n, {})} for n in range(20)]
    client.send_many("q", tasks[:10])
    client.publish("q", b"no task")
    client.send_many("q", tasks[10:])
    report = make(max_retries=2).run_until_idle(60.0)
    assert (report.succeeded, report[Outcome.FAILED], report[Outcome.REJECTED]) == (18, 1, 1)
    assert (report.retried, report[Outcome.MALFORMED]) == (2, 1)
    others = [n for n in runs(journal) if n not in {"5", "6"}]
    assert others == [str(n) for n in range(20) if n not in {5, 6}]
    assert runs(journal).count("5") == 3


def test_g9_tasks_behind_a_long_one_are_left_to_other_workers(
    client: MemoryClient, make: Make, sizes: list[int], journal: str, tmp_path: Path
) -> None:
    """A task that is not quick after all keeps its child, and none of those that came with it."""
    go = tmp_path / "go"
    long = {"do": "wait for a file", "until": str(go)}
    client.send_many("q", [{"file": journal, "id": n, **(long if n == 3 else {})} for n in range(30)])
    with make(max_workers=2) as manager:
        wait_for(lambda: manager.report().succeeded == 29, 60.0, "all others are done")
        assert max(sizes) > 3
        go.touch()
        wait_for(lambda: manager.report().succeeded == 30, 60.0, "the long one is done")
    assert sorted(map(int, filter(str.isdigit, runs(journal)))) == list(range(30))


def test_g9_the_time_of_a_task_begins_when_it_begins(
    client: MemoryClient, make: Make, sizes: list[int], journal: str
) -> None:
    """The one that takes too long is ended and charged, those before and behind it are not, in C code either."""
    client.send_many(
        "q", [{"file": journal, "id": n, "do": "hold the interpreter" if n == 12 else "nothing"} for n in range(25)]
    )
    report = make(task_timeout=1.0).run_until_idle(60.0)
    assert (report.succeeded, report.retried, report[Outcome.TIMED_OUT]) == (24, 0, 1)
    assert sizes[0] == 25
    assert sorted(map(int, runs(journal))) == list(range(25))


def test_g8_a_stop_hands_back_what_the_child_has_not_begun(client: MemoryClient, make: Make, journal: str) -> None:
    """After the grace period the message that ran and those that waited with it are in the queue, uncounted."""
    client.send_many("q", [{"file": journal, "id": n, "do": "be stubborn" if n == 2 else "nothing"} for n in range(20)])
    with make(task_timeout=600.0, grace_period=0.1) as manager:
        wait_for(lambda: "2" in runs(journal), 60.0)
    report = manager.report()
    assert report.succeeded == 2
    assert client.stats("q").ready == 18
    deliveries = client.receive("q", 18)
    assert all((delivery.attempts, delivery.crashes) == (0, 0) for delivery in deliveries)
    for delivery in deliveries:
        client.reject(delivery, requeue=True)


@pytest.mark.parametrize(
    "limit", [{"max_tasks_per_child": 4}, {"max_memory_per_child": 10**9}], ids=["tasks", "memory"]
)
def test_a_child_is_given_no_more_than_its_limits_allow(
    client: MemoryClient, make: Make, sizes: list[int], journal: str, limit: dict[str, int]
) -> None:
    """A process that is to be replaced after so many tasks gets no more; memory is looked at after each task."""
    client.send_many("q", [{"file": journal}] * 10)
    assert make(**limit).run_until_idle(60.0).succeeded == 10
    processes = [line.split()[1] for line in notes(journal)]
    assert max(processes.count(pid) for pid in processes) <= limit.get("max_tasks_per_child", 10)
    assert max(sizes, default=0) <= (4 if "max_tasks_per_child" in limit else 0)


def test_hooks_are_called_for_each_task_at_its_time(
    client: MemoryClient, make: Make, sizes: list[int], journal: str
) -> None:
    """With a hook about tasks they go to the child one by one: the hook of the start comes before the start."""
    seen: list[int] = []

    class Plugin:
        @hookimpl
        def qbridge_task_started(self, task_id: str) -> None:
            seen.append(len(runs(journal)))

    client.send_many("q", [{"file": journal}] * 5)
    assert make(plugins=[Plugin()]).run_until_idle(60.0).succeeded == 5
    assert seen == [0, 1, 2, 3, 4]
    assert not sizes


def test_a_task_is_marked_as_begun_before_the_child_looks_at_the_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise one could begin that the worker has left to others; one that does not begin is marked no more."""
    steps: list[object] = []
    times = itertools.chain([0.0, 0.0], itertools.repeat(1.0))

    def now() -> float:
        steps.append("clock")
        return next(times)

    mark = SimpleNamespace(set=steps.append)
    server = program._Server(SimpleNamespace(say=None), mark, steps.append, RetryPolicy(), False, None, None)  # type: ignore[arg-type]
    tasks = program.packed(7, [_run(b'{"payload": "%d"}' % n) for n in range(4)])
    monkeypatch.setattr(program, "monotonic", now)
    assert server._work_off(tasks) == (8, None)
    assert steps == ["clock", 7, "0", 8, "clock", "1", 9, "clock", 8]


def test_a_task_is_the_last_one_when_two_looks_find_it_at_work() -> None:
    """Those behind it are given up then, and not before; its own end is awaited."""
    child: Any = SimpleNamespace(next_number=5, begun=4, tasks=0, begin=lambda runs: None, hear=lambda seconds: None)
    given = [_run(b"") for _ in range(4)]
    batch = Batch(child, given)
    assert batch.follow() == batch.follow() == ([], None, []), "it has begun none"
    child.begun = 6
    assert batch.unfinished == given[1:]
    assert batch.follow() == (given[:1], None, [])
    child.begun = 7
    assert batch.follow() == (given[1:2], None, [])
    assert batch.follow() == ([], None, given[3:])
    assert batch.unfinished == given[2:3]
    child.hear = lambda seconds: [program.DONE, 7, 0]
    assert batch.follow() == (given[2:3], None, [])
    assert (list(batch.unfinished), child.tasks) == ([], 3)


def test_a_look_that_falls_between_the_mark_and_the_clock_confuses_nothing() -> None:
    """The child marks the next task, finds that its time is over, and reports the one before it as its last."""
    child: Any = SimpleNamespace(next_number=5, begun=6, tasks=0, begin=lambda runs: None, hear=lambda seconds: None)
    given = [_run(b"") for _ in range(3)]
    batch = Batch(child, given)
    assert batch.follow() == (given[:1], None, [])
    child.begun = 5
    child.hear = lambda seconds: [program.DONE, 5, 0]
    assert batch.follow() == ([], None, given[1:])
    assert (list(batch.unfinished), child.tasks) == ([], 1)


@pytest.mark.parametrize(
    ("begun", "report"),
    [(5, [program.DONE, 4, 0]), (6, [program.RAISED, 5, 0, {}]), (5, [program.DONE, 8, 0]), (5, ["nonsense"])],
)
def test_a_report_about_another_task_is_no_end(begun: int, report: list[Any]) -> None:
    """A child that speaks of a task it was not given, or of one whose end is known, is killed; its tasks run again."""
    confused: list[bool] = []
    child: Any = SimpleNamespace(
        next_number=5, begun=begun, tasks=0, begin=lambda runs: None, hear=lambda seconds: None,
        confused=lambda: confused.append(True),
    )  # fmt: skip
    batch = Batch(child, [_run(b"") for _ in range(3)])
    batch.follow()
    child.hear = lambda seconds: report
    batch.follow()
    assert confused


def _run(body: bytes) -> Run:
    return Run(Delivery(body, "q"), "id", Terms(60.0, RetryPolicy()))
