"""Runs suspects, messages of the side queue, in child processes of their own.

The child imports the handler's module and nothing else: to import the main program would run it again where it is not
guarded. So a run there has two clear ends and one that says little:

* it succeeds: the work is done, and the message is acknowledged;
* its process dies: the message is charged, for nothing else ran there;
* it ends otherwise (an exception of any kind, a timeout): the handler may need what the main program sets up. Nothing
  is counted, and the message goes back to its queue to run in a worker, beside others: it does not kill by itself.

All this happens beside the workers, which neither wait for it nor know of it. One thread looks for suspects of all
managers of a client (:mod:`.lookout`). One child works off many suspects, one after the other; while one takes long,
another child takes the next. A child and its thread are started when there is a suspect, and ended soon after the last
one.
"""

from __future__ import annotations

import functools
import logging
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

from qbridge_core.contract.envelope import MalformedTaskError, read_task
from qbridge_core.contract.headers import TASK_ID, meta_text
from qbridge_core.contract.message import Delivery, new_id
from qbridge_core.execute.executor import NotStartedError, unwrapped
from qbridge_core.execute.lifespan import Lifespan
from qbridge_core.runtime.clock import monotonic
from qbridge_core.runtime.logs import logger
from qbridge_core.task.explanation import Explanation
from qbridge_core.task.foreign import GivenUp, Step, Watched, patience
from qbridge_core.task.lifecycle import Lifecycle
from qbridge_core.task.retry import RetryPolicy
from qbridge_core.task.run import Run
from qbridge_core.task.verdict import Action, Judged, Verdict
from qbridge_core.work.poison.lookout import lookout_of
from qbridge_core.work.poison.rule import PoisonRule
from qbridge_core.work.poison.side_queue import LOOK_EVERY, SideQueue
from qbridge_core.work.settle import Settler

if TYPE_CHECKING:
    from qbridge_core.execute.processes.child import Child

_log: Final = logger("qbridge.worker")
# The second is what a main program is called where it was imported by a child process or below a Supervisor.
_MAIN_PROGRAMS: Final = ("__main__", "__mp_main__")
_LONGEST_IMPORT: Final = 60.0
_TRY_AGAIN_AFTER: Final = 60.0
_PATIENCE: Final = 0.5
_LEAVING_TIME: Final = 5.0
"""Seconds that a process gets to leave its lifespan."""
_MOST_UNSTARTED: Final = 3
_LONG: Final = 1.0
_MOST_CHILDREN: Final = 8


def can_be_isolated(handler: Callable[..., object], lifespan: Lifespan | None = None) -> bool:
    """False when a child process surely cannot import these two; cheap, so it may be True for others too."""
    if os.name != "posix":
        return False
    return _may_be_imported(handler) and (lifespan is None or _may_be_imported(lifespan))


def _may_be_imported(function: Callable[..., object]) -> bool:
    function = unwrapped(function)
    function = getattr(function, "__func__", function)
    name = getattr(function, "__qualname__", type(function).__qualname__)
    module = getattr(function, "__module__", None) or type(function).__module__
    return module not in _MAIN_PROGRAMS and "<" not in name  # neither <locals> nor <lambda>


def setup_of(handler: Callable[..., object], lifespan: Lifespan | None = None) -> bytes:
    """The first message to the child: how to import the handler and the lifespan.

    Raises:
        ValueError: another process cannot have them without importing the main program.
    """
    import pickle  # here, for a worker without suspects does without
    import pickletools

    from qbridge_core.runtime.interpreter import main_program

    try:
        # Any failure is repeated in a worker, so the policy need not be known there.
        program = pickle.dumps((handler, RetryPolicy(), lifespan))
    except Exception as exc:
        raise ValueError(f"it, or its lifespan, cannot be imported by another process ({exc})") from exc
    if any(argument in _MAIN_PROGRAMS for _, argument, _ in pickletools.genops(program)):
        raise ValueError("it, or something that belongs to it, is defined in the main program")
    preparation = {name: value for name, value in main_program().items() if not name.startswith("init_main_")}
    return pickle.dumps((preparation, program, False))


