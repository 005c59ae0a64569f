"""Plugins around runs that child processes can have, and handlers that see what they set."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from qbridge_core import TaskContext, hookimpl
from support.handlers import note

around: ContextVar[str] = ContextVar("around", default="nothing")


class Noting:
    """Notes in the file that the header ``file`` names what is entered and left, in which process, and with what."""

    @hookimpl
    def qbridge_task_run(self, task: TaskContext, system: str) -> Any:
        """Around each run."""
        return self._around(task.headers["file"], f"{system} {task.task_id}")

    @contextmanager
    def _around(self, path: str, name: str) -> Iterator[None]:
        token = around.set(name)
        note(path, f"{os.getpid()} entered {name}")
        try:
            yield
        except BaseException as exc:
            note(path, f"{os.getpid()} left {name} {type(exc).__name__}")
            raise
        else:
            note(path, f"{os.getpid()} left {name}")
            around.reset(token)


noting = Noting()


def see(payload: dict[str, Any]) -> None:
    """Note in a file what the plugin has set; then fail or sleep, if that is asked for."""
    note(payload["file"], f"{os.getpid()} sees {around.get()}")
    if payload.get("do") == "raise":
        raise ValueError
    if payload.get("do") == "sleep":
        time.sleep(3600)


async def see_later(payload: dict[str, Any]) -> None:
    """The same as a coroutine."""
    see(payload)
