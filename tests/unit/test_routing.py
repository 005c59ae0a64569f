"""One queue with tasks of several kinds, each on terms of its own."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from qbridge_core import AttemptOutcome, ConfigurationError, DeadLetter, Outcome, Reason, RetryPolicy, TaskManager
from qbridge_core.task.terms import Terms
from qbridge_memory import MemoryClient
from support.routers import KINDS, AsyncKinds, Kinds, die, fail, hang
from support.wait import wait_for


@pytest.fixture
def client(unique_name: str) -> Any:
    """A broker of its own, with the queues."""
    with MemoryClient(f"memory://{unique_name}") as client:
        client.declare("q", "d")
        yield client


def letters(client: MemoryClient) -> dict[str, DeadLetter]:
    """The dead letters by task id."""
    return {letter.task_id: letter for letter in client.dead_letters("d")}


def send(client: MemoryClient, *kinds: str, value: object = None) -> None:
    """A task of each kind, which is its id as well."""
    for kind in kinds:
        client.send("q", [kind, value], task_id=kind)


@pytest.mark.parametrize("options", [{}, {"executor": "process", "max_workers": 1}])
def test_g5_each_kind_has_retries_of_its_own(client: MemoryClient, options: dict[str, Any]) -> None:
    """What one kind may fail is nothing to another one, nor are the exceptions that end it at once."""
    send(client, "quick", "slow", "picky")
    TaskManager(client, Kinds(fail), "q", "d", max_retries=9, **options).run_until_idle(60.0)
    assert {name: letter.attempts for name, letter in letters(client).items()} == {"quick": 1, "slow": 3, "picky": 1}


@pytest.mark.parametrize("options", [{}, {"executor": "process"}])
def test_g9_each_kind_has_a_timeout_of_its_own(client: MemoryClient, options: dict[str, Any]) -> None:
    """A late task of a quick kind ends, though tasks of others may take longer than anybody waits."""
    send(client, "quick")
    TaskManager(client, Kinds(hang), "q", "d", max_workers=1, **options).run_until_idle(60.0)
    assert letters(client)["quick"].reason is Reason.TIMED_OUT
    assert letters(client)["quick"].exception_message == "the handler ran longer than 0.3 s"


def test_g9_a_handler_of_one_kind_is_interrupted_in_its_own_code(client: MemoryClient) -> None:
    """What the router calls is the handler's code, though the router itself is no part of it."""
    ended = threading.Event()

    def work(_: object) -> None:
        try:
            while True:
                pass
        finally:
            ended.set()

    send(client, "quick")
    TaskManager(client, Kinds(work), "q", "d").run_until_idle(60.0)
    assert ended.wait(30.0)


def test_g9_a_quick_coroutine_is_not_forgotten_behind_a_slow_one(client: MemoryClient) -> None:
    """The watch looks at runs in the order of their start, and one that has started later may be late earlier."""
    send(client, "slow", "quick", value=120.0)
    with TaskManager(client, AsyncKinds(str), "q", "d", grace_period=0.0):
        wait_for(lambda: "quick" in letters(client), 40.0)
    assert letters(client)["quick"].reason is Reason.TIMED_OUT


@pytest.mark.parametrize("router", [Kinds, AsyncKinds])
def test_g13_what_a_router_finds_malformed_does_not_run(client: MemoryClient, router: type[Kinds]) -> None:
    """It is a dead letter at once, with its id and the router's words, and no run."""
    send(client, "broken", value=0)
    report = TaskManager(client, router(fail), "q", "d").run_until_idle(60.0)
    letter = letters(client)["broken"]
    assert (letter.reason, letter.attempts, letter.exception_message) == (Reason.MALFORMED, 0, "it is broken")
    assert report.counts == {Outcome.MALFORMED: 1}


@pytest.mark.parametrize("router", [Kinds, AsyncKinds])
def test_what_nobody_knows_yet_waits_and_is_a_letter_then(client: MemoryClient, router: type[Kinds]) -> None:
    """It is handed back with growing pauses, nothing counted, until its patience is over."""
    send(client, "new", value=0)
    report = TaskManager(client, router(fail, patience=0.4), "q", "d").run_until_idle(60.0)
    letter = letters(client)["new"]
    assert (letter.reason, letter.attempts, letter.exception_message) == (Reason.UNKNOWN_TASK, 0, "nobody knows new")
    assert 3 <= report[Outcome.SNOOZED] <= 10
    assert {attempt.outcome for attempt in letter.history} == {AttemptOutcome.SNOOZED}


def test_what_nobody_knows_yet_is_a_letter_at_once_without_patience(client: MemoryClient) -> None:
    """Nothing is handed back then."""
    send(client, "new")
    report = TaskManager(client, Kinds(fail), "q", "d").run_until_idle(60.0)
    assert report.counts == {Outcome.UNKNOWN_TASK: 1}


def test_what_waited_runs_in_a_worker_that_knows_it(client: MemoryClient) -> None:
    """Attempts are counted from the first run on."""
    send(client, "new")
    attempts: list[object] = []
    with TaskManager(client, Kinds(fail, patience=60.0), "q", "d") as old:
        wait_for(lambda: old.report()[Outcome.SNOOZED] > 0, 30.0)
    kinds = Terms(60.0, RetryPolicy(0))
    TaskManager(client, Kinds(attempts.append, {"new": kinds}), "q", "d").run_until_idle(60.0)
    assert attempts == [None]
    assert not letters(client)


def test_a_letter_that_is_replayed_has_all_its_patience_again(client: MemoryClient) -> None:
    """What it has waited before it became a letter is over."""
    send(client, "new")
    manager = TaskManager(client, Kinds(fail, patience=0.2), "q", "d")
    manager.run_until_idle(60.0)
    waits = manager.report()[Outcome.SNOOZED]
    client.replay("d")
    manager.run_until_idle(60.0)
    assert manager.report()[Outcome.SNOOZED] > waits
    assert manager.report()[Outcome.UNKNOWN_TASK] == 2


def test_g6_a_process_that_dies_is_charged_to_its_kind(client: MemoryClient) -> None:
    """Deaths of child processes are counted for tasks of each kind alike."""
    send(client, "slow")
    TaskManager(client, Kinds(die), "q", "d", executor="process", max_workers=1).run_until_idle(60.0)
    assert (letters(client)["slow"].reason, letters(client)["slow"].crashes) == (Reason.CRASHED, 3)


def test_a_backoff_of_one_kind_needs_a_broker_with_delays(
    client: MemoryClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is refused when the manager is made, as for a manager of one handler."""
    from dataclasses import replace

    from qbridge_core import ConstantBackoff

    monkeypatch.setattr(type(client), "capabilities", replace(client.capabilities, delay=False))
    TaskManager(client, Kinds(fail, KINDS), "q", "d")
    with pytest.raises(ConfigurationError, match="no delays"):
        TaskManager(client, Kinds(fail, {**KINDS, "late": Terms(1.0, RetryPolicy(1, ConstantBackoff(5)))}), "q", "d")
