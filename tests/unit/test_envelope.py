"""Reading a task: what is one, and what can never be run."""

from __future__ import annotations

import bz2
import gzip
import json
import lzma
import pickle
import re
import zlib

import pytest

from qbridge_core import Message, PayloadError
from qbridge_core.contract.envelope import MalformedTaskError, Task, read_task, write_task


@pytest.mark.parametrize(
    "payload", [None, True, 0, -1.5, "", "ü\u2028\0", [], {}, [1, [2, {"a": None}]], {"payload": {"task_id": 3}}]
)
def test_a_sent_payload_is_read_as_it_was(payload: object) -> None:
    """Whatever JSON can say arrives at the handler unchanged."""
    message, task_id = Message.for_task(payload)
    assert read_task(message.body) == Task(payload, task_id, {"payload": payload, "task_id": task_id, "retry": 0})


@pytest.mark.parametrize(
    ("task_id", "read"),
    [('"a"', "a"), ("7", "7"), ("-7", "-7"), ('""', None), ("null", None), (f'"{"x" * 255}"', "x" * 255)],
)
def test_task_ids_that_can_be_used(task_id: str, read: str | None) -> None:
    """A string or an integer is an id; an empty one is none."""
    task = read_task(b'{"payload": 1, "task_id": %s}' % task_id.encode())
    assert (task.payload, task.task_id) == (1, read)


def test_a_task_needs_no_id_and_may_have_more_fields() -> None:
    """Only ``payload`` is required, and fields of other producers do no harm."""
    assert read_task(b' \n{"x": [1], "retry": "no number", "payload": 1}\t') == Task(
        1, None, {"x": [1], "retry": "no number", "payload": 1}
    )


def test_the_last_of_two_equal_keys_counts() -> None:
    """A repeated key is read as Python's and most other decoders read it."""
    assert read_task(b'{"payload": 1, "task_id": "a", "payload": 2, "task_id": "b"}') == Task(
        2, "b", {"payload": 2, "task_id": "b"}
    )


