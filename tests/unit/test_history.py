"""The history of a message: what is written of its attempts, what is read of it, and what workers write."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from qbridge_core import (
    Attempt,
    AttemptOutcome,
    ConstantBackoff,
    DeadLetter,
    Delivery,
    Reject,
    Snooze,
    TaskContext,
    TaskManager,
    connect,
)
from qbridge_core.backend import DUE_AT, HISTORY, MAX_HISTORY_BYTES, REPLAYS, SENT_AT, charged_history
from qbridge_core.contract.dead_letter import Failure, Noted, Reason
from qbridge_core.contract.history import MAX_ATTEMPTS, read_history, write_history
from support import failing

BEGAN = datetime(2026, 11, 30, 12, 0, 0, 125_000, UTC)
FULL = Attempt(AttemptOutcome.FAILED, BEGAN, 0.5, "host:1", "shop.Error", "shop/mail.py:12 send", 2)
WIDE = "\x01" * 1_000
"""Characters that take most room in JSON."""


def test_an_attempt_reads_back_as_it_was_written() -> None:
    """All of its fields, and those of one of which nothing is known but its end."""
    history = (FULL, Attempt(AttemptOutcome.CRASHED))
    assert read_history(write_history(history)) == history
    assert read_history(write_history(history).encode()) == history


def test_what_is_written_is_what_the_page_of_messages_says() -> None:
    """Other programs may read it: the names of the fields are a promise."""
    assert json.loads(write_history([FULL, Attempt(AttemptOutcome.CRASHED)])) == [
        {
            "outcome": "failed",
            "began_at_ms": 1_796_040_000_125,
            "duration_ms": 500,
            "worker": "host:1",
            "exception_type": "shop.Error",
            "place": "shop/mail.py:12 send",
            "replays": 2,
        },
        {"outcome": "crashed"},
    ]


def test_the_last_ten_attempts_are_kept() -> None:
    """Older ones are left out, by whoever writes."""
    history = [Attempt(AttemptOutcome.FAILED, duration=float(n)) for n in range(25)]
    assert [attempt.duration for attempt in read_history(write_history(history))] == [float(n) for n in range(15, 25)]
    assert MAX_ATTEMPTS == 10


@pytest.mark.parametrize("text", [WIDE, "😀" * 1_000, '"' * 1_000, "\\" * 1_000, "\ud800\0" * 1_000, "x"])
def test_a_history_never_exceeds_its_bound_and_keeps_the_last_attempt(text: str) -> None:
    """Where there is no room for ten, the last ones are kept: whatever their texts are, one always fits."""
    attempts = [
        Attempt(AttemptOutcome.TIMED_OUT, BEGAN + timedelta(seconds=n), 1e9, text, text, text, 2**31) for n in range(12)
    ]
    written = write_history(attempts)
    assert len(written.encode()) <= MAX_HISTORY_BYTES
    read = read_history(written)
    assert read == tuple(attempts[-len(read) :])
    assert len(read) >= 1
    assert "\0" not in written


def test_nothing_is_written_of_no_attempts() -> None:
    """A message that has not failed has no header for it."""
    assert write_history([]) == ""
    assert HISTORY not in Failure(Reason.FAILED).retry_headers()


@pytest.mark.parametrize(
    "value",
    [
        None, 7, "", "no JSON", b"\xff\xfe", "{}", "[1, null, [], {}, true]", '[{"outcome": "done"}]', "[" * 50_000,
        '[{"outcome": ["failed"]}]', '[{"outcome": {"a": 1}}]', "[{}]" * 20, "9" * 10_000, "x" * 70_000,
        '[{"outcome": "failed"}]' + " " * 70_000, datetime.now(UTC), {"a": 1}, [FULL],
    ],
)  # fmt: skip
def test_a_header_that_is_no_history_tells_nothing(value: object) -> None:
    """Anybody can write headers: what is none is none, and raises nothing, wherever it is read."""
    assert read_history(value) == ()
    assert DeadLetter.from_headers(b"", {}, {HISTORY: value}).history == ()
    delivery = Delivery(b"", "q", meta={HISTORY: value})
    assert delivery.history == ()
    delivery.record(FULL)
    assert delivery.history == (FULL,)


@pytest.mark.parametrize("name", ["began_at_ms", "duration_ms", "worker", "exception_type", "place", "replays"])
@pytest.mark.parametrize(
    "value", [None, True, -1, 10**400, 1e999, float("nan"), 2**63, "\ud800\0", "x" * 9_000, [], {}, [["a"]]]
)
def test_one_wrong_field_hides_no_attempt(name: str, value: object) -> None:
    """What makes no sense is unknown; the rest is read, and can be written again."""
    (attempt,) = read_history(json.dumps([{"outcome": "failed", "place": "here", name: value}]))
    assert attempt.outcome is AttemptOutcome.FAILED
    assert name == "place" or attempt.place == "here"
    assert read_history(write_history([attempt])) == (attempt,)


@pytest.mark.parametrize("value", [None, "", "x", -1, 0, 2**62, "9" * 5_000, b"\xff", 1e308, float("inf"), [], {}])
def test_a_time_that_makes_no_sense_is_unknown(value: Any) -> None:
    """Neither a delivery nor a letter raises for it."""
    delivery = Delivery(b"", "q", meta={SENT_AT: value, DUE_AT: value})
    assert (delivery.sent_at, delivery.due_at) == (None, None)
    assert DeadLetter.from_headers(b"", {}, {SENT_AT: value}).sent_at is None


def test_the_time_of_sending_is_found_out_when_somebody_asks() -> None:
    """A backend may leave it to a function; what is written beside the message comes first."""
    asked: list[Delivery] = []

    def tell(delivery: Delivery) -> int:
        asked.append(delivery)
        return 1_796_040_000_125

    delivery = Delivery(b"", "q", sent=tell)
    assert asked == []
    assert delivery.sent_at == BEGAN
    assert asked == [delivery]
    assert Delivery(b"", "q", meta={SENT_AT: "1000"}, sent=tell).sent_at == datetime(1970, 1, 1, 0, 0, 1, tzinfo=UTC)


def test_a_failure_that_could_not_be_written_is_in_the_history() -> None:
    """A delivery that comes again shows what was noted of it; a new task in a dead-letter queue keeps it."""
    delivery = Delivery(b"", "q", meta={SENT_AT: 1_000, REPLAYS: 1})
    delivery.note(Noted(Failure(Reason.FAILED, 1, history=(FULL,))))
    assert delivery.history == (FULL,)
    delivery.begin_anew()
    assert delivery.history == (FULL,)
    assert set(delivery.meta) == {SENT_AT, REPLAYS, HISTORY}


def test_deaths_that_a_backend_charges_are_in_the_history() -> None:
    """Those that are new are added to what is there, and no more than there is room for."""
    meta = {"x-qbridge-crashes": 1, HISTORY: write_history([FULL]), REPLAYS: 3}
    crashed = Attempt(AttemptOutcome.CRASHED, replays=3)
    assert read_history(charged_history(meta, 3)) == (FULL, crashed, crashed)
    assert read_history(charged_history(meta, 10**9)) == (crashed,) * 10
    assert read_history(charged_history({}, 0)) == ()


# ---------------------------------------------------------------------- what workers write


def letter_of(handler: Callable[..., object], *, retries: int = 0, **arguments: Any) -> DeadLetter:
    """What becomes of one message in the end."""
    with connect("memory://") as client:
        client.declare("q", "d")
        client.send("q", 1)
        TaskManager(client, handler, "q", "d", max_retries=retries, max_workers=1, **arguments).run_until_idle(30.0)
        (letter,) = client.dead_letters("d")
    return letter


def outcomes(letter: DeadLetter) -> list[str]:
    """How its attempts ended."""
    return [attempt.outcome.value for attempt in letter.history]


def test_g13_a_letter_tells_of_each_attempt() -> None:
    """When it began, for how long it ran, where, and what went wrong at which place of the handler's own code."""
    before = datetime.now(UTC)
    letter = letter_of(failing.through_a_library, retries=2)
    assert outcomes(letter) == ["failed"] * 3
    for attempt in letter.history:
        assert attempt.began_at is not None
        assert attempt.duration is not None
        assert before - timedelta(seconds=1) <= attempt.began_at <= datetime.now(UTC)
        assert 0 <= attempt.duration < 30
        assert (attempt.worker, attempt.exception_type) == (letter.worker, "json.decoder.JSONDecodeError")
        assert attempt.place == f"support/failing.py:{failing.LINE} read"
        assert attempt.replays == 0
    assert letter.traceback.count("json/decoder.py") > 0, "the innermost frame is the library's"


