"""A handler that forks: its copy never goes on as a worker."""

from __future__ import annotations

import os
import sys
import threading
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from qbridge_core import ConfigurationError, TaskManager
from qbridge_memory import MemoryClient
from support.handlers import note, notes
from support.wait import wait_for

ENDS: dict[str, tuple[Callable[[], None], int]] = {
    "returns": (lambda: None, 0),
    "raises": (lambda: _raise(ValueError("in the copy")), 1),
    "exits": (lambda: sys.exit(7), 7),
}


def _raise(error: BaseException) -> None:
    raise error


def _fork(path: str, end: Callable[[], None]) -> int:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # 3.12 warns of a fork beside threads
        child = os.fork()
    if child == 0:
        note(path, "copy")
        end()
    return child


@pytest.mark.parametrize("how", ENDS)
@pytest.mark.parametrize("kind", ["function", "coroutine"])
def test_g3_a_forked_copy_of_a_worker_ends_with_the_handler(
    client: MemoryClient, tmp_path: Path, kind: str, how: str
) -> None:
    """It ends where the handler does, as a program would; only the original settles the task and tells the hooks."""
    path = str(tmp_path / "notes")
    end, status = ENDS[how]
    children: list[int] = []

    def handler(payload: object) -> None:
        if (child := _fork(path, end)) == 0:
            return
        children.append(child)

    async def handler_later(payload: object) -> None:
        handler(payload)

    here = os.getpid()
    client.send("q", 1)
    used: Any = handler if kind == "function" else handler_later
    with TaskManager(client, used, "q", "d", max_workers=1) as manager:
        wait_for(lambda: children)
        _, ended = os.waitpid(children[0], 0)
        report = manager.run_until_idle(10)
    assert os.getpid() == here
    assert os.waitstatus_to_exitcode(ended) == status
    assert str(report) == "1 succeeded"
    assert notes(path) == ["copy"]
    assert threading.current_thread() is threading.main_thread()


def test_a_copy_of_a_running_manager_is_told_to_make_its_own(client: MemoryClient, tmp_path: Path) -> None:
    """A program that forks beside its workers learns why the manager that it sees there cannot be started."""
    path = str(tmp_path / "notes")
    manager = TaskManager(client, lambda payload: None, "q", "dead")

    def start() -> None:
        try:
            manager.start()
        except ConfigurationError as exc:
            note(path, str(exc))
        os._exit(0)

    with manager:
        os.waitpid(_fork(path, start), 0)
        assert manager.running
    (said,) = [line for line in notes(path) if line != "copy"]
    assert f"running in process {os.getpid()}" in said
    assert "create a client and a TaskManager in this process" in said
