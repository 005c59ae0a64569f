"""The checker of the chaos runs accepts what is right, and flags each defect that there could be."""

from __future__ import annotations

import itertools
import shlex
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from chaos.__main__ import parse, plans
from chaos.cell import Outcome
from chaos.checker import Verdict, check
from chaos.history import DONE, FAILED, History, Journal, Letter, Period, Run
from chaos.letters import read
from chaos.plan import (
    SCENARIOS,
    Backend,
    Fate,
    Fault,
    Plan,
    Sent,
    Size,
    Strike,
    faults_of,
    make_plan,
    scenarios_of,
)
from chaos.publisher import message_for
from chaos.report import command, failure
from qbridge_core import DeadLetter, Reason

GOOD, FLAKY, BAD, NOISE = "good.0", "flaky.0", "bad.0", "noise.0"
FATES = {"good": Fate.SUCCEEDS, "flaky": Fate.RECOVERS, "bad": Fate.FAILS, "noise": Fate.MALFORMED}
COPIES = dict.fromkeys((GOOD, FLAKY, BAD, NOISE), Sent.CONFIRMED)
LETTERS = [Letter(BAD, "failed", 4), Letter(NOISE, "malformed", 0)]
WORKER, KILLED = 1, 2
KILLED_AT = 50.0

PLAN = Plan(
    seed=1,
    backend=Backend.REDIS,
    scenario="worker SIGKILL",
    size=Size(),
    fates=FATES,
    strikes=[Strike(Fault.WORKER_KILL, 1.0, 0.0)],
    task_seconds=0.02,
    threads=10,
    backoff=0.0,
    bound=60.0,
)


def run(name: str, attempt: int, outcome: str, *, at: float = 1.0, pid: int = WORKER) -> Run:
    """One run of 20 ms."""
    return Run(name, pid, attempt, at, at + 0.02 if outcome else None, outcome)


def as_planned() -> list[Run]:
    """The runs of a cell in which nothing went wrong."""
    return [
        run(GOOD, 1, DONE),
        run(FLAKY, 1, FAILED),
        run(FLAKY, 2, FAILED),
        run(FLAKY, 3, DONE),
        *(run(BAD, attempt, FAILED) for attempt in (1, 2, 3, 4)),
    ]


def history(*more: Run, without: str = "") -> History:
    """The history of a cell with these runs too, and without those of one task."""
    runs = [each for each in as_planned() if each.name != without]
    return History(
        runs=[*runs, *more],
        copies=COPIES,
        kills={KILLED: KILLED_AT},
        faults=[Period(Fault.WORKER_KILL, "worker SIGKILL", 1.0, 2.0, backlog=5)],
        residue={"chaos": 0},
    )


def problems(verdict: Verdict) -> dict[str, str]:
    """The problems of each message as one text."""
    return {name: " ".join(found) for name, found in verdict.problems.items()}


def test_what_went_as_planned_is_accepted() -> None:
    """Every fate as it must be: no problem, and every run is counted."""
    verdict = check(PLAN, history(), LETTERS)
    assert problems(verdict) == {}
    assert (verdict.runs, verdict.lost, verdict.stuck, verdict.duplicates, verdict.interrupted) == (8, 0, 0, 0, 0)


@pytest.mark.parametrize("task_id", [GOOD, FLAKY])
def test_a_task_that_never_succeeded_is_lost(task_id: str) -> None:
    """No run that was done: lost, whether it ran before or not."""
    verdict = check(PLAN, history(without=task_id), LETTERS)
    assert "LOST" in problems(verdict)[task_id]
    assert verdict.lost == 1


@pytest.mark.parametrize("missing", [BAD, NOISE])
def test_a_missing_dead_letter_is_lost(missing: str) -> None:
    """A task that had to become a dead letter and did not is lost."""
    verdict = check(PLAN, history(), [letter for letter in LETTERS if letter.name != missing])
    assert "LOST" in problems(verdict)[missing]
    assert verdict.lost == 1


