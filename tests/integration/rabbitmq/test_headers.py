"""Properties of messages are cut and spliced as bytes: whatever a producer wrote survives a copy."""

from __future__ import annotations

import struct
import tracemalloc
from datetime import UTC, datetime
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pika import spec

from qbridge_core import Failure, Reason
from qbridge_core.contract.headers import instant
from qbridge_rabbitmq.amqp import copies, headers
from qbridge_rabbitmq.dead_letters import broker_deaths

MILLISECONDS = 1_764_000_000_000
EVERY_TYPE = {
    "bool": (b"t\x01", True),
    "int8": (b"b\xff", -1),
    "uint8": (b"B\xff", 255),
    "int16": (b"s\xff\xfe", -2),
    "uint16": (b"u\xff\xfe", 65_534),
    "int32": (b"I" + struct.pack(">i", -7), -7),
    "uint32": (b"i" + struct.pack(">I", 2**32 - 1), 2**32 - 1),
    "int64": (b"l" + struct.pack(">q", -(2**40)), -(2**40)),
    "float": (b"f" + struct.pack(">f", 0.5), 0.5),
    "double": (b"d" + struct.pack(">d", 1.1), 1.1),
    "decimal": (b"D\x02" + struct.pack(">i", -12_345), Decimal("-123.45")),
    "text": (b"S" + struct.pack(">I", 3) + "aü".encode(), "aü"),
    "not text": (b"S" + struct.pack(">I", 2) + b"\xff\xfe", b"\xff\xfe"),
    "bytes": (b"x" + struct.pack(">I", 2) + b"\x00\x01", b"\x00\x01"),
    "seconds": (b"T" + struct.pack(">Q", 1_700_000_000), datetime.fromtimestamp(1_700_000_000, UTC)),
    "milliseconds": (b"T" + struct.pack(">Q", MILLISECONDS), MILLISECONDS),
    "nothing": (b"V", None),
    "list": (b"A" + struct.pack(">I", 3) + b"t\x00V", [False, None]),
    "table": (b"F" + struct.pack(">I", 4) + b"\x01at\x01", {"a": True}),
}


def entry(name: str, value: bytes) -> bytes:
    """One entry of a table, from its name and its type and value."""
    return bytes((len(name.encode()),)) + name.encode() + value


def properties(*entries: bytes, **fields: object) -> bytes:
    """Properties with these entries as headers and pika's encoding of the other fields."""
    encoded = b"".join(spec.BasicProperties(**fields).encode())  # type: ignore[arg-type]
    table = b"".join(entries)
    return headers.join({**headers.split(encoded), headers.HEADERS: struct.pack(">I", len(table)) + table})


@pytest.mark.parametrize("name", EVERY_TYPE)
def test_every_type_is_decoded(name: str) -> None:
    """A header of any type that RabbitMQ knows reads as the Python value closest to it."""
    encoded, value = EVERY_TYPE[name]
    decoded = headers.read(properties(entry("h", encoded))).headers["h"]
    assert decoded == value
    assert type(decoded) is type(value)


def test_a_copy_keeps_foreign_headers_byte_for_byte() -> None:
    """Entries of all types are in the copy as they were, in their order, before ours."""
    entries = [entry(name, encoded) for name, (encoded, _) in EVERY_TYPE.items()]
    copied = headers.split(copies.copy(properties(*entries), {"x-qbridge-attempts": 2}))
    assert copied[headers.HEADERS][4:].startswith(b"".join(entries) + b"\x12x-qbridge-attempts")


def test_a_copy_keeps_the_other_properties() -> None:
    """What a producer says about its body and its reply is in the copy."""
    fields = {
        "content_type": "application/json", "content_encoding": "gzip", "priority": 3, "correlation_id": "c",
        "reply_to": "r", "message_id": "m", "timestamp": MILLISECONDS, "type": "t", "app_id": "a", "cluster_id": "k",
    }  # fmt: skip
    copied = spec.BasicProperties()
    copied.decode(copies.copy(properties(**fields), {}, "not this"))
    assert {name: getattr(copied, name) for name in fields} == fields


@pytest.mark.parametrize("content_type", ["application/json", "ü/ü", "", "x" * 256])
def test_a_header_that_says_what_the_body_is_is_a_property_too(content_type: str) -> None:
    """Consumers of other libraries look there; what is too long for a property is a header alone."""
    raw = headers.fresh({"content-type": content_type, "tenant": "a"}, "m")
    decoded = spec.BasicProperties()
    decoded.decode(raw)
    assert decoded.content_type == (content_type if 0 < len(content_type) < 256 else None)
    assert headers.read(raw).headers == {"content-type": content_type, "tenant": "a"}


