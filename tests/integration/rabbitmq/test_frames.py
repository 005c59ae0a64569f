"""The frames that go past pika: read whole or not at all, and written as pika would have."""

from __future__ import annotations

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


def delivery(number: int, body: bytes, *, channel: int = 1, tag: str = _TAG, redelivered: bool = False) -> bytes:
    """A message as the broker sends it, in frames that pika has made."""
    method = spec.Basic.Deliver(tag, number, redelivered, "", "queue")
    properties = RawProperties(headers.fresh({}, str(number)))
    parts = [frame.Method(channel, method).marshal(), frame.Header(channel, len(body), properties).marshal()]
    if body:
        parts.append(frame.Body(channel, body).marshal())
    return b"".join(parts)


def confirmation(number: int, *, multiple: bool = False, channel: int = 2) -> bytes:
    """A confirmation as the broker sends it."""
    return frame.Method(channel, spec.Basic.Ack(number, multiple)).marshal()


def read(data: bytes, seen: Seen) -> int:
    """Read with a sink for consumer ``qbridge-1`` and confirmations of channel 2; the bytes that were read."""
    sinks: dict[bytes, frames.Sink] = {_TAG.encode(): lambda *values: seen.append(values)}
    confirmed: dict[int, frames.Confirmed] = {2: lambda *values: seen.append(values)}
    return frames.read_ahead(data, sinks, confirmed)[0]


@given(
    bodies=st.lists(st.binary(max_size=40) | st.just(b"\xce\x00\x3c\x00\x3c"), min_size=1, max_size=6),
    cuts=st.lists(st.integers(0, 10_000), max_size=6),
)
@settings(max_examples=200, deadline=None)
def test_messages_that_arrive_in_pieces_are_read_once_each(bodies: list[bytes], cuts: list[int]) -> None:
    """Wherever the stream is cut, each delivery and each confirmation is seen once, whole and in order."""
    stream = b"".join(
        delivery(number, body, redelivered=number % 2 == 1) + confirmation(number) for number, body in enumerate(bodies)
    )
    seen: Seen = []
    buffer = b""
    edges = sorted({cut % len(stream) for cut in cuts} | {len(stream)})
    for start, end in zip([0, *edges], edges, strict=False):
        buffer += stream[start:end]
        buffer = buffer[read(buffer, seen) :]
    expected: Seen = []
    for number, body in enumerate(bodies):
        expected.append((number, number % 2 == 1, headers_of(seen, number), body))
        expected.append((number, False))
    assert buffer == b""
    assert seen == expected


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
        frames.read_ahead(delivery(1, b"x"), {_TAG.encode(): broken}, {})


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