def test_what_was_never_confirmed_is_not_lost_but_a_problem_of_the_cell() -> None:
    """The broker never had it, so nothing was lost; but a cell whose publisher gave up proves nothing."""
    found = replace(history(without=GOOD), copies=COPIES | {GOOD: Sent.REFUSED})
    verdict = check(PLAN, found, LETTERS)
    assert verdict.lost == 0
    assert "could not be published" in problems(verdict)[""]


def test_a_second_run_is_a_duplicate() -> None:
    """A task that was done twice."""
    verdict = check(PLAN, history(run(GOOD, 1, DONE)), LETTERS)
    assert "DUPLICATE" in problems(verdict)[GOOD]
    assert verdict.duplicates == 1


def test_a_fifth_attempt_is_a_duplicate() -> None:
    """A task that failed once more than ``max_retries`` allows."""
    verdict = check(PLAN, history(run(BAD, 5, FAILED)), LETTERS)
    assert "DUPLICATE" in problems(verdict)[BAD]


def test_too_few_attempts_are_flagged() -> None:
    """A dead letter after three runs instead of four, though it claims four."""
    runs = [run(BAD, attempt, FAILED) for attempt in (1, 2, 3)]
    assert "3 failed runs instead of 4" in problems(check(PLAN, history(*runs, without=BAD), LETTERS))[BAD]


def test_an_attempt_that_was_not_counted_is_flagged() -> None:
    """Two runs in a row that were told to be the same attempt."""
    runs = [run(FLAKY, 1, FAILED), run(FLAKY, 1, FAILED), run(FLAKY, 2, DONE)]
    assert "told to be attempt 1 after 1" in problems(check(PLAN, history(*runs, without=FLAKY), LETTERS))[FLAKY]


def test_an_attempt_that_was_counted_twice_is_flagged() -> None:
    """A first run that was told to be the second."""
    verdict = check(PLAN, history(run(GOOD, 2, DONE), without=GOOD), LETTERS)
    assert "told to be attempt 2 after 0" in problems(verdict)[GOOD]


@pytest.mark.parametrize(
    ("letter", "text"),
    [
        (Letter(GOOD, "failed", 4), "1 dead letters instead of 0"),
        (Letter(BAD, "failed", 4), "2 dead letters instead of 1"),
        (Letter(NOISE, "malformed", 0), "2 dead letters instead of 1"),
        (Letter("stranger", "failed", 4), "nobody sent it"),
    ],
)
def test_a_dead_letter_too_many_is_flagged(letter: Letter, text: str) -> None:
    """A second letter of a task, one of a task that succeeded, one that nobody sent."""
    assert text in problems(check(PLAN, history(), [*LETTERS, letter]))[letter.name]


@pytest.mark.parametrize(
    "letter",
    [
        Letter(BAD, "crashed", 4),
        Letter(BAD, "failed", 3),
        Letter(BAD, "failed", 4, ("its dead letter is empty",)),
    ],
)
def test_a_dead_letter_that_says_something_else_is_flagged(letter: Letter) -> None:
    """Another reason or another number of attempts than there were, or another content."""
    assert "its dead letter " in problems(check(PLAN, history(), [letter, LETTERS[1]]))[BAD]


def test_a_run_of_what_is_no_task_is_flagged() -> None:
    """A malformed message must not reach the handler."""
    assert "DUPLICATE" in problems(check(PLAN, history(run(NOISE, 1, DONE)), LETTERS))[NOISE]


def test_a_run_of_what_nobody_sent_is_flagged() -> None:
    """An id that is not in the plan."""
    assert "nobody sent it" in problems(check(PLAN, history(run("stranger", 1, DONE)), LETTERS))["stranger"]


def test_residue_is_flagged() -> None:
    """A message that is left in a queue of the broker."""
    found = replace(history(), residue={"chaos": 0, "chaos.suspects": 1}, leftovers=frozenset({GOOD}))
    assert "RESIDUE: 1 messages left in chaos.suspects" in problems(check(PLAN, found, LETTERS))[""]
    assert "RESIDUE" in problems(check(PLAN, found, LETTERS))[GOOD]