def test_a_copy_is_persistent_and_says_nothing_to_the_broker() -> None:
    """Expiration, user id and CC would delete, refuse or multiply the copy: they travel under names of our own."""
    cc = entry("CC", b"A" + struct.pack(">I", 6) + b"S" + struct.pack(">I", 1) + b"q")
    once = copies.copy(properties(cc, expiration="60000", user_id="guest", delivery_mode=1), {})
    twice = copies.copy(once, {})
    for raw in (once, twice):
        copied = spec.BasicProperties()
        copied.decode(raw)
        assert (copied.delivery_mode, copied.expiration, copied.user_id) == (2, None, None)
        assert "CC" not in (copied.headers or {})
        content = headers.read(raw)
        assert content.headers == {"CC": ["q"]}
        assert content.meta["x-qbridge-expiration"] == "60000"
        assert content.meta["x-qbridge-user-id"] == "guest"


def test_a_copy_leaves_out_what_the_broker_counted() -> None:
    """A count or a death of the original is not one of the copy."""
    names = ("x-death", "x-first-death-queue", "x-last-death-reason", "x-delivery-count", "x-acquired-count")
    copied = copies.copy(properties(*(entry(name, b"V") for name in names), entry("kept", b"V")), {})
    assert dict(headers.read(copied).headers) == {"kept": None}


def test_our_headers_are_replaced_and_not_doubled() -> None:
    """A copy of a copy has the newest of our headers only."""
    copied = copies.copy(
        copies.copy(properties(), {"x-qbridge-attempts": 1, "x-qbridge-reason": "old"}), {"x-qbridge-attempts": 2}
    )
    assert dict(headers.read(copied).meta) == {"x-qbridge-attempts": 2}


def test_a_message_id_is_added_where_there_is_none() -> None:
    """The task id becomes the message id of a copy, if it fits and the producer gave none."""
    assert headers.read(copies.copy(properties(), {}, "task")).message_id == "task"
    assert headers.read(copies.copy(properties(message_id="own"), {}, "task")).message_id == "own"
    assert headers.read(copies.copy(properties(), {}, "ü" * 200)).message_id is None


MOST = 131_052  # of a frame of 131,072 bytes
EXPLAINED: dict[str, str | int] = {
    "x-qbridge-reason": "failed",
    "x-qbridge-exception-message": "m" * 1_000,
    "x-qbridge-traceback": "begin" + "t" * 7_992 + "end",
}


def text(name: str, size: int) -> bytes:
    """An entry with a long text."""
    return entry(name, b"S" + struct.pack(">I", size) + b"x" * size)


def test_g19_a_letter_leaves_out_the_beginning_of_the_traceback_first() -> None:
    """Where the producer's headers leave little room, they, the reason and the message are kept in full."""
    copied = copies.letter(properties(text("big", 125_000)), EXPLAINED, "", MOST)
    content = headers.read(copied)
    assert len(copied) == MOST
    assert len(content.headers["big"]) == 125_000
    assert (content.meta["x-qbridge-reason"], content.meta["x-qbridge-exception-message"]) == ("failed", "m" * 1_000)
    assert content.meta["x-qbridge-traceback"].endswith("ttend")


@pytest.mark.parametrize("most", [4_076, 8_172, MOST])
def test_g19_a_letter_leaves_out_the_largest_headers_and_names_them(most: int) -> None:
    """Headers that fill a frame of any size: the small ones stay, and the message says what is missing."""
    table = [text("largest", most - 1_600), text("small", 10), text("second", 1_200), text("tiny", 1)]
    copied = copies.letter(properties(*table), EXPLAINED, "task", most)
    content = headers.read(copied)
    assert len(copied) <= most
    assert {"small", "tiny"} <= content.headers.keys()
    assert "largest" not in content.headers
    assert "left out" in content.meta["x-qbridge-exception-message"]
    assert f"'largest' ({most - 1_600 + 13} bytes)" in content.meta["x-qbridge-exception-message"]
    assert content.meta["x-qbridge-exception-message"].startswith("mmm")


def test_g19_a_letter_of_many_small_headers_fits() -> None:
    """Thousands of headers that fill a frame together are left out one by one, and not all of them are named."""
    table = [text(f"header-{n:04}", 20) for n in range(3_500)]
    copied = copies.letter(properties(*table), EXPLAINED, "task", MOST)
    assert len(copied) <= MOST
    assert headers.read(copied).meta["x-qbridge-reason"] == "failed"
    assert len(headers.read(copied).headers) > 3_000