def test_g13_an_attempt_that_postponed_itself_or_was_rejected_is_told_of() -> None:
    """It burns no attempt, and yet the message ran once more for it."""
    seen: list[tuple[Attempt, ...]] = []

    def handler(payload: object, task: TaskContext) -> None:
        seen.append(task.history)
        if len(seen) == 1:
            raise Snooze(0.01)
        raise Reject("no")

    letter = letter_of(handler, retries=5)
    assert outcomes(letter) == ["snoozed", "rejected"]
    assert letter.attempts == 1
    assert seen == [(), letter.history[:1]]


def test_g13_an_attempt_that_took_too_long_is_told_of_with_its_place() -> None:
    """Where the handler was when its time was over."""
    letter = letter_of(failing.wait, task_timeout=0.2)
    (attempt,) = letter.history
    assert (attempt.outcome, attempt.exception_type) == (AttemptOutcome.TIMED_OUT, "TimeoutError")
    assert attempt.place.endswith(" wait")
    assert attempt.duration is not None
    assert attempt.duration >= 0.2


def test_g13_an_attempt_of_a_coroutine_is_told_of_with_its_place() -> None:
    """Below a function of the standard library that awaits it, and after it was interrupted."""
    failed = letter_of(failing.in_a_coroutine).history[0]
    late = letter_of(failing.in_a_coroutine_that_waits, task_timeout=0.2).history[0]
    assert (failed.exception_type, failed.place) == ("ValueError", f"support/failing.py:{failing.INNER_LINE} inner")
    assert (late.outcome, late.exception_type) == (AttemptOutcome.TIMED_OUT, "TimeoutError")


