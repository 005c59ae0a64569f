"""Each run has a context of its own (``contextvars``), and an idle worker keeps nothing of its last task."""

from __future__ import annotations

import gc
import threading
import weakref
from contextvars import ContextVar, Token
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from qbridge_core import Delivery, TaskManager
from qbridge_core.hookspecs import hookimpl
from qbridge_core.task.run import Run
from qbridge_memory import MemoryClient
from support.handlers import note_and_set_tenant, note_when_forgotten, notes
from support.wait import wait_for

tenant: ContextVar[str] = ContextVar("tenant", default="nobody")
seen: list[str] = []


@pytest.fixture(autouse=True)
def _nothing_seen() -> None:
    seen.clear()


def set_tenant(payload: str) -> None:
    """Note what is set, and set something else."""
    seen.append(tenant.get())
    tenant.set(payload)
    if payload == "fails":
        raise ValueError(payload)


async def set_tenant_later(payload: str) -> None:
    """The same as a coroutine."""
    set_tenant(payload)


@pytest.mark.parametrize("handler", [set_tenant, set_tenant_later])
def test_what_a_task_sets_in_its_context_is_not_seen_by_the_next(client: MemoryClient, handler: Any) -> None:
    """A tenant, a user or a trace that one task leaves in a ContextVar never reaches another, failed or not."""
    client.send_many("q", ["one", "fails", "two"])
    TaskManager(client, handler, "q", "d", max_workers=1, max_retries=1).run_until_idle(10)
    assert seen == ["nobody"] * 4


def test_what_a_task_sets_in_a_child_process_is_not_seen_by_the_next(client: MemoryClient, tmp_path: Path) -> None:
    """The same where one process runs one task after the other."""
    path = tmp_path / "notes"
    client.send_many("q", [str(path)] * 3)
    TaskManager(client, note_and_set_tenant, "q", "d", max_workers=1, executor="process").run_until_idle(20)
    assert notes(path) == ["nobody"] * 3


class Tracing:
    """A plugin that sets a variable for the handler, and takes it back when the task has ended."""

    def __init__(self) -> None:
        self.token: Token[str] | None = None

    @hookimpl
    def qbridge_task_started(self, task_id: str) -> None:
        """Set it."""
        self.token = tenant.set(f"span of {task_id}")

    @hookimpl
    def qbridge_task_succeeded(self) -> None:
        """Take it back, which is an error in another context."""
        seen.append(tenant.get())
        assert self.token is not None
        tenant.reset(self.token)
        seen.append(tenant.get())

    @hookimpl
    def qbridge_task_timed_out(self) -> None:
        """Look at it."""
        seen.append(tenant.get())


def test_the_hooks_of_a_task_share_its_context(client: MemoryClient) -> None:
    """What ``task_started`` sets is there in the handler and in the later hooks, where it can be taken back."""
    client.send("q", 1, task_id="t")
    handler = lambda _: seen.append(tenant.get())  # noqa: E731
    TaskManager(client, handler, "q", "d", max_workers=1, plugins=[Tracing()]).run_until_idle(10)
    assert seen == ["span of t", "span of t", "nobody"]


def test_the_hooks_of_a_timeout_see_a_copy_of_the_context(client: MemoryClient) -> None:
    """The thread that settles an abandoned run has what ``task_started`` has set for it."""
    release = threading.Event()
    client.send("q", 1, task_id="t")
    manager = TaskManager(
        client, lambda _: release.wait(20), "q", "d",
        max_workers=1, max_retries=0, task_timeout=0.05, plugins=[Tracing()],
    )  # fmt: skip
    manager.run_until_idle(10)
    release.set()
    assert seen == ["span of t"]


class Connection:
    """Something that a task opens, and that should be closed when the task has ended."""


def _open(payload: str) -> None:
    opened = Connection()
    held.set(opened)
    alive.append(weakref.ref(opened))
    if payload == "fails":
        raise ValueError(payload)


async def _open_later(payload: str) -> None:
    _open(payload)


held: ContextVar[Connection] = ContextVar("held")
alive: list[weakref.ref[Connection]] = []


@pytest.mark.parametrize("payload", ["succeeds", "fails"])
@pytest.mark.parametrize("handler", [_open, _open_later])
@pytest.mark.usefixtures("forgotten_records")
def test_an_idle_worker_keeps_nothing_of_its_last_task(client: MemoryClient, handler: Any, payload: str) -> None:
    """What the task left in its context is gone while the worker waits, without the garbage collector."""
    alive.clear()
    with TaskManager(client, handler, "q", "d", max_workers=1, max_retries=0) as manager:
        gc.disable()
        try:
            client.send("q", payload)
            manager.run_until_idle(10)
            wait_for(lambda: alive and alive[0]() is None)
        finally:
            gc.enable()


def _end_so(fate: str, _: object) -> None:
    _open(fate)


async def _end_so_later(fate: str, _: object) -> None:
    _open(fate)


@pytest.mark.parametrize("fate", ["succeeds", "fails"])
@pytest.mark.parametrize("handler", [_end_so, _end_so_later])
@pytest.mark.usefixtures("forgotten_records")
def test_an_idle_worker_keeps_no_message(client: MemoryClient, handler: Any, fate: str) -> None:
    """The last message and its run are nowhere any more while the worker waits for the next one."""
    others = _messages()
    with TaskManager(client, partial(handler, fate), "q", "d", max_workers=1, max_retries=0) as manager:
        client.send("q", 1)
        manager.run_until_idle(10)
        client.purge("d")
        wait_for(lambda: not [item for item in _messages() if all(item is not other for other in others)])


@pytest.mark.parametrize("deed", ["nothing", "reject"])
def test_an_idle_child_process_keeps_no_message(client: MemoryClient, tmp_path: Path, deed: str) -> None:
    """The memory that the last message took is free while the child waits for the next one."""
    path = tmp_path / "notes"
    payload = {"do": deed, "file": str(path)}
    with TaskManager(client, note_when_forgotten, "q", "d", max_workers=1, executor="process") as manager:
        for size in (1, 4 * 1024 * 1024):
            client.send("q", payload | {"filler": "x" * size})
            manager.run_until_idle(20)
        wait_for(lambda: notes(path) == ["forgotten"], 20)


def _messages() -> list[object]:
    """Each message and run that is alive; handlers that other tests have left hanging hold some."""
    gc.collect()
    return [item for item in gc.get_objects() if type(item) in (Delivery, Run)]
