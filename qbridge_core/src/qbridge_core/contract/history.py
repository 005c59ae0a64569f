"""What became of a message's runs, as it travels beside the message: the last ten attempts in one header.

The header is a JSON list of objects, the oldest attempt first; :class:`Attempt` has their fields. It is written into
copies that are made anyway, and it is the first to be left out where there is no room. Anybody may write a header, so
what cannot be read is left out and never an error.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any, Final

from qbridge_core.contract.checks import MAX_ID_CHARS, is_number
from qbridge_core.contract.headers import (
    CRASHES,
    END_OF_TIME,
    HISTORY,
    MAX_REPLAYS,
    clean_text,
    instant,
    meta_int,
    meta_replays,
    milliseconds,
)

MAX_ATTEMPTS: Final = 10
"""So many attempts are remembered, the last ones."""
MAX_HISTORY_BYTES: Final = 4_096
"""The longest header. One attempt always fits: its texts are cut, and JSON writes six bytes for a character at most."""
_MAX_WORKER_CHARS: Final = 120
_LONGEST_READ: Final = 65_536
_LONGEST_SECONDS: Final = 1e9


class AttemptOutcome(StrEnum):
    """How an attempt ended, for those that did not succeed.

    ``CRASHED``: its worker process died, and the message is charged for it. ``SNOOZED``: the handler postponed itself,
    which counts no attempt.
    """

    FAILED = "failed"
    TIMED_OUT = "timed out"
    CRASHED = "crashed"
    REJECTED = "rejected"
    SNOOZED = "snoozed"


@dataclass(frozen=True, slots=True)
class Attempt:
    """One run of a message that did not succeed. Of a crash often nothing else is known.

    Texts are bounded and made safe for any broker on construction.

    Attributes:
        outcome: how it ended.
        began_at: when the handler was called (UTC), to the millisecond; ``None`` when unknown.
        duration: seconds until its end, to the millisecond; ``None`` when unknown.
        worker: ``host:pid`` of the process, or "".
        exception_type: the class of the exception as in :class:`~qbridge_core.Failure`, or "".
        place: where in the handler's own code it was raised, or where a late handler was: the innermost such frame as
            ``shop/mail.py:12 send``, the file as its module is called; or "".
        replays: how often the message had been sent back from a dead-letter queue before.
    """

    outcome: AttemptOutcome
    began_at: datetime | None = None
    duration: float | None = None
    worker: str = ""
    exception_type: str = ""
    place: str = ""
    replays: int = 0

    def __post_init__(self) -> None:
        set_field = object.__setattr__
        set_field(self, "worker", clean_text(self.worker)[:_MAX_WORKER_CHARS])
        set_field(self, "exception_type", clean_text(self.exception_type)[:MAX_ID_CHARS])
        set_field(self, "place", clean_text(self.place)[:MAX_ID_CHARS])


History = tuple[Attempt, ...]
"""Attempts, the oldest first."""


def with_attempts(history: History, *attempts: Attempt) -> History:
    """The history with further attempts, without what is too old for it then."""
    return (*history, *attempts)[-MAX_ATTEMPTS:]


def with_deaths(history: History, meta: Mapping[str, Any], deaths: int) -> History:
    """The history of a message with these headers, and with so many deaths of which nothing else is known."""
    death = Attempt(AttemptOutcome.CRASHED, replays=meta_replays(meta))
    return with_attempts(history, *[death] * min(deaths, MAX_ATTEMPTS))


def charged_history(meta: Mapping[str, Any], crashes: int) -> str:
    """The header of a copy that is charged with so many crashes in all: those that are new are in it."""
    deaths = crashes - meta_int(meta, CRASHES)
    return write_history(with_deaths(read_history(meta.get(HISTORY)), meta, deaths))


def write_history(history: Iterable[Attempt]) -> str:
    """The text of the header: the last attempts, as many as there is room for; "" for none."""
    texts: list[str] = []
    room = MAX_HISTORY_BYTES - 1  # one bracket; each attempt takes a comma, or the other one
    for attempt in reversed(tuple(history)[-MAX_ATTEMPTS:]):
        text = json.dumps(_written(attempt), ensure_ascii=False, separators=(",", ":"))
        room -= len(text.encode()) + 1
        if room < 0:
            break
        texts.append(text)
    return f"[{','.join(reversed(texts))}]" if texts else ""


def read_history(value: object) -> History:
    """The attempts that a header tells of, without what is none of ours. Never raises, whoever wrote it."""
    if not isinstance(value, str | bytes) or len(value) > _LONGEST_READ:
        return ()
    try:
        entries = json.loads(value)
    except (ValueError, RecursionError):
        return ()
    read = [_read(entry) for entry in entries[-MAX_ATTEMPTS:]] if isinstance(entries, list) else []
    return tuple(attempt for attempt in read if attempt is not None)


def _written(attempt: Attempt) -> dict[str, str | int]:
    """The object of an attempt; what is not known is left out."""
    fields: dict[str, str | int] = {"outcome": attempt.outcome.value}
    if attempt.began_at is not None:
        fields["began_at_ms"] = milliseconds(attempt.began_at)
    if attempt.duration is not None:
        fields["duration_ms"] = round(min(max(0.0, attempt.duration), _LONGEST_SECONDS) * 1000)
    texts = {"worker": attempt.worker, "exception_type": attempt.exception_type, "place": attempt.place}
    fields |= {name: text for name, text in texts.items() if text}
    if attempt.replays:
        fields["replays"] = attempt.replays
    return fields


def _read(entry: object) -> Attempt | None:
    if not isinstance(entry, dict):
        return None
    try:
        outcome = AttemptOutcome(_text(entry, "outcome"))
    except ValueError:
        return None
    began, lasted = _count(entry, "began_at_ms", END_OF_TIME), _count(entry, "duration_ms", _LONGEST_SECONDS * 1000)
    return Attempt(
        outcome=outcome,
        began_at=None if began is None else instant(began),
        duration=None if lasted is None else lasted / 1000,
        worker=_text(entry, "worker"),
        exception_type=_text(entry, "exception_type"),
        place=_text(entry, "place"),
        replays=_count(entry, "replays", MAX_REPLAYS) or 0,
    )


def _count(entry: dict[Any, Any], name: str, most: float) -> int | None:
    """A number that makes sense; None for anything else."""
    value = entry.get(name)
    return int(value) if is_number(value) and 0 <= value <= most else None


def _text(entry: dict[Any, Any], name: str) -> str:
    value = entry.get(name)
    return value if isinstance(value, str) else ""
