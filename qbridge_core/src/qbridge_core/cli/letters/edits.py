"""What an editor gets of a letter, and what is made of what comes back."""

from __future__ import annotations

import json
from typing import Any, NoReturn

from qbridge_core.contract.envelope import MalformedTaskError, read_task, write_task
from qbridge_core.errors import PayloadError


def editable(body: bytes) -> str:
    """The payload as JSON, or all of a body that is no task."""
    try:
        payload = read_task(body, len(body)).payload
    except MalformedTaskError:
        return body.decode("utf-8", "backslashreplace")
    return _json(payload, indent=2) + "\n"


def edited_body(body: bytes, text: bytes) -> bytes:
    """The new body: of a task the old one with another payload, of anything else the text itself, which is one now.

    Raises:
        ValueError: it is no task; the text says why.
    """
    document = _document(body)
    if document is None:
        return _checked(text.strip())
    try:
        payload = json.loads(text, parse_constant=_refuse)
        write_task(payload, "checked")
    except PayloadError as exc:
        raise ValueError(str(exc).replace("the payload of task 'checked'", "the payload")) from exc
    except (ValueError, RecursionError) as exc:
        raise ValueError(f"that is no JSON: {exc}") from exc
    return _checked(_json({**document, "payload": payload}, separators=(",", ":")).encode())


def _refuse(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def _json(value: object, **style: Any) -> str:
    """Readable, unless it has what UTF-8 cannot express."""
    text = json.dumps(value, ensure_ascii=False, **style)
    return text if text == text.encode("utf-8", "replace").decode() else json.dumps(value, **style)


def _document(body: bytes) -> dict[str, Any] | None:
    """The object that a task's body is."""
    try:
        read_task(body, len(body))
    except MalformedTaskError:
        return None
    found: dict[str, Any] = json.loads(body)
    return found


def _checked(body: bytes) -> bytes:
    try:
        read_task(body)
    except MalformedTaskError as exc:
        raise ValueError(f"that is no task: {exc}") from exc
    return body
