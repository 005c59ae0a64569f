"""A worker whose executor runs several quick tasks in one go, in a child process: one word each would cost more.

What holds for one task holds for each of them: its time begins when it begins, it is settled by whoever claims it
first, and the death of a process is charged to the one that it ran. What does not begin, because one before it fails or
is not quick after all, is left to the other workers, uncounted.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from contextvars import copy_context
from typing import Final

from qbridge_core.contract.envelope import UnfitError
from qbridge_core.contract.message import Delivery
from qbridge_core.execute.executor import NotStartedError, Together
from qbridge_core.runtime.clock import monotonic
from qbridge_core.task.context import current_run
from qbridge_core.task.foreign import GivenUp, Step
from qbridge_core.task.run import Run, task_id_of
from qbridge_core.task.verdict import Judged, Verdict
from qbridge_core.work.job import Job
from qbridge_core.work.worker import Worker, say_late

_SHORTEST_TIMEOUT: Final = 1.0
"""Seconds. It may be noticed a twentieth of a second late that a task has begun, and its time begins then."""


def suits(job: Job) -> bool:
    """Whether tasks can be run together. Not where a hook is to be called for each at its time."""
    return job.executor.takes_many and job.lifecycle.order is None and job.shortest_timeout >= _SHORTEST_TIMEOUT


class BatchWorker(Worker):
    """See above. While tasks run together, ``running`` is the one that is at work, as far as this thread knows."""

    _takes_many = True
    _given: Sequence[Run] = ()
    _batch: Together | None = None

    @property
    def unfinished(self) -> Sequence[Run]:
        """In any thread: what it runs, and what it was given to run."""
        batch = self._batch
        return batch.unfinished if batch is not None else self._given or super().unfinished

    def still_runs(self, run: Run) -> bool:
        """In any thread: whether what seems to be at work is."""
        return any(each is run for each in self.unfinished[:1])

    def _run_together(self, delivery: Delivery) -> bool:
        dispatcher = self._job.dispatcher
        deliveries = dispatcher.take_more(delivery, self._job.executor.room)
        runs = self._runs(deliveries) if len(deliveries) > 1 else []
        if len(runs) < 2:
            self._leave(deliveries[1:])
            return False
        self._leave(deliveries[len(runs) :])
        self._give(runs)
        return True

    def _runs(self, deliveries: Sequence[Delivery]) -> list[Run]:
        """A run for each delivery, up to the first that is no task."""
        runs: list[Run] = []
        job = self._job
        try:
            for delivery in deliveries:
                task, terms = job.reader.read(delivery)
                run = Run(delivery, task.task_id or task_id_of(delivery), terms)
                run.in_handler = True
                runs.append(run)
        except UnfitError:
            pass
        return runs

    def _give(self, runs: Sequence[Run]) -> None:
        job = self._job
        self._given, self.running = runs, runs[0]
        failed: tuple[Run, Verdict] | None = None
        begun = False
        try:
            # As with one: the pool closes first and then takes over what runs.
            if not job.dispatcher.ending:
                with job.executor.together(runs) as batch:
                    self._batch, begun = batch, True
                    failed = self._follow(batch)
        except NotStartedError:
            pass
        self._given, self.running = (), None
        self._batch = None
        if not begun:
            self._return(runs)
        if failed is not None:
            self._fail(*failed)

    def _follow(self, batch: Together) -> tuple[Run, Verdict] | None:
        """Settle what succeeds, until nothing more begins; return what failed, if it is to be settled here."""
        settler = self._job.settler
        failed: tuple[Run, Verdict] | None = None
        while self.running is not None:
            done, failed, others = batch.follow()
            running = next(iter(batch.unfinished), None)
            if running is not None and running is not self.running:
                running.restart()
            self.running = running
            self._return(others)
            now = monotonic()
            for run in done:
                if self._claim(run):
                    settler.acknowledge(run, now - run.started_at)
        if failed is not None and self.abandoned:
            # It was hit by what was to interrupt another one.
            self._return([failed[0]])
        elif failed is not None and self._claim(failed[0]):
            return failed
        return None

    def _fail(self, run: Run, verdict: Verdict) -> None:
        context = self.context = copy_context()
        self.delivery = run.delivery
        settle = Step(functools.partial(self._job.consequences.failed, run, Judged(verdict), verdict))
        try:
            context.run(current_run.set, run)
            context.run(self.watched.do, settle)
        except GivenUp:
            self.abandoned = True
            return
        self.context = self.delivery = None

    def _claim(self, run: Run) -> bool:
        """Take the right to settle; False when this thread was replaced meanwhile, or the pool is closing."""
        if run.claim():
            return True
        self.abandoned = True
        say_late(run, monotonic() - run.started_at)
        return False

    def _return(self, runs: Sequence[Run]) -> None:
        """Leave to others what has not begun, unless it was taken over."""
        if runs:
            self._leave([run.delivery for run in runs if run.claim()])

    def _leave(self, deliveries: Sequence[Delivery]) -> None:
        if deliveries:
            for delivery in self._job.dispatcher.put_back(deliveries):
                self._job.settler.hand_back(delivery)
