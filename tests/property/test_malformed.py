"""Whatever bytes arrive, they end as a run or as a dead letter with the same bytes, and the worker goes on."""

from __future__ import annotations

import json
import math
from typing import Any

from hypothesis import example, given
from hypothesis import strategies as st

from qbridge_core import (
    Attempt,
    AttemptOutcome,
    DeadLetter,
    Failure,
    Message,
    Outcome,
    PayloadError,
    Reason,
    TaskManager,
)
from qbridge_core.contract.envelope import MalformedTaskError, Task, read_task
from qbridge_core.contract.headers import instant
from qbridge_core.contract.history import write_history
from qbridge_core.message import MAX_EXCEPTION_MESSAGE_CHARS, MAX_ID_CHARS, MAX_TRACEBACK_CHARS
from qbridge_memory import MemoryClient
from support.properties import BODIES, JSON, examples, is_malformed

NAMES = st.text(st.characters(codec="utf-8"), min_size=1, max_size=60).filter(
    lambda name: not name.lower().startswith("x-qbridge-")
)
HEADERS = st.dictionaries(NAMES, st.text(st.characters(codec="utf-8"), max_size=60), max_size=4)
IDS = st.none() | st.text(st.characters(codec="utf-8"), min_size=1, max_size=255)
MESSAGES = st.builds(Message, BODIES, HEADERS, IDS)


@given(BODIES)
@example(b"[" * 100_000)
@example(b'{"payload": ' + b"9" * 5_000 + b"}")
@example(b'{"payload": 1e999}')
@example(b'{"payload": "\\ud800", "task_id": "\\ud800"}')
def test_a_body_is_a_task_or_malformed(body: bytes) -> None:
    """Reading raises nothing but MalformedTaskError."""
    try:
        task = read_task(body)
    except MalformedTaskError:
        return
    assert isinstance(task, Task)
    assert task.task_id is None or 0 < len(task.task_id) <= MAX_ID_CHARS
    assert task.payload is json.loads(body)["payload"] or repr(task.payload) == repr(json.loads(body)["payload"])


@examples(40)
@given(st.lists(MESSAGES, min_size=1, max_size=8))
def test_every_message_is_run_or_dead_lettered_unchanged(messages: list[Message]) -> None:
    """Nothing is lost or changed, nothing stops the worker, and the dead letters name their reasons."""
    runs: list[Any] = []

    def handler(payload: Any) -> None:
        runs.append(payload)
        if not payload:
            raise ValueError(payload)

    with MemoryClient() as client:
        client.declare("q", "d")
        client.publish_many("q", messages)
        client.send("q", "the end")
        manager = TaskManager(client, handler, "q", "d", max_retries=1, max_workers=1)
        report = manager.run_until_idle(20.0)
        assert "the end" in runs
        letters = client.dead_letters("d")
        assert client.stats("q").ready == client.stats("q").in_flight == 0
    assert report.succeeded + len(letters) == len(messages) + 1
    assert {letter.reason for letter in letters} <= {Reason.FAILED, Reason.MALFORMED}
    assert report[Outcome.MALFORMED] == sum(is_malformed(message.body) for message in messages)
    left = [(message.body, dict(message.headers)) for message in messages]
    for letter in letters:
        left.remove((letter.body, dict(letter.headers)))
        assert is_malformed(letter.body) == (letter.reason is Reason.MALFORMED)
    assert not any(is_malformed(body) for body, _ in left)


@given(JSON, st.none() | st.text(min_size=1, max_size=255))
def test_what_can_be_sent_can_be_read(payload: Any, task_id: str | None) -> None:
    """The sender refuses what the worker could not read, and nothing else."""
    try:
        message, sent_id = Message.for_task(payload, task_id=task_id)
    except PayloadError:
        assert not _is_sendable(payload) or not _is_sendable(task_id)
        return
    task = read_task(message.body)
    assert (task.payload, task.task_id) == (payload, sent_id)


def _is_sendable(value: Any) -> bool:
    if isinstance(value, str):
        return not any(0xD800 <= ord(character) <= 0xDFFF for character in value)
    if isinstance(value, float):
        return math.isfinite(value)
    if isinstance(value, int):
        return abs(value) < 10**4300
    if isinstance(value, list):
        return all(map(_is_sendable, value))
    if isinstance(value, dict):
        return all(_is_sendable(key) and _is_sendable(inner) for key, inner in value.items())
    return True


TIMES = st.integers(12_000_000_000, 16_000_000_000).map(lambda eighths: eighths / 8)
ATTEMPTS = st.builds(
    Attempt,
    outcome=st.sampled_from(AttemptOutcome),
    began_at=st.none() | st.integers(1, 253_402_300_799_999).map(instant),
    duration=st.none() | st.integers(0, 10**9).map(lambda milliseconds: milliseconds / 1000),
    worker=st.text(),
    exception_type=st.text(),
    place=st.text(),
    replays=st.integers(0, 2**31),
)
FAILURES = st.builds(
    Failure,
    reason=st.sampled_from(Reason),
    attempts=st.integers(0, 10**9),
    crashes=st.integers(0, 10**9),
    exception_type=st.text(),
    exception_message=st.text(),
    traceback=st.text(),
    first_failed_at=TIMES,
    last_failed_at=TIMES,
    source_queue=st.text(st.characters(codec="utf-8")),
    task_id=st.text(),
    worker=st.text(st.characters(codec="utf-8")),
    history=st.lists(ATTEMPTS, max_size=10).map(tuple),
)


@given(FAILURES)
def test_a_failure_survives_its_way_through_any_broker(failure: Failure) -> None:
    """Texts are bounded UTF-8 without NUL where they come from foreign code; all reads back."""
    headers = failure.dead_letter_headers()
    assert len(failure.exception_message) <= MAX_EXCEPTION_MESSAGE_CHARS
    assert len(failure.traceback) <= MAX_TRACEBACK_CHARS
    assert "\0" not in failure.exception_type + failure.exception_message + failure.traceback + failure.task_id
    wire = {name: str(value).encode("utf-8") for name, value in headers.items()}
    letter = DeadLetter.from_headers(b"", {}, wire)
    assert letter.history == failure.history[len(failure.history) - len(letter.history) :]
    assert len(letter.history) == len(failure.history) or len(write_history(failure.history)) > 2_000
    for name in Failure.__dataclass_fields__.keys() - {"history"}:
        assert getattr(letter, name) == getattr(failure, name), name
