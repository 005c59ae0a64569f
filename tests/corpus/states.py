"""What is sent for a recording, and so what has to come out of it again."""

from __future__ import annotations

from typing import Any, Final

from corpus.texts import RECORDED_AS

FAMILY: Final = f"corpus-{RECORDED_AS.decode()}."
"""All queues of a recording begin with it; behind it stands the state of what is there."""

HEADERS: Final = {
    "tenant": "blue",
    "empty": "",
    "größe": "10 €",
    "body": "a name of QBridge's own fields",
    "long": "x" * 300,
}

PAYLOADS: Final[dict[str, Any]] = {
    "null": None,
    "true": True,
    "zero": 0,
    "large number": 2**70,
    "float": -1.5e-7,
    "empty text": "",
    "text": 'Zoë said "ok"\n\t\u2028 😀 \x7f\\',
    "empty list": [],
    "empty object": {},
    "nested": {"a": [1, [2, {"b": None}]], "": "no name", "x-qbridge-attempts": 9, "payload": {"payload": 1}},
    "long text": "é" * 300,
}

BROKEN_BODIES: Final = (
    b"",
    b"not json",
    b"[1]",
    b'{"no":"payload"}',
    b'{"payload":NaN}',
    b"\xff\xfe\x00",
    b"\x1f\x8b\x08",
)

DELAYS: Final = {"soon": 3.2, "of a minute": 60.0, "of an hour": 3_600.5, "of a month": 30 * 86_400.0}
"""In seconds. The first is one that a test can wait for."""
