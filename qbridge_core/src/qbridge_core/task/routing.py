"""A handler for tasks of several kinds, each of which runs on terms of its own."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any

from qbridge_core.contract.dead_letter import Reason
from qbridge_core.contract.envelope import Task, UnfitError
from qbridge_core.contract.message import Delivery
from qbridge_core.task.terms import Terms


class NotYetError(UnfitError):
    """No worker of this program can run the message, but one that is deployed later may.

    Args:
        text: what is missing.
        reason: why it is a dead letter, when it has waited long enough.
        patience: seconds that it may wait, counted from the first time that it was handed back.
        task_id: the id of the task, if it has one.
    """

    def __init__(self, text: str, reason: Reason, patience: float, task_id: str | None = None) -> None:
        super().__init__(text, task_id)
        self.reason = reason
        self.patience = patience


class Router(ABC):
    """A handler that tells tasks apart. Thread-safe; child processes must be able to unpickle it.

    It is called with what ``route`` has made of a payload. One whose ``__call__`` is ``async def`` runs on the event
    loop.

    Attributes:
        functions: all that it calls: what belongs to them is the handler's own code.
        terms: all terms that there are, at least one.
    """

    functions: Sequence[Callable[..., object]]
    terms: Sequence[Terms]

    @abstractmethod
    def route(self, task: Task, delivery: Delivery) -> Terms:
        """Find out what a message asks for: replace ``task.payload`` by what the handler is called with.

        Runs in a worker's thread, or in the event loop, before the run: it must be quick.

        Raises:
            UnfitError: it can never run, or not here.
        """

    @abstractmethod
    def __call__(self, payload: Any) -> object:
        """Run it."""
