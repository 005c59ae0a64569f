"""A letter as JSON, from which the same letter can be made again."""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from decimal import Decimal, InvalidOperation
from typing import Any, Final

from qbridge_core.cli.letters.place import place_of_letter
from qbridge_core.cli.letters.times import iso
from qbridge_core.contract.checks import is_number
from qbridge_core.contract.dead_letter import DeadLetter, Reason
from qbridge_core.contract.headers import MAX_COUNT
from qbridge_core.contract.history import Attempt, AttemptOutcome

_TEXTS: Final = ("id", "task_id", "exception_type", "exception_message", "traceback", "source_queue", "worker")
_COUNTS: Final = ("attempts", "crashes", "replays")
_TIMES: Final = ("first_failed_at", "last_failed_at")
_OTHERS: Final = ("message_id", "reason", "headers", "body", "body_base64", "sent_at", "history")
_ATTEMPT: Final = ("outcome", "began_at", "duration", "worker", "exception_type", "place", "replays")


class NoLetterError(ValueError):
    """Some JSON is no letter; the text says why."""


def summary(letter: DeadLetter) -> dict[str, Any]:
    """What a listing says of a letter: all but its bytes, its headers and its traceback."""
    return {
        "id": letter.id,
        "task_id": letter.task_id,
        "reason": letter.reason.value,
        "exception_type": letter.exception_type,
        "exception_message": letter.exception_message,
        "place": place_of_letter(letter),
        "attempts": letter.attempts,
        "crashes": letter.crashes,
        "replays": letter.replays,
        "first_failed_at": iso(letter.first_failed_at),
        "last_failed_at": iso(letter.last_failed_at),
        "sent_at": _iso(letter.sent_at),
        "source_queue": letter.source_queue,
        "worker": letter.worker,
        "bytes": len(letter.body),
    }


def written(letter: DeadLetter) -> dict[str, Any]:
    """All of a letter; :func:`read` makes the same of it."""
    texts = {name: getattr(letter, name) for name in _TEXTS}
    return {
        **texts,
        "message_id": letter.message_id,
        "reason": letter.reason.value,
        **{name: getattr(letter, name) for name in _COUNTS},
        **{name: iso(getattr(letter, name)) for name in _TIMES},
        "sent_at": _iso(letter.sent_at),
        "history": [_written_attempt(attempt) for attempt in letter.history],
        "headers": {name: _written_value(value) for name, value in letter.headers.items()},
        **_written_body(letter.body),
    }


def _iso(moment: datetime | None) -> str | None:
    return None if moment is None else iso(moment.timestamp())


def _written_attempt(attempt: Attempt) -> dict[str, Any]:
    fields = {name: getattr(attempt, name) for name in _ATTEMPT}
    return fields | {"outcome": attempt.outcome.value, "began_at": _iso(attempt.began_at)}


def _written_body(body: bytes) -> dict[str, str]:
    try:
        return {"body": body.decode("utf-8")}
    except UnicodeDecodeError:
        return {"body_base64": base64.b64encode(body).decode()}


def _written_value(value: object) -> Any:
    """A header's value: what JSON cannot say, or says otherwise, in an object that names its kind."""
    if isinstance(value, bytes):
        return {"base64": base64.b64encode(value).decode()}
    if isinstance(value, datetime):
        return {"time": value.isoformat()}
    if isinstance(value, Decimal):
        return {"decimal": str(value)}
    if isinstance(value, list | tuple):
        return [_written_value(item) for item in value]
    if isinstance(value, Mapping):
        return {"table": {str(name): _written_value(item) for name, item in value.items()}}
    return value if isinstance(value, str | int | float | None) else str(value)


def read(line: str | bytes) -> DeadLetter:
    """The letter that a line of JSON says.

    Raises:
        ValueError: it is no JSON, or (``NoLetterError``) no letter; the text says why.
    """
    try:
        found = json.loads(line)
    except RecursionError:
        raise NoLetterError("it is nested too deep") from None
    if not isinstance(found, dict):
        raise NoLetterError("it is no JSON object")
    unknown = sorted(set(found) - {*_TEXTS, *_COUNTS, *_TIMES, *_OTHERS})
    if unknown:
        raise NoLetterError(f"{unknown[0]!r} is nothing that a letter has; a newer version may have written it")
    return DeadLetter(
        body=_body(found),
        headers=_headers(found.get("headers", {})),
        reason=_reason(found.get("reason")),
        message_id=_message_id(found.get("message_id")),
        first_failed_at=_time(found, "first_failed_at"),
        last_failed_at=_time(found, "last_failed_at"),
        sent_at=_moment(found, "sent_at"),
        history=_history(found.get("history", [])),
        **_texts_and_counts(found),
    )


