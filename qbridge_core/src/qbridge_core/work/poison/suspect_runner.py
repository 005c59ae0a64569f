"""Runs one suspect after the other in a child process, and does what the end of each run asks for."""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Final, Protocol

from qbridge_core.contract.envelope import UnfitError
from qbridge_core.contract.message import Delivery
from qbridge_core.execute.executor import NotStartedError
from qbridge_core.execute.lifespan import Lifespan
from qbridge_core.runtime.clock import monotonic
from qbridge_core.runtime.logs import logger
from qbridge_core.task import foreign
from qbridge_core.task.explanation import Explanation
from qbridge_core.task.foreign import GivenUp, Step, Watched
from qbridge_core.task.lifecycle import Lifecycle
from qbridge_core.task.reading import TaskReader
from qbridge_core.task.run import Run, in_words, task_id_of
from qbridge_core.task.verdict import Action, Judged, Verdict
from qbridge_core.work.poison.rule import PoisonRule
from qbridge_core.work.poison.side_queue import LOOK_EVERY, SideQueue
from qbridge_core.work.settle.consequences import Consequences
from qbridge_core.work.settle.settler import Settler

if TYPE_CHECKING:
    from qbridge_core.execute.processes.child import Child

_log: Final = logger("qbridge.worker")
_LONGEST_IMPORT: Final = 60.0
_PATIENCE: Final = 0.5
_LEAVING_TIME: Final = 5.0
"""Seconds that a process gets to leave its lifespan."""
_MOST_UNSTARTED: Final = 3
_LONG: Final = 1.0
_NAME: Final = "a thread for tasks that may have killed their worker"


class Runners(Protocol):
    """All runners of a manager, as one of them sees them; an ``Isolation``, which describes them."""

    side_queue: SideQueue
    rule: PoisonRule
    settler: Settler
    consequences: Consequences
    lifecycle: Lifecycle
    reader: TaskReader
    lifespan: Lifespan | None
    closed: threading.Event

    @property
    def is_possible(self) -> bool:
        """Whether child processes can be had, as far as is known."""
        ...

    def setup(self) -> bytes:
        """The first message to a child process."""
        ...

    def give_up(self, delivery: Delivery, why: str, seconds: float = ...) -> None:
        """Leave this suspect and those behind it to the workers for so long."""
        ...

    def add_runner(self) -> None:
        """A suspect takes long: others shall not wait for it."""
        ...

    def may_end(self, runner: SuspectRunner) -> bool:
        """Whether others look for suspects; then this one is forgotten."""
        ...

    def count_hanging(self, change: int) -> None:
        """A thread was given up, or one that was has ended."""
        ...

    def runner_ended(self, runner: SuspectRunner) -> None:
        """Called by a runner's thread at its end."""
        ...


