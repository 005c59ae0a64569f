"""What handlers and hooks may ask of their manager: ``stop`` only asks, and what would wait for itself is refused."""

from __future__ import annotations

import asyncio
import contextvars
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from qbridge_core import ConfigurationError, Outcome, TaskManager, hookimpl
from qbridge_memory import MemoryClient
from support.wait import wait_for

GRACE = 20.0
Deed = Callable[[], object]


def in_the_handler(deed: Deed) -> Callable[[object], Any]:
    """A function."""
    return lambda payload: deed()


def in_a_coroutine(deed: Deed) -> Callable[[object], Any]:
    """A coroutine, in the thread of the loop."""

    async def handler(payload: object) -> None:
        deed()

    return handler


def in_a_thread_of_asyncio(deed: Deed) -> Callable[[object], Any]:
    """``asyncio.to_thread``."""

    async def handler(payload: object) -> None:
        await asyncio.to_thread(deed)

    return handler


def in_a_callback(deed: Deed) -> Callable[[object], Any]:
    """A callback on the loop of the handlers."""

    async def handler(payload: object) -> None:
        done = asyncio.Event()
        asyncio.get_running_loop().call_soon(lambda: (deed(), done.set()))
        await done.wait()

    return handler


def in_a_thread_with_the_context(deed: Deed) -> Callable[[object], Any]:
    """A thread of the handler's own, for which it waits."""

    def handler(payload: object) -> None:
        thread = threading.Thread(target=contextvars.copy_context().run, args=(deed,), daemon=True)
        thread.start()
        thread.join()

    return handler


PLACES = [in_the_handler, in_a_coroutine, in_a_thread_of_asyncio, in_a_callback, in_a_thread_with_the_context]


@pytest.mark.parametrize("place", PLACES, ids=lambda place: str(place.__name__))
def test_g16_stop_only_asks_where_it_would_wait_for_itself(client: MemoryClient, place: Any) -> None:
    """``stop`` returns at once, its task is done, and the manager ends long before its grace period."""
    client.send("q", 1)
    manager = TaskManager(client, place(lambda: manager.stop(now=False)), "q", "d", max_workers=2, grace_period=GRACE)
    begun = time.monotonic()
    manager.start()
    assert time.monotonic() - begun < GRACE / 2
    assert manager.report().succeeded == 1


@pytest.mark.parametrize("place", PLACES, ids=lambda place: str(place.__name__))
@pytest.mark.parametrize("what", ["run_until_idle", "__exit__"])
def test_g16_what_would_wait_for_itself_is_refused(client: MemoryClient, place: Any, what: str) -> None:
    """An error in the task says so at once, instead of a wait for a time that cannot come."""
    deeds = {
        "run_until_idle": lambda: manager.run_until_idle(60),
        "__exit__": lambda: manager.__exit__(None, None, None),
    }
    seen: list[str] = []

    def deed() -> None:
        try:
            deeds[what]()
        except ConfigurationError as exc:
            seen.append(str(exc))

    client.send("q", 1)
    manager = TaskManager(client, place(deed), "q", "d", max_workers=2, grace_period=GRACE, task_timeout=60)
    with manager:
        wait_for(lambda: seen, 10.0, "the error was raised")
        wait_for(lambda: manager.report().succeeded, 10.0, "the task is done")
    assert "stop() only asks there" in seen[0]


@pytest.mark.parametrize("kind", ["function", "coroutine"])
def test_g16_a_hook_may_stop_its_manager(client: MemoryClient, kind: str) -> None:
    """A hook of a task only asks, also when the handlers are coroutines."""

    class Plugin:
        @hookimpl
        def qbridge_task_succeeded(self) -> None:
            manager.stop()

    async def coroutine(payload: object) -> None:
        await asyncio.sleep(0)

    client.send("q", 1)
    handler: Any = coroutine if kind == "coroutine" else lambda payload: None
    manager = TaskManager(client, handler, "q", "d", max_workers=2, grace_period=GRACE, plugins=[Plugin()])
    begun = time.monotonic()
    manager.start()
    assert time.monotonic() - begun < GRACE / 2
    assert manager.report().succeeded == 1


def test_g16_a_coroutine_may_stop_another_manager_and_wait(client: MemoryClient) -> None:
    """Only its own manager is not waited for."""
    stopped: list[bool] = []

    async def handler(payload: object) -> None:
        other.stop()
        stopped.append(other._current.session is None or other._current.session.stopped.is_set())

    client.declare("other", "d")
    other = TaskManager(client, print, "other", "d", max_workers=1)
    client.send("q", 1)
    with other:
        report = TaskManager(client, handler, "q", "d", max_workers=1).run_until_idle(20.0)
    assert (report[Outcome.SUCCEEDED], stopped) == (1, [True])