def test_g13_a_message_that_never_ran_has_no_attempts() -> None:
    """What is malformed has been tried by nobody."""
    with connect("memory://") as client:
        client.declare("q", "d")
        client.publish("q", b"no JSON")
        TaskManager(client, print, "q", "d").run_until_idle(30.0)
        (letter,) = client.dead_letters("d")
    assert (letter.reason, letter.history) == (Reason.MALFORMED, ())


def test_a_replayed_message_keeps_its_history_with_a_mark_of_the_replay() -> None:
    """Counters begin anew; what was before is told apart by how often it had been sent back."""
    with connect("memory://") as client:
        client.declare("q", "d")
        client.send("q", 1)
        manager = TaskManager(client, failing.at_once, "q", "d", max_retries=1, max_workers=1)
        manager.run_until_idle(30.0)
        for _ in range(2):
            assert client.replay("d", letters=client.dead_letters("d")) == 1
            manager.run_until_idle(30.0)
        (letter,) = client.dead_letters("d")
    assert [attempt.replays for attempt in letter.history] == [0, 0, 1, 1, 2, 2]
    assert (letter.attempts, letter.replays) == (2, 2)


def test_a_task_sees_when_it_was_sent_and_when_it_was_due() -> None:
    """A retry is due when its delay ends; when the message was sent stays."""
    seen: list[TaskContext] = []

    def handler(payload: object, task: TaskContext) -> None:
        seen.append(task)
        raise ValueError

    before = datetime.now(UTC)
    letter = letter_of(handler, retries=1, backoff=ConstantBackoff(0.2))
    first, second = seen
    assert first.sent_at == second.sent_at == letter.sent_at
    assert first.sent_at is not None
    assert first.due_at is None
    assert second.due_at is not None
    assert second.due_at - before >= timedelta(seconds=0.19)


@pytest.mark.parametrize("executor", ["process", "thread"])
def test_a_handler_in_a_child_process_sees_the_same(executor: Any) -> None:
    """The context that it gets there tells when the message was sent, when it was due, and of earlier attempts."""
    letter = letter_of(failing.with_its_past, retries=1, executor=executor)
    assert outcomes(letter) == ["failed", "failed"]
    assert letter.exception_message == f"{letter.sent_at}, 1, True"
    assert letter.history[1].place == f"support/failing.py:{failing.PAST_LINE} with_its_past"
