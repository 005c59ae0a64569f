"""The side queue for messages that may be killing their workers.

When a worker process dies, every task that it held is a suspect, and only one of them may be guilty. A suspect is moved
to the queue ``<queue>.suspects``, from which a worker takes one message at a time and runs it alone: a process that
dies then leaves no doubt. So an innocent neighbour runs once more by itself and is done, and a guilty message is found
after ``max_crashes`` deaths.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Final

from qbridge_core.client import QueueClient
from qbridge_core.errors import BrokerUnavailableError, QBridgeError
from qbridge_core.logs import logger
from qbridge_core.message import Delivery
from qbridge_core.witness import current_witness

_log: Final = logger("qbridge.worker")
_LOOK_EVERY: Final = 5.0
_QUIET_POLL: Final = 0.01
_WORK_SHARE: Final = 5.0
# One failure is no news: a connection is lost now and then, and the client reports that itself.
_BEAR: Final = 3
_WARN_EVERY: Final = 60.0


def suspects_queue(queue: str) -> str:
    """The side queue of a queue."""
    return f"{queue}.suspects"


class Suspects:
    """Looks for suspects now and then. ``take`` is called by one thread at a time, the rest by any.

    Args:
        client: the broker.
        queue: the side queue.
    """

    def __init__(self, client: QueueClient, queue: str) -> None:
        self._client = client
        self._witness = current_witness()
        self.queue = queue
        self._look_at = 0.0
        self._failures = 0
        self._warn_at = 0.0

    def moved(self) -> None:
        """A suspect was put into the side queue: look soon."""
        self._look_at = 0.0

    def began(self, task_id: str) -> None:
        """A suspect is about to run alone."""
        self._witness.began(self.queue, task_id)

    def ended(self) -> None:
        """The suspect has been dealt with, and this process lives."""
        self._witness.ended()

    def last_death(self, task_id: str) -> str:
        """How the last process that ran this suspect alone ended; "" when nobody saw it."""
        return self._witness.last_death(self.queue, task_id)

    def take(self, is_quiet: Callable[[], bool], closed: threading.Event) -> Delivery | None:
        """The next suspect, when there is one and nothing else runs here; None otherwise."""
        began = time.monotonic()
        if began < self._look_at:
            return None
        try:
            # Counted first: a delivery that waits for the others to end would be charged when one of them kills us.
            if self._has_some() and self._wait_until(is_quiet, closed):
                for delivery in self._client.receive(self.queue, 1, 0.0):
                    self._failures = 0
                    return delivery  # and look again at once when it is done
            self._failures = 0
        except QBridgeError as exc:
            self._report(exc)
        # Waiting for long tasks to end stops the work; a suspect that another worker holds must not cause it often.
        now = time.monotonic()
        self._look_at = now + max(_LOOK_EVERY, _WORK_SHARE * (now - began))
        return None

    def _report(self, exc: QBridgeError) -> None:
        self._failures += 1
        now = time.monotonic()
        said_by_client = self._client.logs_outages and isinstance(exc, BrokerUnavailableError)
        if said_by_client or self._failures < _BEAR or now < self._warn_at:
            _log.debug("cannot look for suspects: %s", exc)
            return
        self._warn_at = now + _WARN_EVERY
        _log.warning(
            "cannot look for suspects in %s, %d times in a row: %s", self.queue, self._failures, exc,
            extra={"qbridge_queue": self.queue},
        )  # fmt: skip

    def _has_some(self) -> bool:
        """True when a message is ready or held; its holder may be dead, which only ``receive`` finds out."""
        stats = self._client.stats(self.queue)
        return stats.ready + stats.in_flight > 0

    @staticmethod
    def _wait_until(is_quiet: Callable[[], bool], closed: threading.Event) -> bool:
        while not is_quiet():
            if closed.wait(_QUIET_POLL):
                return False
        return True
