"""Routers for tests: a payload is ``[kind, anything]``."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable, Mapping
from typing import Any

from qbridge_core import ConstantBackoff, Delivery, Reason, RetryPolicy
from qbridge_core.contract.envelope import MalformedTaskError, Task
from qbridge_core.task.routing import NotYetError, Router
from qbridge_core.task.terms import Terms

KINDS = {
    "quick": Terms(0.3, RetryPolicy(0)),
    "slow": Terms(60.0, RetryPolicy(2)),
    "picky": Terms(60.0, RetryPolicy(5, ConstantBackoff(0.0), dead_letter_on=(LookupError,))),
}


def fail(_: object) -> None:
    """Fail."""
    raise LookupError("nothing there")


def hang(_: object) -> None:
    """Work for ever, in code that can be interrupted."""
    while True:
        pass


def die(_: object) -> None:
    """End the process."""
    os._exit(1)


def rest(_: object) -> None:
    """Wait where nothing can be interrupted."""
    time.sleep(1.0)


class Kinds(Router):
    """Calls ``action`` with what follows the kind."""

    def __init__(self, action: Callable[[Any], Any], kinds: Mapping[str, Terms] = KINDS, patience: float = 0.0) -> None:
        self.action = action
        self.functions = (action,)
        self.kinds = kinds
        self.terms = tuple(kinds.values())
        self.patience = patience

    def route(self, task: Task, delivery: Delivery) -> Terms:
        """The first item is the kind."""
        kind, task.payload = task.payload
        if kind == "broken":
            raise MalformedTaskError("it is broken", task.task_id)
        if kind not in self.kinds:
            raise NotYetError(f"nobody knows {kind}", Reason.UNKNOWN_TASK, self.patience, task.task_id)
        return self.kinds[kind]

    def __call__(self, payload: Any) -> object:
        """Do it."""
        return self.action(payload)


class AsyncKinds(Kinds):
    """The same on an event loop: waits for so many seconds."""

    async def __call__(self, payload: Any) -> object:
        """Do it."""
        await asyncio.sleep(payload)
        return self.action(payload)
