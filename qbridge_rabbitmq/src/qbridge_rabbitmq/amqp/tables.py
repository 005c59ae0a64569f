"""Tables of AMQP 0-9-1: encoded entry by entry, and decoded as far as they can be read.

A table is a length and then the name, the type and the value of each entry (AMQP 0-9-1 specification, 4.2.5.5, with the
types of RabbitMQ: rabbitmq.com/amqp-0-9-1-errata).
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, Final

_SIZES: Final = {
    **dict.fromkeys(b"tbB", 1),
    **dict.fromkeys(b"Uus", 2),
    **dict.fromkeys(b"Iif", 4),
    **dict.fromkeys(b"Ll", 8),
    **dict.fromkeys(b"dT", 8),
    ord("D"): 5,
    ord("V"): 0,
}
_SIZED: Final = b"SxAF"
UINT32: Final = struct.Struct(">I")
_NUMBERS: Final = {
    ord("b"): ">b",
    ord("B"): ">B",
    ord("U"): ">h",
    ord("u"): ">H",
    ord("s"): ">h",
    ord("I"): ">i",
    ord("i"): ">I",
    ord("L"): ">q",
    ord("l"): ">q",
    ord("f"): ">f",
    ord("d"): ">d",
}


class MalformedTableError(ValueError):
    """A table or property list that is not AMQP 0-9-1."""


def short(value: bytes) -> bytes:
    """A short string: one byte of length before it."""
    return bytes((len(value),)) + value


def table(entries: bytes) -> bytes:
    """A table of encoded entries."""
    return UINT32.pack(len(entries)) + entries


def entry(name: str, value: str | int) -> bytes:
    """An encoded entry: name, type and value."""
    key = short(name.encode())
    if isinstance(value, int):
        return key + b"l" + struct.pack(">q", value)
    encoded = value.encode("utf-8", "backslashreplace")
    return key + b"S" + UINT32.pack(len(encoded)) + encoded


def written(value: object) -> bytes:
    """Type and value, which :func:`value_of` decodes to the same.

    Raises:
        TypeError: there is no such value in AMQP 0-9-1.
        ValueError: it is too large for its type.
    """
    for kind, encode in _ENCODERS.items():
        if isinstance(value, kind):
            try:
                return encode(value)
            except (struct.error, OverflowError) as exc:
                raise ValueError(f"{value!r:.60} is too large") from exc
    raise TypeError(f"a {type(value).__name__}")


def _sized(kind: bytes, value: bytes) -> bytes:
    return kind + UINT32.pack(len(value)) + value


def _written_decimal(value: Decimal) -> bytes:
    sign, digits, exponent = value.as_tuple()
    if not isinstance(exponent, int) or exponent > 0:
        raise ValueError(f"{value} has no such form")
    number = int("".join(map(str, digits)) or "0") * (-1 if sign else 1)
    return b"D" + struct.pack(">Bi", -exponent, number)


def _written_table(value: Mapping[str, Any]) -> bytes:
    return _sized(b"F", b"".join(short(name.encode()) + written(item) for name, item in value.items()))


# Truth values come before numbers, which they are in Python, too.
_ENCODERS: Final[dict[type, Callable[[Any], bytes]]] = {
    str: lambda value: _sized(b"S", value.encode("utf-8", "backslashreplace")),
    bool: lambda value: b"t\1" if value else b"t\0",
    int: lambda value: b"l" + struct.pack(">q", value),
    float: lambda value: b"d" + struct.pack(">d", value),
    bytes: lambda value: _sized(b"x", value),
    type(None): lambda _: b"V",
    datetime: lambda value: b"T" + struct.pack(">Q", int(value.timestamp())),
    Decimal: _written_decimal,
    list: lambda value: _sized(b"A", b"".join(map(written, value))),
    dict: _written_table,
}


def entries_of(table: bytes | None) -> Iterator[tuple[str, bytes]]:
    """Name and encoded entry (name, type, value) for each entry of an encoded table, whatever length it claims."""
    if table is None:
        return
    offset, limit = 4, len(table)
    while offset < limit:
        start = offset
        offset += 1 + table[offset]
        if offset >= limit:
            raise MalformedTableError("cut short")
        name = text(table[start + 1 : offset])
        offset = _value_end(table, offset)
        yield name, table[start:offset]


def cut(table: bytes | None) -> tuple[list[tuple[str, bytes]], bytes]:
    """The entries of a table as far as they can be read, and the rest."""
    entries: list[tuple[str, bytes]] = []
    try:
        entries.extend(entries_of(table))
    except MalformedTableError:
        readable = 4 + sum(len(entry) for _, entry in entries)
        return entries, (table or b"")[readable:]
    return entries, b""


def _value_end(data: bytes, offset: int) -> int:
    """Where the value whose type byte is at ``offset`` ends."""
    kind = data[offset]
    size = _SIZES.get(kind)
    if size is not None:
        end = offset + 1 + size
    elif kind in _SIZED and offset + 5 <= len(data):
        end = offset + 5 + int(UINT32.unpack_from(data, offset + 1)[0])
    else:
        raise MalformedTableError(f"unknown type {kind}")
    if end > len(data):
        raise MalformedTableError("cut short")
    return end


def value_of(entry: bytes) -> Any:
    """The decoded value of an encoded entry."""
    at = 1 + entry[0]
    return _decode(entry[at], entry[at + 1 :])


def _decode(kind: int, value: bytes) -> Any:
    if kind in _NUMBERS:
        return struct.unpack(_NUMBERS[kind], value)[0]
    decoder = _DECODERS.get(kind)
    return decoder(value) if decoder else value


def _decode_time(value: bytes) -> datetime | int:
    number = int.from_bytes(value, "big")
    try:
        return datetime.fromtimestamp(number, UTC)
    except (ValueError, OverflowError, OSError):
        return number  # not seconds, as the specification wants them, but for example milliseconds


def _decode_list(value: bytes) -> list[Any]:
    items = []
    offset = 4
    while offset < len(value):
        end = _value_end(value, offset)
        items.append(_decode(value[offset], value[offset + 1 : end]))
        offset = end
    return items


def _decode_string(value: bytes) -> str | bytes:
    try:
        return value[4:].decode()
    except UnicodeDecodeError:
        return value[4:]


def text(value: bytes) -> str:
    """A string that need not be UTF-8."""
    return value.decode("utf-8", "backslashreplace")


_DECODERS: Final[dict[int, Callable[[bytes], Any]]] = {
    ord("t"): lambda value: value != b"\0",
    ord("S"): _decode_string,
    ord("x"): lambda value: value[4:],
    ord("A"): _decode_list,
    ord("F"): lambda value: {name: value_of(entry) for name, entry in entries_of(value)},
    ord("T"): _decode_time,
    ord("D"): lambda value: Decimal(int.from_bytes(value[1:], "big", signed=True)).scaleb(-value[0]),
    ord("V"): lambda _: None,
}