def test_a_task_that_was_finished_by_a_restart_by_hand_only_is_stuck() -> None:
    """All is done in the end, but it was not when the time was over."""
    verdict = check(PLAN, replace(history(), stuck=frozenset({GOOD}), overdue="1 task"), LETTERS)
    assert "STUCK" in problems(verdict)[GOOD]
    assert "STUCK" in problems(verdict)[""]
    assert (verdict.stuck, verdict.lost) == (1, 0)


def test_a_run_that_does_not_end_is_stuck() -> None:
    """Its worker lives, and the handler does not return."""
    assert "did not end" in problems(check(PLAN, history(run(GOOD, 1, "")), LETTERS))[GOOD]


def test_a_worker_that_ended_by_itself_is_flagged() -> None:
    """An exit that nobody asked for."""
    assert "ended unasked" in problems(check(PLAN, replace(history(), exits=["worker 1 ended unasked"]), LETTERS))[""]


def test_a_fault_without_work_proves_nothing() -> None:
    """All tasks were done when the fault came, or it did not come at all."""
    late = [Period(Fault.WORKER_KILL, "worker SIGKILL", 1.0, 2.0, backlog=0)]
    assert "proves nothing" in problems(check(PLAN, replace(history(), faults=late), LETTERS))[""]
    assert "0 faults were made" in problems(check(PLAN, replace(history(), faults=[]), LETTERS))[""]


def test_g3_a_run_that_was_killed_with_its_worker_is_no_duplicate() -> None:
    """It did not end, and the task was run again."""
    verdict = check(PLAN, history(run(GOOD, 1, "", at=49.99, pid=KILLED)), LETTERS)
    assert problems(verdict) == {}
    assert (verdict.interrupted, verdict.duplicates) == (1, 0)


AGAIN = run(GOOD, 1, DONE, at=KILLED_AT + 5.0)
"""A run in another worker after the kill."""


@pytest.mark.parametrize(("ended_before", "excused"), [(0.1, True), (5.0, False)])
def test_g3_only_a_run_that_ended_just_before_the_kill_may_be_repeated(ended_before: float, excused: bool) -> None:
    """Its acknowledgement may still have been in the worker; after some seconds that is no excuse."""
    first = run(GOOD, 1, DONE, at=KILLED_AT - ended_before - 0.02, pid=KILLED)
    verdict = check(PLAN, history(first, AGAIN, without=GOOD), LETTERS)
    assert verdict.duplicates == 1
    assert verdict.ok is excused


def test_g3_a_kill_excuses_no_repetition_before_it() -> None:
    """The task was run twice by the worker that was killed, or elsewhere while that one lived."""
    first = run(GOOD, 1, DONE, at=KILLED_AT - 0.1, pid=KILLED)
    for second in (first, run(GOOD, 1, DONE, at=KILLED_AT - 0.05)):
        verdict = check(PLAN, history(first, second, without=GOOD), LETTERS)
        assert "DUPLICATE" in problems(verdict)[GOOD]


def test_g3_a_kill_excuses_one_repetition_only() -> None:
    """Two runs that were done elsewhere after one that was killed before it was settled: one is too many."""
    late = run(GOOD, 1, DONE, at=KILLED_AT - 0.1, pid=KILLED)
    verdict = check(PLAN, history(late, AGAIN, AGAIN, without=GOOD), LETTERS)
    assert verdict.duplicates == 2
    assert "1 successful runs too many" in problems(verdict)[GOOD]


def test_g3_a_kill_excuses_no_more_messages_than_ran_at_once() -> None:
    """Tasks ran again after a worker of ten threads, though all had ended just before the kill; SQS has them later."""
    names = [f"good{number}.0" for number in range(31)]
    for backend, many, excused in (
        (Backend.REDIS, 10, True),
        (Backend.REDIS, 11, False),
        (Backend.KOMBU_SQS, 31, True),
    ):
        plan = replace(PLAN, backend=backend, fates=FATES | {name[:-2]: Fate.SUCCEEDS for name in names})
        twice = [replace(each, name=name) for name in names[:many] for each in (_LATE, AGAIN)]
        once = [run(name, 1, DONE) for name in names[many:]]
        found = replace(history(*twice, *once), copies=COPIES | dict.fromkeys(names, Sent.CONFIRMED))
        assert check(plan, found, LETTERS).ok is excused


