"""G6: a suspect runs in a child process of its own, and nobody waits for it."""

from __future__ import annotations

import functools
import os
import threading
import time
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from qbridge_core import BrokerBlockedError, Delivery, Outcome, Reason, TaskManager, hookimpl
from qbridge_core.message import BESIDE, SUSPICIONS, SuspectFailure
from qbridge_core.work.poison.importing import can_be_isolated, setup_of
from support import handlers, lifespans
from support.handlers import Service, note_with_context, notes, work, work_later, work_where_set_up
from support.suspects import CountingClient, suspected_once
from support.threads import NewThreads
from support.wait import wait_for

pytestmark = pytest.mark.timeout(360)
SUSPECT = b"suspect"
PATIENCE = 100.0
"""Seconds until a busy machine has started a child process, at the latest."""


@pytest.fixture
def client() -> Iterator[CountingClient]:
    """A connected client with the queues ``q`` and ``dead``; who is called a suspect is one at its first delivery."""
    with CountingClient() as client:
        client.declare("q", "dead")
        client.deaths["q"] = suspected_once(SUSPECT)
        yield client


@pytest.fixture
def journal(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The file that the handlers of a test write to; its path must not name a suspect."""
    return str(tmp_path_factory.mktemp("run") / "journal")


@pytest.fixture
def set_up() -> Iterator[None]:
    """Prepare this process, and no child of it, for ``work_where_set_up``."""
    handlers.set_up.add("here")
    yield
    handlers.set_up.clear()


def manager(client: CountingClient, handler: Callable[..., Any] = work, **arguments: Any) -> TaskManager:
    """A manager of these queues."""
    return TaskManager(client, handler, "q", "dead", **{"max_workers": 2, "max_retries": 0, **arguments})


def runs(journal: str, task: str) -> list[int]:
    """The processes that ran a task, in order."""
    return [int(line.split()[1]) for line in notes(journal) if line.split()[0] == task]


def test_g6_a_suspect_runs_in_a_child_process_and_nobody_waits(client: CountingClient, journal: str) -> None:
    """While a long task runs a suspect is done in a process of its own, and other tasks go on in this one."""
    go = f"{journal}.go"
    client.send("q", {"id": "long", "do": "wait for a file", "until": go, "file": journal})
    with manager(client) as running:
        wait_for(lambda: runs(journal, "long"), 10.0, "the long task runs")
        client.send("q", {"id": "suspect", "file": journal})
        wait_for(lambda: runs(journal, "suspect"), PATIENCE, "the suspect runs beside the long task")
        client.send("q", {"id": "quick", "file": journal})
        wait_for(lambda: runs(journal, "quick"), 10.0, "another task runs beside the long task")
        Path(go).touch()
        assert running.run_until_idle(PATIENCE).succeeded == 3
    (suspect,) = runs(journal, "suspect")
    assert suspect != os.getpid()
    assert set(runs(journal, "long") + runs(journal, "quick")) == {os.getpid()}


def test_g6_a_suspect_that_kills_its_child_is_charged_and_convicted(client: CountingClient, journal: str) -> None:
    """Each death counts, the first with the one that raised the suspicion; the letter says how the last one was."""
    client.send("q", {"id": "suspect", "do": "segfault", "file": journal})
    client.send("q", {"id": "good", "file": journal})
    report = manager(client, max_retries=5).run_until_idle(PATIENCE)
    assert (report.succeeded, report.retried, report[Outcome.CRASHED]) == (1, 1, 1)
    pids = runs(journal, "suspect")
    assert len(pids) == 2
    assert os.getpid() not in pids
    (letter,) = client.dead_letters("dead")
    assert (letter.reason, letter.crashes, letter.attempts, letter.source_queue) == (Reason.CRASHED, 3, 0, "q")
    assert letter.exception_message.startswith(
        "3 worker processes died while they ran this task; the last one, worker "
    )
    assert letter.exception_message.endswith(f":{pids[-1]}, died of SIGSEGV")


@pytest.mark.parametrize("without", ["raise", "reject", "retry", "snooze", "sleep", "no such deed"])
def test_g6_what_fails_in_the_child_runs_in_the_worker_uncounted(
    client: CountingClient, journal: str, set_up: None, without: str
) -> None:
    """It may need what the main program set up: an exception, a request or a timeout there counts nothing."""
    client.send("q", {"id": "suspect", "without": without, "what": "OSError", "file": journal})
    report = manager(client, work_where_set_up, task_timeout=1.0).run_until_idle(PATIENCE)
    assert (report.succeeded, report.retried, report.dead_lettered) == (1, 0, 0)
    child, worker = runs(journal, "suspect")
    assert child != worker == os.getpid()


def test_g6_a_suspect_that_fails_everywhere_uses_up_its_attempts(client: CountingClient, journal: str) -> None:
    """The failures in workers count, the one in the child does not."""
    client.send("q", {"id": "suspect", "do": "raise", "what": "OSError", "text": "sick", "file": journal})
    report = manager(client, max_retries=1).run_until_idle(PATIENCE)
    assert (report.retried, report[Outcome.FAILED]) == (1, 1)
    (letter,) = client.dead_letters("dead")
    assert (letter.reason, letter.attempts, letter.crashes) == (Reason.FAILED, 2, 0)
    assert len(runs(journal, "suspect")) == 3


@pytest.mark.parametrize("handler", [work_later, functools.partial(work), Service])
def test_g6_whatever_can_be_imported_runs_in_the_child(client: CountingClient, journal: str, handler: Any) -> None:
    """Coroutine functions, partials and objects run there as in ``executor='process'``."""
    client.send("q", {"id": "suspect", "file": journal})
    given = handler(journal) if handler is Service else handler
    assert manager(client, given).run_until_idle(PATIENCE).succeeded == 1
    assert len(notes(journal)) == 1
    if handler is not Service:
        assert runs(journal, "suspect") != [os.getpid()]


def test_g6_a_suspect_sees_its_context_in_the_child(client: CountingClient, tmp_path: Path) -> None:
    """A handler with a second argument gets its task, attempt and headers there too."""
    path = str(tmp_path / "suspect")
    client.send("q", path, task_id="mine", headers={"tenant": "x"})
    assert manager(client, note_with_context).run_until_idle(PATIENCE).succeeded == 1
    assert notes(path) == ["mine 1 {'tenant': 'x'} False True"]


def test_g6_one_child_works_off_many_suspects(client: CountingClient, journal: str) -> None:
    """A hundred suspects, as a worker with a large prefetch leaves them, take one child process and not one each."""
    client.send_many("q", [{"id": f"suspect-{n}", "file": journal} for n in range(100)])
    assert manager(client).run_until_idle(PATIENCE).succeeded == 100
    # One, unless a busy machine has made some of them long ones.
    assert len({line.split()[1] for line in notes(journal)}) <= 5
    assert len(notes(journal)) == 100


def test_g15_suspects_do_not_wait_for_one_that_takes_long(client: CountingClient, journal: str) -> None:
    """While one of them runs for long in its child process, another child works off those behind it."""
    go = f"{journal}.go"
    long = {"id": "suspect-long", "do": "wait for a file", "until": go, "file": journal}
    client.send("q", long)
    with manager(client, task_timeout=600.0) as running:
        wait_for(lambda: runs(journal, "suspect-long"), PATIENCE, "it runs, and the others come behind it")
        client.send_many("q", [{"id": f"suspect-{n}", "file": journal} for n in range(5)])
        wait_for(lambda: len(notes(journal)) == 6, PATIENCE, "all of them run")
        wait_for(lambda: running.report().succeeded == 5, PATIENCE, "all but one are done")
        Path(go).touch()
        assert running.run_until_idle(PATIENCE).succeeded == 6
    (long_one,) = runs(journal, "suspect-long")
    assert all(long_one not in runs(journal, f"suspect-{n}") for n in range(5))


def test_g6_a_malformed_suspect_is_dead_lettered(client: CountingClient) -> None:
    """What is no task starts no child process."""
    client.declare("q.suspects", "dead")
    client.publish("q.suspects", b"{")
    assert manager(client).run_until_idle(PATIENCE)[Outcome.MALFORMED] == 1


def test_g16_stopping_kills_the_child_of_a_suspect_and_hands_it_back_uncounted(
    client: CountingClient, journal: str
) -> None:
    """A suspect gets the grace period like any other task; then its process is killed, and nothing is counted."""
    client.send("q", {"id": "suspect", "do": "sleep", "file": journal})
    with manager(client, task_timeout=600.0, grace_period=0.2):
        (child,) = wait_for(lambda: runs(journal, "suspect"), PATIENCE, "the suspect runs")
    wait_for(lambda: not Path(f"/proc/{child}").exists(), 10.0, "its process is gone")
    (delivery,) = client.receive("q.suspects", 1, 10.0)
    assert (delivery.attempts, delivery.crashes, delivery.meta.get(SUSPICIONS)) == (0, 0, 0)


def test_g16_a_suspect_may_finish_within_the_grace_period(client: CountingClient, journal: str) -> None:
    """A manager that stops waits for the child as it waits for its workers."""
    go = Path(f"{journal}.go")
    client.send("q", {"id": "suspect", "do": "wait for a file", "until": str(go), "file": journal})
    with manager(client, task_timeout=600.0, grace_period=PATIENCE) as running:
        wait_for(lambda: runs(journal, "suspect"), PATIENCE, "the suspect runs")
        stopper = threading.Thread(target=running.stop)
        stopper.start()
        go.touch()
        stopper.join(PATIENCE)
        assert not stopper.is_alive()
        assert running.report().succeeded == 1


def test_g6_without_a_child_process_suspects_run_in_the_workers(
    client: CountingClient, journal: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A module that only this process can import is no reason to keep a message waiting; the log says so once."""
    monkeypatch.setattr("support.handlers.late", _late, raising=False)
    monkeypatch.setattr(_late, "__module__", "support.handlers")
    monkeypatch.setattr(_late, "__qualname__", "late")
    client.send_many("q", [{"id": f"suspect-{n}", "file": journal} for n in range(3)])
    assert manager(client, _late).run_until_idle(PATIENCE).succeeded == 3
    assert {line.split()[1] for line in notes(journal)} == {str(os.getpid())}
    assert caplog.text.count("no child process can run the handler") == 1


def _late(payload: dict[str, Any]) -> None:
    """A handler that only this process has."""
    work(payload)


def test_g6_a_main_program_is_never_imported_for_a_suspect(monkeypatch: pytest.MonkeyPatch) -> None:
    """What belongs to the main program, or to a function, has no child; the rest is found through its module alone."""

    def local(payload: object) -> None: ...

    assert can_be_isolated(work)
    assert can_be_isolated(functools.partial(work))
    assert can_be_isolated(Service("x").__call__)
    assert not can_be_isolated(local)
    assert not can_be_isolated(lambda payload: None)
    assert can_be_isolated(work, lifespans.plain)
    assert not can_be_isolated(work, local)
    assert b"init_main" not in setup_of(work)
    for name in ("__main__", "__mp_main__"):
        monkeypatch.setattr(_late, "__module__", name)
        assert not can_be_isolated(_late)
    with pytest.raises(ValueError, match="imported"):
        setup_of(functools.partial(work, lock=threading.Lock()))


@pytest.fixture
def events(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], list[tuple[str, int]]]:
    """What happens to the lifespans of a test, and in which process; for those ``…_apart`` this one is not."""
    monkeypatch.setenv(lifespans.JOURNAL, str(tmp_path / "journal"))
    monkeypatch.setenv(f"{lifespans.JOURNAL}_PID", str(os.getpid()))
    return lifespans.events


