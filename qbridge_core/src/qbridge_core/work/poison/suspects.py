"""The suspects of one queue at the broker: counted, taken one by one, and written anew."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from qbridge_core.contract.client import QueueClient
from qbridge_core.contract.dead_letter import Failure, Reason, SuspectFailure
from qbridge_core.contract.headers import REPLAYS, TASK_ID, meta_int, meta_text
from qbridge_core.contract.message import Delivery
from qbridge_core.contract.names import worker_identity
from qbridge_core.errors import BrokerUnavailableError, QBridgeError
from qbridge_core.runtime.clock import monotonic
from qbridge_core.runtime.logs import logger
from qbridge_core.work.poison.marks import charged, suspicions
from qbridge_core.work.settle.failures import history_with

_log: Final = logger("qbridge.worker")
# One failure is no news: a connection is lost now and then, and the client reports that itself.
_BEAR: Final = 3
_WARN_EVERY: Final = 60.0


class Suspects:
    """What stands in a side queue. Thread-safe.

    Args:
        client: the broker.
        queue: the side queue.
        max_crashes: a message is poison after so many deaths, and runs alone after so many suspicions.
    """

    def __init__(self, client: QueueClient, queue: str, max_crashes: int) -> None:
        self._client = client
        self._queue = queue
        self._max_crashes = max_crashes
        self._failures = 0
        self._warn_at = 0.0

    def is_poison(self, delivery: Delivery) -> bool:
        """Whether a message has killed so many processes that it must not run again."""
        return charged(delivery) >= self._max_crashes

    def is_exhausted(self, delivery: Delivery) -> bool:
        """Whether a message was suspected so often that it must run alone."""
        return suspicions(delivery) >= self._max_crashes

    def count(self) -> int:
        """How many there are; none when the broker does not say."""
        try:
            stats = self._client.count(self._queue)
        except QBridgeError as exc:
            self._report(exc)
            return 0
        # One that is held may have a dead holder, which only ``receive`` finds out.
        count = stats.ready + stats.in_flight
        if not count:
            self._failures = 0
        return count

    def find(self, take: Callable[[int], Delivery | None], waiting: int) -> Delivery | None:
        """Call it with the number of messages there are, if any."""
        if not waiting:
            return None
        try:
            delivery = take(waiting)
        except QBridgeError as exc:
            self._report(exc)
            return None
        self._failures = 0
        return delivery

    def receive(self) -> Delivery | None:
        """The next one, if there is one."""
        for delivery in self._client.receive(self._queue, 1, 0.0):
            delivery.suspected = True
            return delivery
        return None

    def write_anew(self, delivery: Delivery, *, beside: bool) -> bool:
        """Put a copy at the end of the queue that says how it will run; False when the message has to run as it is."""
        crashes = charged(delivery)
        if not beside and self.is_exhausted(delivery):
            crashes = self._max_crashes - 1  # it has had its chances: a death alone decides
        now = self._client.clock.wall()
        failure = Failure(
            reason=Reason.CRASHED,
            attempts=delivery.attempts,
            crashes=crashes,
            first_failed_at=delivery.first_failed_at or now,
            last_failed_at=now,
            source_queue=self._queue,
            task_id=meta_text(delivery.meta, TASK_ID) or delivery.message_id or "",
            worker=worker_identity(),
            replays=meta_int(delivery.meta, REPLAYS),
            history=history_with(delivery, charged(delivery)),
        )
        copy = SuspectFailure.of(failure, suspicions(delivery), beside=beside)
        try:
            self._client.reject(delivery, requeue=True, failure=copy)
        except QBridgeError as exc:
            _log.debug("a task of %s that may have killed its worker cannot be written anew: %s", self._queue, exc)
            return False
        return True

    def _report(self, exc: QBridgeError) -> None:
        self._failures += 1
        now = monotonic()
        said_by_client = self._client.logs_outages and isinstance(exc, BrokerUnavailableError)
        if said_by_client or self._failures < _BEAR or now < self._warn_at:
            _log.debug("cannot look for tasks that may have killed their worker: %s", exc)
            return
        self._warn_at = now + _WARN_EVERY
        _log.warning(
            "cannot look for tasks in %s that may have killed their worker, %d times in a row: %s",
            self._queue, self._failures, exc, extra={"qbridge_queue": self._queue},
        )  # fmt: skip
