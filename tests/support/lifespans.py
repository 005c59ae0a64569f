"""Lifespans and their handlers for child processes, which must be able to import them.

What happens is noted in the file that the environment names, as ``event pid``; child processes inherit it.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

from qbridge_core import current_task
from support.handlers import note, notes

JOURNAL = "QBRIDGE_TEST_LIFESPANS"


def tell(event: str) -> None:
    """Note an event of this process."""
    note(os.environ[JOURNAL], f"{event} {os.getpid()}")


def events() -> list[tuple[str, int]]:
    """What was noted, in order, with the process that it happened in."""
    return [(event, int(pid)) for event, pid in (line.rsplit(" ", 1) for line in notes(os.environ[JOURNAL]))]


def events_of(pid: int) -> list[str]:
    """What happened in one process."""
    return [event for event, process in events() if process == pid]


@contextlib.contextmanager
def plain() -> Iterator[dict[str, Any]]:
    """Yield the process and the thread that it was entered in."""
    tell("enter")
    yield {"pid": os.getpid(), "thread": threading.get_ident()}
    tell("leave")


@contextlib.asynccontextmanager
async def with_loop() -> AsyncIterator[dict[str, Any]]:
    """Yield the process and the loop that it was entered in."""
    await asyncio.sleep(0)
    tell("enter")
    yield {"pid": os.getpid(), "loop": asyncio.get_running_loop()}
    await asyncio.sleep(0)
    tell("leave")


@contextlib.asynccontextmanager
async def slow_to_leave() -> AsyncIterator[None]:
    """Take a moment to leave."""
    tell("enter")
    yield
    await asyncio.sleep(1.5)
    tell("leave")


@contextlib.contextmanager
def slow_to_leave_apart() -> Iterator[None]:
    """Take a moment to leave in each process but the one that the environment names."""
    tell("enter")
    yield
    if os.environ[f"{JOURNAL}_PID"] != str(os.getpid()):
        time.sleep(1.5)
    tell("leave")


@contextlib.contextmanager
def never_left() -> Iterator[None]:
    """Hang at the end."""
    tell("enter")
    yield
    time.sleep(3600)


@contextlib.contextmanager
def broken() -> Iterator[None]:
    """Fail to be entered."""
    raise OSError("no database")
    yield


@contextlib.contextmanager
def broken_for_a_while() -> Iterator[None]:
    """Fail in the second and the third process that enters it."""
    tell("enter")
    if 1 < sum(event == "enter" for event, _ in events()) < 4:
        raise OSError("no database")
    yield


@contextlib.contextmanager
def broken_apart() -> Iterator[str]:
    """Fail in each process but the one that the environment names."""
    if os.environ[f"{JOURNAL}_PID"] != str(os.getpid()):
        tell("broken")
        raise OSError("no database")
    yield "here"


@contextlib.asynccontextmanager
async def with_a_task_that_fails() -> AsyncIterator[None]:
    """Have something in the background that fails when a file is there."""

    def wait_for_file() -> None:
        path = Path(f"{os.environ[JOURNAL]}.fail")
        while not path.exists():
            time.sleep(0.01)
        path.unlink()

    async def fail() -> None:
        await asyncio.to_thread(wait_for_file)
        raise OSError("the database is gone")

    tell("enter")
    async with asyncio.TaskGroup() as group:
        background = group.create_task(fail())
        yield
        background.cancel()
    tell("leave")


def work(payload: dict[str, Any]) -> None:
    """Note the task, and what it sees."""
    state = current_task().state
    if isinstance(state, dict):
        assert state["pid"] == os.getpid()
        assert state.get("thread", threading.get_ident()) == threading.get_ident()
        if "loop" in state:  # it turns, and not here
            asyncio.run_coroutine_threadsafe(asyncio.sleep(0), state["loop"]).result(10.0)
    tell(f"task {payload['id']}")
    _do(payload)


async def work_on_loop(payload: dict[str, Any]) -> None:
    """The same as a coroutine."""
    await asyncio.sleep(0)
    state = current_task().state
    if isinstance(state, dict):
        assert state["pid"] == os.getpid()
        assert state.get("thread", threading.get_ident()) == threading.get_ident()
        assert state.get("loop", asyncio.get_running_loop()) is asyncio.get_running_loop()
    tell(f"task {payload['id']}")
    if payload.get("do") == "sleep":
        try:
            await asyncio.sleep(3600)
        finally:
            tell("cancelled")
    _do(payload)


def _do(payload: dict[str, Any]) -> None:
    match payload.get("do"):
        case "sleep":
            time.sleep(3600)
        case "raise":
            raise LookupError("no such thing")
        case "kill":
            os.kill(os.getpid(), 9)


@contextlib.contextmanager
def never_yields() -> Iterator[None]:
    """Open nothing."""
    if not JOURNAL:
        yield


@contextlib.asynccontextmanager
async def never_yields_on_loop() -> AsyncIterator[None]:
    """The same for ``async with``."""
    if not JOURNAL:
        yield
