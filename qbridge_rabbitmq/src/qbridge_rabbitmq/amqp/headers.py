"""Reads and rewrites the properties of an AMQP 0-9-1 message without decoding what it does not need.

The properties of a message are two bytes of flags and then the value of each flagged field, in order (AMQP 0-9-1
specification, 2.3.5.2 and 4.2.6). The field ``headers`` is a table (:mod:`qbridge_rabbitmq.amqp.tables`). A copy
(:mod:`qbridge_rabbitmq.amqp.copies`) is spliced together from these pieces, so foreign values survive byte for byte,
whatever their type.
"""

from __future__ import annotations

import struct
import time
from collections.abc import Mapping
from contextlib import suppress
from functools import lru_cache
from types import MappingProxyType
from typing import Any, Final, NamedTuple

from qbridge_core.backend import CONTENT_TYPE_HEADER, DUE_AT, HEADER_PREFIX, NO_HEADERS, SENT_AT, random_bytes
from qbridge_rabbitmq.amqp.tables import (
    UINT32,
    MalformedTableError,
    cut,
    entries_of,
    entry,
    short,
    table,
    text,
    value_of,
)

CONTENT_TYPE: Final = 15
HEADERS: Final = 13
DELIVERY_MODE: Final = 12
EXPIRATION: Final = 8
MESSAGE_ID: Final = 7
_TIMESTAMP: Final = 6
USER_ID: Final = 4
_SHORT_STRINGS: Final = {CONTENT_TYPE, 14, 10, 9, EXPIRATION, MESSAGE_ID, 5, USER_ID, 3, 2}
_LONGEST_SHORT_STRING: Final = 255
_LARGEST_CACHED: Final = 2_000
_FIXED: Final = {DELIVERY_MODE: 1, 11: 1, _TIMESTAMP: 8}
PERSISTENT: Final = b"\x02"

# What these say to the broker must not be said again by a copy, so copies carry them under names of our own.
CARRIED_CC: Final = HEADER_PREFIX + "cc"
# Tells a copy from its original, which has the same message id and body. Not for applications, so not in ``meta``.
MARK: Final = HEADER_PREFIX + "copy"
# On a copy that goes back to its queue: the original may have killed a worker. The broker says nothing of a copy.
SUSPECTED: Final = HEADER_PREFIX + "suspected"
_BROKERS_OWN: Final = {"x-death", "x-delivery-count", "x-acquired-count"}
_BROKERS_OWN_PREFIXES: Final = ("x-first-death-", "x-last-death-")
DELIVERY_COUNT: Final = "x-delivery-count"

_MARK_SIZE: Final = 16
_MARK_ENTRY: Final = bytes((len(MARK),)) + MARK.encode() + b"S" + UINT32.pack(_MARK_SIZE)
_TIME_SIZE: Final = 8
# Before the mark. Of fixed size, so that both are cut off without a look at the rest.
_SENT_ENTRY: Final = bytes((len(SENT_AT),)) + SENT_AT.encode() + b"l"
_SENT_SIZE: Final = len(_SENT_ENTRY) + _TIME_SIZE
LAST_SECOND: Final = 253_402_300_799  # of the year 9999; a larger timestamp is in milliseconds
_FRESH_FLAGS: Final = (1 << HEADERS | 1 << DELIVERY_MODE | 1 << MESSAGE_ID).to_bytes(2, "big")
_FRESH_START: Final = _FRESH_FLAGS + UINT32.pack(_SENT_SIZE + len(_MARK_ENTRY) + _MARK_SIZE) + _SENT_ENTRY
_FRESH_SIZE: Final = 2 + 4 + len(_MARK_ENTRY) + _MARK_SIZE + 1 + 1  # without the time, as 0.1 wrote it


class Content(NamedTuple):
    """What a delivery says beside its body.

    Attributes:
        message_id: the publisher's id.
        headers: the producer's headers, decoded, without the broker's and ours.
        meta: ours, but for the mark and the time of sending.
        mark: what QBridge has given to this message alone, and another one to each copy; "" for a foreign message.
    """

    message_id: str | None
    headers: Mapping[str, Any]
    meta: Mapping[str, Any]
    mark: str = ""


