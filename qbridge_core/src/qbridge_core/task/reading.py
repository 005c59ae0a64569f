"""Makes of a message what a worker runs: a task, and the terms on which it runs."""

from __future__ import annotations

from qbridge_core.contract.envelope import Task, UnfitError, read_task
from qbridge_core.contract.headers import REASON, instant, meta_replays
from qbridge_core.contract.message import Delivery
from qbridge_core.runtime.clock import SYSTEM_CLOCK, Clock
from qbridge_core.task.formats.chosen import Formats
from qbridge_core.task.routing import NotYetError, Router
from qbridge_core.task.terms import Terms


class ExpiredTaskError(UnfitError):
    """Its time was over before it began."""

    reason = "expired"


class NotDueError(UnfitError):
    """Its time has not come.

    Attributes:
        due_at: when it comes (Unix time in seconds).
    """

    reason = "unsupported"

    def __init__(self, text: str, due_at: float, task_id: str | None = None) -> None:
        super().__init__(text, task_id)
        self.due_at = due_at


class UnreadableTaskError(UnfitError):
    """What reads it has raised something that it should not: its cause."""

    reason = "malformed"

    def __init__(self, task_id: str | None) -> None:
        super().__init__("it cannot be read", task_id)


class TaskReader:
    """Reads the messages of a queue. Thread-safe.

    Args:
        formats: of what formats they are; ``None`` for the envelope alone.
        router: tells tasks of several kinds apart, if there are some.
        terms: those of each task, where no router tells them apart.
        max_bytes: a longer message is malformed.
        clock: tells what has expired.
        again: it is for a child process, whose worker has read the messages before.
    """

    __slots__ = ("_clock", "_formats", "_max_bytes", "_minds_times", "_router", "_terms")

    def __init__(
        self,
        formats: Formats | None,
        router: Router | None,
        terms: Terms,
        max_bytes: int,
        *,
        clock: Clock = SYSTEM_CLOCK,
        again: bool = False,
    ) -> None:
        self._minds_times = not again
        self._clock = clock
        self._formats = formats
        self._router = router
        self._terms = terms
        self._max_bytes = max_bytes

    def read(self, delivery: Delivery) -> tuple[Task, Terms]:
        """Read a message that is about to run.

        Raises:
            UnfitError: it can never run, or not here, or not now. So is whatever else a format or the type of a payload
                raises, which is a user's code: no message ends a worker.
        """
        formats, router, most = self._formats, self._router, self._max_bytes
        try:
            task = read_task(delivery.body, most) if formats is None else formats.read(delivery, most)
            if (task.expires_at is not None or task.due_at is not None) and self._minds_times:
                _check_times(task, delivery, self._clock.wall())
            if router is not None:
                terms = router.route(task, delivery)
            else:
                terms = self._terms
                if task.args is not None:
                    task.payload = {"args": list(task.args), "kwargs": task.payload}
        except UnfitError:
            raise
        except Exception as exc:
            raise UnreadableTaskError(delivery.message_id) from exc
        return task, terms


def has_begun(delivery: Delivery) -> bool:
    """Whether a message may have been run before, or is one that somebody has sent back from a dead-letter queue."""
    if delivery.attempts or delivery.crashes or delivery.suspected:
        return True
    meta = delivery.meta
    if not meta:
        return False
    if REASON in meta or meta_replays(meta):
        return True
    return any(attempt.exception_type != NotYetError.__name__ for attempt in delivery.history)


def _check_times(task: Task, delivery: Delivery, now: float) -> None:
    if task.expires_at is not None and task.expires_at <= now and not has_begun(delivery):
        raise ExpiredTaskError(
            f"it expired {now - task.expires_at:.3f} s before a worker could begin it{_at(task.expires_at)}",
            task.task_id,
        )
    if task.due_at is not None and task.due_at > now:
        raise NotDueError(f"it is not to run before its time{_at(task.due_at)}", task.due_at, task.task_id)


def _at(moment: float) -> str:
    shown = instant(round(moment * 1000))
    return "" if shown is None else f", {shown.isoformat(timespec='milliseconds')}"