class SuspectRunner:
    """A thread with a child process, which works off one suspect after the other.

    When foreign code hangs in the thread, another one goes on with the runner as it is.

    Attributes:
        running: what runs or is being settled.
        watched: what the thread is in.
        is_left: True when the thread was given up, until there is another one.

    Args:
        isolation: where it belongs.
    """

    def __init__(self, isolation: Runners) -> None:
        self.running: Run | None = None
        self.watched = Watched(_NAME)
        self.is_left = False
        self._left: tuple[Delivery, Step | None] | None = None
        self._delivery: Delivery | None = None
        self._isolation = isolation
        self._child_lock = threading.Lock()
        self._child: Child | None = None
        self._unstarted = 0

    def work(self) -> None:
        """Work until the isolation is closed, or there is nothing to do any more, or another thread has this runner."""
        watched = self.watched
        watched.begin()
        try:
            self._work()
        except GivenUp:
            self._isolation.count_hanging(-1)
        except BaseException:  # noqa: BLE001 - there is another runner when the next suspect comes
            _log.exception("a thread for tasks that may have killed their worker ends after an unexpected error")
        finally:
            if not watched.is_lost:
                self._end_child()
                self._isolation.runner_ended(self)

    def leave_thread(self) -> None:
        """Have another thread go on, which the caller starts."""
        assert self._delivery is not None  # noqa: S101 - foreign code is called for one
        run, step = self.running, self.watched.step
        if run is not None and not run.claim() and run.cancelled:
            step = None  # the session has taken it over
        self._left = self._delivery, step
        self.watched = Watched(_NAME)
        self.is_left = True

    def _work(self) -> None:
        isolation = self._isolation
        if self._left is not None:
            (delivery, step), self._left = self._left, None
            self._deal(delivery, step)
        while not isolation.closed.is_set():
            isolation.side_queue.wanted.clear()
            while isolation.is_possible and self._work_off_one():
                pass
            foreign.waits(LOOK_EVERY)
            if not isolation.side_queue.wanted.wait(LOOK_EVERY):
                foreign.waits(_LEAVING_TIME)
                self._end_child()  # a while without work
                if isolation.may_end(self):
                    return

    @property
    def is_busy(self) -> bool:
        """True while it deals with a suspect."""
        return self._delivery is not None

    @property
    def has_child(self) -> bool:
        """True while there is a child process."""
        return self._child is not None

    def kill(self) -> None:
        """Kill the child process, if there is one."""
        with self._child_lock:
            child = self._child
        if child is not None:
            child.kill()

    def _work_off_one(self) -> bool:
        """Deal with the next suspect; False when there is none."""
        side_queue = self._isolation.side_queue
        foreign.waits(LOOK_EVERY)  # for its turn
        try:
            delivery = side_queue.take_isolated()
        except Exception:  # noqa: BLE001 - a backend's bug must not end this thread
            _log.exception(
                "tasks that may have killed their worker cannot be looked for; the next look is in %g s", LOOK_EVERY
            )
            return False
        if delivery is None:
            return False
        self._deal(delivery, Step(functools.partial(self._deal_with, delivery)))
        return True

    def _deal(self, delivery: Delivery, step: Step | None) -> None:
        """Do what is left to be done with a suspect."""
        watched = self.watched
        self._delivery = delivery
        try:
            if step is not None:
                watched.do(step)
        except Exception as exc:  # noqa: BLE001 - what is taken must be settled
            _log.exception("a task that may have killed its worker could not run in a child; it runs in a worker")
            self._end_child()
            self._isolation.give_up(delivery, str(exc))
        finally:
            if not watched.is_lost:  # otherwise another thread does it
                self.running = self._delivery = None
                self._isolation.side_queue.release()

    def _deal_with(self, delivery: Delivery) -> None:
        isolation = self._isolation
        consequences, lifecycle = isolation.consequences, isolation.lifecycle
        try:
            task, terms = isolation.reader.read(delivery)
        except UnfitError as exc:
            with self._helped():
                consequences.unfit(delivery, exc)
            return
        task_id = task.task_id or task_id_of(delivery)
        with self._helped():
            if delivery.noted is not None and consequences.settle_noted(delivery, delivery.noted):
                return
            if isolation.rule.dead_letter_poison(delivery, task_id):
                return
        child = self._usable_child(delivery)
        if child is None:
            return
        if lifecycle.order is not None:
            lifecycle.order.wait(task_id)
        run = self.running = Run(delivery, task_id, terms)
        if isolation.closed.is_set():
            if run.claim():
                isolation.settler.hand_back(delivery)
            return
        lifecycle.task_started(queue=delivery.queue, task_id=task_id, attempt=run.attempt)
        self._settle(run, child)

    def _settle(self, run: Run, child: Child) -> None:
        """Run it, and do what its end asks for, unless the session has taken it over."""
        isolation = self._isolation
        verdict: Verdict | None = None
        foreign.waits(run.terms.timeout)
        try:
            with _limited(run.terms.timeout, child.cancel) as late, _limited(_LONG, isolation.add_runner):
                child.run(run)
        except NotStartedError as exc:
            self._not_started(run, exc)
            return
        except Judged as exc:
            verdict = exc.verdict
        foreign.waits(0.0)
        self.watched.step = None  # what has run does not run again
        self._unstarted = 0
        duration = monotonic() - run.started_at
        if late.is_set():
            self._end_child()
        if run.claim():
            with self._helped():
                self._conclude(run, child, verdict, duration, late=late.is_set())

    def _conclude(self, run: Run, child: Child, verdict: Verdict | None, duration: float, *, late: bool) -> None:
        isolation = self._isolation
        if late:
            self._repeat_in_worker(run, Explanation.timed_out(run.terms.timeout, None))
        elif verdict is None:
            isolation.settler.acknowledge(run, duration)
        elif verdict.action is Action.CRASH:
            crashed = functools.partial(isolation.rule.crashed_apart, run, child.identity, child.end_in_words)
            self.watched.do(Step(crashed))
        else:
            self._repeat_in_worker(run, verdict.explanation)

    @contextmanager
    def _helped(self) -> Iterator[None]:
        """Have another one look after the other suspects when the broker does not let this one go soon."""
        watch = threading.Timer(_LONG, self._isolation.add_runner)
        watch.daemon = True
        with suppress(RuntimeError):  # the system has no thread left: the others wait
            watch.start()
        try:
            yield
        finally:
            watch.cancel()

    def _repeat_in_worker(self, run: Run, explanation: Explanation) -> None:
        def repeat() -> None:
            if not self._isolation.rule.failed_apart(run, explanation):
                self._isolation.give_up(run.delivery, "their queue takes no message back")

        self.watched.do(Step(repeat))

    def _not_started(self, run: Run, reason: Exception) -> None:
        """The child was gone before the run began, which says nothing about the task."""
        self._end_child()
        self._unstarted += 1
        if not run.claim():
            return
        fields = run.log_fields()
        _log.warning("%s did not start and goes back to the queue: %s", in_words(fields), reason, extra=fields)
        if self._unstarted < _MOST_UNSTARTED:
            with self._helped():
                self._isolation.settler.hand_back(run.delivery)
        else:
            self._isolation.give_up(run.delivery, str(reason))

    # ------------------------------------------------------------------ the child process

    def _usable_child(self, delivery: Delivery) -> Child | None:
        """The child, started when there is none; None when none can be had, and the suspect has been left to others."""
        if self._child is not None and self._child.is_usable:
            return self._child
        self._end_child()
        from qbridge_core.execute.processes.child import ChildStartError

        try:
            return self._started(self._isolation.setup())
        except ValueError as exc:
            self._isolation.give_up(delivery, str(exc), float("inf"))
        except (ChildStartError, RuntimeError) as exc:  # the second when the system has no thread left
            self._end_child()
            self._isolation.give_up(delivery, str(exc))
        return None

    def _started(self, setup: bytes) -> Child:
        from qbridge_core.execute.processes.child import Child

        child = Child()
        with self._child_lock:
            self._child = child
        if self._isolation.closed.is_set():  # ``kill`` may have looked before it was there
            child.kill()
        foreign.waits(_LONGEST_IMPORT)
        with _limited(_LONGEST_IMPORT, child.kill):
            child.load(setup)
        foreign.waits(0.0)
        return child

    def _end_child(self) -> None:
        child = self._child
        if child is not None:
            child.end(_PATIENCE if self._isolation.lifespan is None else _LEAVING_TIME)
            with self._child_lock:
                self._child = None


@contextmanager
def _limited(seconds: float, end: Callable[[], None]) -> Iterator[threading.Event]:
    """Call ``end`` when the block takes longer, and set the event."""
    late = threading.Event()

    def expire() -> None:
        late.set()
        end()

    watch = threading.Timer(min(seconds, threading.TIMEOUT_MAX), expire)
    watch.daemon = True
    watch.start()
    try:
        yield late
    finally:
        watch.cancel()
