"""The frames that go past pika: read whole or not at all, and written as pika would have."""

from __future__ import annotations

import itertools
import socket
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pika import frame, spec

from qbridge_rabbitmq import RabbitMQClient
from qbridge_rabbitmq.amqp import frames, headers, internals
from qbridge_rabbitmq.amqp.connection import AmqpConnection, RawProperties

_FRAME_MAX = 131_072
_TAG = "qbridge-1"
Seen = list[tuple[object, ...]]


def delivery(
    number: int, body: bytes, *, channel: int = 1, tag: str = _TAG, redelivered: bool = False, room: int = _FRAME_MAX
) -> bytes:
    """A message as the broker sends it, in frames that pika has made, with so many bytes of the body in each."""
    method = spec.Basic.Deliver(tag, number, redelivered, "", "queue")
    properties = RawProperties(headers.fresh({}, str(number)))
    parts = [frame.Method(channel, method).marshal(), frame.Header(channel, len(body), properties).marshal()]
    parts += [frame.Body(channel, body[start : start + room]).marshal() for start in range(0, len(body), room)]
    return b"".join(parts)


def confirmation(number: int, *, multiple: bool = False, channel: int = 2) -> bytes:
    """A confirmation as the broker sends it."""
    return frame.Method(channel, spec.Basic.Ack(number, multiple)).marshal()


def read(data: bytes, seen: Seen) -> int:
    """Read with a sink for consumer ``qbridge-1`` and confirmations of channel 2; the bytes that were read."""
    sinks: dict[bytes, frames.Sink] = {_TAG.encode(): lambda *values: seen.append(values)}
    confirmed: dict[int, frames.Confirmed] = {2: lambda *values: seen.append(values)}
    return frames.read_ahead(data, sinks, confirmed, _FRAME_MAX)[0]


def reading(seen: Seen, frame_max: int) -> tuple[Any, list[frame.Frame]]:
    """A connection that reads what :func:`read` does; and the frames that it leaves to pika."""
    left: list[frame.Frame] = []
    connection: Any = AmqpConnection.__new__(AmqpConnection)
    connection._frame_buffer, connection._pieces, connection._missing = b"", [], 0
    connection.bytes_received = connection.frames_received = 0
    connection.params = SimpleNamespace(frame_max=frame_max)
    connection.sinks = {_TAG.encode(): lambda *values: seen.append(values)}
    connection.confirmed = {2: lambda *values: seen.append(values)}
    connection._process_frame = left.append
    return connection, left


@given(
    bodies=st.lists(st.binary(max_size=40) | st.just(b"\xce\x00\x3c\x00\x3c"), min_size=1, max_size=6),
    cuts=st.lists(st.integers(0, 10_000), max_size=6),
    room=st.sampled_from([8, 13, 40]),
    at_ends=st.booleans(),
)
@settings(max_examples=200, deadline=None)
def test_messages_that_arrive_in_pieces_are_read_once_each(
    bodies: list[bytes], cuts: list[int], room: int, at_ends: bool
) -> None:
    """Wherever the stream is cut, each delivery and each confirmation is seen once, whole and in order, past pika.

    Whatever is whole is seen with the piece that ends it.
    """
    messages = [
        (delivery(number, body, redelivered=number % 2 == 1, room=room), confirmation(number))
        for number, body in enumerate(bodies)
    ]
    stream = b"".join(part for message in messages for part in message)
    ends = list(itertools.accumulate(len(part) for message in messages for part in message))
    seen: Seen = []
    connection, left = reading(seen, room + 8)
    edges = sorted({cut % len(stream) for cut in cuts} | {len(stream)} | set(ends if at_ends else ()))
    for start, end in zip([0, *edges], edges, strict=False):
        connection._read_frames(stream[start:end])
        assert len(seen) == sum(1 for one in ends if one <= end)
        assert connection.bytes_received == end
    expected: Seen = []
    for number, body in enumerate(bodies):
        expected.append((number, number % 2 == 1, headers_of(seen, number), body))
        expected.append((number, False))
    assert seen == expected
    assert left == []
    assert connection._frame_buffer == b""


