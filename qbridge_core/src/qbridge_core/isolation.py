"""Runs suspects (:mod:`qbridge_core.suspects`) in a child process of their own, one after the other.

The child imports the handler's module and nothing else: to import the main program would run it again where it is not
guarded. So a run there has two clear ends and one that says little:

* it succeeds: the work is done, and the message is acknowledged;
* its process dies: the message is charged, for nothing else ran there;
* it ends otherwise (an exception of any kind, a timeout): the handler may need what the main program sets up. Nothing
  is counted, and the message goes back to its queue to run in a worker, beside others: it does not kill by itself.

All this happens beside the workers, which neither wait for it nor know of it. The child is started for the first
suspect and ended soon after the last one.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

from qbridge_core.clock import monotonic
from qbridge_core.envelope import MalformedTaskError, read_task
from qbridge_core.executor import NotStartedError, unwrapped
from qbridge_core.lifecycle import Lifecycle
from qbridge_core.logs import logger
from qbridge_core.message import TASK_ID, Delivery, meta_text, new_id
from qbridge_core.problem import Problem
from qbridge_core.retry import RetryPolicy
from qbridge_core.run import Run
from qbridge_core.settle import Settler
from qbridge_core.suspects import LOOK_EVERY, Suspects
from qbridge_core.verdict import Action, Judged, Verdict

if TYPE_CHECKING:
    from qbridge_core.childprocess import Child

_log: Final = logger("qbridge.worker")
# The second is what a main program is called where it was imported by a child process or below a Supervisor.
_MAIN_PROGRAMS: Final = ("__main__", "__mp_main__")
_LONGEST_IMPORT: Final = 60.0
_TRY_AGAIN_AFTER: Final = 60.0
_PATIENCE: Final = 0.5
_MOST_UNSTARTED: Final = 3


def can_be_isolated(handler: Callable[..., object]) -> bool:
    """False when a child process surely cannot import the handler; cheap, so it may be True for others too."""
    if os.name != "posix":
        return False
    function = unwrapped(handler)
    function = getattr(function, "__func__", function)
    name = getattr(function, "__qualname__", type(function).__qualname__)
    module = getattr(function, "__module__", None) or type(function).__module__
    return module not in _MAIN_PROGRAMS and "<" not in name  # neither <locals> nor <lambda>


def setup_of(handler: Callable[..., object]) -> bytes:
    """The first message to the child: how to import the handler.

    Raises:
        ValueError: another process cannot have it without importing the main program.
    """
    import pickle  # here, for a worker without suspects does without
    import pickletools

    from qbridge_core.interpreter import main_program

    try:
        # Any failure is repeated in a worker, so the policy need not be known there.
        program = pickle.dumps((handler, RetryPolicy()))
    except Exception as exc:
        raise ValueError(f"it cannot be imported by another process ({exc})") from exc
    if any(argument in _MAIN_PROGRAMS for _, argument, _ in pickletools.genops(program)):
        raise ValueError("it, or something that belongs to it, is defined in the main program")
    preparation = {name: value for name, value in main_program().items() if not name.startswith("init_main_")}
    return pickle.dumps((preparation, program, False))


class Isolation:
    """The thread that looks for suspects and its child process.

    Args:
        suspects: where they come from.
        settler: settles their runs.
        lifecycle: hooks to call before a run.
        handler: what runs.
        task_timeout: seconds that a run may take.
        max_message_bytes: a longer message is malformed.
    """

    def __init__(
        self,
        suspects: Suspects,
        settler: Settler,
        lifecycle: Lifecycle,
        handler: Callable[[Any], object],
        task_timeout: float,
        max_message_bytes: int,
    ) -> None:
        self._suspects = suspects
        self._settler = settler
        self._lifecycle = lifecycle
        self._handler = handler
        self._task_timeout = task_timeout
        self._max_message_bytes = max_message_bytes
        self._closed = threading.Event()
        self._child_lock = threading.Lock()
        self._child: Child | None = None
        self._setup: bytes | None = None
        self._run: Run | None = None
        self._try_at = 0.0
        self._unstarted = 0
        self._said = False
        suspects.isolated = True

    # ------------------------------------------------------------------ for the session

    def start(self) -> None:
        """Begin to look for suspects."""
        thread = threading.Thread(target=self._work, name="qbridge-isolation", daemon=True)
        try:
            thread.start()
        except RuntimeError as exc:  # the system has no thread left
            self._suspects.isolated = False
            _log.warning("suspects run in the workers: %s", exc)

    def stop(self) -> None:
        """Take no more suspects; what runs goes on. May be called again."""
        self._closed.set()
        self._suspects.wanted.set()

    @property
    def busy(self) -> bool:
        """True while a suspect runs or is being settled."""
        return self._run is not None

    def claim_running(self) -> list[Run]:
        """Take over the run that has not ended; its result is ignored from now on."""
        run = self._run
        return [run] if run is not None and run.cancel() else []

    def close(self) -> None:
        """Kill the child process, if there is one."""
        self._closed.set()
        with self._child_lock:
            child = self._child
        if child is not None:
            child.kill()

    # ------------------------------------------------------------------ the thread

    def _work(self) -> None:
        while not self._closed.is_set():
            self._suspects.wanted.clear()
            self._suspects.isolated = self._suspects.isolated or monotonic() >= self._try_at
            while self._suspects.isolated and not self._closed.is_set() and self._work_off_one():
                pass
            if not self._suspects.wanted.wait(LOOK_EVERY):
                self._end_child()  # a while without work
        self._end_child()

    def _work_off_one(self) -> bool:
        """Deal with the next suspect; False when there is none."""
        try:
            delivery = self._suspects.take_isolated()
        except Exception:  # noqa: BLE001 - a backend's bug must not end this thread
            _log.exception("suspects cannot be looked for; the next look is in %g s", LOOK_EVERY)
            return False
        if delivery is None:
            return False
        try:
            self._deal_with(delivery)
        except Exception as exc:  # noqa: BLE001 - what is taken must be settled
            _log.exception("a suspect could not be dealt with; it runs in a worker")
            self._end_child()
            self._give_up(str(exc), _TRY_AGAIN_AFTER)
            self._suspects.leave(delivery)
        finally:
            self._run = None
            self._suspects.release()
        return True

    def _deal_with(self, delivery: Delivery) -> None:
        try:
            task = read_task(delivery.body, self._max_message_bytes)
        except MalformedTaskError as exc:
            self._settler.malformed(delivery, exc)
            return
        if delivery.noted is not None and self._settler.condemned(delivery, delivery.noted):
            return
        task_id = task.task_id or meta_text(delivery.meta, TASK_ID) or delivery.message_id or new_id()
        if self._settler.convicts(delivery, task_id):
            return
        child = self._usable_child()
        if child is None:
            self._suspects.leave(delivery)
            return
        if self._lifecycle.order is not None:
            self._lifecycle.order.wait(task_id)
        run = self._run = Run(delivery, task_id, self._task_timeout)
        if self._closed.is_set():
            if run.claim():
                self._settler.hand_back(delivery)
            return
        self._lifecycle.task_started(queue=delivery.queue, task_id=task_id, attempt=run.attempt)
        self._settle(run, child)

    def _settle(self, run: Run, child: Child) -> None:
        """Run it, and do what its end asks for, unless the session has taken it over."""
        verdict: Verdict | None = None
        try:
            with _limited(self._task_timeout, child.cancel) as late:
                child.run(run)
        except NotStartedError as exc:
            self._not_started(run, exc)
            return
        except Judged as exc:
            verdict = exc.verdict
        self._unstarted = 0
        duration = monotonic() - run.started_at
        if late.is_set():
            self._end_child()
        if not run.claim():
            return
        if late.is_set():
            self._repeat_in_worker(run, Problem.timed_out(self._task_timeout, None))
        elif verdict is None:
            self._settler.succeeded(run, duration)
        elif verdict.action is Action.CRASH:
            self._settler.crashed_apart(run, child.identity, child.end_in_words)
        else:
            self._repeat_in_worker(run, verdict.problem)

    def _repeat_in_worker(self, run: Run, problem: Problem) -> None:
        if not self._settler.failed_apart(run, problem):
            self._give_up("their queue takes no message back", _TRY_AGAIN_AFTER)
            self._suspects.leave(run.delivery)

    def _not_started(self, run: Run, reason: Exception) -> None:
        """The child was gone before the run began, which says nothing about the task."""
        self._end_child()
        self._unstarted += 1
        if not run.claim():
            return
        _log.warning("task %s did not start and goes back: %s", run.task_id, reason, extra=run.log_fields())
        if self._unstarted < _MOST_UNSTARTED:
            self._settler.hand_back(run.delivery)
        else:
            self._give_up(str(reason), _TRY_AGAIN_AFTER)
            self._suspects.leave(run.delivery)

    # ------------------------------------------------------------------ the child process

    def _usable_child(self) -> Child | None:
        """The child, started when there is none; None when none can be had."""
        if self._child is not None and self._child.is_usable:
            return self._child
        self._end_child()
        try:
            if self._setup is None:
                self._setup = setup_of(self._handler)
        except ValueError as exc:
            self._give_up(str(exc), float("inf"))
            return None
        from qbridge_core.childprocess import ChildStartError

        try:
            return self._started(self._setup)
        except (ChildStartError, RuntimeError) as exc:  # the second when the system has no thread left
            self._end_child()
            self._give_up(str(exc), _TRY_AGAIN_AFTER)
            return None

    def _started(self, setup: bytes) -> Child:
        from qbridge_core.childprocess import Child

        child = Child()
        with self._child_lock:
            self._child = child
        if self._closed.is_set():  # ``close`` may have looked before it was there
            child.kill()
        with _limited(_LONGEST_IMPORT, child.kill):
            child.load(setup)
        return child

    def _give_up(self, why: str, seconds: float) -> None:
        self._try_at = monotonic() + seconds
        if not self._closed.is_set():
            _log.log(
                logging.DEBUG if self._said else logging.WARNING,
                "no child process can run the handler (%s): messages that may have killed a worker run in the workers",
                why,
            )
            self._said = True

    def _end_child(self) -> None:
        with self._child_lock:
            child, self._child = self._child, None
        if child is not None:
            child.end(_PATIENCE)


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