@pytest.mark.parametrize("handler", [lifespans.work, lifespans.work_on_loop])
def test_g6_a_suspect_has_a_lifespan_in_its_child(
    client: CountingClient, events: Callable[[], list[tuple[str, int]]], handler: Any
) -> None:
    """The child enters it before its first task; when the worker stops, it waits until the child has left it."""
    client.send_many("q", [{"id": "suspect"}, {"id": "good"}])
    assert manager(client, handler, lifespan=lifespans.slow_to_leave_apart).run_until_idle(PATIENCE).succeeded == 2
    here = [event for event, pid in events() if pid == os.getpid()]
    apart = [event for event, pid in events() if pid != os.getpid()]
    assert here == ["enter", "task good", "leave"]
    assert apart == ["enter", "task suspect", "leave"]


def test_g6_a_suspect_whose_child_cannot_enter_the_lifespan_runs_in_the_worker(
    client: CountingClient, events: Callable[[], list[tuple[str, int]]], caplog: pytest.LogCaptureFixture
) -> None:
    """The failure counts nothing, and is said once."""
    client.send_many("q", [{"id": "suspect"}, {"id": "suspect, too"}])
    report = manager(client, lifespans.work, lifespan=lifespans.broken_apart).run_until_idle(PATIENCE)
    assert (report.succeeded, report.retried, report.dead_lettered) == (2, 0, 0)
    assert {pid for event, pid in events() if event.startswith("task")} == {os.getpid()}
    assert caplog.text.count("it could not enter the lifespan: OSError: no database") == 1