@given(cuts=st.lists(st.integers(0, 200), max_size=4), place=st.integers(1, 4))
@settings(max_examples=100, deadline=None)
def test_a_message_with_something_in_between_is_left_to_pika(cuts: list[int], place: int) -> None:
    """All of its frames, in order, and with the frame of another channel that stands between two of them."""
    parts = [part.marshal() for part in parts_of(delivery(1, b"x" * 20, room=8))]
    stream = b"".join([*parts[:place], frame.Heartbeat().marshal(), *parts[place:]])
    seen: Seen = []
    connection, left = reading(seen, 16)
    edges = sorted({cut % len(stream) for cut in cuts} | {len(stream)})
    for start, end in zip([0, *edges], edges, strict=False):
        connection._read_frames(stream[start:end])
    assert seen == []
    assert [part.marshal() for part in left] == [*parts[:place], frame.Heartbeat().marshal(), *parts[place:]]


def parts_of(stream: bytes) -> list[Any]:
    """The frames of a stream, decoded by pika but for the properties."""
    connection, left = reading([], 16)
    connection.sinks = connection.confirmed = {}
    connection._read_frames(stream)
    return left


def test_a_long_body_is_looked_at_when_it_is_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not with each of the pieces in which it comes, which would cost the square of their number."""
    looks: list[int] = []
    look = frames.read_ahead

    def counted(data: bytes, *rest: Any) -> tuple[int, int, int]:
        looks.append(len(data))
        return look(data, *rest)

    monkeypatch.setattr(frames, "read_ahead", counted)
    seen: Seen = []
    connection, left = reading(seen, _FRAME_MAX)
    body = bytes(range(256)) * 4_000
    stream = delivery(1, body, room=_FRAME_MAX - 8)
    for start in range(0, len(stream), 4_096):
        connection._read_frames(stream[start : start + 4_096])
    assert seen == [(1, False, headers_of(seen, 1), body)]
    assert left == []
    assert looks == [4_096, len(stream)]


def headers_of(seen: Seen, number: int) -> object:
    """The properties that arrived with a message, when they name it."""
    for values in seen:
        if len(values) == 4 and values[0] == number and headers.read(values[2]).message_id == str(number):  # type: ignore[arg-type]
            return values[2]
    return None


@pytest.mark.parametrize(
    "data",
    [
        delivery(1, b"x", tag="somebody-else"),
        confirmation(1, channel=3),
        frame.Method(1, spec.Basic.Nack(1)).marshal(),
        frame.Method(1, spec.Channel.Close(404, "gone", 0, 0)).marshal(),
        frame.Heartbeat().marshal(),
        delivery(1, b"x")[:-1] + b"\x00",
        delivery(1, b"x" * 20).replace(b"\x00\x00\x00\x14xxx", b"\x00\x00\x00\x13xxx"),
        confirmation(1)[:-1] + b"\x00",
        b"AMQP\x00\x00\x09\x01",
        b"\x00" * 64,
    ],
    ids=["consumer", "channel", "nack", "close", "heartbeat", "end", "parts", "ack-end", "protocol", "zeros"],
)
def test_what_is_not_expected_is_left_to_pika(data: bytes) -> None:
    """Frames of other kinds, for others, in parts or damaged stay in the buffer; what comes before is read."""
    seen: Seen = []
    before = delivery(7, b"before") + confirmation(7)
    assert read(before + data + delivery(8, b"after"), seen) == len(before)
    assert [values[0] for values in seen] == [7, 7]


def test_an_error_of_a_receiver_is_not_taken_for_an_incomplete_frame() -> None:
    """An IndexError in a sink reaches the caller: hiding it would lose the message."""

    def broken(*_: object) -> None:
        raise IndexError("a bug")

    with pytest.raises(IndexError, match="a bug"):
        frames.read_ahead(delivery(1, b"x"), {_TAG.encode(): broken}, {}, _FRAME_MAX)


@pytest.mark.parametrize("size", [0, 1, _FRAME_MAX - 8, _FRAME_MAX - 7, 3 * _FRAME_MAX])
def test_a_publish_is_written_as_pika_writes_it(size: int) -> None:
    """Method, header and as many body frames as the negotiated size demands."""
    properties, body = headers.fresh({"a": "b"}, "m"), bytes(size)
    message = SimpleNamespace(exchange="", routing_key="queue", properties=properties, body=body)
    expected = frame.Method(3, spec.Basic.Publish(0, "", "queue", mandatory=True)).marshal()
    expected += frame.Header(3, size, RawProperties(properties)).marshal()
    room = _FRAME_MAX - 8
    for start in range(0, size, room):
        expected += frame.Body(3, body[start : start + room]).marshal()
    assert b"".join(frames.publish(3, message, _FRAME_MAX)) == expected


@pytest.mark.parametrize("size", [0, 1, _FRAME_MAX - 9, _FRAME_MAX - 8, _FRAME_MAX - 7, 1_000_000])
def test_bodies_of_any_size_come_through_a_consumer(
    make_client: Callable[..., RabbitMQClient], amqp_url: str, unique_name: str, size: int
) -> None:
    """Also one that needs several frames, between others that need one."""
    client = make_client(amqp_url)
    client.declare(unique_name)
    body = bytes(range(256)) * (size // 256) + bytes(size % 256)
    for content in (b"before", body, b"after"):
        client.publish(unique_name, content)
    client.subscribe(unique_name, 10)
    received: list[bytes] = []
    while len(received) < 3:
        batch = client.receive(unique_name, 10, 10.0)
        assert batch
        received += [one.body for one in batch]
        for one in batch:
            client.ack(one)
    assert received == [b"before", body, b"after"]


def unconnected(sock: socket.socket, *, waiting: int = 0, state: int = 1) -> tuple[Any, list[bytes]]:
    """A connection on this socket with so many bytes in pika's buffer; and what it leaves to pika."""
    left: list[bytes] = []
    connection: Any = AmqpConnection.__new__(AmqpConnection)
    connection.bytes_sent = connection.frames_sent = 0
    connection._transport = SimpleNamespace(
        _sock=sock, _state=state, _STATE_ACTIVE=1, get_write_buffer_size=lambda: waiting
    )
    connection._adapter_emit_data = left.append
    return connection, left


