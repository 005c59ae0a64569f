"""What a session wants of its slots, whether they are threads or coroutines."""

from __future__ import annotations

from collections.abc import Container, Iterable
from typing import Protocol

from qbridge_core.errors import TooManyStuckTasksError
from qbridge_core.runtime.pulse import Stalled
from qbridge_core.task.foreign import Watched
from qbridge_core.task.run import Run


class Pool(Protocol):
    """What runs tasks in a number of slots, as a session sees it."""

    error: BaseException | None
    """Why it cannot go on."""

    def start(self) -> None:
        """Begin to take messages."""
        ...

    @property
    def alive(self) -> bool:
        """True while it takes messages, or holds some that are not settled."""
        ...

    def running_of(self, queues: Container[str]) -> int:
        """How many handlers run now whose messages came from one of these queues."""
        ...

    def owns_current_thread(self) -> bool:
        """True in a thread that it waits for."""
        ...

    def runs(self, run: Run | None) -> bool:
        """True for a run of its own that has not ended."""
        ...

    def expire(self) -> float:
        """End the runs whose time is over, and give up what hangs; return the seconds until the next one can be."""
        ...

    def count_stuck(self) -> None:
        """Have an error when too many handlers, or hooks and the like, hang."""
        ...

    def busy(self) -> Iterable[Watched]:
        """Its threads that are in code of ours, where no deadline counts."""
        ...

    def stalled(self, now: float) -> Iterable[Stalled]:
        """What else of it should turn. Waits for nobody, in any thread."""
        ...

    def claim_running(self) -> list[Run]:
        """Take over the runs that have not ended; their results are ignored from now on."""
        ...


def too_many(stuck: int, outside: int) -> TooManyStuckTasksError:
    """The error of a pool in which so many handlers hang, and so many of them outside of their own code."""
    return TooManyStuckTasksError(
        f"{stuck} handlers did not end after their timeout and hang"
        + (f" ({outside} of them in a hook, redact, a backoff or an exception)" if outside else "")
        + "; restart this process"
    )