def _texts_and_counts(found: dict[str, Any]) -> dict[str, Any]:
    return {name: _text(found, name) for name in _TEXTS} | {name: _count(found, name) for name in _COUNTS}


def _body(found: dict[str, Any]) -> bytes:
    text, binary = found.get("body"), found.get("body_base64")
    if (text is None) == (binary is None):
        raise NoLetterError("it must have a body, or a body_base64")
    if isinstance(text, str):
        return text.encode("utf-8")
    return _bytes(binary, "body_base64")


def _bytes(value: object, what: str) -> bytes:
    if not isinstance(value, str):
        raise NoLetterError(f"{what} is a text")
    try:
        return base64.b64decode(value, validate=True)
    except binascii.Error as exc:
        raise NoLetterError(f"{what} is no base64: {exc}") from exc


def _headers(found: object) -> dict[str, Any]:
    if not isinstance(found, dict):
        raise NoLetterError("headers is an object")
    return {name: _value(value, f"the header {name!r}") for name, value in found.items()}


def _value(value: Any, what: str) -> Any:
    if isinstance(value, list):
        return [_value(item, what) for item in value]
    if not isinstance(value, dict):
        return value
    (kind, inner), *others = value.items() or [("", None)]
    if others or kind not in _KINDS:
        raise NoLetterError(f"{what} is an object, which must be one of {', '.join(_KINDS)}")
    return _KINDS[kind](inner, what)


def _as_time(value: object, what: str) -> datetime:
    try:
        found = datetime.fromisoformat(str(value))
    except ValueError:
        raise NoLetterError(f"{what} is no time: {value!r}") from None
    return found if found.tzinfo else found.replace(tzinfo=UTC)


def _as_decimal(value: object, what: str) -> Decimal:
    try:
        return Decimal(str(value))
    except InvalidOperation:
        raise NoLetterError(f"{what} is no number: {value!r}") from None


def _as_table(value: object, what: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise NoLetterError(f"{what} is no table")
    return {name: _value(item, what) for name, item in value.items()}


_KINDS: Final[dict[str, Callable[[Any, str], Any]]] = {
    "base64": _bytes,
    "time": _as_time,
    "decimal": _as_decimal,
    "table": _as_table,
}


def _reason(value: Any) -> Reason:
    try:
        return Reason(value)
    except ValueError:
        raise NoLetterError(f"reason is one of {', '.join(Reason)}, not {value!r}") from None


def _message_id(value: object) -> str | None:
    if value is not None and not isinstance(value, str):
        raise NoLetterError("message_id is a text or null")
    return value


def _text(found: dict[str, Any], name: str) -> str:
    value = found.get(name, "")
    if not isinstance(value, str):
        raise NoLetterError(f"{name} is a text")
    return value


def _count(found: dict[str, Any], name: str) -> int:
    value = found.get(name, 0)
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= MAX_COUNT:
        raise NoLetterError(f"{name} is a count")
    return value


def _time(found: dict[str, Any], name: str) -> float | None:
    moment = _moment(found, name)
    return None if moment is None else moment.timestamp()


def _moment(found: dict[str, Any], name: str) -> datetime | None:
    value = found.get(name)
    try:
        return None if value is None else _as_time(value, name).astimezone(UTC)
    except OverflowError:
        raise NoLetterError(f"{name} is not within the years 1 to 9999: {value!r}") from None


def _history(found: object) -> tuple[Attempt, ...]:
    if not isinstance(found, list):
        raise NoLetterError("history is a list of attempts")
    return tuple(map(_attempt, found))


def _attempt(found: object) -> Attempt:
    if not isinstance(found, dict) or set(found) - {*_ATTEMPT}:
        raise NoLetterError(f"an attempt of the history has {', '.join(_ATTEMPT)}, and nothing else")
    duration = found.get("duration")
    if duration is not None and not (is_number(duration) and duration >= 0):
        raise NoLetterError("the duration of an attempt is a number of seconds")
    try:
        outcome = AttemptOutcome(str(found.get("outcome")))
    except ValueError:
        raise NoLetterError(f"the outcome of an attempt is one of {', '.join(AttemptOutcome)}") from None
    return Attempt(
        outcome=outcome,
        began_at=_moment(found, "began_at"),
        duration=None if duration is None else float(duration),
        worker=_text(found, "worker"),
        exception_type=_text(found, "exception_type"),
        place=_text(found, "place"),
        replays=_count(found, "replays"),
    )
