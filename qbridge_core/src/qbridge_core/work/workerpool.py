"""The worker threads of one queue, and the watch over their timeouts: a late one is left to its handler."""

from __future__ import annotations

import functools
import threading
from collections.abc import Container, Iterable
from typing import TYPE_CHECKING, Final

from qbridge_core.errors import NotConnectedError
from qbridge_core.runtime.clock import monotonic
from qbridge_core.runtime.frames import frame_of
from qbridge_core.runtime.logs import logger
from qbridge_core.runtime.pulse import Stalled
from qbridge_core.task.foreign import Step, Watched, patience
from qbridge_core.task.run import Run
from qbridge_core.work.job import Job
from qbridge_core.work.pool import too_many
from qbridge_core.work.watch import Bell
from qbridge_core.work.worker import Rest, Worker, say_hook_hangs

if TYPE_CHECKING:
    from qbridge_core.work.pooled.suspects import AnyIsolation

_log: Final = logger("qbridge.worker")
_AT_ONCE: Final = 32
_SOON: Final = 0.05


class WorkerPool:
    """A fixed number of worker slots. Beyond the first few, threads are started when there is work for them.

    Call ``expire`` again after the seconds it returns, from one thread.

    Args:
        job: what the workers do.
        size: how many.
        max_abandoned: with more threads than this stuck in their handlers the pool has an ``error``.
        bell: rung whenever the watch should look at the pool again.
        isolation: has threads that are watched as well, if there is one.
    """

    def __init__(
        self, job: Job, size: int, max_abandoned: int, bell: Bell, isolation: AnyIsolation | None = None
    ) -> None:
        self._job = job
        self._make = _kind(job)
        self._isolation = isolation
        self._patience = patience(job.longest_timeout)
        self._size = size
        self._bell = bell
        self._lock = threading.Lock()
        self._workers: set[Worker] = set()
        self._abandoned: set[Worker] = set()
        self._max_abandoned = max_abandoned
        self._growing = threading.Lock()
        self.error: BaseException | None = None

    def start(self) -> None:
        """Fill the slots."""
        first = min(self._size, _AT_ONCE) if self._job.executor.in_thread else self._size
        for _ in range(first):
            self._add(None)
        self._job.dispatcher.need = self._grow
        self._job.dispatcher.unstarted = self._size - first
        self._grow(1)  # all of the first may have a task by now, and somebody must read

    @property
    def alive(self) -> bool:
        """True while a worker that was not abandoned has not ended."""
        with self._lock:
            return bool(self._workers)

    def running_of(self, queues: Container[str]) -> int:
        """How many handlers run now whose messages came from one of these; those that were given up do not count."""
        runs = [worker.running for worker in self._snapshot()]
        return sum(run is not None and run.delivery.queue in queues for run in runs)

    def owns_current_thread(self) -> bool:
        """True in a worker's thread, an abandoned one included."""
        ident = threading.get_ident()
        with self._lock:
            return any(worker.ident == ident for worker in self._workers | self._abandoned)

    def runs(self, run: Run | None) -> bool:
        """True for a run of one of its workers that has not ended."""
        return run is not None and any(worker.running is run for worker in self._snapshot())

    def expire(self) -> float:
        """End the runs whose time is over, and give up what hangs; return the seconds until the next one can be."""
        now = monotonic()
        # A run that starts later than now cannot expire before now + wait, so no timer per task is needed.
        wait = self._job.shortest_timeout
        for worker in self._snapshot():
            run = worker.running
            if run is None:
                if worker.watched.give_up(self._patience):
                    self._replace(worker)
                continue
            left = run.deadline - now
            if left > 0:
                wait = min(wait, left)
            elif not worker.still_runs(run):
                wait = min(wait, _SOON)
            elif run.cancel():
                self._abandon(worker, run)
        if self._isolation is not None:
            self._isolation.expire()
        self.count_stuck()
        return min(wait, self._job.abandoned.look(now))

    def count_stuck(self) -> None:
        """Have an error when too many handlers, or hooks and the like, hang."""
        with self._lock:
            outside = sum(worker.hangs_outside for worker in self._abandoned)
            abandoned = len(self._abandoned) - outside
        if self._isolation is not None:
            outside += self._isolation.hanging
        stuck = self._job.executor.stuck(abandoned) + outside
        if stuck > self._max_abandoned and self.error is None:
            self.error = too_many(stuck, outside)

    def busy(self) -> Iterable[Watched]:
        """See :class:`~qbridge_core.work.pool.Pool`."""
        for worker in self._snapshot():
            if worker.context is not None and worker.running is None and worker.watched.call is None:
                yield worker.watched

    def stalled(self, now: float) -> Iterable[Stalled]:
        """Nothing else: a thread that is replaced is looked after no more."""
        del now
        return ()

    def claim_running(self) -> list[Run]:
        """Take over the runs that have not ended; their results are ignored from now on."""
        return [run for worker in self._snapshot() for run in worker.unfinished if run.cancel()]

    def worker_ended(self, worker: Worker, error: BaseException | None) -> None:
        """Called by a worker's thread when it ends."""
        with self._lock:
            self._workers.discard(worker)
            self._abandoned.discard(worker)
        if error is not None and self.error is None:
            self.error = error
            if not isinstance(error, NotConnectedError):
                _log.error("a worker thread broke", exc_info=error)
        self._bell.notify()

    def _abandon(self, worker: Worker, run: Run) -> None:
        """Leave a thread to its run, which is too late; another one settles that."""
        executor, consequences = self._job.executor, self._job.consequences
        stack = frame_of(worker.ident) if executor.in_thread else None
        if not run.in_handler:
            worker.hangs_outside = True
        self._leave(worker)
        worker.interrupt(run)
        if executor.in_thread:  # a child process is killed
            self._job.abandoned.watch(run)
        if run.raised:
            step = Step(functools.partial(consequences.unreadable, run, run.raised))
        else:
            step = Step(functools.partial(consequences.timed_out, run, stack))
        if call := worker.watched.call:  # the hook that tells of the start
            say_hook_hangs(run, call.name)
        self._add(Rest(run.delivery, step, worker.context))

    def _replace(self, worker: Worker) -> None:
        """Leave a thread to the foreign code that it is in; another one does the rest without that."""
        delivery = worker.delivery
        assert delivery is not None  # noqa: S101 - the call is made for one, and the thread cannot go on
        worker.hangs_outside = True
        self._leave(worker)
        self._job.lifecycle.give_up(worker.watched.thread)
        self._add(Rest(delivery, worker.watched.step, worker.context))

    def _leave(self, worker: Worker) -> None:
        worker.abandoned = True
        with self._lock:
            if worker in self._workers:  # it may have ended since its run was taken over, and would be counted for ever
                self._workers.discard(worker)
                self._abandoned.add(worker)
        if worker.hangs_outside:
            self._job.executor.release(worker.watched.thread)

    def _add(self, rest: Rest | None) -> None:
        worker = self._make(self._job, self.worker_ended, rest)
        with self._lock:
            self._workers.add(worker)
        try:
            worker.start()
        except RuntimeError as exc:  # the system has no thread left: what is not settled the broker delivers again
            self.worker_ended(worker, exc)

    def _grow(self, count: int) -> None:
        """Start so many more workers, as far as there may be more."""
        with self._growing:
            self._start_more(min(count, self._job.dispatcher.unstarted))

    def _start_more(self, count: int) -> None:
        dispatcher = self._job.dispatcher
        for _ in range(count):
            worker = self._make(self._job, self.worker_ended)
            with self._lock:
                self._workers.add(worker)
                running = len(self._workers)
            try:
                worker.start()
            except RuntimeError as exc:  # the others go on
                with self._lock:
                    self._workers.discard(worker)
                dispatcher.unstarted = 0
                _log.warning("no more than %d of %d workers can run: %s", running - 1, self._size, exc)
                return
            dispatcher.unstarted -= 1

    def _snapshot(self) -> list[Worker]:
        with self._lock:
            return list(self._workers)


def _kind(job: Job) -> type[Worker]:
    """What kind of workers suits a job."""
    if not job.executor.takes_many:
        return Worker
    from qbridge_core.work.batchworker import BatchWorker, suits

    return BatchWorker if suits(job) else Worker
