"""The properties of copies: of a retry, of a dead letter, of what goes back.

AMQP 0-9-1 puts all headers of a message into one frame (specification, 4.2.6), and a broker closes the connection of
whoever sends a larger one. So a copy that would not fit is never sent: a dead letter leaves out what there is no room
for and says so, and the others are refused by whoever publishes them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

from qbridge_core.backend import (
    ATTEMPTS,
    BESIDE,
    CRASHES,
    EXCEPTION_MESSAGE,
    FIRST_FAILED_AT,
    HEADER_PREFIX,
    HISTORY,
    LAST_FAILED_AT,
    MAX_EXCEPTION_MESSAGE_CHARS,
    MAX_HISTORY_BYTES,
    MAX_ID_CHARS,
    MAX_TRACEBACK_CHARS,
    REASON,
    REPLAYS,
    SENT_AT,
    SOURCE_QUEUE,
    SUSPICIONS,
    TASK_ID,
    TRACEBACK,
    meta_int,
    meta_text,
)
from qbridge_rabbitmq.amqp.headers import (
    CARRIED_CC,
    DELIVERY_COUNT,
    DELIVERY_MODE,
    EXPIRATION,
    HEADERS,
    MARK,
    MESSAGE_ID,
    PERSISTENT,
    USER_ID,
    is_brokers,
    join,
    new_mark,
    split,
)
from qbridge_rabbitmq.amqp.tables import MalformedTableError, cut, entry, short, table

# What a producer's headers and its message id leave of a frame must hold the longest explanation: each character of
# its texts may take four bytes, and names, numbers, a worker and a message id that was missing take the rest.
_EXPLANATION: Final = 4 * (MAX_EXCEPTION_MESSAGE_CHARS + MAX_TRACEBACK_CHARS + 2 * MAX_ID_CHARS) + 2_000
_LEAST_MESSAGE: Final = 300
_MOST_NAMES: Final = 10

_CARRIED_EXPIRATION: Final = HEADER_PREFIX + "expiration"
_CARRIED_USER_ID: Final = HEADER_PREFIX + "user-id"
_CARRIED: Final = {CARRIED_CC, _CARRIED_EXPIRATION, _CARRIED_USER_ID, SENT_AT}
_ROUTING: Final = {"CC", "BCC"}
_COUNTS: Final = {DELIVERY_COUNT, "x-acquired-count"}
_ESSENTIAL: Final = (REASON, ATTEMPTS, CRASHES, FIRST_FAILED_AT, LAST_FAILED_AT, SOURCE_QUEUE, EXCEPTION_MESSAGE)
_COUNTED: Final = (ATTEMPTS, CRASHES, FIRST_FAILED_AT, SUSPICIONS, BESIDE, REPLAYS)
Ours = Mapping[str, str | int]


def leaves_room(properties: bytes, most: int) -> bool:
    """Whether a new message can become a retry, a delayed message and a dead letter with the longest explanation.

    Args:
        properties: of the message.
        most: what the connection can carry; where that is little, half of it is enough for an explanation.
    """
    return len(properties) + min(_EXPLANATION, most // 2) <= most


def copy(raw: bytes, ours: Ours, message_id: str = "", mark: str | None = None, most: int | None = None) -> bytes:
    """The properties of a persistent copy with ``ours`` as its QBridge headers.

    The broker's own headers are left out. ``CC``, ``expiration`` and ``user_id``, which would route the copy elsewhere,
    delete it or have it refused, travel under names of our own. ``message_id`` is used where the original has none.
    When it was sent is carried on.

    Args:
        raw: the properties of the original.
        ours: what to write beside the message.
        message_id: one for a copy of a message without.
        mark: of the same copy, if that may be there already; else it gets a new one.
        most: bytes that the connection can carry. What has no room for its history does without, and then, unless
            the mark is given, without a mark; the result may still be too large.
    """
    parts = _Parts(raw, message_id)
    whole = parts.join(ours, mark or new_mark())
    if most is None or len(whole) <= most:
        return whole
    ours = without_history(ours)
    whole = parts.join(ours, mark or new_mark())
    return parts.join(ours, "") if mark is None and len(whole) > most else whole


def letter(raw: bytes, ours: Ours, message_id: str, most: int) -> bytes:
    """The properties of a dead letter, as :func:`copy` makes them, and never larger than ``most`` bytes.

    Where there is no room for everything the history is left out, then the beginning of the traceback, then the end of
    the exception's message, and then the producer's headers, the largest first; the message names those.
    """
    parts = _Parts(raw, message_id)
    mark = new_mark()
    whole = parts.join(ours, mark)
    if len(whole) > most:
        ours = without_history(ours)
        whole = parts.join(ours, mark)
    if len(whole) <= most:
        return whole
    message, trace = str(ours.get(EXCEPTION_MESSAGE, "")), str(ours.get(TRACEBACK, ""))
    left_out: list[str] = []
    while True:
        note = _note(left_out)
        bare = {**ours, EXCEPTION_MESSAGE: note, TRACEBACK: ""}
        room = most - len(parts.join(bare, mark))
        if room >= min(_LEAST_MESSAGE, len(message.encode())):
            break
        if not parts.foreign:
            return parts.join({name: bare[name] for name in _ESSENTIAL if name in bare}, mark)
        left_out.append(parts.leave_out_largest())
    kept = message.encode()[:room]
    trace_room = room - len(kept)
    bare[EXCEPTION_MESSAGE] = kept.decode("utf-8", "ignore") + note
    bare[TRACEBACK] = trace.encode()[-trace_room:].decode("utf-8", "ignore") if trace_room else ""
    return parts.join(bare, mark)


def handed_back(raw: bytes, most: int, ours: Ours | None = None, mark: str | None = None) -> bytes:
    """The properties of a copy that goes back to its queue: what QBridge wrote beside the message stays.

    Args:
        raw: the properties of the original.
        most: bytes that the connection can carry; its history, and then how the broker dead-lettered it before, are
            left out of what is larger. The result may still be too large.
        ours: what to write anew.
        mark: that of the original, or "" for none, of a copy that is to be taken for it.
    """
    ours = ours or {}
    try:
        fields = split(raw)
    except MalformedTableError:
        fields = {}
    entries, unreadable = cut(fields.get(HEADERS))
    left_out = _COUNTS | _ROUTING | {MARK} | ours.keys()
    kept = [(name, piece) for name, piece in entries if name not in left_out]
    mark = new_mark() if mark is None else mark
    marked = [entry(MARK, mark)] if mark else []
    added = [*_carried(fields, entries), *_written(ours), *marked, unreadable]
    for drops in (_nothing, _is_history, is_brokers):
        kept = [(name, piece) for name, piece in kept if not drops(name)]
        pieces = [piece for _, piece in kept]
        result = _persistent(fields, [*pieces, *added])
        if len(result) <= most:
            break
    return result


def edited(raw: bytes, headers: Mapping[str, str] | None, message_id: str) -> bytes:
    """The properties with another message id and, where they are given, other headers of the producer."""
    try:
        fields = split(raw)
    except MalformedTableError:
        fields = {}
    fields[MESSAGE_ID] = short(message_id.encode())
    if headers is not None:
        carried = [piece for name, piece in cut(fields.get(HEADERS))[0] if name in _CARRIED]
        fields[HEADERS] = table(b"".join([*carried, *(entry(name, value) for name, value in headers.items())]))
    return join(fields)


def uncounted(raw: bytes) -> bytes:
    """The properties without what the broker counts, which differs from delivery to delivery."""
    try:
        fields = split(raw)
    except MalformedTableError:
        return raw
    entries, unreadable = cut(fields.get(HEADERS))
    pieces = [piece for name, piece in entries if name not in _COUNTS]
    return join({**fields, HEADERS: table(b"".join([*pieces, unreadable]))})


def carried_on(meta: Mapping[str, Any]) -> dict[str, str | int]:
    """What a copy that counts nothing must carry on."""
    carried: dict[str, str | int] = {n: meta_int(meta, n) for n in _COUNTED if n in meta}
    if TASK_ID in meta:
        carried[TASK_ID] = meta_text(meta, TASK_ID)
    if 0 < len(history := meta_text(meta, HISTORY)) <= MAX_HISTORY_BYTES:
        carried[HISTORY] = history
    return carried


def without_history(ours: Ours) -> Ours:
    """The headers without the one that is left out first where there is no room."""
    return {name: value for name, value in ours.items() if name != HISTORY}


class _Parts:
    """The pieces of a message that its copies are put together from."""

    def __init__(self, raw: bytes, message_id: str) -> None:
        try:
            self._fields = split(raw)
        except MalformedTableError:
            self._fields = {}
        entries, unreadable = cut(self._fields.get(HEADERS))
        self.foreign = [(name, piece) for name, piece in entries if _is_kept(name)]
        self.foreign += [("carried", piece) for piece in _carried(self._fields, entries)]
        self._unreadable = unreadable
        if MESSAGE_ID not in self._fields and 0 < len(message_id.encode()) <= MAX_ID_CHARS:
            self._fields[MESSAGE_ID] = short(message_id.encode())

    def join(self, ours: Ours, mark: str) -> bytes:
        """All of them, with ours."""
        marked = [entry(MARK, mark)] if mark else []
        pieces = [piece for _, piece in self.foreign]
        return _persistent(self._fields, [*pieces, *_written(ours), *marked, self._unreadable])

    def leave_out_largest(self) -> str:
        """Drop the largest of the producer's headers, and what cannot be read; what that was."""
        self._unreadable = b""
        largest = max(range(len(self.foreign)), key=lambda position: len(self.foreign[position][1]))
        name, piece = self.foreign.pop(largest)
        return f"{name[:60]!r} ({len(piece)} bytes)"