def read(raw: bytes) -> Content:
    """Decode the properties of a delivery. What cannot be decoded is left out, never an error."""
    return _read_ours(raw) or _read_any(raw)


def _read_ours(raw: bytes) -> Content | None:
    """The same for what :func:`fresh` writes, quickly: time and mark at the end are cut off, the rest is cached."""
    if raw[:2] != _FRESH_FLAGS or len(raw) < _FRESH_SIZE:
        return None
    table_end = 6 + int.from_bytes(raw[2:6], "big")
    mark_start = table_end - _MARK_SIZE
    id_start = table_end + 2
    if id_start > len(raw):
        return None
    end = mark_start - len(_MARK_ENTRY)
    if raw[end:mark_start] != _MARK_ENTRY or id_start + raw[table_end + 1] != len(raw):
        return None
    if end >= 6 + _SENT_SIZE and raw[end - _SENT_SIZE : end - _TIME_SIZE] == _SENT_ENTRY:
        end -= _SENT_SIZE
    views = _views if mark_start < _LARGEST_CACHED else _views.__wrapped__
    headers, meta, mark, is_whole = views(raw[2:end])
    if not is_whole or mark:
        return None
    return Content(text(raw[id_start:]), headers, meta, text(raw[mark_start:table_end]))


def _read_any(raw: bytes) -> Content:
    try:
        fields = split(raw)
    except MalformedTableError:
        return Content(None, NO_HEADERS, NO_HEADERS)
    message_id = fields.get(MESSAGE_ID)
    table = fields.get(HEADERS)
    views = _views if table is None or len(table) < _LARGEST_CACHED else _views.__wrapped__
    headers, meta, mark, _ = views(table) if table is not None else (NO_HEADERS, NO_HEADERS, "", True)
    return Content(text(message_id[1:]) if message_id is not None else None, headers, meta, mark)


