"""What a handler can learn about the run that it is in."""

from __future__ import annotations

from collections.abc import Mapping
from contextvars import ContextVar
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final

from qbridge_core.contract.headers import meta_replays
from qbridge_core.errors import ConfigurationError
from qbridge_core.runtime.clock import monotonic
from qbridge_core.runtime.logjson import tell_too

if TYPE_CHECKING:
    from qbridge_core.contract.history import Attempt
    from qbridge_core.task.run import Run

current_run: Final[ContextVar[Run | None]] = ContextVar("qbridge_run", default=None)
current_state: Final[ContextVar[Any]] = ContextVar("qbridge_state", default=None)
"""What the lifespan of a manager yields."""


class HandlerTimeout(BaseException):
    """Raised once inside a handler whose time is over, when control is next in the code of its own top-level package.

    Not an ``Exception``, so that a handler's ``except Exception`` does not swallow it. It is not raised in libraries,
    whose locks would stay held, nor in ``with`` lines and ``finally`` blocks. It cannot reach code that waits in C
    (``time.sleep``, a socket) or never comes back from a library: such a thread is abandoned.
    """

    __module__ = "qbridge_core"  # what a dead letter calls it, wherever it is defined


class TaskContext:
    """The running task, seen from its handler. Get it with :func:`current_task`.

    Attributes:
        task_id: the task's id.
        message_id: its message's id, when that has one.
        queue: the queue it came from.
        attempt: 1 for the first run.
        headers: the producer's headers.
        deadline: ``monotonic()`` at which the run times out; real time, also where a test moves that of the broker.
        state: what the manager's ``lifespan`` yields, the same object for all tasks of a process; None without one.
    """

    __slots__ = ("_run", "attempt", "deadline", "headers", "message_id", "queue", "state", "task_id")

    def __init__(self, run: Run) -> None:
        self._run = run
        self.task_id: str = run.task_id
        self.message_id: str | None = run.delivery.message_id
        self.queue: str = run.delivery.queue
        self.attempt: int = run.attempt
        self.headers: Mapping[str, Any] = run.delivery.headers
        self.deadline: float = run.deadline
        self.state: Any = current_state.get()

    @property
    def remaining(self) -> float:
        """Seconds until the deadline; 0 when it is over."""
        return max(0.0, self.deadline - monotonic())

    @property
    def sent_at(self) -> datetime | None:
        """When the message was sent (UTC); see :attr:`~qbridge_core.Delivery.sent_at`."""
        return self._run.delivery.sent_at

    @property
    def due_at(self) -> datetime | None:
        """From when on this attempt might run (UTC); see :attr:`~qbridge_core.Delivery.due_at`."""
        return self._run.delivery.due_at

    @property
    def replays(self) -> int:
        """How often it was sent back from a dead-letter queue; ``attempt`` counts anew each time."""
        return meta_replays(self._run.delivery.meta)

    @property
    def history(self) -> tuple[Attempt, ...]:
        """The last attempts before this one, the oldest first; see :attr:`~qbridge_core.Delivery.history`."""
        return self._run.delivery.history

    @property
    def cancelled(self) -> bool:
        """True when the run's result no longer counts: it timed out, or the worker stopped without it."""
        return self._run.cancelled or monotonic() > self.deadline


def _log_fields() -> dict[str, object]:
    """Those of the run in whose context a record arises."""
    run = current_run.get()
    return {} if run is None else run.log_fields()


tell_too(_log_fields)


def current_task() -> TaskContext:
    """The task whose handler is running in this thread.

    Raises:
        ConfigurationError: no handler is running here. A thread that a handler starts sees the task only when it runs
            in a copy of the handler's context (``contextvars.copy_context``).
    """
    run = current_run.get()
    if run is None:
        raise ConfigurationError("current_task() was called outside of a handler")
    return TaskContext(run)
