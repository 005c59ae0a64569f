"""Messages, failures, dead letters: bounded, safe for any broker, and read back as they were written."""

from __future__ import annotations

import enum
import math
import uuid
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import pytest

from qbridge_core import (
    Attempt,
    AttemptOutcome,
    DeadLetter,
    Delivery,
    Failure,
    Message,
    PayloadError,
    Reason,
    check_headers,
)
from qbridge_core.backend import HISTORY
from qbridge_core.contract.envelope import read_task
from qbridge_core.contract.history import read_history
from qbridge_core.contract.message import new_id
from qbridge_core.message import (
    ATTEMPTS,
    CRASHES,
    FIRST_FAILED_AT,
    HEADER_PREFIX,
    MAX_EXCEPTION_MESSAGE_CHARS,
    MAX_ID_CHARS,
    MAX_TRACEBACK_CHARS,
    NO_HEADERS,
    REASON,
    TASK_ID,
    meta_int,
    meta_text,
    meta_time,
)

FULL = Failure(
    reason=Reason.TIMED_OUT,
    attempts=4,
    crashes=2,
    exception_type="pkg.Error",
    exception_message="it broke: ü",
    traceback="Traceback ...",
    first_failed_at=1_700_000_000.123,
    last_failed_at=1_700_000_001.456,
    source_queue="q",
    task_id="t",
    worker="host:1",
    history=(Attempt(AttemptOutcome.CRASHED), Attempt(AttemptOutcome.FAILED, None, 0.5, "host:1", "E", "m.py:1 f")),
)


def test_a_dead_letter_reads_back_every_field_of_its_failure() -> None:
    """What ``dead_letter_headers`` writes is what ``from_headers`` reads."""
    letter = DeadLetter.from_headers(b"body", {"h": "1"}, FULL.dead_letter_headers())
    assert {name: getattr(letter, name) for name in Failure.__dataclass_fields__} == {
        name: getattr(FULL, name) for name in Failure.__dataclass_fields__
    }
    assert (letter.body, letter.headers) == (b"body", {"h": "1"})


def test_headers_that_come_back_as_bytes_or_text_read_the_same() -> None:
    """A broker without types returns text or bytes for every number."""
    meta = FULL.dead_letter_headers()
    as_text = {name: str(value) for name, value in meta.items()}
    as_bytes = {name: str(value).encode() for name, value in meta.items()}
    expected = DeadLetter.from_headers(b"", {}, meta)
    assert DeadLetter.from_headers(b"", {}, as_text) == DeadLetter.from_headers(b"", {}, as_bytes) == expected


def test_all_headers_are_reserved_names_with_plain_values() -> None:
    """Only names with the prefix, only strings and integers, so that every broker can carry them."""
    for headers in (FULL.dead_letter_headers(), FULL.retry_headers()):
        assert all(name.startswith(HEADER_PREFIX) for name in headers)
        assert {type(value) for value in headers.values()} <= {str, int}


def test_a_retry_carries_what_the_next_worker_needs_and_no_more() -> None:
    """Counts, the first failure, the history and the task id travel; explanations do not."""
    headers = FULL.retry_headers()
    assert read_history(headers.pop(HISTORY)) == FULL.history
    assert headers == {ATTEMPTS: 4, CRASHES: 2, FIRST_FAILED_AT: 1_700_000_000_123, TASK_ID: "t"}
    assert CRASHES not in Failure(Reason.FAILED, attempts=1).retry_headers()


def test_the_time_of_the_first_failure_does_not_drift() -> None:
    """Writing and reading it again and again, once for each retry, keeps the millisecond."""
    seconds = 1_700_000_000.123
    for _ in range(100):
        meta = Failure(Reason.FAILED, first_failed_at=seconds).retry_headers()
        read = meta_time(meta, FIRST_FAILED_AT)
        assert read is not None
        seconds = read
    assert seconds == 1_700_000_000.123


def test_texts_are_bounded() -> None:
    """The exception's message keeps its beginning, the traceback its end."""
    failure = Failure(
        Reason.FAILED,
        exception_type="T" * 10_000,
        exception_message="start" + "m" * 1_000_000,
        traceback="t" * 1_000_000 + "end",
        task_id="i" * 10_000,
    )
    assert len(failure.exception_type) == len(failure.task_id) == MAX_ID_CHARS
    assert len(failure.exception_message) == MAX_EXCEPTION_MESSAGE_CHARS
    assert len(failure.traceback) == MAX_TRACEBACK_CHARS
    assert failure.exception_message.startswith("start")
    assert failure.traceback.endswith("end")