def side(client: CountingClient, payload: object, suspicions: int) -> None:
    """Put a suspect into the side queue, after so many deaths in company of which none was charged."""
    client.declare("q.suspects", "dead")
    client.send("q.suspects", payload)
    (delivery,) = client.receive("q.suspects", 1, 10.0)
    client.reject(delivery, failure=SuspectFailure(Reason.CRASHED, suspicions=suspicions, beside=True))


def test_g6_deaths_of_whole_workers_only_suspect_what_ran_in_a_child(client: CountingClient, journal: str) -> None:
    """A worker that died while its child ran a suspect may have died of anything: nothing is charged, it runs again."""
    side(client, {"id": "it", "file": journal}, suspicions=1)
    client.deaths["q.suspects"] = lambda body: 1
    assert manager(client).run_until_idle(PATIENCE).succeeded == 1
    assert runs(journal, "it") != [os.getpid()]


def test_g6_enough_suspicions_have_it_run_alone_in_a_worker(client: CountingClient, journal: str) -> None:
    """After ``max_crashes`` dead workers it runs with nothing beside it, so that its death would be its doing."""
    go = f"{journal}.go"
    client.send("q", {"id": "long", "do": "wait for a file", "until": go, "file": journal})
    with manager(client) as running:
        wait_for(lambda: runs(journal, "long"), 10.0, "the long task runs")
        side(client, {"id": "it", "file": journal}, suspicions=3)
        wait_for(lambda: client.stats("q.suspects").ready == 1, 10.0)
        client.send("q", {"id": "quick", "file": journal})
        wait_for(lambda: runs(journal, "quick"), 20.0, "other tasks go first")
        assert not runs(journal, "it")
        Path(go).touch()
        assert running.run_until_idle(PATIENCE).succeeded == 3
    assert runs(journal, "it") == [os.getpid()]


