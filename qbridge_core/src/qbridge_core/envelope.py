"""Reading the JSON envelope of a task."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any, NoReturn

from qbridge_core.checks import DEFAULT_MAX_MESSAGE_BYTES as DEFAULT_MAX_MESSAGE_BYTES  # noqa: PLC0414 - one name
from qbridge_core.checks import MAX_ID_CHARS


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
        raise MalformedTaskError(f"the body is not UTF-8: {exc.reason} at byte {exc.start}") from exc
    except RecursionError as exc:
        raise MalformedTaskError("the body is nested too deep") from exc
    except ValueError as exc:
        raise MalformedTaskError(f"the body is not JSON: {exc}") from exc
    if not isinstance(document, dict):
        raise MalformedTaskError(f"the body is a JSON {_json_type(document)}, not an object")
    if "payload" not in document:
        raise MalformedTaskError('the JSON object has no "payload"')
    return Task(document["payload"], _task_id(document.get("task_id")))


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
