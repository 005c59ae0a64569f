"""One run of a ``TaskManager``, from its start to the end of its graceful stop."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import Final, TypeVar

from qbridge_core.client import QueueClient, worker_identity
from qbridge_core.context import current_run
from qbridge_core.errors import QBridgeError
from qbridge_core.isolation import Isolation
from qbridge_core.logs import logger
from qbridge_core.message import Delivery
from qbridge_core.run import Run
from qbridge_core.wakeup import Wakeup
from qbridge_core.worker import Job, WorkerPool

_log: Final = logger("qbridge.manager")
T = TypeVar("T")
_DRAIN_POLL: Final = 0.2
_STALE_POLL: Final = 1.0
# Together with the default grace period less than the 30 s that Kubernetes allows.
_HAND_BACK_TIME: Final = 2.0
_FLUSH_TIMEOUT: Final = 2.0
_HURRY: Final = 0.5
_JOIN_POLL: Final = 0.05
_LONGEST_SLEEP: Final = 3600.0  # the platform's own limit on waiting is far away, but finite


class Session:
    """One run of a TaskManager from start to stop."""

    def __init__(
        self,
        client: QueueClient,
        job: Job,
        input_queue: str,
        workers: int,
        max_abandoned: int,
        grace_period: float,
        give_up: threading.Event,
        isolation: Isolation | None = None,
    ) -> None:
        self.stopped = threading.Event()
        self.pid = os.getpid()
        self._client = client
        self._job = job
        self._queue = input_queue
        self._grace_period = grace_period
        self._give_up = give_up
        self._isolation = isolation
        self.wakeup = Wakeup()
        self._stop_requests = 0
        self._pool = WorkerPool(job, workers, max_abandoned, self.wakeup)
        self._thread: int | None = None

    def request_stop(self, times: int = 1) -> None:
        """Begin to stop, the second time at once; may be called from any thread and from a signal handler."""
        self._job.intake.ending = True
        self._stop_requests = max(times, self._stop_requests)
        self.wakeup.notify()

    def request_stop_by_signal(self) -> None:
        """Begin to stop, or end the grace period when already stopping."""
        self._job.intake.ending = True
        self._stop_requests += 1
        self.wakeup.notify()

    def waits_for_caller(self) -> bool:
        """True where waiting for the end would be waiting for oneself.

        That is in the threads of the supervisor, the workers and the executor, and in each other one that runs in a
        copy of a running handler's context.
        """
        return (
            threading.get_ident() == self._thread
            or self._pool.owns_current_thread()
            or self._job.executor.owns_current_thread()
            or self._pool.runs(current_run.get())
        )

    def run(self) -> None:
        """Process tasks until a stop is requested; then drain."""
        self._thread = threading.get_ident()
        worker = worker_identity()
        _log.info("worker %s consumes %s", worker, self._queue, extra={"qbridge_queue": self._queue})
        try:
            self._job.intake.open()
            self._job.lifecycle.worker_started(queue=self._queue, worker=worker)
            self._pool.start()
            if self._isolation is not None:
                self._isolation.start()
            while not self._stop_requests and self._pool.error is None:
                self._sleep(min(self._pool.expire(), _STALE_POLL))
                self._return_stale()
            self._job.intake.close()
            self._job.lifecycle.worker_stopping(queue=self._queue, worker=worker)
        finally:
            try:
                self._drain()
                self._pool.count_stuck()  # also those that came last
            finally:
                self.stopped.set()
        _log.info("worker %s stopped", worker, extra={"qbridge_queue": self._queue})
        if self._pool.error is not None:
            raise self._pool.error

    def _return_stale(self) -> None:
        """Give back what was read ahead and waits behind tasks that turned out to be long."""
        if stale := self._job.intake.stale():
            # In a thread of its own: the broker may be slow, and the watch over the runs must go on.
            _aside("qbridge-return", self._return, stale)

    def _return(self, deliveries: Sequence[Delivery]) -> None:
        for delivery in deliveries:
            self._job.settler.hand_back(delivery)

    def _drain(self) -> None:
        """Let the running tasks finish within the grace period; give back the rest."""
        deadline = time.monotonic() + self._grace_period
        while True:
            # Each time anew: a reader may have passed its check just before the first close.
            self._job.intake.close()
            if self._isolation is not None:
                self._isolation.stop()
            left = deadline - time.monotonic()
            if not self._is_busy or left <= 0 or self._stop_requests > 1:
                break
            self._sleep(min(self._pool.expire(), left, _DRAIN_POLL))
        self._give_up.set()
        self._give_back()
        self._flush()

    @property
    def _is_busy(self) -> bool:
        return self._pool.alive or (self._isolation is not None and self._isolation.busy)

    def _give_back(self) -> None:
        """Hand back what did not finish, as far as the broker answers in time.

        The rest it delivers again when the client disconnects or its process ends.
        """
        runs = self._pool.claim_running()
        if self._isolation is not None:
            runs += self._isolation.claim_running()
        # In a thread of its own: with a broker that does not answer each one may take seconds.
        helper = _aside("qbridge-hand-back", self._hand_back, runs)
        until = time.monotonic() + self._patience(_HAND_BACK_TIME)
        requests = self._stop_requests  # one more, and there is no time for this either
        while helper.is_alive() and self._stop_requests == requests and (left := until - time.monotonic()) > 0:
            helper.join(min(left, _JOIN_POLL))

    def _patience(self, seconds: float) -> float:
        """How long to wait for the broker: hardly, when somebody has asked twice to stop."""
        return seconds if self._stop_requests < 2 else min(seconds, _HURRY)

    def _hand_back(self, runs: Sequence[Run]) -> None:
        self._job.executor.close()  # what goes back must not go on here
        if self._isolation is not None:
            self._isolation.close()
        for run in runs:
            if self.stopped.is_set():
                return  # the time was over
            _log.warning(
                "task %s did not finish in time; it goes back to the queue",
                run.task_id,
                extra=run.log_fields(),
            )
            self._job.settler.hand_back(run.delivery)
        self._return(self._job.intake.left_over()[::-1])  # each goes to the front: this keeps their order

    def _flush(self) -> None:
        try:
            if not self._client.flush(self._patience(_FLUSH_TIMEOUT)):
                _log.warning("some settlements did not reach the broker; those tasks will be delivered again")
        except QBridgeError as exc:
            _log.warning("the last settlements did not reach the broker: %s", exc)

    def _sleep(self, seconds: float) -> None:
        self.wakeup.wait(min(seconds, _LONGEST_SLEEP))


def _aside(name: str, call: Callable[[T], None], argument: T) -> threading.Thread:
    """Call something in a thread of its own; in this one when the system has no thread left."""
    thread = threading.Thread(target=call, args=(argument,), name=name, daemon=True)
    try:
        thread.start()
    except RuntimeError:
        call(argument)
    return thread


@contextmanager
def stop_signals(session: Session) -> Iterator[None]:
    """SIGINT and SIGTERM stop the session, if this is the main thread (only there Python can install handlers)."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(number: int, frame: FrameType | None) -> None:
        del frame
        if session.pid == os.getpid():
            session.request_stop_by_signal()
            return
        # A process that a handler forked: whoever sends it a signal expects what would happen without a manager.
        signal.signal(number, previous[signal.Signals(number)])
        signal.raise_signal(number)

    previous = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    previous_fd = signal.set_wakeup_fd(session.wakeup.fileno(), warn_on_full_buffer=False)
    try:
        yield
    finally:
        signal.set_wakeup_fd(previous_fd)
        for number, handler in previous.items():
            signal.signal(number, handler)