def test_the_headers_of_a_dead_letter_fit_into_one_frame() -> None:
    """Even texts of the widest characters stay far below the 131,072 bytes of an AMQP frame."""
    wide = "\U0001f600" * 100_000
    failure = Failure(
        Reason.FAILED, exception_type=wide, exception_message=wide, traceback=wide, task_id=wide, worker="h" * 255
    )
    assert sum(len(str(value).encode()) for value in failure.dead_letter_headers().values()) < 60_000


@pytest.mark.parametrize("text", ["\ud800", "a\0b", "\udcff\0", "\0" * 300])
def test_texts_are_made_safe_for_every_broker(text: str) -> None:
    """Neither lone surrogates nor NUL bytes are left, and something readable is."""
    failure = Failure(Reason.FAILED, 1, 0, text, text, text, task_id=text)
    for value in (failure.exception_type, failure.exception_message, failure.traceback, failure.task_id):
        assert value
        assert b"\0" not in value.encode("utf-8")


@pytest.mark.parametrize(
    "value", [None, "", "x", "-5", -5, b"x", b"\xff", math.nan, math.inf, [], {}, object(), "9" * 5_000, "1.5", "½"]
)
def test_a_hostile_count_is_zero(value: Any) -> None:
    """Anybody can write headers: what is no count counts nothing, and raises nothing."""
    assert meta_int({ATTEMPTS: value}, ATTEMPTS) == 0


@pytest.mark.parametrize("value", [3, "3", b"3", " 3 ", 3.9])
def test_a_count_is_read_from_any_number(value: Any) -> None:
    """Numbers are understood in the types that brokers use for them."""
    assert meta_int({ATTEMPTS: value}, ATTEMPTS) == 3


@pytest.mark.parametrize("value", [None, "", "x", 0, -1, "0", math.nan])
def test_a_hostile_time_is_unknown(value: Any) -> None:
    """What is no time is no time, and raises nothing."""
    assert meta_time({FIRST_FAILED_AT: value}, FIRST_FAILED_AT) is None


@pytest.mark.parametrize(("value", "text"), [(b"\xff\xfe", "\ufffd\ufffd"), (5, "5"), ("ü", "ü"), (b"\xc3\xbc", "ü")])
def test_any_value_is_read_as_text(value: Any, text: str) -> None:
    """Foreign bytes never raise."""
    assert meta_text({TASK_ID: value}, TASK_ID) == text


@pytest.mark.parametrize("value", ["", "no reason", b"\xff", None, 3])
def test_an_unknown_reason_is_rejected(value: Any) -> None:
    """A letter that somebody else put there has been rejected, as far as one can tell."""
    assert DeadLetter.from_headers(b"", {}, {REASON: value}).reason is Reason.REJECTED


def test_a_letter_without_headers_can_be_read() -> None:
    """A message that any other program put into the queue has no explanation, and is listed all the same."""
    letter = DeadLetter.from_headers(b"x", {}, {})
    assert (letter.reason, letter.attempts, letter.crashes) == (Reason.REJECTED, 0, 0)
    assert (letter.first_failed_at, letter.last_failed_at, letter.source_queue) == (None, None, "")


@pytest.mark.parametrize(
    "name", ["", "x" * 256, "ü" * 128, "x-qbridge-attempts", "X-QBridge-Foo", "x-qbridge-", 3, None, b"n"]
)
def test_header_names_that_cannot_be_kept_are_refused(name: Any) -> None:
    """Reserved names in any case, and names that not every broker can carry."""
    with pytest.raises(PayloadError, match="header name"):
        check_headers({name: "x"})


@pytest.mark.parametrize("value", [None, 1, b"x", ["x"], {}])
def test_header_values_must_be_strings(value: Any) -> None:
    """The error names the header and the type of its value, not the value."""
    with pytest.raises(PayloadError, match=f"'h' must be a string, not {type(value).__name__}"):
        check_headers({"h": value})


def test_headers_that_can_be_kept_are_returned() -> None:
    """Good headers pass unchanged; none at all is one shared empty mapping."""
    headers = {"a": "", "x" * 255: "1", "x-qbridge": "ü", "qbridge-x-": "2"}
    assert check_headers(headers) == headers
    assert check_headers(None) is check_headers({}) is NO_HEADERS


