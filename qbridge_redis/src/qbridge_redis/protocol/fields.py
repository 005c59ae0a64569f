"""The fields of a stream entry and what they mean.

``body`` is the message, ``message_id`` its optional id, names that start with ``x-qbridge-`` are QBridge's own, and
every other field is a producer's header. A header whose name means something else here is stored under
``x-qbridge-header-<name>``. The id of an entry without any of QBridge's fields tells when it was sent; copies, which
have ids of their own, carry that on in a field.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from qbridge_core.backend import (
    ATTEMPTS,
    CRASHES,
    EXCEPTION_MESSAGE,
    FIRST_FAILED_AT,
    HEADER_PREFIX,
    HISTORY,
    NO_HEADERS,
    SENT_AT,
    TASK_ID,
    DeadLetter,
    Delivery,
    Edit,
    letter_headers,
    meta_int,
    meta_text,
    meta_time,
    plain_headers,
    replay_headers,
)

REDELIVERED: Final = HEADER_PREFIX + "redelivered"
"""On a copy that takes the place of a delivery: the stream itself takes it for a new message."""
SUSPECTED: Final = HEADER_PREFIX + "suspected"
"""On a copy that was handed back before anybody looked into the death of an earlier holder."""
LEFT_OUT: Final = HEADER_PREFIX + "left-out"
"""On a dead letter that lacks some of its message: how much."""
BODY: Final = b"body"
MESSAGE_ID: Final = b"message_id"
_ESCAPE: Final = HEADER_PREFIX + "header-"
_OWN: Final = HEADER_PREFIX.encode()
_ESCAPED: Final = _ESCAPE.encode()
_TAKEN: Final = {"body", "message_id"}
_SENT: Final = SENT_AT.encode()
_HISTORY: Final = (HISTORY, HISTORY.encode())
_TIME_DIGITS: Final = 13
"""Of milliseconds since 2001; an id with fewer was chosen by somebody."""

Fields = list[bytes | str]
Decoded = tuple[bytes, Mapping[str, Any], str | None, Mapping[str, Any]]


def encode(body: bytes, headers: Mapping[str, str | bytes], message_id: str | None) -> Fields:
    """The fields of a new message, as a flat list of names and values."""
    fields: Fields = [BODY, body] if message_id is None else [BODY, body, MESSAGE_ID, message_id]
    for name, value in headers.items():
        fields += (_ESCAPE + name if name in _TAKEN else name), value
    return fields


def encode_meta(meta: Mapping[str, str | int | bytes]) -> Fields:
    """QBridge's own fields, as a flat list."""
    fields: Fields = []
    for name, value in meta.items():
        fields += name, value if isinstance(value, bytes) else str(value)
    return fields


def decode(fields: Sequence[bytes]) -> Decoded:
    """Body, producer's headers, message id and QBridge's own headers of an entry. Never raises, whoever wrote it."""
    size = len(fields)
    if size == 2 and fields[0] == BODY:
        return fields[1], NO_HEADERS, None, NO_HEADERS
    if size == 4 and fields[0] == BODY and fields[2] == MESSAGE_ID:
        return fields[1], NO_HEADERS, _as_text(fields[3]), NO_HEADERS
    return _decode_all(fields)


def _decode_all(fields: Sequence[bytes]) -> Decoded:
    body, message_id = b"", None
    headers: dict[str, Any] = {}
    meta: dict[str, Any] = {}
    for position in range(0, len(fields) - 1, 2):
        name, value = fields[position], fields[position + 1]
        if name == BODY:
            body = value
        elif name == MESSAGE_ID:
            message_id = _as_text(value)
        else:
            key = _as_text(name)
            if key.startswith(_ESCAPE):
                headers[key.removeprefix(_ESCAPE)] = _text_or_bytes(value)
            else:
                (meta if key.startswith(HEADER_PREFIX) else headers)[key] = _text_or_bytes(value)
    return body, headers or NO_HEADERS, message_id, meta or NO_HEADERS


def for_producer(fields: Sequence[bytes]) -> Fields:
    """The fields without QBridge's own."""
    kept: Fields = []
    for position in range(0, len(fields) - 1, 2):
        name = fields[position]
        if not _is_own(name):
            kept += name, fields[position + 1]
    return kept or [BODY, b""]


def sent_ms(entry_id: bytes) -> int:
    """When an entry was added (Unix time in milliseconds); 0 for an id that is no time."""
    milliseconds = entry_id.partition(b"-")[0]
    return int(milliseconds) if len(milliseconds) >= _TIME_DIGITS else 0


def _sent(fields: Sequence[bytes], entry_id: bytes) -> Fields:
    """The field of a copy that tells when the message was sent; none where nobody knows. The scripts do the same."""
    own = {fields[i]: fields[i + 1] for i in range(0, len(fields) - 1, 2) if _is_own(fields[i])}
    if _SENT in own:
        return [SENT_AT, own[_SENT]]
    return [SENT_AT, str(sent)] if not own and (sent := sent_ms(entry_id)) else []


def _is_own(name: bytes) -> bool:
    return name.startswith(_OWN) and not name.startswith(_ESCAPED)