def test_g3_a_worker_killed_while_it_moves_suspects_aside_doubles_no_more_than_it_has_threads() -> None:
    """Tasks that run twice after two kills, on RabbitMQ: ten are excused; after one kill, or on Redis, none is."""
    names = [f"good{number}.0" for number in range(11)]
    plan = replace(PLAN, backend=Backend.CLASSIC, fates=FATES | {name[:-2]: Fate.SUCCEEDS for name in names})
    twice = {KILLED: KILLED_AT, 3: KILLED_AT - 2.0}
    for backend, kills, many, excused in (
        (Backend.CLASSIC, twice, 10, True),
        (Backend.CLASSIC, twice, 11, False),
        (Backend.CLASSIC, {KILLED: KILLED_AT}, 1, False),
        (Backend.REDIS, twice, 1, False),
    ):
        runs = [replace(AGAIN, name=name) for number, name in enumerate(names) for _ in range(1 + (number < many))]
        found = replace(history(*runs), copies=COPIES | dict.fromkeys(names, Sent.CONFIRMED), kills=kills)
        verdict = check(replace(plan, backend=backend), found, LETTERS)
        assert verdict.duplicates == many
        assert verdict.ok is excused


@pytest.mark.parametrize(("backend", "excused"), [(Backend.QUORUM, True), (Backend.REDIS, False)])
def test_g3_a_task_that_was_doubled_while_it_was_moved_aside_may_leave_two_letters(
    backend: Backend, excused: bool
) -> None:
    """It failed once before; both copies fail three times more, and each leaves a letter."""
    runs = [run(BAD, 1, FAILED), *(run(BAD, attempt, FAILED, at=60.0) for attempt in (2, 2, 3, 3, 4, 4))]
    found = replace(history(*runs, without=BAD), kills={KILLED: KILLED_AT, 3: KILLED_AT - 2.0})
    verdict = check(replace(PLAN, backend=backend), found, [*LETTERS, LETTERS[0]])
    assert (verdict.duplicates, verdict.second_letters) == (3, 1)
    assert verdict.ok is excused


_LATE = run(GOOD, 1, DONE, at=KILLED_AT - 0.1, pid=KILLED)


@pytest.mark.parametrize(
    ("fault", "excused"), [(Fault.ALARM, True), (Fault.BROKER_KILL, True), (Fault.WORKER_TERM, False)]
)
def test_g3_what_a_killed_worker_could_not_tell_the_broker_may_be_repeated(fault: Fault, excused: bool) -> None:
    """A run that ended while the broker was out of reach, and whose worker was killed before that was over."""
    first = run(GOOD, 1, DONE, at=KILLED_AT - 10.0, pid=KILLED)
    before = Period(fault, fault.value, KILLED_AT - 12.0, KILLED_AT - 1.0, backlog=5)
    found = history(first, AGAIN, without=GOOD)
    verdict = check(replace(PLAN, strikes=PLAN.strikes * 2), replace(found, faults=[before, *found.faults]), LETTERS)
    assert verdict.duplicates == 1
    assert verdict.ok is excused


@pytest.mark.parametrize(("back_for", "excused"), [(1.0, True), (20.0, False)])
def test_g3_a_worker_that_is_stopped_without_a_broker_may_leave_repetitions(back_for: float, excused: bool) -> None:
    """What ended while the broker was away dies with a worker that is told to stop before it has found it again."""
    stopped = 40.0
    first = run(GOOD, 1, DONE, at=stopped - back_for - 2.0)
    before = Period(Fault.BROKER_KILL, "", stopped - back_for - 3.0, stopped - back_for, backlog=5)
    found = history(first, replace(AGAIN, pid=3), without=GOOD)
    found = replace(found, faults=[before, *found.faults], stops={WORKER: stopped})
    verdict = check(replace(PLAN, strikes=PLAN.strikes * 2), found, LETTERS)
    assert verdict.duplicates == 1
    assert verdict.ok is excused


