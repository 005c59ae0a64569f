"""Bytes in JSON files: text where they are text, so that a reader sees what it is, and base64 where they are not."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any, Final

RECORDED_AS: Final = b"00000000"
"""Stands in all recorded names; a test puts as many characters of its own in its place, so that no length changes."""


def dump(data: bytes) -> str | dict[str, str]:
    """Bytes for a JSON file."""
    try:
        return data.decode()
    except UnicodeDecodeError:
        return {"base64": base64.b64encode(data).decode()}


def load(given: str | dict[str, str]) -> bytes:
    """The reverse of :func:`dump`."""
    return given.encode() if isinstance(given, str) else base64.b64decode(given["base64"])


def write(path: Path, record: dict[str, Any]) -> None:
    """Write a recording, a line for each small thing."""
    path.write_text(json.dumps(record, indent=1, ensure_ascii=False) + "\n")


def read(path: Path) -> dict[str, Any]:
    """Read a recording."""
    record: dict[str, Any] = json.loads(path.read_text())
    return record
