"""The JSON envelope of a task: written by who sends, read by who works."""

from __future__ import annotations

import json
import math
import re
import reprlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, NoReturn

from qbridge_core.contract.checks import DEFAULT_MAX_MESSAGE_BYTES, MAX_ID_CHARS, is_number
from qbridge_core.errors import PayloadError


class UnfitError(Exception):
    """The message cannot be run; the text says why.

    Args:
        text: why.
        task_id: the id of the task, where that can be read.

    Attributes:
        reason: that of the dead letter, a value of :class:`~qbridge_core.Reason`.
    """

    reason: str

    def __init__(self, text: str, task_id: str | None = None) -> None:
        super().__init__(text)
        self.task_id = task_id


class MalformedTaskError(UnfitError):
    """It is no task, or none that its handler could take."""

    reason = "malformed"


class UnsupportedTaskError(UnfitError):
    """It is a task, and asks for something that there is not here: it is not run at all, rather than in part."""

    reason = "unsupported"


@dataclass(slots=True)
class Task:
    """A task as the producer wrote it. Not frozen, which would cost three times as much for each message.

    Attributes:
        payload: what the handler gets. With ``args`` the keyword arguments.
        task_id: the producer's id, or ``None``.
        document: the whole envelope, as it was read; what else is in it nobody has looked at. Other formats may put
            its ``version`` there.
        name: which task it is, where that is not the ``task`` of the document.
        args: positional arguments, of formats that have those; ``None`` of others.
        expires_at: what has not begun by then (Unix time in seconds) is not run.
        due_at: it is not run before (Unix time in seconds).
    """

    payload: Any = field(repr=False)
    task_id: str | None
    document: Mapping[str, Any] = field(repr=False)
    name: str | None = None
    args: Sequence[Any] | None = field(default=None, repr=False)
    expires_at: float | None = None
    due_at: float | None = None


# Half of what a Python 3.11 can read by default. Python 3.13 writes ten times as much.
MAX_DEPTH: Final = 500
_SCALARS: Final = frozenset({str, int, float, bool, type(None)})
# The encoder turns keys that are numbers, booleans or None into strings, and says nothing. In its text they look like
# this. A string may look so too: then the keys themselves are looked at.
_suspicious_key = re.compile(r"""":(?<=[0-9el]":)(?:(?<=[0-9]":)|(?<="true":)|(?<="false":)|(?<="null":))""").search