def fresh(headers: Mapping[str, str], message_id: str | None, delay: float = 0.0) -> bytes:
    """The properties of a new, persistent message, which is sent now and may come after so many seconds.

    A header that says what the body is, is a property, too: consumers of other libraries look for it there.
    """
    sent = (time.time_ns() // 1_000_000).to_bytes(_TIME_SIZE, "big")
    if message_id is not None and not headers and not delay:
        return b"".join((_FRESH_START, sent, _MARK_ENTRY, new_mark().encode(), PERSISTENT, short(message_id.encode())))
    entries = [entry(name, value) for name, value in headers.items()]
    if delay:
        entries.append(entry(DUE_AT, due(delay)))
    fields = {DELIVERY_MODE: PERSISTENT, HEADERS: table(b"".join((*entries, _SENT_ENTRY, sent, _new_mark())))}
    if message_id is not None:
        fields[MESSAGE_ID] = short(message_id.encode())
    content_type = headers.get(CONTENT_TYPE_HEADER, "").encode()
    if 0 < len(content_type) <= _LONGEST_SHORT_STRING:
        fields[CONTENT_TYPE] = short(content_type)
    return join(fields)


def due(delay: float) -> int:
    """What ``DUE_AT`` says of a message that may come after so many seconds."""
    return round((time.time() + delay) * 1000)


def sent_ms(raw: bytes) -> int:
    """When a message was sent (Unix time in milliseconds): by QBridge, or by its producer's timestamp; 0 for unknown.

    A timestamp is in seconds (AMQP 0-9-1, 4.2.5.4); some producers write milliseconds.
    """
    told = find(raw, SENT_AT)
    if isinstance(told, int) and 0 < told <= LAST_SECOND * 1000:
        return told
    try:
        stamp = int.from_bytes(split(raw).get(_TIMESTAMP, b""), "big")
    except MalformedTableError:
        return 0
    return stamp * 1000 if stamp <= LAST_SECOND else stamp


def content_type(raw: bytes) -> str:
    """The property that names the media type of the body; "" when there is none, or it cannot be read."""
    try:
        return text(split(raw).get(CONTENT_TYPE, b" ")[1:]).strip()
    except MalformedTableError:
        return ""


def new_mark() -> str:
    """What no other message carries: a producer may use a message id twice."""
    return random_bytes(_MARK_SIZE // 2).hex()


def _new_mark() -> bytes:
    return _MARK_ENTRY + new_mark().encode()


def find(raw: bytes, wanted: str) -> Any:
    """The decoded value of one header; None when it is not there or cannot be read."""
    try:
        found = next((piece for name, piece in entries_of(split(raw).get(HEADERS)) if name == wanted), None)
        return value_of(found) if found else None
    except (MalformedTableError, RecursionError):
        return None


def delivery_count(raw: bytes) -> int:
    """How often the broker says that it was delivered before; 0 when it does not say."""
    value = find(raw, DELIVERY_COUNT)
    return value if isinstance(value, int) else 0


def is_counted(raw: bytes) -> bool:
    """Whether the broker counts how often it came back, as only quorum queues do."""
    return any(find(raw, name) is not None for name in (DELIVERY_COUNT, "x-acquired-count"))


# ---------------------------------------------------------------------- properties


def split(raw: bytes) -> dict[int, bytes]:
    """Cut properties into the encoded value of each field, by the number of its flag.

    Raises:
        MalformedTableError: they are cut short.
    """
    if len(raw) < 2:
        raise MalformedTableError("no flags")
    flags = raw[0] << 8 | raw[1]
    fields: dict[int, bytes] = {}
    offset = 2
    for bit in range(15, 1, -1):
        if flags & 1 << bit:
            end = _field_end(bit, raw, offset)
            if end > len(raw):
                raise MalformedTableError("cut short")
            fields[bit] = raw[offset:end]
            offset = end
    return fields


def join(fields: Mapping[int, bytes]) -> bytes:
    """The reverse of :func:`split`."""
    flags = sum(1 << bit for bit in fields)
    return flags.to_bytes(2, "big") + b"".join(fields[bit] for bit in sorted(fields, reverse=True))


def _field_end(bit: int, raw: bytes, offset: int) -> int:
    try:
        if bit in _SHORT_STRINGS:
            return offset + 1 + raw[offset]
        if bit == HEADERS:
            return offset + 4 + int(UINT32.unpack_from(raw, offset)[0])
        return offset + _FIXED[bit]
    except (IndexError, struct.error):
        raise MalformedTableError("cut short") from None


def is_brokers(name: str) -> bool:
    """Whether the broker writes a header of this name."""
    return name in _BROKERS_OWN or name.startswith(_BROKERS_OWN_PREFIXES)


# ---------------------------------------------------------------------- tables


@lru_cache(maxsize=256)
def _views(table: bytes) -> tuple[Mapping[str, Any], Mapping[str, Any], str, bool]:
    """The producer's headers and ours, read only, the mark among them, and whether all could be read.

    Cached: most messages of a queue have the same, but for time and mark. Large ones are not, or the cache would be
    too.
    """
    headers: dict[str, Any] = {}
    meta: dict[str, Any] = {}
    mark = ""
    entries, damaged = cut(table)
    for name, piece in entries:
        if is_brokers(name):
            continue
        # A foreign header that cannot be read must not hide ours behind it: the count of attempts would stand still.
        with suppress(MalformedTableError, RecursionError):
            value = value_of(piece)
            if name == CARRIED_CC:
                headers["CC"] = value
            elif name == MARK:
                mark = str(value)
            elif name == SENT_AT:
                continue
            elif name.startswith(HEADER_PREFIX):
                meta[name] = value
            else:
                headers[name] = value
    return _read_only(headers), _read_only(meta), mark, not damaged


def _read_only(mapping: dict[str, Any]) -> Mapping[str, Any]:
    return MappingProxyType(mapping) if mapping else NO_HEADERS