def replayed(fields: Sequence[bytes], entry_id: bytes, edit: Edit | None = None) -> Fields:
    """The fields of a dead letter that goes back. ``replay.lua`` does the same for one that nobody edits."""
    body, _, message_id, meta = decode(fields)
    own = encode_meta(replay_headers(meta, edit, message_id)) + _sent(fields, entry_id)
    if edit is None:
        return for_producer(fields) + own
    body = body if edit.body is None else edit.body
    if edit.headers is not None:
        return encode(body, edit.headers, edit.message_id) + own
    kept = for_producer(fields)
    rest = [part for i in range(0, len(kept), 2) if kept[i] not in (BODY, MESSAGE_ID) for part in kept[i : i + 2]]
    return [BODY, body, MESSAGE_ID, edit.message_id, *rest, *own]


def moved(fields: Sequence[bytes], entry_id: bytes, message_id: str, meta: Mapping[str, str | int | bytes]) -> Fields:
    """The fields of a message that goes to another queue. ``settle.lua`` does the same."""
    kept = for_producer(fields)
    if message_id and MESSAGE_ID not in kept[::2]:
        kept += MESSAGE_ID, message_id
    return kept + _sent(fields, entry_id) + encode_meta(meta)


def handed_back(
    fields: Sequence[bytes], entry_id: bytes, message_id: str, meta: Mapping[str, str | int | bytes]
) -> Fields:
    """The fields of a message that goes back as it is, but for the named ones. ``settle.lua`` does the same."""
    replaced = {_SENT, *(name.encode() for name in meta)}
    kept: Fields = []
    for position in range(0, len(fields) - 1, 2):
        if fields[position] not in replaced:
            kept += fields[position], fields[position + 1]
    if message_id and MESSAGE_ID not in kept[::2]:
        kept += MESSAGE_ID, message_id
    return kept + _sent(fields, entry_id) + encode_meta(meta)


def without_history(content: Fields) -> Fields:
    """The fields without the one that is left out first where there is no room."""
    pairs = zip(content[::2], content[1::2], strict=True)
    return [part for pair in pairs if pair[0] not in _HISTORY for part in pair]


def shortened(content: Fields, room: int) -> Fields:
    """What of a message fits into so many bytes: QBridge's own fields first, then the body, then headers."""
    pairs = list(zip(content[::2], content[1::2], strict=True))
    kept: Fields = []
    left_out = 0
    for name, value in sorted(pairs, key=lambda pair: _rank(pair[0])):
        size = size_of((name, value))
        if size <= room:
            kept += name, value
            room -= size
        else:
            left_out += 1
    return [*kept, LEFT_OUT, f"{left_out} fields of the message were left out: too large for a copy"]


def _rank(name: bytes | str) -> int:
    own = _OWN if isinstance(name, bytes) else HEADER_PREFIX
    if name in (MESSAGE_ID, "message_id") or name.startswith(own):  # type: ignore[arg-type]
        return 0
    return 1 if name == BODY else 2


def size_of(content: Sequence[bytes | str]) -> int:
    """How many bytes these take on the wire, roughly."""
    return sum(16 + (len(part) if isinstance(part, bytes) else len(part.encode())) for part in content)


def delivery(queue: str, fields: Sequence[bytes], tag: object) -> Delivery:
    """The delivery of an entry that was read for the first time."""
    body, headers, message_id, meta = decode(fields)
    if meta is NO_HEADERS:
        return Delivery(body, queue, headers, message_id, 0, 0, None, False, meta, tag, False, None, _sent_first)
    return counted(queue, (body, headers, message_id, meta), tag)


def counted(queue: str, decoded: Decoded, tag: object) -> Delivery:
    """The delivery of a decoded entry that says what became of it before."""
    body, headers, message_id, meta = decoded
    return Delivery(
        body=body,
        queue=queue,
        headers=headers,
        message_id=message_id,
        attempts=meta_int(meta, ATTEMPTS),
        crashes=meta_int(meta, CRASHES),
        first_failed_at=meta_time(meta, FIRST_FAILED_AT),
        redelivered=REDELIVERED in meta,
        meta=meta,
        tag=tag,
        suspected=SUSPECTED in meta,
        sent=0 if meta else _sent_first,
    )


def _sent_first(delivery: Delivery) -> int:
    """When the delivery of an entry that is no copy was sent, for those who ask."""
    return sent_ms(delivery.tag.entry_id)


def dead_letter(entry_id: bytes, fields: Sequence[bytes]) -> DeadLetter:
    """The dead letter of an entry. One that QBridge did not write is known by its message id at least."""
    body, headers, message_id, meta = decode(fields)
    sent = 0 if meta else sent_ms(entry_id)
    if message_id and not meta_text(meta, TASK_ID):
        meta = {**meta, TASK_ID: message_id}
    if missing := meta_text(meta, LEFT_OUT):
        meta = {**meta, EXCEPTION_MESSAGE: f"{meta_text(meta, EXCEPTION_MESSAGE)} [{missing}]".strip()}
    return DeadLetter.from_headers(
        body, headers, meta, letter_id=entry_id.decode(), message_id=message_id, sent_ms=sent
    )


def imported(letter: DeadLetter) -> Fields:
    """The fields of a letter as it lies in another queue; of its headers bytes stay what they are."""
    binary = {name: value for name, value in letter.headers.items() if isinstance(value, bytes)}
    texts = plain_headers({name: value for name, value in letter.headers.items() if name not in binary})
    headers = {name: binary[name] if name in binary else texts[name] for name in letter.headers}
    return encode(letter.body, headers, letter.message_id) + encode_meta(letter_headers(letter))


def _as_text(value: bytes) -> str:
    return value.decode("utf-8", "replace")


def _text_or_bytes(value: bytes) -> str | bytes:
    try:
        return value.decode("utf-8")
    except UnicodeDecodeError:
        return value