_encode_json = json.JSONEncoder(separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode


def write_task(
    payload: object, task_id: str, name: str | None = None, version: int = 1, expires_at: float | None = None
) -> bytes:
    """The body of a task.

    Args:
        payload: what the handler gets.
        task_id: the id.
        name: which task it is, where a queue has several kinds of them.
        version: of what the payload is made of; the first one is not written.
        expires_at: what has not begun by then (Unix time in seconds) is not run.

    Raises:
        PayloadError: the payload cannot be written as JSON, or would not be what it was.
    """
    document: dict[str, object] = {"payload": payload, "task_id": task_id, "retry": 0}
    if name is not None:
        document["task"] = name
        if version != 1:
            document["version"] = version
    if expires_at is not None:
        document["expires_at"] = expires_at
    return write_json(document, payload, task_id)


def write_json(document: object, payload: object, task_id: str) -> bytes:
    """A JSON document, for a body.

    Args:
        document: the payload itself, or with more around it that can surely be written.
        payload: what a producer gave.
        task_id: what errors call it.

    Raises:
        PayloadError: the payload cannot be written as JSON, or would not be what it was.
    """
    try:
        text = _encode_json(document)
        body = text.encode("utf-8")
    except (TypeError, ValueError, RecursionError) as exc:
        raise PayloadError(f"the payload of task {task_id!r} {_why_not_json(payload, exc)}") from exc
    problem = _wrong_key(payload) if _suspicious_key(text) else None
    if text.count("[") + text.count("{") > MAX_DEPTH:
        problem = problem or _too_deep(payload)
    if problem:
        raise PayloadError(f"the payload of task {task_id!r} {problem}")
    return body


def _why_not_json(payload: object, exc: Exception) -> str:
    return _wrong_key(payload) or (
        f"cannot be written as JSON ({exc}{_place_of_wrong(payload)}); send plain dicts, lists, strings, finite "
        "numbers, booleans and None, or give send an encoder"
    )


def _place_of_wrong(payload: object) -> str:
    """Where the first value is that JSON does not have, as the end of a sentence; "" for none, and for the payload."""
    seen: set[int] = set()
    waiting: list[tuple[str, object]] = [("payload", payload)]
    while waiting:
        path, value = waiting.pop()
        if isinstance(value, dict | list | tuple):
            if id(value) not in seen:
                seen.add(id(value))
                items = value.items() if isinstance(value, dict) else enumerate(value)
                waiting += reversed([(f"{path}[{reprlib.repr(key)}]", item) for key, item in items])
        elif not isinstance(value, str | int | float | None) or (isinstance(value, float) and not math.isfinite(value)):
            return f", at {path}" if path != "payload" else ""
    return ""


def _wrong_key(payload: object) -> str | None:
    """Say which key of a payload is no string, if one is."""
    seen: set[int] = set()  # a payload that holds itself is refused, but this must end all the same
    waiting: list[tuple[str, object]] = [("payload", payload)]
    while waiting:
        path, value = waiting.pop()
        if not isinstance(value, dict | list | tuple) or id(value) in seen:
            continue
        seen.add(id(value))
        for key, item in value.items() if isinstance(value, dict) else enumerate(value):
            if isinstance(value, dict) and not isinstance(key, str):
                return (
                    f"has the key {reprlib.repr(key)} ({type(key).__name__}) in {path}, which cannot be written as "
                    "JSON: keys are strings there, so it would arrive as another one, or replace another one"
                )
            if isinstance(item, dict | list | tuple):
                waiting.append((f"{path}[{reprlib.repr(key)}]", item))
    return None


def _too_deep(payload: object) -> str | None:
    """Say that a payload is nested too deep, if it is: another Python may be able to read less than this one writes."""
    level = [payload]
    for _ in range(MAX_DEPTH + 1):
        level = [
            item
            for value in level
            if isinstance(value, dict | list | tuple)
            for item in (value.values() if isinstance(value, dict) else value)
            if item.__class__ not in _SCALARS
        ]
        if not level:
            return None
    return f"is nested deeper than {MAX_DEPTH} levels, which not every worker could read"


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


# Python's decoder accepts NaN and Infinity by default; RFC 8259 (section 6) does not.
_decoder: Final = json.JSONDecoder(parse_constant=_refuse_constant)


def decode_json(text: str) -> Any:
    """Read a JSON document.

    It is what ``JSONDecoder.decode`` does, without the search for space around it, which is hardly ever there.

    Raises:
        ValueError: it is not JSON.
    """
    try:
        document, end = _decoder.raw_decode(text)
    except ValueError:  # space comes first, or it is no JSON
        return _decoder.decode(text)
    return document if end == len(text) else _decoder.decode(text)


def read_json(body: bytes, max_bytes: int) -> Any:
    """Read a body that is a JSON document.

    Raises:
        MalformedTaskError: it is none.
    """
    refuse_long(body, max_bytes)
    try:
        return decode_json(body.decode("utf-8"))
    except (ValueError, RecursionError) as exc:
        raise _unreadable(body, exc) from exc


def object_in(body: bytes) -> dict[str, Any] | None:
    """The JSON object that a body is; ``None`` for all else."""
    try:
        document = decode_json(body.decode("utf-8"))
    except (ValueError, RecursionError):
        return None
    return document if isinstance(document, dict) else None


def refuse_long(body: bytes, max_bytes: int, task_id: str | None = None) -> None:
    """Refuse a body that is too long.

    Raises:
        MalformedTaskError: it has more bytes than that.
    """
    if len(body) > max_bytes:
        raise MalformedTaskError(f"the body has {len(body)} bytes; the limit is {max_bytes}", task_id)


def _unreadable(body: bytes, exc: Exception) -> MalformedTaskError:
    if isinstance(exc, UnicodeDecodeError):
        return MalformedTaskError(f"the body is not UTF-8: {exc.reason} at byte {exc.start}{_guess(body)}")
    if isinstance(exc, RecursionError):
        return MalformedTaskError("the body is nested too deep")
    return MalformedTaskError(f"the body is not JSON: {exc}{_guess(body)}")


def task_of(body: bytes) -> Task | None:
    """The task of a message that is here already, however long it is; ``None`` when it is none."""
    try:
        return read_task(body, len(body))
    except MalformedTaskError:
        return None


def read_task(body: bytes, max_bytes: int = DEFAULT_MAX_MESSAGE_BYTES) -> Task:
    """Read a message body: a JSON object (UTF-8, RFC 8259) with ``payload`` and optionally ``task_id``.

    Raises:
        MalformedTaskError: anything else.
    """
    if len(body) > max_bytes:
        refuse_long(body, max_bytes)
    try:
        document = decode_json(body.decode("utf-8"))  # as read_json does, without the call
    except (ValueError, RecursionError) as exc:
        raise _unreadable(body, exc) from exc
    if not isinstance(document, dict):
        twice = "; was it encoded twice?" if isinstance(document, str) and document[:1] in ("{", "[") else ""
        raise MalformedTaskError(f"the body is a JSON {json_type(document)}, not an object{twice}")
    if "payload" not in document:
        raise MalformedTaskError('the JSON object has no "payload"; what the handler gets goes there: {"payload": …}')
    task_id = document.get("task_id")
    if task_id.__class__ is not str or not 0 < len(task_id) <= MAX_ID_CHARS:
        task_id = _task_id(task_id)
    if "expires_at" in document:
        return Task(document["payload"], task_id, document, None, None, _expiry(document["expires_at"], task_id))
    return Task(document["payload"], task_id, document)


# How bodies begin that are something else. Sources: RFC 1952 (gzip), RFC 1950 (zlib), RFC 8878 (zstd), the formats of
# bzip2, xz, LZ4 frames and pickle, and the byte order marks of the Unicode standard.
_COMPRESSED: Final = {
    b"\x1f\x8b": "gzip", b"\x28\xb5\x2f\xfd": "zstd", b"BZh": "bzip2", b"\xfd7zXZ\0": "xz", b"\x04\x22\x4d\x18": "LZ4",
    b"\x78\x01": "zlib", b"\x78\x5e": "zlib", b"\x78\x9c": "zlib", b"\x78\xda": "zlib",
}  # fmt: skip
_MARKED: Final = {
    b"\xef\xbb\xbf": "it begins with a byte order mark (BOM): encode it as 'utf-8', not as 'utf-8-sig'",
    b"\xff\xfe": "it is encoded in UTF-16 or UTF-32: encode it in UTF-8",
    b"\xfe\xff": "it is encoded in UTF-16: encode it in UTF-8",
    b"\0\0\xfe\xff": "it is encoded in UTF-32: encode it in UTF-8",
}
_PICKLE: Final = re.compile(rb"\x80[\x02-\x05]")


def _guess(body: bytes) -> str:
    """What a body that cannot be read seems to be, as the end of a sentence; "" when nothing is recognised."""
    if not body:
        return "; it is empty (on Redis a body is the field 'body' of an entry)"
    for start, name in _COMPRESSED.items():
        if body.startswith(start) and not body.isascii():
            return f"; it is compressed with {name}, which workers do not undo: send it as it is"
    for start, text in _MARKED.items():
        if body.startswith(start):
            return f"; {text}"
    if _PICKLE.match(body):
        return "; it looks like a pickle, which is never read here: send JSON"
    if b"\0" in body[:4]:
        return "; it seems to be encoded in UTF-16 or UTF-32: encode it in UTF-8"
    return ""


def _task_id(value: object) -> str | None:
    if value is None or value == "":
        return None
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise MalformedTaskError(f'"task_id" is a JSON {json_type(value)}, not a string')
    text = str(value)
    if len(text) > MAX_ID_CHARS:
        raise MalformedTaskError(f'"task_id" has {len(text)} characters; {MAX_ID_CHARS} are allowed')
    return text


def _expiry(value: object, task_id: str | None) -> float | None:
    if value is None or is_number(value):
        return value
    raise MalformedTaskError(f'"expires_at" is a JSON {json_type(value)}, and no Unix time in seconds', task_id)


def json_type(value: object) -> str:
    """What JSON calls a value that was read from it."""
    if value is None:
        return "null"
    names = {bool: "boolean", int: "number", float: "number", str: "string", list: "array", dict: "object"}
    return names[type(value)]