def test_g19_what_a_producer_may_write_leaves_room_for_the_longest_explanation() -> None:
    """The reserve that ``publish`` keeps holds a failure whose texts are as long and as wide as they can be."""
    wide = "\U0001f600"
    failure = Failure(
        Reason.TIMED_OUT,
        2**62,
        2**62,
        wide * 300,
        wide * 2_000,
        wide * 9_000,
        1e9,
        1e9,
        "q" * 255,
        wide * 300,
        "w" * 270,
    )
    size = 1_000
    while copies.leaves_room(headers.fresh({"h": "x" * size}, "m" * 255), MOST):
        size += 100
    raw = headers.fresh({"h": "x" * (size - 100)}, None)
    copied = copies.letter(raw, failure.dead_letter_headers(), failure.task_id, MOST)
    meta = headers.read(copied).meta
    assert (meta["x-qbridge-exception-message"], meta["x-qbridge-traceback"]) == (wide * 1_000, wide * 8_000)
    assert copies.leaves_room(headers.fresh({"h": "x" * 1_900}, None), 4_076), "a small frame has room for something"


def test_a_copy_does_without_a_mark_where_there_is_no_room() -> None:
    """A letter that fills its frame can be replayed: its copy needs no more than it had."""
    raw = copies.copy(properties(text("big", MOST - 70)), {}, mark="m")
    bare = properties(text("big", MOST - 30), delivery_mode=2)
    assert headers.read(raw).mark == "m"
    assert len(copies.copy(bare, {}, most=MOST)) <= MOST


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"\x20",
        b"\x20\x00\x00\x00\x00\xff",
        properties(entry("unknown", b"?\x00\x00")),
        properties(entry("short", b"l\x00")),
        properties(b"\xffname"),
        properties(entry("deep", b"A" + b"".join(struct.pack(">I", 5 * n) + b"A" for n in range(20_000, 0, -1))[:-1])),
    ],
    ids=["nothing", "half", "cut", "unknown", "short", "name", "deep"],
)
def test_damaged_properties_never_raise(raw: bytes) -> None:
    """What cannot be read is left out; nobody may stop a worker with a header."""
    content = headers.read(raw)
    assert content.message_id is None
    assert broker_deaths.explain(raw) == {}
    assert headers.delivery_count(raw) == 0


@pytest.mark.parametrize("damage", ["deep", "broken"])
def test_g5_a_header_that_cannot_be_read_hides_no_other(damage: str) -> None:
    """Ours come after the producer's: if one that is nested too deep hid them, no attempt would ever be counted."""
    value = b"V"
    for _ in range(2_000):
        value = b"A" + struct.pack(">I", len(value)) + value
    if damage == "broken":
        value = b"A" + struct.pack(">I", 1) + b"?"
    copied = copies.copy(properties(entry("bad", value), entry("good", b"t\x01")), {"x-qbridge-attempts": 2})
    assert headers.read(copied).meta["x-qbridge-attempts"] == 2
    assert headers.read(copied).headers == {"good": True}
    assert headers.delivery_count(properties(entry("x-delivery-count", value))) == 0


def test_a_header_that_cannot_be_read_still_travels() -> None:
    """A message with an unknown type of header can be dead-lettered, and what could be read is not lost."""
    raw = properties(entry("good", b"t\x01"), entry("unknown", b"?\x00\x00"))
    copied = copies.copy(raw, {"x-qbridge-reason": "failed"})
    assert headers.read(copied).headers["good"] is True
    assert headers.read(copied).meta["x-qbridge-reason"] == "failed"


@pytest.mark.parametrize("own", [{}, {"tenant": "blue"}, {"x-qbridge-copy": "forged"}], ids=["none", "one", "forged"])
def test_a_fresh_message_reads_the_same_quickly_and_in_full(own: dict[str, str]) -> None:
    """The short way through what QBridge wrote gives what the long one gives, for each message a mark of its own."""
    first, second = headers.fresh(own, "id"), headers.fresh(own, "id")
    for raw in (first, second):
        assert headers.read(raw) == headers._read_any(raw)
    content = headers.read(first)
    assert content.message_id == "id"
    assert content.headers == {name: value for name, value in own.items() if name == "tenant"}
    assert content.meta == {}
    assert len(content.mark) == 16
    assert content.mark != headers.read(second).mark


SENT = 1_764_000_000_123


def test_what_01_wrote_is_read_quickly_too() -> None:
    """A mark without a time of sending before it: nobody knows that, and the rest is cached all the same."""
    table = headers._MARK_ENTRY + b"0123456789abcdef"
    raw = headers._FRESH_FLAGS + struct.pack(">I", len(table)) + table + b"\x02\x01m"
    assert headers._read_ours(raw) == headers.Content("m", {}, {}, "0123456789abcdef")
    assert headers.sent_ms(raw) == 0
    assert headers.read(copies.copy(raw, {})).meta == {}


def test_many_fresh_messages_share_what_is_read_of_their_headers() -> None:
    """Neither the time nor the mark gets into the cache, so that it holds one table for all of them."""
    headers._views.cache_clear()
    for number in range(50):
        assert headers.read(headers.fresh({"tenant": "blue"}, str(number))).headers == {"tenant": "blue"}
    assert headers._views.cache_info().currsize == 1


