"""Dead letters that are put into a dead-letter queue as they lie in another one."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

from qbridge_core.contract.boundary import callers_own
from qbridge_core.contract.dead_letter import DeadLetter
from qbridge_core.contract.headers import (
    ATTEMPTS,
    CRASHES,
    EXCEPTION_MESSAGE,
    EXCEPTION_TYPE,
    FIRST_FAILED_AT,
    HEADER_PREFIX,
    HISTORY,
    LAST_FAILED_AT,
    MAX_COUNT,
    REASON,
    REPLAYS,
    SENT_AT,
    SOURCE_QUEUE,
    TASK_ID,
    TRACEBACK,
    WORKER,
    clean_text,
    milliseconds,
)
from qbridge_core.contract.history import write_history
from qbridge_core.errors import ConfigurationError, PayloadError


def check_imports(letters: object) -> list[DeadLetter]:
    """Return the letters that a caller wants to import, all of them, each as it can be kept.

    Raises:
        ConfigurationError: they are no letters, or one has a time or a count that cannot be kept.
        PayloadError: one has a header of a name that QBridge reserves, or what no text can be.
    """
    if isinstance(letters, str | bytes | DeadLetter) or not isinstance(letters, Iterable):
        raise ConfigurationError("letters takes several dead letters; one of them as letters=[letter]")
    return [_checked(letter) for letter in callers_own(letters)]


def _checked(letter: object) -> DeadLetter:
    if not isinstance(letter, DeadLetter):
        raise ConfigurationError(f"only a DeadLetter can be imported, not {type(letter).__name__}")
    if not isinstance(letter.body, bytes) or not isinstance(letter.headers, Mapping):
        raise ConfigurationError("the body of a letter is bytes, and its headers are a mapping")
    for name in letter.headers:
        if not _is_text(name) or not name or name.startswith(HEADER_PREFIX):
            raise PayloadError(
                f"a producer's header cannot be called {name!r}: names with {HEADER_PREFIX} are QBridge's"
            )
    if letter.message_id is not None and not (_is_text(letter.message_id) and letter.message_id):
        raise PayloadError(f"a message_id is a text, not {letter.message_id!r}")
    try:
        letter_headers(letter)
    except (AttributeError, TypeError, ValueError, OverflowError) as exc:
        raise ConfigurationError(f"letter {letter.id!r} says what no letter can: {exc}") from exc
    return letter


def _is_text(value: object) -> bool:
    return isinstance(value, str) and value == value.encode("utf-8", "replace").decode()


def letter_headers(letter: DeadLetter) -> dict[str, str | int]:
    """QBridge's headers that make a letter say what this one says; the reason at least."""
    said: dict[str, str | int] = {
        ATTEMPTS: _count(letter.attempts),
        CRASHES: _count(letter.crashes),
        REPLAYS: _count(letter.replays),
        FIRST_FAILED_AT: _milliseconds(letter.first_failed_at),
        LAST_FAILED_AT: _milliseconds(letter.last_failed_at),
        EXCEPTION_TYPE: clean_text(letter.exception_type),
        EXCEPTION_MESSAGE: clean_text(letter.exception_message),
        TRACEBACK: clean_text(letter.traceback),
        SOURCE_QUEUE: clean_text(letter.source_queue),
        TASK_ID: clean_text(letter.task_id),
        WORKER: clean_text(letter.worker),
        HISTORY: write_history(letter.history),
        SENT_AT: 0 if letter.sent_at is None else _count(milliseconds(letter.sent_at)),
    }
    return {REASON: letter.reason.value, **{name: value for name, value in said.items() if value}}


def plain_headers(headers: Mapping[str, Any]) -> dict[str, str]:
    """A producer's headers for a broker that keeps texts only: what else another broker had is written as JSON.

    Raises:
        PayloadError: a value is neither text nor JSON, as bytes are that are no UTF-8.
    """
    return {name: _plain(name, value) for name, value in headers.items()}


def _plain(name: str, value: object) -> str:
    try:
        if isinstance(value, bytes):
            return value.decode()
        return clean_text(value) if isinstance(value, str) else json.dumps(value, default=str)
    except (ValueError, TypeError) as exc:
        raise PayloadError(f"this broker keeps texts in headers, and {name!r} is none: {exc}") from exc


def _count(number: int) -> int:
    return min(max(0, number), MAX_COUNT)


def _milliseconds(seconds: float | None) -> int:
    return 0 if seconds is None else _count(round(seconds * 1000))
