"""The end of a session: what runs may finish, the rest goes back, and what was settled reaches the broker.

Each step has its time, so that the whole fits into the grace period and 2.5 s more: with the client's ``disconnect`` it
must be over before Kubernetes' 30 s are. A broker that answers gets longer than one that is silent.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Final

from qbridge_core.contract.client import QueueClient
from qbridge_core.contract.message import Delivery
from qbridge_core.errors import QBridgeError
from qbridge_core.runtime.aside import Helper, aside
from qbridge_core.runtime.clock import monotonic
from qbridge_core.runtime.logs import logger
from qbridge_core.task.run import Run, in_words
from qbridge_core.work.flushes import flush
from qbridge_core.work.job import Job
from qbridge_core.work.pool import Pool
from qbridge_core.work.watch import Bell

if TYPE_CHECKING:
    from qbridge_core.work.pooled.suspects import AnyIsolation

_log: Final = logger("qbridge.manager")
LONGEST: Final = 2.5
"""Seconds that ``finish`` takes at most when the grace period is over."""
_HAND_BACK_TIME: Final = 1.8
_SILENCE: Final = 1.1
# Of the grace period, when it is not over: longer than a client waits for the copies of what it hands back.
_MOST_SILENCE: Final = 5.5
_CLOSING: Final = 1.0
_FLUSH_TIME: Final = 1.0
_LAST_FLUSH: Final = 0.25
_HURRY: Final = 0.5
_LEAVING_TIME: Final = 2.05
_HURRIED_LEAVING: Final = 1.0
_POLL: Final = 0.2
_JOIN_POLL: Final = 0.02
_NO_OTHER_REASON: Final = "a lock is never released, or the machine is too busy"
"""Why a step is not over that waits for nobody, or no longer."""


class Stopping:
    """Ends the work of a pool.

    Args:
        client: the broker.
        queue: what the log calls that of the pool.
        job: what the pool works on.
        pool: the workers.
        isolation: what runs suspects, if anything does.
        give_up: set when the workers must end now.
        requests: tells how often somebody has asked to stop.

    Attributes:
        step: what is not done yet, and why; for the log, when the time is over.
    """

    def __init__(
        self,
        client: QueueClient,
        queue: str,
        job: Job,
        pool: Pool,
        isolation: AnyIsolation | None,
        give_up: threading.Event,
        requests: Callable[[], int],
    ) -> None:
        self._client = client
        self._queue = queue
        self._job = job
        self._pool = pool
        self._isolation = isolation
        self._give_up = give_up
        self._requests = requests
        self._over = threading.Event()
        self._drained_by = 0.0
        self._settled_before = self._done_before = 0
        self._steps = 0
        self.step = f"it has not begun: {_NO_OTHER_REASON}"
        self._helpers: set[int] = set()

    def owns_current_thread(self) -> bool:
        """True in a thread that this one waits for."""
        return threading.get_ident() in self._helpers

    def drain(self, grace_period: float, notice: Callable[[], None], bell: Bell) -> None:
        """Let the running tasks finish within the grace period.

        Args:
            grace_period: seconds; a second request to stop ends them.
            notice: tells plugins; it may take as long.
            bell: rung whenever something has happened.
        """
        deadline = self._drained_by = monotonic() + grace_period
        dispatcher = self._job.dispatcher
        self._settled_before = self._job.settler.settled
        self._done_before = self._done if dispatcher.resting.rests else 0
        self.step = f"the workers have not been told: {_NO_OTHER_REASON}"
        dispatcher.shut()
        if self._isolation is not None:
            self._isolation.stop()
        self.step = f"it still waits for the tasks that run: {_NO_OTHER_REASON}"

        begun = threading.Event()

        def begin() -> None:
            try:
                dispatcher.close()
                notice()
            finally:
                begun.set()
                bell.notify()  # often the last thing that is waited for

        beginning = closing = self.call("qbridge-stopping", begin)
        closed_at = monotonic()
        while True:
            left = deadline - monotonic()
            if (begun.is_set() and not self._is_busy) or left <= 0 or self._requests() > 1:
                return
            bell.wait(min(self._pool.expire(), left, _POLL))
            is_late = monotonic() - closed_at >= _POLL
            if is_late and self._pool.alive and (closing is beginning or not closing.is_alive()):
                # Once more: a reader may have passed its check just before.
                closed_at = monotonic()
                closing = self.call("qbridge-unsubscribe", dispatcher.close)

    def finish(self, *, patient: bool) -> None:
        """Hand back what did not finish, as far as the broker answers in time, flush, and see the lifespan left.

        The rest it delivers again when the client disconnects or its process ends.

        Args:
            patient: whether the lifespan has what is left of the grace period.
        """
        self.step = f"the tasks that run have not been taken over: {_NO_OTHER_REASON}"
        self._give_up.set()
        begin, requests = monotonic(), self._requests()
        spare = min(_MOST_SILENCE, self._drained_by - begin)
        answers = self._give_back(spare)
        left = max(spare, _HAND_BACK_TIME) - (monotonic() - begin)
        if self._done > self._done_before:  # the broker has what was settled before a rest
            self._flush(max(_LAST_FLUSH, min(_FLUSH_TIME, left)) if answers else _LAST_FLUSH, left)
        self._over.set()
        self.step = "the lifespan is not left"
        latest = begin + (_LEAVING_TIME if requests < 2 else _HURRIED_LEAVING)
        self._wait_for_lifespan(max(latest, self._drained_by) if patient and requests < 2 else latest, requests)
        self._job.abandoned.end()

    def _wait_for_lifespan(self, latest: float, requests: int) -> None:
        """It is being left since the executor was closed."""
        leaving = [each for each in (self._job.executor, self._isolation) if each is not None]
        while not all(each.has_left for each in leaving):
            now = monotonic()
            if requests < 2 <= self._requests():
                requests, latest = 2, min(latest, now + _HURRY)
            if now > latest:
                _log.warning("the lifespan was not left in time; the worker ends without that")
                for each in leaving:
                    each.abandon()
                return
            time.sleep(_JOIN_POLL)

    def give_back(self, deliveries: Sequence[Delivery]) -> None:
        """Return what no worker has begun, in a thread of its own: the broker may be slow."""
        self.call("qbridge-return", lambda: self._job.settler.hand_back_all(deliveries))

    @property
    def _is_busy(self) -> bool:
        return self._pool.alive or (self._isolation is not None and self._isolation.busy)

    def call(self, name: str, call: Callable[[], None]) -> Helper:
        """Call something in a thread of its own, which counts as one that the session waits for."""

        def registered() -> None:
            self._helpers.add(threading.get_ident())
            try:
                call()
            finally:
                self._helpers.discard(threading.get_ident())

        return aside(name, registered)

    def _give_back(self, spare: float) -> bool:
        """False when it was not done in time, or somebody could not wait.

        Args:
            spare: seconds that are left of the grace period.
        """
        runs = self._pool.claim_running()
        if self._isolation is not None:
            runs += self._isolation.claim_running()
        for run in runs:
            self._job.abandoned.watch(run, is_late=False)
        self.step = "the broker has not taken back what did not finish"
        # In a thread of its own: with a broker that does not answer it may take seconds.
        helper = self.call("qbridge-hand-back", lambda: self._hand_back(runs))
        begin = heard = monotonic()
        steps, requests = self._steps, self._requests()  # one more request, and there is no time for this either
        while helper.is_alive():
            helper.join(_JOIN_POLL)
            now = monotonic()
            if self._steps != steps:
                steps, heard = self._steps, now
            silence = _SILENCE if steps else _CLOSING  # the executor comes first, and ends what it runs in its own time
            if now - heard > self._patience(max(spare, silence)):
                return False
            if now - begin > self._patience(max(spare, _HAND_BACK_TIME)):
                return False
            if self._requests() != requests:
                return False
        return True

    def _patience(self, seconds: float) -> float:
        """How long to wait for the broker: hardly, when somebody has asked twice to stop."""
        return seconds if self._requests() < 2 else min(seconds, _HURRY)

    def _hand_back(self, runs: Sequence[Run]) -> None:
        self._job.executor.close()  # what goes back must not go on here
        if self._isolation is not None:
            self._isolation.close()
        self._steps += 1
        left = self._job.dispatcher.left_over()[::-1]  # each goes to the front: this keeps their order
        self._job.settler.hand_back_all(self._in_turn(runs, left))

    def _in_turn(self, runs: Sequence[Run], left: Sequence[Delivery]) -> Iterator[Delivery]:
        for run in runs:
            if self._over.is_set():
                return  # the time was over
            fields = run.log_fields()
            _log.warning("%s did not finish in time; it goes back to the queue", in_words(fields), extra=fields)
            yield run.delivery
            self._steps += 1
        for delivery in left:
            yield delivery
            self._steps += 1

    @property
    def _done(self) -> int:
        """Grows with all that may have to be flushed."""
        return self._job.dispatcher.received + self._job.settler.settled

    def _flush(self, seconds: float, longest: float) -> None:
        flushed: list[bool] = []
        self.step = "the broker has not taken the last settlements"

        def flush_together() -> None:
            try:
                flushed.append(flush(self._client, self._patience(seconds)))
            except QBridgeError as exc:
                _log.warning(
                    "the last settlements of %s did not reach the broker: %s", self._queue, exc,
                    extra={"qbridge_queue": self._queue},
                )  # fmt: skip
                flushed.append(True)

        # In a thread of its own: a lock of the client may be held by a handler that hangs.
        patience = max(seconds, min(2 * seconds, longest))  # there may be another flush before
        self.call("qbridge-flush", flush_together).join(self._patience(patience) + _JOIN_POLL)
        if not any(flushed):
            _log.warning(
                "some settlements of %s did not reach the broker, of %d since its worker began to stop; those tasks "
                "will be delivered again",
                self._queue, self._job.settler.settled - self._settled_before, extra={"qbridge_queue": self._queue},
            )  # fmt: skip
