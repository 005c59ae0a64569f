"""A letter as people read it. Whatever is in it can do no harm to the terminal."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Final

from qbridge_core.cli.letters.story import story_of
from qbridge_core.cli.letters.times import shown
from qbridge_core.contract.dead_letter import DeadLetter
from qbridge_core.contract.envelope import MalformedTaskError, read_task
from qbridge_core.runtime.logtexts import escaped

MOST_SHOWN: Final = 10_000
"""Characters of a body or payload that are shown at most."""
_INDENT: Final = "  "


def lines_of(letter: DeadLetter) -> Iterator[str]:
    """All of a letter, line by line, each printable."""
    yield f"letter {escaped(letter.id)}"
    yield from _table(letter)
    yield from _section("history", "\n".join(story_of(letter)))
    if letter.headers:
        yield from _section("headers", "\n".join(f"{name}: {value}" for name, value in letter.headers.items()))
    if letter.traceback:
        yield from _section("traceback", letter.traceback)
    yield from _payload(letter)
    yield from _body(letter.body)


def error_of(letter: DeadLetter) -> str:
    """The type of its exception, and what that says."""
    return ": ".join(filter(None, (letter.exception_type, letter.exception_message)))


def _table(letter: DeadLetter) -> Iterator[str]:
    rows = {
        "task": letter.task_id,
        "message id": letter.message_id if letter.message_id != letter.task_id else None,
        "reason": letter.reason.value,
        "exception": error_of(letter),
        "source queue": letter.source_queue,
        "sent": None if letter.sent_at is None else shown(letter.sent_at.timestamp()),
        "first failed": shown(letter.first_failed_at),
        "last failed": shown(letter.last_failed_at),
        "attempts": letter.attempts,
        "crashes": letter.crashes or None,
        "replays": letter.replays or None,
        "worker": letter.worker,
    }
    for name, value in rows.items():
        if value not in (None, ""):
            yield f"{_INDENT}{name:<13} {escaped(str(value))}"


def _section(title: str, text: str, note: str = "") -> Iterator[str]:
    yield ""
    yield f"{title}{note}"
    for line in text.rstrip("\n").split("\n"):
        yield f"{_INDENT}{escaped(line)}".rstrip()


def _payload(letter: DeadLetter) -> Iterator[str]:
    try:
        payload = read_task(letter.body, len(letter.body)).payload
    except MalformedTaskError as exc:
        yield from _section("payload: none", str(exc))
        return
    text = json.dumps(payload, indent=2, ensure_ascii=False)
    yield from _section("payload", text[:MOST_SHOWN], _cut(len(text), "characters"))


def _body(body: bytes) -> Iterator[str]:
    """The original bytes: what is no text as Python writes it."""
    begin = body[:MOST_SHOWN]
    text = begin.decode("utf-8", "backslashreplace")
    yield from _section(f"body ({len(body):,} bytes)", text, _cut(len(body), "bytes"))


def _cut(length: int, unit: str) -> str:
    return f", the first {MOST_SHOWN:,} {unit} (--raw writes all bytes)" if length > MOST_SHOWN else ""
