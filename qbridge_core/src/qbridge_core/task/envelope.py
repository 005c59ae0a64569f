"""Reading the JSON envelope of a task."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from typing import Any, Final, NoReturn

from qbridge_core.contract.checks import DEFAULT_MAX_MESSAGE_BYTES as DEFAULT_MAX_MESSAGE_BYTES  # noqa: PLC0414 - one name
from qbridge_core.contract.checks import MAX_ID_CHARS


class MalformedTaskError(Exception):
    """The message can never be run; the text says why."""


@dataclass(frozen=True, slots=True)
class Task:
    """A task as the producer wrote it.

    Attributes:
        payload: what the handler gets.
        task_id: the producer's id, or ``None``.
    """

    payload: Any = field(repr=False)
    task_id: str | None


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


# Python's decoder accepts NaN and Infinity by default; RFC 8259 (section 6) does not.
_decode = json.JSONDecoder(parse_constant=_refuse_constant).decode


def read_task(body: bytes, max_bytes: int = DEFAULT_MAX_MESSAGE_BYTES) -> Task:
    """Read a message body: a JSON object (UTF-8, RFC 8259) with ``payload`` and optionally ``task_id``.

    Raises:
        MalformedTaskError: anything else.
    """
    if len(body) > max_bytes:
        raise MalformedTaskError(f"the body has {len(body)} bytes; the limit is {max_bytes}")
    try:
        document = _decode(body.decode("utf-8"))
    except UnicodeDecodeError as exc:
        raise MalformedTaskError(f"the body is not UTF-8: {exc.reason} at byte {exc.start}{_guess(body)}") from exc
    except RecursionError as exc:
        raise MalformedTaskError("the body is nested too deep") from exc
    except ValueError as exc:
        raise MalformedTaskError(f"the body is not JSON: {exc}{_guess(body)}") from exc
    if not isinstance(document, dict):
        twice = "; was it encoded twice?" if isinstance(document, str) and document[:1] in ("{", "[") else ""
        raise MalformedTaskError(f"the body is a JSON {_json_type(document)}, not an object{twice}")
    if "payload" not in document:
        raise MalformedTaskError('the JSON object has no "payload"; what the handler gets goes there: {"payload": …}')
    return Task(document["payload"], _task_id(document.get("task_id")))


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
        raise MalformedTaskError(f'"task_id" is a JSON {_json_type(value)}, not a string')
    text = str(value)
    if len(text) > MAX_ID_CHARS:
        raise MalformedTaskError(f'"task_id" has {len(text)} characters; {MAX_ID_CHARS} are allowed')
    return text


def _json_type(value: object) -> str:
    if value is None:
        return "null"
    names = {bool: "boolean", int: "number", float: "number", str: "string", list: "array", dict: "object"}
    return names[type(value)]