@pytest.mark.parametrize("fault", [Fault.CUT, Fault.HALF_OPEN, Fault.BROKER_KILL, Fault.BROKER_RESTART, Fault.ALARM])
@pytest.mark.parametrize("backend", Backend)
def test_g3_nothing_excuses_a_second_run_while_the_worker_lives(backend: Backend, fault: Fault) -> None:
    """Two runs of one message in one worker, at any time around a fault that did not end it."""
    around = [Period(fault, fault.value, 10.0, 10.1, backlog=5)]
    for moment in (9.9, 10.05, 12.0):
        runs = [run(GOOD, 1, DONE, at=moment), run(GOOD, 1, DONE, at=moment + 0.1)]
        found = replace(history(*runs, without=GOOD), faults=around, kills={})
        verdict = check(replace(PLAN, backend=backend), found, LETTERS)
        assert "DUPLICATE" in problems(verdict)[GOOD]


def test_what_the_publisher_sent_twice_is_two_messages() -> None:
    """A publish without a confirmation was repeated, and both messages came: no duplicate, but it is counted."""
    again = "good.1"
    copies = COPIES | {GOOD: Sent.UNKNOWN, again: Sent.CONFIRMED}
    verdict = check(PLAN, replace(history(run(again, 1, DONE)), copies=copies), LETTERS)
    assert problems(verdict) == {}
    assert (verdict.duplicates, verdict.second_copies) == (0, 1)
    thrice = replace(history(run(again, 1, DONE), run(again, 1, DONE)), copies=copies)
    assert "DUPLICATE" in problems(check(PLAN, thrice, LETTERS))[again]


def test_a_confirmed_message_is_lost_even_if_an_unconfirmed_one_was_done() -> None:
    """The copy that counts is the one that the broker has confirmed."""
    copies = COPIES | {GOOD: Sent.UNKNOWN, "good.1": Sent.CONFIRMED}
    verdict = check(PLAN, replace(history(), copies=copies), LETTERS)
    assert "LOST" in problems(verdict)["good.1"]


def test_g1_a_message_that_was_refused_and_came_is_flagged() -> None:
    """The publisher was told that the broker does not have it."""
    copies = COPIES | {GOOD: Sent.REFUSED, "good.1": Sent.CONFIRMED}
    verdict = check(PLAN, replace(history(run("good.1", 1, DONE)), copies=copies), LETTERS)
    assert "it was delivered" in problems(verdict)[GOOD]


@pytest.mark.parametrize(
    ("backend", "fault", "excused"),
    [
        (Backend.QUORUM, Fault.CUT, True),
        (Backend.CLASSIC, Fault.CUT, True),
        (Backend.REDIS, Fault.CUT, False),
        (Backend.QUORUM, Fault.WORKER_TERM, False),
    ],
)
def test_g3_only_a_lost_confirmation_on_rabbitmq_excuses_a_second_letter(
    backend: Backend, fault: Fault, excused: bool
) -> None:
    """The last run failed just before the fault, and its dead letter is there twice."""
    runs = [run(BAD, attempt, FAILED, at=9.9) for attempt in (1, 2, 3, 4)]
    found = replace(history(*runs, without=BAD), faults=[Period(fault, fault.value, 10.0, 10.1, backlog=5)])
    verdict = check(replace(PLAN, backend=backend), found, [*LETTERS, LETTERS[0]])
    assert verdict.second_letters == 1
    assert verdict.ok is excused


@pytest.mark.parametrize("backend", Backend)
def test_g3_a_lost_confirmation_excuses_a_second_run_on_brokers_of_kombu_only(backend: Backend) -> None:
    """A run failed just before a cut, and from then on its task runs twice, in a worker that lives."""
    runs = [run(BAD, 1, FAILED, at=9.9), *(run(BAD, attempt, FAILED, at=20.0) for attempt in (2, 2, 3, 3, 4, 4))]
    cut = Period(Fault.CUT, Fault.CUT.value, 10.0, 10.1, backlog=5)
    verdict = check(replace(PLAN, backend=backend), replace(history(*runs, without=BAD), faults=[cut]), LETTERS)
    assert verdict.duplicates == 3
    excused = backend in (Backend.KOMBU_AMQP, Backend.KOMBU_SQS)
    assert problems(verdict).get(BAD, "").count("3 failed runs too many") == (not excused)


