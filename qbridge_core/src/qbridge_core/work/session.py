"""One run of a ``TaskManager``, from its start to the end of its graceful stop."""

from __future__ import annotations

import functools
import logging
import os
import threading
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Final

from qbridge_core.contract.client import QueueClient
from qbridge_core.contract.names import suspects_queue, worker_identity
from qbridge_core.errors import QBridgeError
from qbridge_core.runtime.aside import Helper, aside
from qbridge_core.runtime.clock import monotonic
from qbridge_core.runtime.logs import logger
from qbridge_core.runtime.signals import signal_name
from qbridge_core.task import foreign
from qbridge_core.task.context import current_run
from qbridge_core.telemetry.health import Health
from qbridge_core.work import health
from qbridge_core.work.job import Job
from qbridge_core.work.line import Line
from qbridge_core.work.pausing import Pausing, QueueOfPool, Taker
from qbridge_core.work.pool import Pool
from qbridge_core.work.rest import MANY, pause
from qbridge_core.work.stopping import LONGEST, Stopping
from qbridge_core.work.watch import Bell, watch
from qbridge_core.work.workerpool import WorkerPool

if TYPE_CHECKING:
    from qbridge_core.work.poison.isolation import Isolation
    from qbridge_core.work.pooled.reading import PoolReader
    from qbridge_core.work.pooled.suspects import AnyIsolation

_log: Final = logger("qbridge.manager")
_STALE_POLL: Final = 1.0
STOP_CALLED: Final = "stop() was called"
INTERRUPTED: Final = "the program was interrupted"
LOOK_EVERY: Final = 0.25
"""Seconds between two looks of whoever waits for the end: signal handlers run in between, on every system."""
_JOIN_POLL: Final = 0.05
_LONGEST_HURRY: Final = 1.3