def test_g6_a_death_alone_convicts_what_was_suspected_often(client: CountingClient, journal: str) -> None:
    """The count of what runs alone begins one below ``max_crashes``, and is a crash when its worker dies."""
    side(client, {"id": "it", "file": journal}, suspicions=3)
    alone: list[tuple[int, int]] = []
    receive = client.receive

    def noting(queue: str, max_messages: int = 1, timeout: float = 0.0) -> Any:
        batch = receive(queue, max_messages, timeout)
        alone.extend((d.crashes, d.meta[SUSPICIONS]) for d in batch if queue == "q.suspects" and BESIDE not in d.meta)
        return batch

    client.receive = noting  # type: ignore[method-assign]
    assert manager(client).run_until_idle(PATIENCE).succeeded == 1
    assert alone == [(2, 3)]


def test_g6_a_suspect_without_a_child_has_its_turn_beside_what_does_not_end(client: CountingClient) -> None:
    """Nothing is read for a few seconds, and then the suspect runs beside a task that never ends."""
    release, started = threading.Event(), threading.Event()
    done: list[tuple[str, float]] = []

    def handler(payload: str) -> None:
        if payload == "stuck":
            started.set()
            release.wait(60.0)
        done.append((payload, time.monotonic()))

    client.send("q", "stuck")
    with manager(client, handler, task_timeout=600.0) as running:
        assert started.wait(10.0)
        client.send_many("q", ["suspect-1", "quick-1"])
        wait_for(lambda: "suspect-1" in dict(done), 20.0, "the suspect has its turn")
        client.send_many("q", ["suspect-2", "quick-2"])
        began = time.monotonic()
        wait_for(lambda: {"suspect-2", "quick-2"} <= dict(done).keys(), 20.0, "the next one has it soon")
        assert time.monotonic() - began < 3.0, "what was stopped for once is not stopped again soon"
        release.set()
        running.run_until_idle(PATIENCE)
    times = [when for _, when in done]
    assert max(later - earlier for earlier, later in pairwise(times)) < 5.5


