"""Runs handlers in child processes, which can be killed: at a timeout, and by themselves, without harm to other tasks.

Each worker thread has a child of its own (``child``), made by starting a new interpreter: a fork of a process with
threads can deadlock. The broker's connection stays here, so the death of a child is seen at once and
charged to the one task that it ran.
"""

from __future__ import annotations

import pickle
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

from qbridge_core.errors import ConfigurationError
from qbridge_core.execute.executor import Executor, NotStartedError
from qbridge_core.execute.lifespan import Lifespan
from qbridge_core.execute.processes.batch import Batch
from qbridge_core.execute.processes.child import EXIT_TIME, Child, ChildStartError
from qbridge_core.runtime.clock import monotonic
from qbridge_core.runtime.interpreter import main_program
from qbridge_core.runtime.logs import logger
from qbridge_core.runtime.pause import GrowingPause
from qbridge_core.task.context import current_run
from qbridge_core.task.formats.chosen import Formats
from qbridge_core.task.retry import ExceptionRule, RetryPolicy
from qbridge_core.task.run import Run
from qbridge_core.task.runhooks import RunHooks

_log: Final = logger("qbridge.worker")
_CLOSE_TIME: Final = 0.5
MOST_TOGETHER: Final = 100
"""More tasks a child is never given at once: a hundred cost hardly more for each than a thousand."""
_LEAVING_TIME: Final = 25.0
"""Seconds that a process gets to leave its lifespan, when it is replaced or its worker has the time."""

_HANDLER: Final = (
    "another process must be able to import the handler and the exception classes ({}); define them at the top level "
    "of a module, not as a lambda or inside a function"
)
_LIFESPAN: Final = (
    "each child process enters the lifespan, and must be able to import it ({}); define it at the top level of a "
    "module, not as a lambda or inside a function"
)
_PLUGINS: Final = (
    "a plugin with qbridge_task_run works in the child processes, and cannot be sent there ({}): name it, "
    "plugins=['module:name'], or let it be pickled"
)
_FORMATS: Final = (
    "child processes read the messages, and each format must be able to be pickled ({}); define it at the top level "
    "of a module, and keep what cannot be pickled out of it"
)


def _no_child(problem: ChildStartError) -> ConfigurationError:
    return ConfigurationError(f"no child process can run the handler: {problem}")


@dataclass(frozen=True, slots=True)
class Program:
    """What a child process loads, and when it is replaced.

    Attributes:
        pickled: the handler, the policy without its backoffs, which stay in the worker, the lifespan, the plugins
            that have a hook around a run, and the formats of messages.
        max_tasks: so many runs are enough for one process.
        max_memory: a process that holds more bytes after a run is replaced.
    """

    pickled: bytes
    max_tasks: int | None = None
    max_memory: int | None = None
    lifespan: Lifespan | None = None

    @classmethod
    def of(
        cls,
        handler: Callable[[Any], object],
        policy: RetryPolicy,
        max_tasks: int | None = None,
        max_memory: int | None = None,
        lifespan: Lifespan | None = None,
        run_hooks: RunHooks | None = None,
        formats: Formats | None = None,
    ) -> Program:
        """Pack a handler.

        Raises:
            ConfigurationError: another process cannot import it.
        """
        rules = tuple(ExceptionRule(rule.exceptions) for rule in policy.rules)
        exceptions = RetryPolicy(dead_letter_on=policy.dead_letter_on, rules=rules)
        for part, need in ((lifespan, _LIFESPAN), (run_hooks, _PLUGINS), (formats, _FORMATS)):
            _pickled(part, need)
        pickled = _pickled((handler, exceptions, lifespan, run_hooks, formats), _HANDLER)
        return cls(pickled, max_tasks, max_memory, lifespan)

    def setup(self) -> bytes:
        """The first message to a child: how to find the main program, and the handler."""
        return pickle.dumps((main_program(), self.pickled, self.max_memory is not None))


def _pickled(part: object, need: str) -> bytes:
    """A part of a program as bytes.

    Args:
        part: the part.
        need: why it must be possible, and what to do where it is not; ``{}`` is what keeps it from being so.

    Raises:
        ConfigurationError: it is not possible.
    """
    try:
        return pickle.dumps(part)
    except Exception as exc:
        raise ConfigurationError(f"with executor='process' {need.format(exc)}") from exc