@pytest.mark.parametrize(("backend", "excused"), [(Backend.QUORUM, True), (Backend.REDIS, False)])
def test_g3_the_second_of_two_retries_may_run_in_a_later_worker_only(backend: Backend, excused: bool) -> None:
    """A run failed just before a cut, its retry was published twice, and its worker was killed much later."""
    runs = [run(BAD, 1, FAILED, at=9.9, pid=KILLED)]
    runs += [run(BAD, attempt, FAILED, at=20.0 + attempt, pid=KILLED) for attempt in (2, 3, 4)]
    runs += [run(BAD, attempt, FAILED, at=60.0 + attempt) for attempt in (2, 3, 4)]
    cut = Period(Fault.CUT, Fault.CUT.value, 10.0, 10.1, backlog=5)
    verdict = check(replace(PLAN, backend=backend), replace(history(*runs, without=BAD), faults=[cut]), LETTERS)
    assert verdict.duplicates == 3
    assert verdict.ok is excused


@pytest.mark.parametrize(
    ("backend", "fault", "excused"),
    [(Backend.QUORUM, Fault.CUT, True), (Backend.REDIS, Fault.CUT, False), (Backend.QUORUM, Fault.WORKER_TERM, False)],
)
def test_what_is_no_task_may_be_dead_lettered_twice_for_a_lost_confirmation_only(
    backend: Backend, fault: Fault, excused: bool
) -> None:
    """One letter more for each fault that may swallow a confirmation, on RabbitMQ."""
    found = replace(history(), faults=[Period(fault, fault.value, 10.0, 10.1, backlog=5)])
    assert check(replace(PLAN, backend=backend), found, [*LETTERS, LETTERS[1]]).ok is excused
    assert not check(replace(PLAN, backend=backend), found, [*LETTERS, LETTERS[1], LETTERS[1]]).ok


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"body": b"{}"}, "another body"),
        ({"headers": {"a": "b"}}, "has headers"),
        ({"source_queue": "other"}, "comes from 'other'"),
        ({"worker": "host:8"}, "was written by"),
        ({"first_failed_at": None}, "failed from None"),
        ({"last_failed_at": 1.0}, "failed from 2.0 to 1.0"),
        ({"crashes": 1}, "counts 1 crashes"),
        ({"exception_type": "KeyError"}, "tells of KeyError"),
        ({"traceback": ""}, "no traceback"),
    ],
)
def test_g13_the_content_of_a_dead_letter_is_compared(change: dict[str, Any], text: str) -> None:
    """Each part of a letter that is not as it was published or as the run failed is named."""
    plan = replace(PLAN, strikes=[Strike(Fault.CUT, 1.0, 0.0)])
    letter = DeadLetter(
        body=message_for(plan, BAD).body,
        headers={},
        reason=Reason.FAILED,
        exception_type="ValueError",
        exception_message="as planned",
        traceback="… ValueError: as planned",
        attempts=4,
        crashes=0,
        first_failed_at=2.0,
        last_failed_at=3.0,
        source_queue="chaos",
        task_id=BAD,
        worker="host:7",
    )
    assert read(letter, plan, "chaos", {7}) == LETTERS[0]
    (defect,) = read(replace(letter, **change), plan, "chaos", {7}).defects
    assert text in defect


def test_the_same_seed_makes_the_same_plan() -> None:
    """Every cell can be repeated alone, and differs from its neighbours and from other seeds."""
    size = Size(tasks=200)
    cells = [(backend, scenario) for backend in Backend for scenario in scenarios_of(backend)]
    plans = [make_plan(7, backend, scenario, size) for backend, scenario in cells]
    assert plans == [make_plan(7, backend, scenario, size) for backend, scenario in cells]
    assert make_plan(8, *cells[0], size) != plans[0]
    assert len({tuple(plan.strikes) for plan in plans}) == len(plans)


