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

import logging
import threading
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, Final

from qbridge_core.contract.message import Delivery
from qbridge_core.runtime.clock import monotonic
from qbridge_core.runtime.logs import logger
from qbridge_core.task.foreign import Watched, patience
from qbridge_core.task.formats.chosen import Formats
from qbridge_core.task.lifecycle import Lifecycle
from qbridge_core.task.reading import TaskReader
from qbridge_core.task.run import Run
from qbridge_core.task.runhooks import RunHooks
from qbridge_core.work.poison.importing import setup_of
from qbridge_core.work.poison.lookout import lookout_of
from qbridge_core.work.poison.rule import PoisonRule
from qbridge_core.work.poison.side_queue import SideQueue, look_every
from qbridge_core.work.settle.consequences import Consequences
from qbridge_core.work.settle.settler import Settler

if TYPE_CHECKING:
    from qbridge_core.execute.lifespan import Lifespan
    from qbridge_core.work.poison.suspect_runner import SuspectRunner

_log: Final = logger("qbridge.worker")
_TRY_AGAIN_AFTER: Final = 60.0
_MOST_CHILDREN: Final = 8


class Isolation:
    """Runs suspects, with one child process, and with more of them while a suspect takes long.

    Args:
        side_queue: where they come from.
        rule: decides about them.
        settler: settles their runs.
        consequences: decides what their ends lead to, where the rule does not.
        lifecycle: hooks to call before a run.
        handler: what runs.
        reader: reads the messages.
        longest_timeout: seconds that no run may take more than.
        most: so many child processes at once.
        lifespan: what each child process enters.
        run_hooks: what is put around each run there, as far as the children can have it.
        formats: of what formats the messages are; ``None`` for the envelope alone.
    """

    def __init__(
        self,
        side_queue: SideQueue,
        rule: PoisonRule,
        settler: Settler,
        consequences: Consequences,
        lifecycle: Lifecycle,
        handler: Callable[[Any], object],
        reader: TaskReader,
        longest_timeout: float,
        most: int,
        lifespan: Lifespan | None = None,
        run_hooks: RunHooks | None = None,
        formats: Formats | None = None,
    ) -> None:
        self.side_queue = side_queue
        self.rule = rule
        self.settler = settler
        self.consequences = consequences
        self.lifecycle = lifecycle
        self.reader = reader
        self.closed = threading.Event()
        self.rests = False
        """Set it to have no more suspects taken for a while; what runs goes on."""
        self._handler = handler
        self.lifespan = lifespan
        self._run_hooks = run_hooks
        self._formats = formats
        self._most = min(most, _MOST_CHILDREN)
        self._lock = threading.Lock()
        self._runners: set[SuspectRunner] = set()
        self._hanging = 0
        self._patience = patience(longest_timeout)
        self._setup: bytes | None = None
        self._try_at = 0.0
        self._said = False
        self._lookout = lookout_of(side_queue.client)
        self.rouse: Callable[[], None] = _ignore
        """Called when a suspect is about to be dealt with, so that ``expire`` is called each second from then on."""
        side_queue.isolated = True
        side_queue.ring = self._ring

    # ------------------------------------------------------------------ for the session

    def start(self) -> None:
        """Begin to look for suspects."""
        try:
            self._lookout.add(self)
        except RuntimeError as exc:  # the system has no thread left
            _log.warning("tasks that may have killed their worker run in the workers: %s", exc)
            self.side_queue.isolated = False

    def stop(self) -> None:
        """Take no more suspects; what runs goes on. May be called again."""
        self.closed.set()
        self._lookout.remove(self)
        self.side_queue.wanted.set()

    @property
    def busy(self) -> bool:
        """True while a suspect runs or is being settled."""
        return self.running > 0

    @property
    def running(self) -> int:
        """How many of them run now."""
        return sum(runner.running is not None for runner in self._all_runners())

    @property
    def has_runners(self) -> bool:
        """True while a thread looks for suspects, or deals with one."""
        return bool(self._runners)

    def claim_running(self) -> list[Run]:
        """Take over the runs that have not ended; their results are ignored from now on."""
        runs = [runner.running for runner in self._all_runners()]
        return [run for run in runs if run is not None and run.cancel()]

    @property
    def hanging(self) -> int:
        """How many threads were given up, since a hook or the like hangs in them, and have not ended."""
        return self._hanging

    def watched(self) -> Iterator[Watched]:
        """The threads that deal with suspects, and are in no hook or the like: each says how long it may take."""
        return (runner.watched for runner in self._all_runners() if runner.watched.call is None and not runner.is_left)

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
        return self.side_queue.isolated and not self.rests and not self.closed.is_set()

    def setup(self) -> bytes:
        """The first message to a child process; see :func:`setup_of`."""
        with self._lock:
            if self._setup is None:
                self._setup = setup_of(self._handler, self.lifespan, self._run_hooks, self._formats)
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

    def look_in(self, seekers: int) -> float:
        """Seconds until the next look."""
        return look_every(seekers)

    def seek(self) -> None:
        """See that somebody deals with the suspects, if there are any."""
        with self._lock:
            has_runners = bool(self._runners)
        if not has_runners and self.is_possible and self.side_queue.has_any():
            self.add_runner()

    def _ring(self) -> None:
        self._lookout.ring(self)

    def may_end(self, runner: SuspectRunner) -> bool:
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

    def runner_ended(self, runner: SuspectRunner) -> None:
        """Called by a runner's thread at its end."""
        with self._lock:
            self._runners.discard(runner)

    def add_runner(self) -> None:
        """There are suspects, and nobody who looks for them: there is none yet, or another one takes long."""
        try:
            from qbridge_core.work.poison.suspect_runner import SuspectRunner
        except (ImportError, OSError) as exc:  # no descriptor is left
            _log.warning("a task that may have killed its worker cannot be run yet: %s", exc)
            return
        runner = SuspectRunner(self)
        with self._lock:
            if len(self._runners) >= self._most or self.closed.is_set():
                return
            self._runners.add(runner)
        self.rouse()
        if not self._start(runner):
            self.runner_ended(runner)

    def _start(self, runner: SuspectRunner) -> bool:
        thread = threading.Thread(target=runner.work, name="qbridge-isolation", daemon=True)
        try:
            thread.start()
        except RuntimeError as exc:  # the system has no thread left
            _log.warning("a task that may have killed its worker cannot have a thread of its own: %s", exc)
            return False
        return True

    def _all_runners(self) -> list[SuspectRunner]:
        with self._lock:
            return list(self._runners)


def _ignore() -> None:
    """Nobody wants to know."""