def _nothing(name: str) -> bool:
    """Nothing has to be left out."""
    del name
    return False


def _is_history(name: str) -> bool:
    return name == HISTORY


def _note(left_out: list[str]) -> str:
    if not left_out:
        return ""
    more = f" and {len(left_out) - _MOST_NAMES} more" if len(left_out) > _MOST_NAMES else ""
    return f" [headers left out because they do not fit into a frame: {', '.join(left_out[:_MOST_NAMES])}{more}]"


def _persistent(fields: Mapping[int, bytes], pieces: list[bytes]) -> bytes:
    kept = {bit: value for bit, value in fields.items() if bit not in {EXPIRATION, USER_ID}}
    return join({**kept, DELIVERY_MODE: PERSISTENT, HEADERS: table(b"".join(pieces))})


def _written(ours: Ours) -> list[bytes]:
    return [entry(name, value) for name, value in ours.items()]


def _carried(fields: Mapping[int, bytes], entries: list[tuple[str, bytes]]) -> Iterator[bytes]:
    for name, piece in entries:
        if name == "CC":
            yield short(CARRIED_CC.encode()) + piece[1 + piece[0] :]
    for bit, name in ((EXPIRATION, _CARRIED_EXPIRATION), (USER_ID, _CARRIED_USER_ID)):
        if bit in fields:
            value = fields[bit][1:]
            yield short(name.encode()) + b"S" + len(value).to_bytes(4, "big") + value


def _is_kept(name: str) -> bool:
    if name.startswith(HEADER_PREFIX):
        return name in _CARRIED
    return name not in _ROUTING and not is_brokers(name)
