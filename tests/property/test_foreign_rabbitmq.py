"""Whatever another program publishes to RabbitMQ ends as a run or as a dead letter with the same bytes."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Any

import pika
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from pika import spec

from qbridge_core import QueueClient, connect
from support.properties import BODIES, HISTORIES, OURS, examples, work_off

Entry = tuple[bytes, bytes]


class Raw(spec.BasicProperties):
    """Properties whose headers are bytes already: pika cannot write all the types that there are."""

    def __init__(self, entries: list[Entry], **fields: Any) -> None:
        super().__init__(headers={}, **fields)
        self.entries = entries

    def encode(self) -> list[bytes]:
        """What pika writes, with the table in the place of an empty one."""
        table = b"".join(bytes((len(name),)) + name + value for name, value in self.entries)
        fixed = {name: value for name, value in vars(self).items() if name not in {"entries", "headers"}}
        before = {name: fixed[name] for name in ("content_type", "content_encoding")}
        head = b"".join(spec.BasicProperties(**before).encode())[2:]
        everything = b"".join(spec.BasicProperties(headers={}, **fixed).encode())
        flags, rest = everything[:2], everything[2 + len(head) :]
        return [flags, head, struct.pack(">I", len(table)), table, rest[4:]]

    def __repr__(self) -> str:
        return f"Raw({self.entries!r}, {[(n, v) for n, v in vars(self).items() if v and n != 'entries']})"


def sized(kind: bytes, data: bytes) -> bytes:
    """A value with a length before it."""
    return kind + struct.pack(">I", len(data)) + data


def fixed(kind: bytes, size: int) -> st.SearchStrategy[bytes]:
    """A value that has one size."""
    return st.binary(min_size=size, max_size=size).map(lambda data: kind + data)


def table(entries: list[Entry]) -> bytes:
    """A nested table."""
    return sized(b"F", b"".join(bytes((len(name),)) + name + value for name, value in entries))


NUMBERS = st.one_of(
    *(
        fixed(kind, size)
        for kind, size in (
            (b"b", 1),
            (b"B", 1),
            (b"s", 2),
            (b"u", 2),
            (b"I", 4),
            (b"i", 4),
            (b"l", 8),
            (b"T", 8),
            (b"D", 5),
        )
    )
)
FLOATS = st.floats(allow_nan=False, allow_infinity=False, width=32)
SIMPLE = (
    NUMBERS
    | FLOATS.map(lambda number: b"d" + struct.pack(">d", number))
    | FLOATS.map(lambda number: b"f" + struct.pack(">f", number))
    | st.sampled_from([b"V", b"t\0", b"t\1", b"l" + b"\xff" * 8, b"l\x7f" + b"\xff" * 7])
    | st.binary(max_size=40).map(lambda data: sized(b"S", data))
    | st.binary(max_size=40).map(lambda data: sized(b"x", data))
    | st.sampled_from(["failed", "crashed", "9" * 5_000, "nan", "-1", " 7 ", *HISTORIES]).map(
        lambda t: sized(b"S", t.encode())
    )
)
VALUES = st.recursive(
    SIMPLE,
    lambda inner: (
        st.lists(inner, max_size=3).map(lambda items: sized(b"A", b"".join(items)))
        | st.lists(st.tuples(st.binary(max_size=8), inner), max_size=3).map(table)
    ),
    max_leaves=6,
)
NAMES = (
    st.sampled_from(OURS).map(str.encode)
    | st.sampled_from([b"x-qbridge-cc", b"x-qbridge-expiration", b"x-qbridge-user-id", b"x-qbridge-copies"])
    | st.sampled_from([b"x-delivery-count", b"x-acquired-count", b"x-first-death-queue", b"x-delay", b"x-opt-seq"])
    | st.binary(max_size=20)
)
SHORT = st.none() | st.text(max_size=40) | st.just("x" * 255)
SIZES = st.sampled_from([60_000, 91_000, 120_000, 126_000, 130_400, 130_700, 130_800, 130_900])
"""Of one header, beside which others may just fit into a frame or not at all."""
PROPERTIES = st.builds(
    Raw,
    st.lists(st.tuples(NAMES, VALUES), max_size=5).map(lambda entries: list(dict(entries).items())),
    content_type=SHORT,
    content_encoding=SHORT | st.sampled_from(["gzip", "utf-16"]),
    delivery_mode=st.sampled_from([None, 1, 2]),
    priority=st.none() | st.integers(0, 255),
    correlation_id=SHORT,
    reply_to=SHORT,
    expiration=st.none() | st.integers(3_600_000, 2**32 - 1).map(str),
    message_id=SHORT | st.sampled_from(["same", "same", ""]),
    timestamp=st.none() | st.integers(0, 2**64 - 1),
    type=SHORT,
    user_id=st.none() | st.just("guest"),
    app_id=SHORT,
    cluster_id=SHORT,
)
MESSAGES = st.lists(st.tuples(PROPERTIES, BODIES), min_size=1, max_size=10)


@pytest.fixture(scope="module")
def channel(amqp_url: str) -> Iterator[Any]:
    """A channel of plain pika with publisher confirms."""
    connection = pika.BlockingConnection(pika.URLParameters(amqp_url))
    channel = connection.channel()
    channel.confirm_delivery()
    yield channel
    connection.close()


@pytest.fixture(scope="module", params=["quorum", "classic"])
def target(amqp_url: str, worker_id: str, request: pytest.FixtureRequest) -> Iterator[tuple[QueueClient, str, str]]:
    """A client and its queues, which no other process of this run uses."""
    queue = f"qbridge-property-{worker_id}-{request.param}"
    with connect(amqp_url, queue_type=request.param) as client:
        client.declare(queue, f"{queue}.dead")
        yield client, queue, f"{queue}.dead"


DEEP = sized(b"A", b"")
for _ in range(2_000):
    DEEP = sized(b"A", DEEP)


@examples(20)
@given(MESSAGES)
@example([(Raw([(b"deep", DEEP), (b"x-qbridge-attempts", DEEP)]), b'{"payload": 0}')])
@example([(Raw([(b"x-delivery-count", DEEP), (b"x-death", DEEP)]), b'{"payload": 0}')])
@example([(Raw([(b"x-qbridge-copy", DEEP)], message_id="m"), b'{"payload": 0}')])
@example([(Raw([(b"x-death", sized(b"A", b"V")), (b"x-delivery-count", sized(b"S", b"9"))]), b'{"payload": 1}')])
@example([(Raw([(b"x-death", sized(b"A", table([(b"queue", b"V"), (b"count", b"V")])))]), b"no JSON")])
@example([(Raw([(b"big", sized(b"S", b"x" * 120_000))]), b'{"payload": 0}')])
@example([(Raw([(b"big", sized(b"S", b"x" * 131_020))], message_id="m"), b'{"payload": 0}')])
@example([(Raw([(b"CC", sized(b"A", sized(b"S", b"nowhere") * 10_000))], expiration="3600000"), b'{"payload": 0}')])
@example([(Raw([(b"x-death", sized(b"S", b"x" * 130_900))], user_id="guest", delivery_mode=1), b'{"payload": 0}')])
@example([(Raw([(b"n%d" % n, sized(b"x", b"y" * 20)) for n in range(4_000)]), b'{"payload": 0}')])
def test_g13_whatever_is_published_is_run_or_dead_lettered(
    target: tuple[QueueClient, str, str], channel: Any, messages: list[tuple[Raw, bytes]]
) -> None:
    """Headers of all types and depths, foreign ones of the broker and ours with nonsense, and all other properties."""
    client, queue, dead = target
    for properties, body in messages:
        channel.basic_publish("", queue, body, properties, mandatory=True)
    work_off(client, queue, dead, [body for _, body in messages])


@examples(10)
@given(st.lists(st.tuples(PROPERTIES, SIZES, BODIES), min_size=1, max_size=4))
def test_g19_headers_that_nearly_fill_a_frame_end_no_connection(
    target: tuple[QueueClient, str, str], channel: Any, messages: list[tuple[Raw, int, bytes]]
) -> None:
    """Beside any other properties: each message is run or dead-lettered, and all connections stay."""
    client, queue, dead = target
    broker = client._broker  # type: ignore[attr-defined]
    before = broker.connections.times_connected, broker.publisher._connection
    sent = []
    for properties, size, body in messages:
        properties.entries = [*properties.entries, (b"filler", sized(b"S", b"x" * size))]
        if len(b"".join(properties.encode())) <= 131_052:
            channel.basic_publish("", queue, body, properties, mandatory=True)
            sent.append(body)
    letters = work_off(client, queue, dead, sent)
    assert all(letter.source_queue == queue for letter in letters)
    assert (broker.connections.times_connected, broker.publisher._connection) == before


def test_raw_properties_are_what_pika_would_write() -> None:
    """What the tests above publish is well formed."""
    plain = spec.BasicProperties(content_type="a", content_encoding="b", headers={"k": "v"}, priority=3, app_id="c")
    raw = Raw([(b"k", sized(b"S", b"v"))], content_type="a", content_encoding="b", priority=3, app_id="c")
    assert b"".join(raw.encode()) == b"".join(plain.encode())
