"""Handlers that fail, at places that tests know."""

from __future__ import annotations

import asyncio
import inspect
import json
import threading
from typing import Final

from qbridge_core import TaskContext


def at_once(payload: object) -> None:
    """Fail."""
    raise ValueError(payload)


def read(text: str) -> object:
    """Fail in a library."""
    return json.loads(text)


def through_a_library(payload: object) -> None:
    """Fail two calls below the handler."""
    read(f"no JSON {payload}")


def wait(payload: object) -> None:
    """Wait in a library until somebody puts an end to it."""
    while True:
        threading.Event().wait(0.01)


async def inner() -> None:
    """Fail."""
    raise ValueError


async def in_a_coroutine(payload: object) -> None:
    """Fail in a coroutine that the standard library awaits."""
    await asyncio.wait_for(inner(), 30.0)


async def in_a_coroutine_that_waits(payload: object) -> None:
    """Wait for longer than anybody lets it."""
    await asyncio.sleep(60.0)


def with_its_past(payload: object, task: TaskContext) -> None:
    """Fail with what the context tells."""
    raise ValueError(f"{task.sent_at}, {len(task.history)}, {task.due_at is not None}")


def _line(function: object, text: str) -> int:
    lines, first = inspect.getsourcelines(function)  # type: ignore[arg-type]
    return first + next(number for number, line in enumerate(lines) if text in line)


LINE: Final = _line(read, "json.loads")
INNER_LINE: Final = _line(inner, "raise")
PAST_LINE: Final = _line(with_its_past, "raise")
