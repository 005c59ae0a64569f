"""One execution of a handler."""

from __future__ import annotations

import math
import threading
from collections.abc import Mapping

from qbridge_core.contract.headers import TASK_ID, meta_text
from qbridge_core.contract.message import Delivery, new_id
from qbridge_core.runtime.clock import monotonic
from qbridge_core.task.scope import Scope
from qbridge_core.task.terms import Terms


class Run:
    """One execution of a handler. Whoever claims it first (the worker's thread or the watchdog) settles it.

    Attributes:
        delivery: the message.
        task_id: the task's id.
        terms: how long it may take, and what decides about another attempt.
        attempt: 1 for the first run.
        started_at: ``monotonic()`` at the start.
        deadline: ``monotonic()`` at which the run times out; infinite while it waits for its turn.
        cancelled: True when somebody else than the worker's thread has claimed it.
        in_handler: True while the handler is being called.
        raised: the name of the type that the handler raised, as long as that is being read; "" otherwise.
        scope: what plugins have entered around it; None when no plugin wants to.
    """

    __slots__ = (
        "_right_to_settle",
        "attempt",
        "cancelled",
        "deadline",
        "delivery",
        "in_handler",
        "raised",
        "scope",
        "started_at",
        "task_id",
        "terms",
    )

    def __init__(self, delivery: Delivery, task_id: str, terms: Terms) -> None:
        self.delivery = delivery
        self.task_id = task_id
        self.terms = terms
        self.attempt = delivery.attempts + 1
        self.started_at = monotonic()
        self.deadline = self.started_at + terms.timeout
        self.cancelled = False
        self.in_handler = False
        self.raised = ""
        self.scope: Scope | None = None
        self._right_to_settle = threading.Lock()

    def await_turn(self) -> None:
        """Let its time not begin before ``restart``: others run where it is to run."""
        self.deadline = math.inf

    @property
    def awaits_turn(self) -> bool:
        """Whether its time has not begun."""
        return self.deadline == math.inf

    def restart(self) -> None:
        """Let the time that it has begin now."""
        self.started_at = monotonic()
        self.deadline = self.started_at + self.terms.timeout

    def claim(self) -> bool:
        """Take the right to settle; True for the first caller only."""
        return self._right_to_settle.acquire(blocking=False)

    def cancel(self) -> bool:
        """Take the right to settle away from the worker's thread; False when that was quicker."""
        if not self.claim():
            return False
        self.cancelled = True
        return True

    def log_fields(self) -> dict[str, object]:
        """What every log record about this run carries."""
        return {"qbridge_task_id": self.task_id, "qbridge_queue": self.delivery.queue, "qbridge_attempt": self.attempt}


def in_words(fields: Mapping[str, object]) -> str:
    """A task as the text of a log calls it, from the fields that the record carries."""
    return f"task {fields['qbridge_task_id']} of {fields['qbridge_queue']}, attempt {fields['qbridge_attempt']},"


def task_id_of(delivery: Delivery) -> str:
    """The id of a task that has none of its own: what it was called before, its message's, or a new one."""
    return meta_text(delivery.meta, TASK_ID) or delivery.message_id or new_id()