class ProcessExecutor(Executor):
    """Gives each worker thread a child process.

    Args:
        program: what the children load.
    """

    in_thread = False
    takes_many = True
    not_started = (NotStartedError,)

    def __init__(self, program: Program) -> None:
        super().__init__(self._execute, lifespan=program.lifespan)
        self._program = program
        self._setup = program.setup()
        self._lock = threading.Lock()
        self._children: set[Child] = set()
        self._by_thread: dict[int, Child] = {}
        self._running: dict[Run, Child] = {}
        self._patience = EXIT_TIME if program.lifespan is None else _LEAVING_TIME
        self._closed = threading.Event()
        self._proven = False
        self._spare: Child | None = None

    def open(self) -> None:
        """Have a first child process enter the lifespan, before a task is taken; a worker's thread gets it.

        Raises:
            ConfigurationError: it cannot.
        """
        try:
            self._spare = self._started()
            self._proven = True
        except ChildStartError as exc:
            if not self._closed.is_set():
                raise _no_child(exc) from exc

    def prepare(self) -> bool:
        """Have a child process ready for the calling thread."""
        child = self._child()
        if child is not None and not child.is_usable:
            _log.warning("a child process ended while it was idle; another one takes its place")
            self.release()
            child = None
        return (child is not None or self._start()) and not self._closed.is_set()

    @property
    def room(self) -> int:
        """How many tasks the calling thread's child may be given together; its memory is looked at after each."""
        program, child = self._program, self._child()
        if child is None or program.max_memory is not None:
            return 1
        return MOST_TOGETHER if program.max_tasks is None else program.max_tasks - child.tasks

    @contextmanager
    def together(self, runs: Sequence[Run]) -> Iterator[Batch]:
        """Give the calling thread's child several tasks."""
        child = self._child()
        assert child is not None  # noqa: S101 - a worker calls this, after prepare
        self._running.update(dict.fromkeys(runs, child))
        try:
            if any(run.cancelled for run in runs):
                raise NotStartedError("cancelled before it began")
            with child.at_work():
                yield Batch(child, runs)
        finally:
            for run in runs:
                del self._running[run]
            if self._is_spent(child) or not child.is_usable:
                self.release()

    def cancel(self, run: Run) -> None:
        """Interrupt the handler and kill its process soon afterwards."""
        child = self._running.get(run)
        if child is not None:
            child.cancel()

    def release(self, ident: int | None = None) -> None:
        """The calling thread, or another one, needs its child no more; somebody else waits for its end."""
        child = self._by_thread.pop(threading.get_ident() if ident is None else ident, None)
        if child is not None:
            reaper = threading.Thread(target=self._end, args=(child,), name="qbridge-reaper", daemon=True)
            try:
                reaper.start()
            except RuntimeError:  # the system has no thread left
                self._end(child)

    def stuck(self, abandoned: int) -> int:
        """How many processes survive a SIGKILL."""
        del abandoned  # each of those threads ends with its process
        with self._lock:  # what is being killed because all end has not survived yet
            return 0 if self._closed.is_set() else sum(child.survives for child in self._children)

    def close(self) -> None:
        """End all children: with a word, then with SIGKILL."""
        with self._lock:
            self._closed.set()
            children = list(self._children)
        for child in children:
            child.ask_to_end()
        deadline = monotonic() + _CLOSE_TIME
        for child in children:
            if not child.is_leaving or self.lifespan is None:
                self._end(child, max(0.0, deadline - monotonic()))

    @property
    def has_left(self) -> bool:
        """True when no child process leaves a lifespan any more."""
        if self.lifespan is None:
            return True
        for child in self._all_children():
            if not child.is_alive:
                self._end(child)
        return not self._all_children()

    def abandon(self) -> None:
        """Kill the child processes that still leave their lifespan."""
        children = self._all_children()
        for child in children:
            child.kill()
        for child in children:
            self._end(child, 0.0)

    def _all_children(self) -> list[Child]:
        with self._lock:
            return list(self._children)

    def _execute(self, payload: Any) -> None:
        del payload  # the child reads the message itself
        run, child = current_run.get(), self._child()
        assert run is not None  # noqa: S101 - a worker calls this, after prepare
        assert child is not None  # noqa: S101
        self._running[run] = child
        try:
            if run.cancelled:
                raise NotStartedError("cancelled before it began")
            child.run(run)
        finally:
            del self._running[run]
            if self._is_spent(child) or not child.is_usable:
                self.release()

    def _is_spent(self, child: Child) -> bool:
        program = self._program
        if program.max_tasks is not None and child.tasks >= program.max_tasks:
            return True
        return program.max_memory is not None and child.memory > program.max_memory

    def _child(self) -> Child | None:
        return self._by_thread.get(threading.get_ident())

    def _start(self) -> bool:
        """Start a child for this thread. After one has worked, others can fail only for passing reasons."""
        pauses = GrowingPause(0.1, 5.0)
        while not self._closed.is_set():
            try:
                self._by_thread[threading.get_ident()] = self._started()
            except ChildStartError as exc:
                if not self._proven:
                    raise _no_child(exc) from exc
                pause = pauses.next()
                if not self._closed.is_set():
                    _log.error("cannot start a child process: %s; next try in %g s", exc, pause)
                self._closed.wait(pause)
            else:
                self._proven = True
                return True
        return False

    def _started(self) -> Child:
        with self._lock:
            spare, self._spare = self._spare, None
        if spare is not None and spare.is_usable:
            return spare
        child = Child()
        with self._lock:
            self._children.add(child)
        try:
            if self._closed.is_set():  # close may have looked before this one was there
                raise ChildStartError("the worker stops")
            child.load(self._setup)
        except BaseException:
            self._end(child, 0.0)
            raise
        return child

    def _end(self, child: Child, patience: float | None = None) -> None:
        child.end(self._patience if patience is None else patience)
        with self._lock:
            self._children.discard(child)