def test_what_the_socket_does_not_take_is_left_to_pika() -> None:
    """Not a byte is lost, doubled or moved where a write ends."""
    here, there = socket.socketpair()
    with here, there:
        here.setblocking(False)
        connection, left = unconnected(here)
        data = bytes(range(256)) * 40_000
        connection._output_marshaled_frames([data[:7], data[7:]])
        (rest,) = left
        received = bytearray()
        while len(received) < len(data) - len(rest):
            received += there.recv(1 << 20)
        assert bytes(received) + rest == data
        assert connection.bytes_sent == len(data)


@pytest.mark.parametrize(("waiting", "state"), [(1, 1), (0, 2)], ids=["bytes wait", "being closed"])
def test_nothing_overtakes_what_waits_and_nothing_follows_the_end(waiting: int, state: int) -> None:
    """While pika has something to write, or the connection is being dropped, everything goes to pika."""
    here, there = socket.socketpair()
    with here, there:
        connection, left = unconnected(here, waiting=waiting, state=state)
        connection._output_marshaled_frames([b"frame"])
        assert left == [b"frame"]
        there.setblocking(False)
        with pytest.raises(BlockingIOError):
            there.recv(1)


def test_a_broken_socket_is_left_to_pika() -> None:
    """pika writes again, meets the error, and ends the connection as it does for others."""
    here, there = socket.socketpair()
    with here:
        there.close()
        connection, left = unconnected(here)
        connection._output_marshaled_frames([b"frame"])
        assert left == [b"frame"]


@pytest.mark.parametrize(("kind", "names"), internals.NEEDED.items(), ids=lambda value: getattr(value, "__name__", ""))
def test_a_pika_without_what_is_overridden_is_refused(
    kind: type, names: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not late and strangely: importing the backend says what is missing and which versions have it."""
    internals.require()
    for base in kind.__mro__:
        if names[0] in vars(base):
            monkeypatch.delattr(base, names[0])
    with pytest.raises(ImportError, match=rf"lacks {kind.__name__}\.{names[0]}: install pika>=1\.3\.2"):
        internals.require()