def outcome(plan: Plan) -> Outcome:
    """What a cell comes to in which nothing ran."""
    nothing = History(runs=[], copies={}, kills={}, faults=[], residue={})
    return Outcome(plan, nothing, [], check(plan, nothing, []))


@pytest.mark.parametrize("scenario", ["mixed", "worker SIGKILL"])
def test_the_command_in_a_report_makes_the_same_plan(scenario: str) -> None:
    """Whatever the size of the cell was."""
    plan = make_plan(7, Backend.REDIS, scenario, Size(tasks=300, task_seconds=0.125, threads=3, strikes=2))
    make, target, *variables = shlex.split(command(outcome(plan)))
    given = [name.partition("=") for name in variables]
    options = parse([word for name, _, value in given for word in (f"--{name.lower().replace('_', '-')}", value)])
    assert (make, target) == ("make", "chaos")
    assert list(plans(options, options.seed)) == [plan]


def test_a_report_of_a_brief_cell_names_no_command() -> None:
    """None would draw the same plan."""
    assert "make chaos" in failure(outcome(make_plan(7, Backend.REDIS, "mixed", Size())))
    assert "make chaos" not in failure(outcome(make_plan(7, Backend.REDIS, "mixed", Size(brief=True))))


@pytest.mark.parametrize("brief", [True, False])
@pytest.mark.parametrize("backend", Backend)
def test_a_mixed_plan_has_every_kind_of_fault(backend: Backend, brief: bool) -> None:
    """Each fault of the backend once; briefly, one of the network, one of the broker and one of the worker."""
    faults = [strike.fault for strike in make_plan(3, backend, "mixed", Size(brief=brief)).strikes]
    assert len(faults) == (3 if brief else len(faults_of(backend)))
    assert len(set(faults)) == len(faults)
    assert set(faults) <= set(faults_of(backend))


def test_a_server_that_forgets_everything_is_never_ended() -> None:
    """A broker in memory is frozen where others are killed; there is a cell for each fault that it survives."""
    ends = {Fault.BROKER_KILL, Fault.BROKER_RESTART, Fault.ALARM}
    assert not ends & set(faults_of(Backend.KOMBU_SQS))
    assert {"broker SIGSTOP", "worker SIGKILL", "mixed"} <= set(scenarios_of(Backend.KOMBU_SQS))
    assert {scenario for backend in Backend for scenario in scenarios_of(backend)} == set(SCENARIOS)


def test_a_plan_has_every_fate_and_publishes_each_task_once() -> None:
    """The portions are the tasks, in their order."""
    plan = make_plan(1, Backend.QUORUM, "worker SIGTERM", Size(tasks=100))
    assert set(plan.fates.values()) == set(Fate)
    assert list(itertools.chain.from_iterable(plan.portions())) == list(plan.fates)
    assert len(plan.portions()) == len(plan.strikes) + 1


def test_the_journal_is_read_while_it_grows(tmp_path: Path) -> None:
    """Half a line waits for its end; runs of two workers with equal numbers are kept apart."""
    journal = Journal(tmp_path / "journal")
    journal.read()
    assert journal.runs == []
    with journal.path.open("a") as file:
        file.write("ready 7 0.5\nstart a 0 1 7 1.0\nstart b 0 2 8 1.5\ndone a 0 7 2.0\nfailed b 0 8")
    journal.read()
    assert _outcomes(journal) == {"a": (1, DONE, 2.0), "b": (2, "", None)}
    with journal.path.open("a") as file:
        file.write(" 3.0\n")
    journal.read()
    assert _outcomes(journal) == {"a": (1, DONE, 2.0), "b": (2, FAILED, 3.0)}


def _outcomes(journal: Journal) -> Mapping[str, tuple[int, str, float | None]]:
    return {run.name: (run.attempt, run.outcome, run.ended) for run in journal.runs}