@pytest.mark.parametrize(
    ("body", "why"),
    [
        (b"", "not JSON"),
        (b" ", "not JSON"),
        (b"{not json", "not JSON"),
        (b"{'payload': 1}", "not JSON"),
        (b'{"payload": 1} {"payload": 2}', "not JSON"),
        (b'{"payload": 1,}', "not JSON"),
        (b'{"payload": "\n"}', "not JSON"),
        (b'{"payload": "\\x00"}', "not JSON"),
        (b'{"payload": 01}', "not JSON"),
        (b'{"payload": 1}\0', "not JSON"),
        (b'{"payload": NaN}', "NaN is not JSON"),
        (b'{"payload": [Infinity]}', "Infinity is not JSON"),
        (b'{"payload": -Infinity}', "-Infinity is not JSON"),
        (b'{"payload": ' + b"9" * 5_000 + b"}", "not JSON"),
        (b"\xef\xbb\xbf" + b'{"payload": 1}', "not JSON"),
        (b'{"payload": "\xff"}', "not UTF-8"),
        (b'{"payload": "\xed\xa0\x80"}', "not UTF-8"),
        ('{"payload": 1}'.encode("utf-16"), "not UTF-8"),
        ('{"payload": 1}'.encode("utf-16-le"), "not JSON"),
        (b"\x80\x04\x95", "not UTF-8"),
        (b"[" * 200_000, "nested too deep"),
        (b'{"payload": ' * 200_000, "nested too deep"),
        (b'{"payload": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", "nested too deep"),
        (b"null", "JSON null, not an object"),
        (b"true", "JSON boolean, not an object"),
        (b"1", "JSON number, not an object"),
        (b"1.5", "JSON number, not an object"),
        (b'"payload"', "JSON string, not an object"),
        (b'[{"payload": 1}]', "JSON array, not an object"),
        (b"{}", 'no "payload"'),
        (b'{"Payload": 1, "task_id": "a"}', 'no "payload"'),
        (b'{"payload": 1, "task_id": true}', '"task_id" is a JSON boolean'),
        (b'{"payload": 1, "task_id": 1.5}', '"task_id" is a JSON number'),
        (b'{"payload": 1, "task_id": ["a"]}', '"task_id" is a JSON array'),
        (b'{"payload": 1, "task_id": {}}', '"task_id" is a JSON object'),
        (b'{"payload": 1, "task_id": "%s"}' % (b"x" * 256), '"task_id" has 256 characters'),
        (b'{"payload": 1, "task_id": %s}' % (b"9" * 256), '"task_id" has 256 characters'),
    ],
    ids=lambda value: repr(value)[:40],
)
def test_what_is_no_task_says_why(body: bytes, why: str) -> None:
    """Anything else is malformed, with the reason."""
    with pytest.raises(MalformedTaskError, match=why):
        read_task(body)


@pytest.mark.parametrize(
    "body",
    [
        b'{"payload": secret}',
        b'{"secret": 1}',
        b'{"payload": "secret" "secret"}',
        b'"secret"',
        b'{"payload": 1, "task_id": ["secret"]}',
        b'{"payload": "secret\xff"}',
    ],
)
def test_the_reason_does_not_repeat_the_body(body: bytes) -> None:
    """The text goes into logs, so nothing of the payload is in it."""
    with pytest.raises(MalformedTaskError) as info:
        read_task(body)
    assert "secret" not in str(info.value)


def test_the_limit_is_the_longest_body_that_is_read() -> None:
    """A body of exactly the limit is read; one byte more is malformed, and not even decoded."""
    body = b'{"payload": 1}'
    assert read_task(body, max_bytes=len(body)).payload == 1
    with pytest.raises(MalformedTaskError, match=r"15 bytes; the limit is 14"):
        read_task(b"\xff" * 15, max_bytes=14)


def test_the_default_limit_is_16_mebibytes() -> None:
    """Without a setting no body above 16 MiB is decoded."""
    with pytest.raises(MalformedTaskError, match="16777217 bytes; the limit is 16777216"):
        read_task(b" " * (16 * 1024 * 1024 + 1))


@pytest.mark.parametrize("payload", [{1, 2}, b"x", object(), float("nan"), float("-inf"), 1j, "\ud800", {("a",): 1}])
def test_a_payload_that_json_cannot_say_is_refused_by_the_sender(payload: object) -> None:
    """The producer hears of it, and no dead letter is made."""
    with pytest.raises(PayloadError, match="cannot be written as JSON"):
        Message.for_task(payload)


def test_a_payload_that_contains_itself_is_refused_by_the_sender() -> None:
    """Neither a circular list nor one that is nested too deep ends in a RecursionError."""
    circular: list[object] = []
    circular.append(circular)
    deep: list[object] = []
    for _ in range(100_000):
        deep = [deep]
    for payload in (circular, deep):
        with pytest.raises(PayloadError, match="cannot be written as JSON"):
            Message.for_task(payload)
    while deep:
        deep = deep.pop()  # type: ignore[assignment]  # freeing it at once would recurse


@pytest.mark.parametrize("task_id", ["", "x" * 256, 7, b"a", "\ud800"])
def test_a_task_id_that_cannot_be_used_is_refused_by_the_sender(task_id: object) -> None:
    """The producer may give a string of 1 to 255 characters."""
    with pytest.raises(PayloadError):
        Message.for_task(1, task_id=task_id)  # type: ignore[arg-type]


def test_the_envelope_is_what_other_programs_read() -> None:
    """``payload``, ``task_id`` and ``retry`` in compact UTF-8, without escapes."""
    message, task_id = Message.for_task({"ü": 1}, task_id="t")
    assert message.body == '{"payload":{"ü":1},"task_id":"t","retry":0}'.encode()
    assert task_id == "t"
    assert json.loads(message.body)["payload"] == {"ü": 1}


TASK = '{"payload": 1}'


@pytest.mark.parametrize(
    ("body", "hint"),
    [
        (TASK.encode("utf-8-sig"), "byte order mark"),
        (TASK.encode("utf-16"), "UTF-16"),
        (TASK.encode("utf-16-le"), "UTF-16"),
        (TASK.encode("utf-16-be"), "UTF-16"),
        (TASK.encode("utf-32"), "UTF-32"),
        (gzip.compress(TASK.encode(), mtime=0), "compressed with gzip"),
        (zlib.compress(TASK.encode()), "compressed with zlib"),
        (zlib.compress(TASK.encode(), 9), "compressed with zlib"),
        (bz2.compress(TASK.encode()), "compressed with bzip2"),
        (lzma.compress(TASK.encode()), "compressed with xz"),
        (b"\x28\xb5\x2f\xfd" + TASK.encode(), "compressed with zstd"),
        (pickle.dumps({"payload": 1}), "pickle"),
        (json.dumps(TASK).encode(), "encoded twice"),
    ],
    ids=lambda value: value if isinstance(value, str) else "body",
)
def test_a_body_in_another_form_is_recognised(body: bytes, hint: str) -> None:
    """The error says what the sender has to change."""
    with pytest.raises(MalformedTaskError, match=hint):
        read_task(body)


def test_an_empty_body_says_so() -> None:
    """The decoder's own words do not; on Redis it often means that a producer wrote other fields."""
    with pytest.raises(MalformedTaskError, match=r"it is empty .*field 'body'"):
        read_task(b"")


@pytest.mark.parametrize("body", [b"\x80abc", b"{", b"x^", b"\xe4"])
def test_nothing_is_guessed_of_other_bodies(body: bytes) -> None:
    """A wrong guess would mislead."""
    with pytest.raises(MalformedTaskError) as raised:
        read_task(body)
    assert ";" not in str(raised.value)


@pytest.mark.parametrize(
    ("payload", "place"),
    [
        ({"a": [1, {"b": {1, 2}}]}, "at payload['a'][1]['b']"),
        ([1.0, float("nan")], "at payload[1]"),
        ({"first": object(), "second": b""}, "at payload['first']"),
    ],
)
def test_what_json_cannot_say_is_named_by_its_place(payload: object, place: str) -> None:
    """A payload may be large; the first value that is wrong is found for whoever sends it."""
    with pytest.raises(PayloadError, match=re.escape(place)):
        write_task(payload, "t")
