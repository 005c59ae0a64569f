"""The frames of the hot path, read and written many at a time: deliveries, confirmations, publishes, acknowledgements.

pika makes several objects of each frame and looks for somebody who waits for it. That is most of the cost of a small
message, so the frames that come by the thousand go past it; all others are pika's.

Facts: AMQP 0-9-1 specification, 4.2.3 (frames), 4.2.6 (content), and the methods' numbers in its XML.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Final, NamedTuple, Protocol

_FRAME: Final = struct.Struct(">BHI")
_CONTENT: Final = struct.Struct(">BHIHHQ")
_TAG: Final = struct.Struct(">QB")
_ACK: Final = struct.Struct(">BHIIQBB")
_METHOD, _HEADER, _BODY, _END = 1, 2, 3, 0xCE
_TAG_AT: Final = 12
_DELIVER: Final = b"\x00\x3c\x00\x3c"
_CONFIRM: Final = b"\x00\x3c\x00\x50"
_BASIC: Final = 60
_ACK_METHOD: Final = 0x003C0050
_PUBLISH: Final = b"\x00\x3c\x00\x28\x00\x00"
_MANDATORY: Final = b"\x01"
_ACK_SIZE: Final = 13
_LONGEST_NAME: Final = 255
HEADER_OVERHEAD: Final = 8 + 12
"""What a frame with the properties of a message has beside them."""

Sink = Callable[[int, bool, bytes, bytes], None]
"""Takes a delivery: its number, whether it was delivered before, its properties with their flags, its body."""
Confirmed = Callable[[int, bool], None]
"""Takes a confirmation: up to which number, and whether it is for all before it too."""


class UnwritableError(ValueError):
    """A message that AMQP cannot carry: a header that is larger than a frame, or a name that is too long."""


class Publish(Protocol):
    """A message to publish."""

    exchange: str
    routing_key: str
    properties: bytes
    body: bytes


def read_ahead(
    data: bytes, sinks: Mapping[bytes, Sink], confirmed: Mapping[int, Confirmed], frame_max: int
) -> tuple[int, int, int]:
    """Read the complete frames at the beginning that somebody waits for.

    Stops at whatever is not complete, not of these kinds, or not as it should be: pika has to look at that. A method
    that announces content stands on its channel directly before it, so pika is never left in the middle of one.

    Args:
        data: what has arrived.
        sinks: by consumer tag.
        confirmed: by the number of a channel in confirm mode.
        frame_max: the largest frame that the broker sends, in bytes.

    Returns:
        The bytes and the frames that were read; and how many bytes have to come at least until there is more to read,
        0 when pika has to look at what comes now.
    """
    offset = frames = 0
    while True:
        delivery = _read_delivery(data, offset)
        if delivery is not None and (sink := sinks.get(delivery[0])) is not None:
            _, number, redelivered, properties, body, offset = delivery
            frames += 3 if body else 2
            sink(number, redelivered != 0, properties, body)
            continue
        confirmation = _read_confirmation(data, offset)
        if confirmation is not None and (call := confirmed.get(confirmation[0])) is not None:
            _, number, multiple, offset = confirmation
            frames += 1
            call(number, multiple != 0)
            continue
        parts = _find_parts(data, offset, sinks, frame_max)
        if parts is None or parts.missing:
            return offset, frames, 0 if parts is None else parts.missing
        tag, view = _tag(data, offset), memoryview(data)
        number, redelivered = _TAG.unpack_from(data, offset + _TAG_AT + len(tag))
        body = b"".join([view[part] for part in parts.body])
        frames += 2 + len(parts.body)
        offset = parts.end
        sinks[tag](number, redelivered != 0, data[parts.properties], body)


def _read_delivery(data: bytes, offset: int) -> tuple[bytes, int, int, bytes, bytes, int] | None:
    """Consumer tag, number, redelivered, properties, body, and where it ends; None when there is no whole delivery."""
    try:
        kind, channel, size = _FRAME.unpack_from(data, offset)
        start = offset + 7
        if kind != _METHOD or data[start : start + 4] != _DELIVER:
            return None
        tag_end = start + 5 + data[start + 4]
        number, redelivered = _TAG.unpack_from(data, tag_end)
        header = start + size + 1
        kind, header_channel, size, _, _, body_size = _CONTENT.unpack_from(data, header)
        properties_end = header + 7 + size
        if kind != _HEADER or header_channel != channel or data[header - 1] != _END or data[properties_end] != _END:
            return None
        tag, properties = data[start + 5 : tag_end], data[header + 19 : properties_end]
        if not body_size:
            return tag, number, redelivered, properties, b"", properties_end + 1
        kind, body_channel, size = _FRAME.unpack_from(data, properties_end + 1)
        body_start = properties_end + 8
        body_end = body_start + body_size
        if kind != _BODY or size != body_size or body_channel != channel or data[body_end] != _END:
            return None
        return tag, number, redelivered, properties, data[body_start:body_end], body_end + 1
    except (struct.error, IndexError):
        return None  # there is more to come


class _Parts(NamedTuple):
    """Where what belongs to a delivery stands, or how many bytes of it are missing at least.

    Attributes:
        missing: bytes; when it is not 0 the rest says nothing.
        body: the piece in each frame.
        end: where the delivery ends.
        properties: the properties with their flags.
    """

    missing: int
    body: Sequence[slice] = ()
    end: int = 0
    properties: slice = slice(0)


def _find_parts(data: bytes, offset: int, sinks: Container[bytes], frame_max: int) -> _Parts | None:
    """A delivery in any number of frames, whole or not; None for anything else, and as long as its method is not whole.

    A long one is looked at when all of it may be here, and not with each piece that comes.
    """
    available = len(data)
    if available < offset + _TAG_AT or data[offset + 7 : offset + 11] != _DELIVER:
        return None
    kind, channel, size = _FRAME.unpack_from(data, offset)
    header = offset + size + 8
    if kind != _METHOD or available < header or data[header - 1] != _END or _tag(data, offset) not in sinks:
        return None
    if available < header + _CONTENT.size:
        return _Parts(header + _CONTENT.size - available) if _may_begin(data, header, _HEADER) else None
    kind, header_channel, size, _, _, body_size = _CONTENT.unpack_from(data, header)
    if kind != _HEADER or header_channel != channel:
        return None
    properties_end = header + size + 7
    found = _find_body(data, properties_end + 1, channel, body_size, frame_max)
    return found and found._replace(properties=slice(header + _CONTENT.size, properties_end))


def _find_body(data: bytes, at: int, channel: int, left: int, frame_max: int) -> _Parts | None:
    """The frames of a body of ``left`` bytes, from where another frame ends."""
    available = len(data)
    body: list[slice] = []
    while at <= available and data[at - 1] == _END:
        if not left:
            return _Parts(0, body, at)
        if available < at + _FRAME.size:
            return _Parts(at + _on_wire(left, frame_max) - available) if _may_begin(data, at, _BODY) else None
        kind, body_channel, size = _FRAME.unpack_from(data, at)
        if kind != _BODY or body_channel != channel or not 0 < size <= left:
            return None
        body.append(slice(at + 7, at + 7 + size))
        left -= size
        at += size + 8
    return _Parts(at + _on_wire(left, frame_max) - available) if at > available else None


def _tag(data: bytes, offset: int) -> bytes:
    """The consumer tag of a ``basic.deliver``."""
    start = offset + _TAG_AT
    return data[start : start + data[start - 1]]


def _may_begin(data: bytes, at: int, kind: int) -> bool:
    """Whether a frame of this kind may stand here, as far as anything has arrived."""
    return at >= len(data) or data[at] == kind


def _on_wire(size: int, frame_max: int) -> int:
    """How many bytes so much of a body takes at least, in frames as large as they may be."""
    return size + 8 * -(-size // (frame_max - 8))


def _read_confirmation(data: bytes, offset: int) -> tuple[int, int, int, int] | None:
    """Channel, number, multiple, and where it ends; None when there is no whole ``basic.ack``."""
    if data[offset + 7 : offset + 11] != _CONFIRM or len(data) < offset + _ACK.size:
        return None
    kind, channel, size, _, number, multiple, end = _ACK.unpack_from(data, offset)
    if kind != _METHOD or size != _ACK_SIZE or end != _END:
        return None
    return channel, number, multiple, offset + _ACK.size


def acks(channel: int, numbers: Iterable[tuple[int, bool]]) -> list[bytes]:
    """``basic.ack`` frames for (delivery tag, multiple) pairs."""
    return [_ACK.pack(_METHOD, channel, _ACK_SIZE, _ACK_METHOD, tag, multiple, _END) for tag, multiple in numbers]


def publish(channel: int, message: Publish, frame_max: int) -> Iterator[bytes]:
    """The frames of a ``basic.publish`` with ``mandatory``, in pieces.

    Raises:
        UnwritableError: the broker would close the connection for it.
    """
    properties, body = message.properties, message.body
    if len(properties) > frame_max - HEADER_OVERHEAD:
        raise UnwritableError(f"its headers take {len(properties)} bytes of a frame of {frame_max}")
    yield _publish_method(channel, message.exchange, message.routing_key)
    yield _CONTENT.pack(_HEADER, channel, 12 + len(properties), _BASIC, 0, len(body))
    yield properties
    room = frame_max - 8
    for start in range(0, len(body), room):
        part = body[start : start + room]
        yield b"\xce" + _FRAME.pack(_BODY, channel, len(part))
        yield part
    yield b"\xce"


@lru_cache(maxsize=256)
def _publish_method(channel: int, exchange: str, routing_key: str) -> bytes:
    try:
        names = (exchange.encode(), routing_key.encode())
    except UnicodeError as exc:
        raise UnwritableError(f"a name cannot be written in UTF-8: {exc}") from exc
    if max(map(len, names)) > _LONGEST_NAME:
        raise UnwritableError(f"a name is longer than {_LONGEST_NAME} bytes")
    arguments = _PUBLISH + b"".join(bytes((len(name),)) + name for name in names) + _MANDATORY
    return _FRAME.pack(_METHOD, channel, len(arguments)) + arguments + b"\xce"
