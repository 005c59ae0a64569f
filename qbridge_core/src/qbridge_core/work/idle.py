"""Tells whether a manager has no work left, or none that anybody does."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from qbridge_core.contract.client import QueueClient
from qbridge_core.contract.names import suspects_queue
from qbridge_core.errors import IdleTimeoutError, QBridgeError, QueuePausedError, TransientError
from qbridge_core.runtime.clock import monotonic
from qbridge_core.task.outcome import RunReport
from qbridge_core.work.currentsession import CurrentSession
from qbridge_core.work.session import Session

_POLL: Final = 0.02


class WorkLeft:
    """What is left to do for a manager.

    Args:
        client: the broker.
        queues: where its tasks come from.
        report: tells what has been done.
    """

    def __init__(self, client: QueueClient, queues: Sequence[str], report: Callable[[], RunReport]) -> None:
        self._client = client
        self._queues = queues
        self._report = report

    def is_done(self, session: Session) -> bool:
        """Whether the queues are empty.

        Raises:
            QueuePausedError: all but paused ones are, and nobody does what is left.
        """
        left = [queue for queue in self._queues if not is_empty(self._client, queue)]
        for queue in left:
            if not (session.rests_from(queue) and is_at_rest(self._client, queue)):
                return False
        if left:
            report = self._report()
            raise QueuePausedError(
                f"{left[0]!r} still has work, and is paused: no worker takes it before resume({left[0]!r}) ({report})",
                report,
            )
        return True

    def wait(self, current: CurrentSession, timeout: float, deadline: float) -> None:
        """Wait until the queues are empty.

        Args:
            current: what works on them.
            timeout: seconds, for the text of the error.
            deadline: when they are over (``monotonic()``).

        Raises:
            IdleTimeoutError: they are not empty by then.
            QueuePausedError: as ``is_done``.
            BaseException: what has ended the session.
        """
        session = current.session
        # Twice in a row: a delivery can be on its way between the broker's count and the client's.
        quiet = 0
        while quiet < 2:
            if session is None or session.error is not None or session.stopped.is_set():
                raise current.error or QBridgeError("the manager stopped before the queue was empty")
            quiet = quiet + 1 if self.is_done(session) else 0
            if quiet == 0 and monotonic() > deadline:
                report = self._report()
                raise IdleTimeoutError(
                    f"{', '.join(self._queues)!r} still has work after {timeout:g} s ({report})", report
                )
            session.stopped.wait(_POLL)


def is_empty(client: QueueClient, queue: str) -> bool:
    """True when nothing is ready, in flight or delayed, neither in the queue nor beside it; False when nobody knows."""
    queues = [queue, suspects_queue(queue)] if client.capabilities.crashes else [queue]
    try:
        counts = [client.count(each) for each in queues]
    except TransientError:
        return False
    return all(stats.ready == stats.in_flight == stats.delayed == 0 for stats in counts)


def is_at_rest(client: QueueClient, queue: str) -> bool:
    """True when the queue is paused and nothing of it is in flight any more; False when nobody knows."""
    try:
        stats = client.count(queue)
    except TransientError:
        return False
    return stats.paused is True and stats.in_flight == 0