class Isolation:
    """Runs suspects, with one child process, and with more of them while a suspect takes long.

    Args:
        side_queue: where they come from.
        rule: decides about them.
        settler: settles their runs.
        lifecycle: hooks to call before a run.
        handler: what runs.
        task_timeout: seconds that a run may take.
        max_message_bytes: a longer message is malformed.
        most: so many child processes at once.
        lifespan: what each child process enters.
    """

    def __init__(
        self,
        side_queue: SideQueue,
        rule: PoisonRule,
        settler: Settler,
        lifecycle: Lifecycle,
        handler: Callable[[Any], object],
        task_timeout: float,
        max_message_bytes: int,
        most: int,
        lifespan: Lifespan | None = None,
    ) -> None:
        self.side_queue: Final = side_queue
        self.rule: Final = rule
        self.settler: Final = settler
        self.lifecycle: Final = lifecycle
        self.task_timeout: Final = task_timeout
        self.max_message_bytes: Final = max_message_bytes
        self.closed: Final = threading.Event()
        self._handler = handler
        self.lifespan: Final = lifespan
        self._most = min(most, _MOST_CHILDREN)
        self._lock = threading.Lock()
        self._runners: set[_Runner] = set()
        self._hanging = 0
        self._patience = patience(task_timeout)
        self._setup: bytes | None = None
        self._try_at = 0.0
        self._said = False
        self._lookout = lookout_of(side_queue.client)
        side_queue.isolated = True
        side_queue.ring = self._ring

    # ------------------------------------------------------------------ for the session

    def start(self) -> None:
        """Begin to look for suspects."""
        try:
            self._lookout.add(self)
        except RuntimeError as exc:  # the system has no thread left
            _log.warning("nobody looks for suspects beside the workers: %s", exc)
            self.side_queue.isolated = False

    def stop(self) -> None:
        """Take no more suspects; what runs goes on. May be called again."""
        self.closed.set()
        self._lookout.remove(self)
        self.side_queue.wanted.set()

    @property
    def busy(self) -> bool:
        """True while a suspect runs or is being settled."""
        return any(runner.running is not None for runner in self._all_runners())

    def claim_running(self) -> list[Run]:
        """Take over the runs that have not ended; their results are ignored from now on."""
        runs = [runner.running for runner in self._all_runners()]
        return [run for run in runs if run is not None and run.cancel()]

    @property
    def hanging(self) -> int:
        """How many threads were given up, since a hook or the like hangs in them, and have not ended."""
        return self._hanging

    def expire(self) -> None:
        """Give up the threads in which a hook, ``redact`` or a backoff hangs. Call it again, from one thread."""
        for runner in self._all_runners():
            if runner.watched.give_up(self._patience):
                self.count_hanging(1)
                self.lifecycle.give_up(runner.watched.thread)
                runner.leave_thread()
            if runner.is_left and self._start(runner):  # tried again while the system has no thread left
                runner.is_left = False

    def close(self) -> None:
        """Kill the child processes, but for those that leave their lifespan."""
        self.closed.set()
        for runner in self._all_runners():
            if self.lifespan is None or runner.is_busy:
                runner.kill()

    @property
    def has_left(self) -> bool:
        """True when no child process leaves a lifespan any more."""
        return self.lifespan is None or not any(runner.has_child for runner in self._all_runners())

    def abandon(self) -> None:
        """Kill the child processes that still leave their lifespan."""
        for runner in self._all_runners():
            runner.kill()

    # ------------------------------------------------------------------ for the runners

    @property
    def is_possible(self) -> bool:
        """Whether child processes can be had, as far as is known; the suspects are left to the workers otherwise."""
        if not self.side_queue.isolated and monotonic() >= self._try_at:
            self.side_queue.isolated = True
        return self.side_queue.isolated and not self.closed.is_set()

    def setup(self) -> bytes:
        """The first message to a child process; see :func:`setup_of`."""
        with self._lock:
            if self._setup is None:
                self._setup = setup_of(self._handler, self.lifespan)
            return self._setup

    def give_up(self, delivery: Delivery, why: str, seconds: float = _TRY_AGAIN_AFTER) -> None:
        """Leave this suspect and those behind it to the workers for so long."""
        self._try_at = monotonic() + seconds
        if not self.closed.is_set():
            _log.log(
                logging.DEBUG if self._said else logging.WARNING,
                "no child process can run the handler (%s): messages that may have killed a worker run in the workers",
                why,
            )
            self._said = True
        self.side_queue.leave(delivery)

    def seek(self) -> None:
        """See that somebody deals with the suspects, if there are any."""
        with self._lock:
            has_runners = bool(self._runners)
        if not has_runners and self.is_possible and self.side_queue.has_any():
            self.add_runner()

    def _ring(self) -> None:
        self._lookout.ring(self)

    def may_end(self, runner: _Runner) -> bool:
        """Whether others look for suspects, another runner or the lookout; then this one is forgotten."""
        with self._lock:
            others = [each for each in self._runners if each is not runner]
            if others and all(each.running is not None for each in others):
                return False
            self._runners.discard(runner)
        if self.side_queue.wanted.is_set():  # since it looked last
            self._ring()
        return True

    def count_hanging(self, change: int) -> None:
        """A thread was given up, or one that was has ended."""
        with self._lock:
            self._hanging += change

    def runner_ended(self, runner: _Runner) -> None:
        """Called by a runner's thread at its end."""
        with self._lock:
            self._runners.discard(runner)

    def add_runner(self) -> None:
        """There are suspects, and nobody who looks for them: there is none yet, or another one takes long."""
        runner = _Runner(self)
        with self._lock:
            if len(self._runners) >= self._most or self.closed.is_set():
                return
            self._runners.add(runner)
        if not self._start(runner):
            self.runner_ended(runner)

    def _start(self, runner: _Runner) -> bool:
        thread = threading.Thread(target=runner.work, name="qbridge-isolation", daemon=True)
        try:
            thread.start()
        except RuntimeError as exc:  # the system has no thread left
            _log.warning("a suspect cannot have a thread of its own: %s", exc)
            return False
        return True

    def _all_runners(self) -> list[_Runner]:
        with self._lock:
            return list(self._runners)