def test_the_empty_mapping_cannot_be_filled() -> None:
    """Nobody can write into the mapping that all messages share."""
    with pytest.raises(TypeError):
        NO_HEADERS["a"] = 1  # type: ignore[index]


def test_a_delivery_does_not_print_its_body() -> None:
    """A payload does not reach a log through a repr."""
    assert "secret" not in repr(Delivery(b"secret", "q"))


def test_two_deliveries_of_equal_messages_are_not_equal() -> None:
    """A delivery is a handle: equal contents do not make two of them one."""
    assert Delivery(b"x", "q") != Delivery(b"x", "q")
    assert len({Delivery(b"x", "q"), Delivery(b"x", "q")}) == 2


def test_every_task_has_a_message_id_of_its_own() -> None:
    """The message id is fresh even where the task id repeats."""
    first, _ = Message.for_task(1, task_id="same")
    second, _ = Message.for_task(1, task_id="same")
    assert first.message_id != second.message_id


def test_ids_are_random_uuids() -> None:
    """An id is a UUID of version 4 in its usual form, and none comes twice."""
    ids = [new_id() for _ in range(1_000)]
    parsed = [uuid.UUID(one) for one in ids]
    assert [str(one) for one in parsed] == ids
    assert {(one.version, one.variant) for one in parsed} == {(4, uuid.RFC_4122)}
    assert len(set(ids)) == 1_000


class Number(enum.IntEnum):
    """A key that is written as a number."""

    ONE = 1


class Word(enum.StrEnum):
    """A key that is a string."""

    ONE = "one"


@pytest.mark.parametrize(
    ("payload", "key", "where"),
    [
        ({1: "a", "1": "b"}, "1 (int)", "payload"),
        ({"a": [{"b": {True: 1}}]}, "True (bool)", "payload['a'][0]['b']"),
        ({None: 1}, "None (NoneType)", "payload"),
        (({}, {1.5: 2}), "1.5 (float)", "payload[1]"),
        ({-7: 1}, "-7 (int)", "payload"),
        ({1e300: 1}, "1e+300 (float)", "payload"),
        ({Number.ONE: 1}, "ONE: 1> (Number)", "payload"),
        ({(1, 2): 3}, "(1, 2) (tuple)", "payload"),
        ({"a": OrderedDict([(b"x", 1)])}, "b'x' (bytes)", "payload['a']"),
    ],
)
def test_g18_a_key_that_is_no_string_is_named(payload: object, key: str, where: str) -> None:
    """JSON would make a string of it, which may replace another key: the error names it and where it is."""
    with pytest.raises(PayloadError) as raised:
        Message.for_task(payload)
    assert f"{key} in {where}, " in str(raised.value)


@pytest.mark.parametrize(
    "payload",
    [{"1": 1, "true": 2, "null": 3, "1.5": 4, "line1": 5}, {Word.ONE: 1}, ['"1":2', {"a": '{"1":2}'}], {"": {}}],
)
def test_keys_that_are_strings_are_sent_as_they_are(payload: object) -> None:
    """However much a string looks like a number, it stays one."""
    assert read_task(Message.for_task(payload)[0].body).payload == payload


@pytest.mark.parametrize("wrap", [lambda inner: [inner], lambda inner: {"a": inner}, lambda inner: (1, {"b": [inner]})])
def test_g19_a_payload_that_some_worker_could_not_read_is_refused(wrap: Callable[[object], object]) -> None:
    """Python versions differ in how deep they read: what is nested deeper than each of them can is no task."""
    payload: object = 1
    for _ in range(160):
        payload = wrap(payload)
    assert read_task(Message.for_task(payload)[0].body)
    for _ in range(350):
        payload = wrap(payload)
    with pytest.raises(PayloadError, match=r"nested deeper|recursion"):
        Message.for_task(payload)


def test_a_payload_that_holds_itself_is_refused() -> None:
    """Also when one of its keys is no string."""
    payload: dict[object, object] = {"a": {}}
    payload["b"] = [payload]
    with pytest.raises(PayloadError, match="Circular"):
        Message.for_task(payload)
    payload[1] = payload
    with pytest.raises(PayloadError, match=r"1 \(int\)"):
        Message.for_task(payload)