@pytest.mark.parametrize("what", ["redact", "qbridge_task_started", "qbridge_task_succeeded"])
def test_g20_foreign_code_that_hangs_at_a_suspect_stops_no_other_suspect(
    client: CountingClient, journal: str, monkeypatch: pytest.MonkeyPatch, new_threads: NewThreads, what: str
) -> None:
    """The suspect is done with once, without it, and so is the next one; a thread that comes back changes nothing."""
    monkeypatch.setattr("qbridge_core.work.poison.isolation.patience", lambda timeout: 0.2)
    released, hung = threading.Event(), threading.Event()

    def hang() -> None:
        if not hung.is_set():
            hung.set()
            released.wait(20)

    def redact(text: str) -> str:
        hang()
        return text

    options: dict[str, Any] = {"redact": redact}
    deed = {"do": "fail"}
    if what != "redact":
        options, deed = {"plugins": [type("Plugin", (), {what: hookimpl(lambda self: hang())})()]}, {}
    for name in ("suspect", "suspect-too"):
        client.send("q", {"id": name, "file": journal, **deed}, task_id=name)
    with manager(client, **options) as running:
        report = running.run_until_idle(PATIENCE)
        assert hung.is_set()
        released.set()
        wait_for(lambda: new_threads.count("qbridge-isolation") <= 1, 10.0, "the thread that hung has ended")
    times = 2 if deed else 1  # a run that fails there is repeated in the worker
    assert (len(runs(journal, "suspect")), len(runs(journal, "suspect-too"))) == (times, times)
    assert (report.succeeded, report.dead_lettered) == ((0, 2) if deed else (2, 0))


def test_g6_a_suspect_has_its_turn_beside_what_cannot_be_settled(
    client: CountingClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A slot that the broker does not let go of is waited for no longer than one with a long task."""
    monkeypatch.setattr("qbridge_core.work.poison.waiting_time.LONGEST_WAIT", 0.3)
    released, stuck, done = threading.Event(), threading.Event(), list[str]()
    ack = client.ack

    def refuse(delivery: Delivery) -> None:
        if b"stuck" in delivery.body and not released.is_set():
            stuck.set()
            raise BrokerBlockedError("the broker does not take it")
        ack(delivery)

    def handler(payload: str) -> None:  # which no child process can have
        done.append(payload)

    monkeypatch.setattr(client, "ack", refuse)
    client.send("q", "stuck")
    with manager(client, handler) as running:
        assert stuck.wait(10.0)
        client.send_many("q", ["suspect", "quick"])
        wait_for(lambda: {"suspect", "quick"} <= set(done), 20.0, "the suspect waits for the slot")
        assert not released.is_set()
        released.set()
        assert running.run_until_idle(PATIENCE).succeeded == 3
    assert sorted(done) == ["quick", "stuck", "suspect"]


def test_g6_a_suspect_that_cannot_be_settled_stops_no_other(
    client: CountingClient, journal: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While the end of one suspect cannot be written, the next one and other tasks are done."""
    released, stuck = threading.Event(), threading.Event()
    ack = client.ack

    def refuse(delivery: Delivery) -> None:
        if b"suspect-1" in delivery.body and not released.is_set():
            stuck.set()
            raise BrokerBlockedError("the broker does not take it")
        ack(delivery)

    monkeypatch.setattr(client, "ack", refuse)
    client.send("q", {"id": "suspect-1", "file": journal})
    with manager(client) as running:
        assert stuck.wait(PATIENCE)
        client.send_many("q", [{"id": each, "file": journal} for each in ("suspect-2", "quick")])
        wait_for(lambda: runs(journal, "suspect-2") and runs(journal, "quick"), PATIENCE, "they wait for the first one")
        released.set()
        assert running.run_until_idle(PATIENCE).succeeded == 3
    assert len(runs(journal, "suspect-1")) == 1