class Session:
    """One run of a TaskManager from start to stop.

    It begins in the thread that calls ``run``, goes on without one, and ends in another one: all that it needs in
    between is a look now and then, which is the business of the :mod:`~qbridge_core.work.watch`.

    Attributes:
        stopped: set at the end.
        error: what ended it, unless it was asked to stop; set as soon as it is known.
        pid: the process that it belongs to.
        starter: the thread that waits for it in ``start``, if one does.
        bell: rung when it should be called now.
        opened: set when the lifespan is entered, or there is none, or the session ends.
        stop_reason: who has asked to stop; "" as long as nobody has.
    """

    def __init__(
        self,
        client: QueueClient,
        job: Job,
        lines: Sequence[Line],
        workers: int,
        max_abandoned: int,
        grace_period: float,
        give_up: threading.Event,
        reader: PoolReader | None = None,
    ) -> None:
        self.stopped = threading.Event()
        self.opened = threading.Event()
        self.error: BaseException | None = None
        self.starter: int | None = None
        self.pid = os.getpid()
        self._client = client
        self._job = job
        job.executor.lifespan_failed = self._lifespan_failed
        self._lines = lines
        self._queue = ", ".join(line.queue for line in lines)
        self._isolation = isolation = _together([line.isolation for line in lines if line.isolation is not None])
        self._grace_period = grace_period
        self.bell = Bell(self)
        self._stop_requests = 0
        self.stop_reason = ""
        self._pool: Pool
        if job.executor.on_loop:
            from qbridge_core.work.coroutinepool import CoroutinePool  # here, for others do without asyncio

            self._pool = CoroutinePool(job, workers, max_abandoned, self.bell, isolation)
        else:
            self._pool = WorkerPool(job, workers, max_abandoned, self.bell, isolation)
        job.dispatcher.resting.roused = functools.partial(watch.look_within_a_second, self)
        for line in lines:
            if line.isolation is not None:
                line.isolation.rouse = job.dispatcher.resting.rouse
        self._liveness = health.Liveness(client, job.dispatcher, self._pool, isolation)
        self._stopping = Stopping(client, self._queue, job, self._pool, isolation, give_up, lambda: self._stop_requests)
        self._pausings = {
            line.queue: Pausing(
                client, line.queue, self._taker_of(line.queue, reader), line.isolation, self._stopping.give_back
            )
            for line in lines
        }
        self._thread: int | None = None
        self._has_begun = self._consumes = False
        self._started: tuple[Helper, float] | None = None
        self._must_end_at: float | None = None

    @property
    def rests(self) -> bool:
        """Whether nothing is taken, since all of its queues are paused."""
        return all(pausing.rests for pausing in self._pausings.values())

    def rests_from(self, queue: str) -> bool:
        """Whether nothing is taken from this one of its queues, since it is paused."""
        return self._pausings[queue].rests

    def _taker_of(self, queue: str, reader: PoolReader | None) -> Taker:
        dispatcher = self._job.dispatcher
        return dispatcher if reader is None else QueueOfPool(self._client, queue, dispatcher, reader)

    def health(self, stall: float, silence: float) -> Health:
        """Whether it is alive and ready; waits for nobody. See :meth:`~qbridge_core.TaskManager.health`."""
        if stalled := self._liveness.stalled(stall):
            return health.of_stuck(self._queue, stalled)
        if reason := self._unready(silence):
            return health.of_silent(self._queue, reason)
        return Health(alive=True, ready=True)

    def _unready(self, silence: float) -> str:
        if self.error is not None:
            return f"it stops: {type(self.error).__name__}: {self.error}"
        if self._stop_requests:
            return f"it stops ({self.stop_reason})"
        if not self._consumes:
            return "it has not begun"
        return health.silent(self._client, self._job.dispatcher, silence)

    def request_stop(self, times: int = 1, reason: str = STOP_CALLED) -> None:
        """Begin to stop, the second time at once; may be called from any thread and from a signal handler.

        Args:
            times: 2 to stop at once.
            reason: who asks, for the log and for plugins.
        """
        self._ask(max(times, self._stop_requests), reason)

    def request_stop_by_signal(self, number: int) -> None:
        """Begin to stop, or end the grace period when already stopping."""
        self._ask(self._stop_requests + 1, signal_name(number))

    def _ask(self, requests: int, reason: str) -> None:
        # Takes no lock: a signal handler may have interrupted whoever holds it.
        self.stop_reason = self.stop_reason or reason
        self._job.dispatcher.ending = True
        self._stop_requests = requests
        self._hurry()
        self.bell.notify()

    def waits_for_caller(self) -> bool:
        """True where waiting for the end would be waiting for oneself.

        That is in the threads that begin and end it, those of the workers and the executor, and in each other one that
        runs in a copy of a running handler's context.
        """
        return (
            threading.get_ident() in (self._thread, self.starter)
            or self._stopping.owns_current_thread()
            or self._pool.owns_current_thread()
            or self._job.executor.owns_current_thread()
            or self._pool.runs(current_run.get())
        )

    def run(self) -> None:
        """Begin to process tasks, until a stop is requested. Never raises: what goes wrong becomes the ``error``."""
        self._thread = threading.get_ident()
        try:
            if self._opens():
                self._begin()
            self._thread = None  # this one ends, and its identifier may be that of whoever calls ``stop``
            watch.add(self)
        except BaseException as exc:  # noqa: BLE001 - whatever it is, the worker ends with it
            self._fail(exc)
            self._finish()

    def look(self) -> float | None:
        """End the runs whose time is over, and the session when it is to stop; see :class:`~.watch.Watched`."""
        try:
            if not self._stop_requests and self._pool.error is None:
                wait = min(self._pool.expire(), self._look_in())
                self._liveness.note()
                if stale := self._job.dispatcher.stale():  # read ahead behind tasks that turned out to be long
                    self._stopping.give_back(stale)
                return wait
        except BaseException as exc:  # noqa: BLE001 - as above
            self._fail(exc)
        aside("qbridge-manager", self._finish)
        return None

    def _look_in(self) -> float:
        """Seconds until the next look, whatever the runs that are known want."""
        if watch.count <= MANY or (self._isolation is not None and self._isolation.has_runners):
            return _STALE_POLL
        if not self._job.dispatcher.resting.look():
            return _STALE_POLL
        return pause(watch.count)

    def _finish(self) -> None:
        """Drain and stop. Never raises."""
        self._thread = threading.get_ident()
        self.opened.set()
        try:
            _log.info(
                "worker %s is to stop: %s; the tasks of %s that run get %g s",
                worker_identity(), self._why, self._queue, self._grace_period, extra={"qbridge_queue": self._queue},
            )  # fmt: skip
            self.bell.take()
            for pausing in self._pausings.values():
                pausing.end()
            if self._pool.error is not None:
                self._fail(self._pool.error)
            self._end()
        except BaseException as exc:  # noqa: BLE001 - as above
            self._fail(exc)
        finally:
            self._say_the_end()
            self.stopped.set()

    @property
    def stop_requests(self) -> int:
        """How often somebody has asked to stop; from 2 on it stops at once."""
        return self._stop_requests

    def wait(self) -> None:
        """Wait for the end, which a request to stop brings about: in bounded time, whatever hangs."""
        while not self.ends_within(LOOK_EVERY):
            pass

    def ends_within(self, seconds: float) -> bool:
        """Wait for the end, at most so long; True when it has come, or should have long ago."""
        if self.stopped.wait(seconds) if seconds else self.stopped.is_set():  # the cheap one for a look at many
            return True
        if self._must_end_at is not None and monotonic() > self._must_end_at:
            self._fail(_left_behind(self._stopping.step))
            self.stopped.set()
        return self.stopped.is_set()

    def wait_until_opened(self, deadline: float) -> bool:
        """Wait until the lifespan is entered, if there is one, or the session is about to end.

        False when neither has happened by ``deadline`` (monotonic time).
        """
        while not self.opened.wait(max(0.0, min(LOOK_EVERY, deadline - monotonic()))):  # Ctrl-C is seen in between
            if monotonic() > deadline:
                return False
        return True

    def _begin(self) -> None:
        self.opened.set()
        worker = worker_identity()
        _log.info("worker %s consumes %s", worker, self._queue, extra={"qbridge_queue": self._queue})
        for pausing in self._pausings.values():
            pausing.begin()
        self._has_begun = True
        self._tell_start(worker)
        self._job.settler.begin_accounts(self._running)
        self._pool.start()
        self._consumes = True
        if self._isolation is not None:
            self._isolation.start()

    def _opens(self) -> bool:
        """Enter the lifespan, which may take long; False when somebody wants to stop before that is done."""
        if self._job.executor.lifespan is None:
            return True
        helper, raised = self._call("qbridge-opening", self._job.executor.open)
        while helper.is_alive():
            if self._stop_requests:
                return False
            helper.join(_JOIN_POLL)
        if raised:
            raise raised[0]
        return True

    def _lifespan_failed(self, error: BaseException) -> None:
        """The lifespan cannot be entered, or is at its end: nothing more may run."""
        self._job.dispatcher.ending = True
        if self._pool.error is None:
            self._pool.error = error
        self.bell.notify()

    def _call(self, name: str, call: Callable[[], None]) -> tuple[Helper, list[BaseException]]:
        """Call something in a thread; return that, and where to find what was raised."""
        raised: list[BaseException] = []

        def caught() -> None:
            try:
                call()
            except BaseException as exc:  # noqa: BLE001 - the caller raises it again
                raised.append(exc)

        return self._stopping.call(name, caught), raised

    def _tell_start(self, worker: str) -> None:
        """Call the hooks of the start. They come before all others, unless they hang."""
        lifecycle = self._job.lifecycle
        if not lifecycle.hears_start:
            return
        deadline = monotonic() + foreign.patience(self._job.longest_timeout)

        def tell() -> None:
            for line in self._lines:
                lifecycle.worker_started(queue=line.queue, worker=worker, client=self._client)

        helper, raised = self._call("qbridge-started", tell)
        while helper.is_alive():
            if self._stop_requests:
                self._started = helper, deadline
                return
            if monotonic() > deadline:
                _log.error("a plugin's qbridge_worker_started has not returned; the worker begins without it")
                return
            helper.join(_JOIN_POLL)
        if raised:
            raise raised[0]

    def _running(self, queue: str) -> int:
        """How many handlers run now for a queue."""
        line = next(line for line in self._lines if line.queue == queue)
        apart = 0 if line.isolation is None else line.isolation.running
        return self._pool.running_of((queue, suspects_queue(queue))) + apart

    def _end(self) -> None:
        self._stopping.drain(self._grace_period, self._notice, self.bell)
        self._stopping.finish(patient=self._has_begun)
        self._job.settler.end_accounts()
        if self._started is not None and self._started[0].is_alive():
            self._fail(_left_behind("a plugin's qbridge_worker_started has not returned"))
        self._pool.count_stuck()  # also those that came last
        if self._pool.error is not None:
            self._fail(self._pool.error)

    def _notice(self) -> None:
        if self._has_begun:
            if self._started is not None:  # the hooks of the end come after those of the start
                thread, deadline = self._started
                thread.join(max(0.0, deadline - monotonic()))
            for line in self._lines:
                self._job.lifecycle.worker_stopping(
                    queue=line.queue, worker=worker_identity(), reason=self._why, client=self._client
                )

    @property
    def _why(self) -> str:
        """Why it stops."""
        error = self.error or self._pool.error
        return self.stop_reason or (STOP_CALLED if error is None else f"{type(error).__name__}: {error}")

    def _fail(self, exc: BaseException) -> None:
        """Keep the first error, and say at once that the worker ends with it."""
        if self.error is not None:
            return
        self.error = exc
        _log.error(
            "the worker of %s stops: %s: %s", self._queue, type(exc).__name__, exc,
            extra={"qbridge_queue": self._queue}, exc_info=None if isinstance(exc, QBridgeError) else exc,
        )  # fmt: skip

    def _say_the_end(self) -> None:
        how = "stopped" if self.error is None else "has stopped because of an error; its queue waits for another worker"
        level = logging.INFO if self.error is None else logging.ERROR
        _log.log(level, "worker %s %s", worker_identity(), how, extra={"qbridge_queue": self._queue})

    def _hurry(self) -> None:
        """Have ``wait`` give up in time: a lock may be leaked, or a hook may hang."""
        patience = self._grace_period + LONGEST if self._stop_requests < 2 else _LONGEST_HURRY
        must_end_at = monotonic() + patience
        self._must_end_at = must_end_at if self._must_end_at is None else min(self._must_end_at, must_end_at)


def _together(isolations: Sequence[Isolation]) -> AnyIsolation | None:
    """What runs the suspects of all queues, if anything does."""
    if len(isolations) < 2:
        return next(iter(isolations), None)
    from qbridge_core.work.pooled.suspects import Isolations

    return Isolations(isolations)


def _left_behind(reason: str) -> QBridgeError:
    return QBridgeError(f"the stop was not done in time: {reason}; what this process holds is delivered again")