@pytest.mark.parametrize("own", [{}, {"tenant": "blue"}])
def test_when_a_message_was_sent_goes_with_all_its_copies(own: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a retry, a letter, a hand-back, an edited letter, one after the other."""
    monkeypatch.setattr(headers.time, "time_ns", lambda: SENT * 1_000_000)
    raw = headers.fresh(own, "id")
    monkeypatch.undo()
    for _ in range(2):
        assert headers.sent_ms(raw) == SENT
        raw = copies.copy(raw, {"x-qbridge-attempts": 1})
        assert headers.sent_ms(raw) == SENT
        raw = copies.handed_back(raw, MOST)
        assert headers.sent_ms(raw) == SENT
        raw = copies.letter(raw, EXPLAINED, "task", MOST)
        assert headers.sent_ms(raw) == SENT
        raw = copies.copy(copies.edited(raw, {"new": "1"}, "other"), {}, most=MOST)
    assert headers.sent_ms(raw) == SENT
    assert headers.read(raw).meta == {}


@pytest.mark.parametrize(
    ("timestamp", "sent"), [(1_764_000_000, 1_764_000_000_000), (SENT, SENT), (0, 0), (None, 0), (2**64 - 1, None)]
)
def test_a_foreign_message_was_sent_at_its_timestamp(timestamp: int | None, sent: int | None) -> None:
    """In seconds, as AMQP has it, or in milliseconds, as some write it; a copy keeps it."""
    raw = properties(timestamp=timestamp)
    for each in (raw, copies.copy(raw, {})):
        told = headers.sent_ms(each)
        assert told == sent or (sent is None and instant(told) is None)


NO_TIMES = [b"V", b"S" + struct.pack(">I", 3) + b"abc", b"t\x00", b"l" + b"\xff" * 8, b"l\x7f" + b"\xff" * 7]


@pytest.mark.parametrize("value", NO_TIMES)
def test_a_forged_time_of_sending_is_none(value: bytes) -> None:
    """What is no time hides neither the timestamp nor anything else."""
    raw = properties(entry("x-qbridge-sent-at-ms", value), entry("h", b"t\x01"), timestamp=1_764_000_000)
    assert headers.sent_ms(raw) == 1_764_000_000_000
    assert headers.read(raw).headers == {"h": True}


PAST: dict[str, str | int] = {"x-qbridge-history": "h" * 4_096}


@pytest.mark.parametrize("missing", [1, 4_000])
def test_g19_the_history_is_left_out_first(missing: int) -> None:
    """Of a letter, a retry and a hand-back that would be too large with it: nothing else is missing."""
    raw = headers.fresh({"h": "x"}, "id")
    whole = len(copies.letter(raw, EXPLAINED | PAST, "task", MOST))
    letter = copies.letter(raw, EXPLAINED | PAST, "task", whole - missing)
    assert dict(headers.read(letter).meta) == EXPLAINED
    retry = copies.copy(raw, {"x-qbridge-attempts": 1} | PAST, most=len(raw) + 4_000, mark="m")
    assert dict(headers.read(retry).meta) == {"x-qbridge-attempts": 1}
    assert headers.read(retry).mark == "m"
    kept = copies.copy(raw, {"x-qbridge-attempts": 1} | PAST, most=MOST)
    assert headers.read(kept).meta.keys() == {"x-qbridge-attempts", "x-qbridge-history"}
    back = copies.handed_back(kept, len(kept) - missing, {"x-qbridge-suspected": 1})
    assert dict(headers.read(back).meta) == {"x-qbridge-attempts": 1, "x-qbridge-suspected": 1}


@given(st.binary(max_size=60))
def test_what_only_looks_like_a_fresh_message_reads_as_any_other(table: bytes) -> None:
    """A table that ends like one of ours and is damaged before that is read the long way."""
    entries = table + headers._MARK_ENTRY + b"0123456789abcdef"
    raw = b"0\x80" + len(entries).to_bytes(4, "big") + entries + b"\x02\x01m"
    assert headers.read(raw) == headers._read_any(raw)


def test_g4_large_headers_are_not_kept() -> None:
    """Reading messages with large headers, each with others, leaves next to nothing of them in memory."""
    made = [headers.fresh({"h": f"{n:06d}" * 10_000}, "id") for n in range(50)]
    tracemalloc.start()
    try:
        for properties in made:
            assert len(headers.read(properties).headers["h"]) == 60_000
            assert len(headers.read(properties[:-3] + b"\x02jd").headers["h"]) == 60_000
        assert tracemalloc.get_traced_memory()[0] < 500_000
    finally:
        tracemalloc.stop()