class _Runner:
    """A thread with a child process, which works off one suspect after the other.

    When foreign code hangs in the thread, another one goes on with the runner as it is.

    Attributes:
        running: what runs or is being settled.
        watched: what the thread is in.
        is_left: True when the thread was given up, until there is another one.

    Args:
        isolation: where it belongs.
    """

    def __init__(self, isolation: Isolation) -> None:
        self.running: Run | None = None
        self.watched = Watched()
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
        self.watched = Watched()
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
            if not isolation.side_queue.wanted.wait(LOOK_EVERY):
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
        try:
            delivery = side_queue.take_isolated()
        except Exception:  # noqa: BLE001 - a backend's bug must not end this thread
            _log.exception("suspects cannot be looked for; the next look is in %g s", LOOK_EVERY)
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
            _log.exception("a suspect could not be dealt with; it runs in a worker")
            self._end_child()
            self._isolation.give_up(delivery, str(exc))
        finally:
            if not watched.is_lost:  # otherwise another thread does it
                self.running = self._delivery = None
                self._isolation.side_queue.release()

    def _deal_with(self, delivery: Delivery) -> None:
        isolation = self._isolation
        settler, lifecycle = isolation.settler, isolation.lifecycle
        try:
            task = read_task(delivery.body, isolation.max_message_bytes)
        except MalformedTaskError as exc:
            settler.malformed(delivery, exc)
            return
        if delivery.noted is not None and settler.settle_noted(delivery, delivery.noted):
            return
        task_id = task.task_id or meta_text(delivery.meta, TASK_ID) or delivery.message_id or new_id()
        if isolation.rule.dead_letter_poison(delivery, task_id):
            return
        child = self._usable_child(delivery)
        if child is None:
            return
        if lifecycle.order is not None:
            lifecycle.order.wait(task_id)
        run = self.running = Run(delivery, task_id, isolation.task_timeout)
        if isolation.closed.is_set():
            if run.claim():
                settler.hand_back(delivery)
            return
        lifecycle.task_started(queue=delivery.queue, task_id=task_id, attempt=run.attempt)
        self._settle(run, child)

    def _settle(self, run: Run, child: Child) -> None:
        """Run it, and do what its end asks for, unless the session has taken it over."""
        isolation = self._isolation
        verdict: Verdict | None = None
        try:
            with _limited(isolation.task_timeout, child.cancel) as late, _limited(_LONG, isolation.add_runner):
                child.run(run)
        except NotStartedError as exc:
            self._not_started(run, exc)
            return
        except Judged as exc:
            verdict = exc.verdict
        self.watched.step = None  # what has run does not run again
        self._unstarted = 0
        duration = monotonic() - run.started_at
        if late.is_set():
            self._end_child()
        if not run.claim():
            return
        if late.is_set():
            self._repeat_in_worker(run, Explanation.timed_out(isolation.task_timeout, None))
        elif verdict is None:
            isolation.settler.succeeded(run, duration)
        elif verdict.action is Action.CRASH:
            crashed = functools.partial(isolation.rule.crashed_apart, run, child.identity, child.end_in_words)
            self.watched.do(Step(crashed))
        else:
            self._repeat_in_worker(run, verdict.explanation)

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
        _log.warning("task %s did not start and goes back: %s", run.task_id, reason, extra=run.log_fields())
        if self._unstarted < _MOST_UNSTARTED:
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
        with _limited(_LONGEST_IMPORT, child.kill):
            child.load(setup)
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
