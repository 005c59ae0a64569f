"""Runs handlers in child processes, which can be killed: at a timeout, and by themselves, without harm to other tasks.

Each worker thread has a child of its own (:mod:`qbridge_core.child`), made by starting a new interpreter: a fork of a
process with threads can deadlock. The broker's connection stays here, so the death of a child is seen at once and
charged to the one task that it ran.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import pickle
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any, Final

from qbridge_core.child import BROKEN, CANCEL, RAISED, STOP, Assignment
from qbridge_core.context import current_run
from qbridge_core.errors import ConfigurationError
from qbridge_core.executor import Executor, NotStartedError
from qbridge_core.exits import describe_exit
from qbridge_core.interpreter import main_program, start_interpreter
from qbridge_core.message import Reason
from qbridge_core.problem import Problem
from qbridge_core.retry import ExceptionRule, RetryPolicy
from qbridge_core.run import Run
from qbridge_core.verdict import Action, Judged, Verdict

_log: Final = logging.getLogger("qbridge.worker")
_TERM_TIME: Final = 1.0
_CLOSE_TIME: Final = 0.5
_EXIT_TIME: Final = 5.0
_KILL_TIME: Final = 5.0
_LOOK_EVERY: Final = 0.5
_LONG_START: Final = 30.0
_FIRST_PAUSE: Final = 0.1
_LONGEST_PAUSE: Final = 5.0


@dataclass(frozen=True, slots=True)
class Program:
    """What a child process loads, and when it is replaced.

    Attributes:
        pickled: the handler, and the policy without its backoffs, which stay in the worker.
        max_tasks: so many runs are enough for one process.
        max_memory: a process that holds more bytes after a run is replaced.
    """

    pickled: bytes
    max_tasks: int | None = None
    max_memory: int | None = None

    @classmethod
    def of(
        cls,
        handler: Callable[[Any], object],
        policy: RetryPolicy,
        max_tasks: int | None = None,
        max_memory: int | None = None,
    ) -> Program:
        """Pack a handler.

        Raises:
            ConfigurationError: another process cannot import it.
        """
        rules = tuple(ExceptionRule(rule.exceptions) for rule in policy.rules)
        exceptions = RetryPolicy(dead_letter_on=policy.dead_letter_on, rules=rules)
        try:
            return cls(pickle.dumps((handler, exceptions)), max_tasks, max_memory)
        except Exception as exc:
            raise ConfigurationError(
                f"with executor='process' another process must be able to import the handler and the exception classes "
                f"({exc}); define them at the top level of a module, not as a lambda or inside a function"
            ) from exc

    def setup(self) -> bytes:
        """The first message to a child: how to find the main program, and the handler."""
        return pickle.dumps((main_program(), self.pickled, self.max_memory is not None))


class ChildStartError(Exception):
    """A child process did not get as far as its first task."""


class Child:
    """One child process, used by one worker thread; ``cancel``, ``kill`` and ``end`` may be called by any.

    Raises:
        ChildStartError: there is no room for another process.
    """

    def __init__(self) -> None:
        ours, theirs = socket.socketpair()
        inherited, self._lifeline = os.pipe()
        try:
            self._process = start_interpreter("qbridge_core.child", (theirs.fileno(), inherited))
        except OSError as exc:
            ours.close()
            os.close(self._lifeline)
            raise ChildStartError(f"no process could be started: {exc}") from exc
        finally:
            theirs.close()
            os.close(inherited)
        self._link = Connection(ours.detach())
        self._sending = threading.Lock()
        self._signalling = threading.Lock()
        self._using = threading.RLock()
        self._busy = False
        self._cancelled = False
        self._killed = False
        self.tasks = 0
        self.memory = 0

    # ------------------------------------------------------------------ for the worker's thread

    def load(self, setup: bytes) -> None:
        """Have it load the program, and wait until it has.

        Raises:
            ChildStartError: it cannot.
        """
        with self._using:
            try:
                self._link.send_bytes(setup)
                while not self._link.poll(_LONG_START):
                    _log.warning("a child process still imports the handler's module after %g s", _LONG_START)
                answer, *details = self._receive()
            except (EOFError, OSError) as exc:
                raise ChildStartError(f"it {self._outcome()} before it had loaded the handler") from exc
        if answer == BROKEN:
            raise ChildStartError(f"it could not load the handler: {details[0]}")

    def run(self, run: Run) -> None:
        """Run a task and wait for its end.

        Raises:
            NotStartedError: the process was gone before the task began.
            Judged: the handler raised, or the process died.
        """
        with self._using, self._at_work():
            try:
                self._send(pickle.dumps(Assignment.of(run)))
                self._receive()
            except (EOFError, OSError) as exc:
                raise NotStartedError(f"the child process {self._outcome()} while it was idle") from exc
            try:
                answer, self.memory, *details = self._receive()
            except (EOFError, OSError):
                text = f"the process that ran it {self._outcome()}"
                raise Judged(Verdict(Action.CRASH, Problem(Reason.CRASHED, "", text))) from None
        self.tasks += 1
        if answer == RAISED:
            raise Judged(Verdict.from_json(details[0]))

    @property
    def is_alive(self) -> bool:
        """False when the process has ended."""
        with self._signalling:
            return self._process.poll() is None

    # ------------------------------------------------------------------ for any thread

    def cancel(self) -> None:
        """Interrupt the handler, and kill the process soon, whatever the handler does about it."""
        self._interrupt()
        killer = threading.Timer(_TERM_TIME, self.kill)
        killer.daemon = True
        try:
            killer.start()
        except RuntimeError:  # the system has no thread left
            self.kill()

    def ask_to_end(self) -> None:
        """Interrupt the handler if one runs, else let the process end by itself."""
        if self._busy:
            self._interrupt()
        else:
            self._tell(STOP)

    def kill(self) -> None:
        """Kill the process, and what it started, if it has not ended."""
        with self._signalling:  # between the look and the signal nobody else may reap it and free its number
            if self._process.poll() is None:
                self._killed = True
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.killpg(self._process.pid, signal.SIGKILL)

    @property
    def survives(self) -> bool:
        """True when it was killed and is still there, which the kernel allows to a process that waits in a driver."""
        return self._killed and self.is_alive

    def end(self, patience: float = _EXIT_TIME) -> None:
        """Let the process end, kill it when it has not after ``patience`` seconds, and release what belongs to it.

        After a cancelled run it is killed at once, because a signal to its group still finds what the handler started.
        """
        if not self._cancelled:
            self._tell(STOP)
        elif not self._busy:
            self.kill()
        try:
            self._wait(patience)
        except subprocess.TimeoutExpired:
            self.kill()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._wait(_KILL_TIME)
        with self._using:  # its user sees the end of the process and leaves
            self._link.close()
            if self._lifeline >= 0:
                os.close(self._lifeline)
                self._lifeline = -1

    # ------------------------------------------------------------------ parts

    @contextlib.contextmanager
    def _at_work(self) -> Iterator[None]:
        self._busy = True
        try:
            yield
        finally:
            self._busy = False

    def _interrupt(self) -> None:
        self._cancelled = True
        self._tell(CANCEL)

    def _outcome(self) -> str:
        """How the process ended."""
        try:
            return describe_exit(self._wait(_TERM_TIME))
        except subprocess.TimeoutExpired:
            self.kill()
            return "closed its connection to the worker"

    def _wait(self, seconds: float) -> int:
        deadline = time.monotonic() + seconds
        while True:
            with self._signalling:
                status = self._process.poll()
            if status is not None:
                return status
            if time.monotonic() > deadline:
                raise subprocess.TimeoutExpired("a child process", seconds)
            time.sleep(0.005)

    def _send(self, message: bytes) -> None:
        with self._sending:
            self._link.send_bytes(message)

    def _tell(self, message: bytes) -> None:
        """Send a word, if the process is there and not in the middle of a long message."""
        if self._sending.acquire(timeout=0.1):
            try:
                with contextlib.suppress(OSError):
                    self._link.send_bytes(message)
            finally:
                self._sending.release()

    def _receive(self) -> list[Any]:
        """The next report.

        The end of the process is looked for as well: what it started may have inherited its end of the connection.

        Raises:
            EOFError, OSError: the process has ended.
        """
        while not self._link.poll(_LOOK_EVERY):
            if not self.is_alive and not self._link.poll(0):
                raise EOFError
        report: list[Any] = json.loads(self._link.recv_bytes())
        return report


class ProcessExecutor(Executor):
    """Gives each worker thread a child process.

    Args:
        program: what the children load.
    """

    in_thread = False

    def __init__(self, program: Program) -> None:
        super().__init__(self._execute)
        self._program = program
        self._setup = program.setup()
        self._mine = threading.local()
        self._lock = threading.Lock()
        self._children: set[Child] = set()
        self._running: dict[Run, Child] = {}
        self._closed = threading.Event()
        self._proven = False

    def prepare(self) -> bool:
        """Have a child process ready for the calling thread."""
        child = self._child()
        if child is not None and not child.is_alive:
            _log.warning("a child process ended while it was idle; another one takes its place")
            self.release()
            child = None
        return (child is not None or self._start()) and not self._closed.is_set()

    def cancel(self, run: Run) -> None:
        """Interrupt the handler and kill its process soon afterwards."""
        child = self._running.get(run)
        if child is not None:
            child.cancel()

    def release(self) -> None:
        """The calling thread needs its child no more; somebody else waits for its end."""
        child = self._child()
        self._mine.child = None
        if child is not None:
            reaper = threading.Thread(target=self._end, args=(child,), name="qbridge-reaper", daemon=True)
            try:
                reaper.start()
            except RuntimeError:  # the system has no thread left
                self._end(child)

    def stuck(self, abandoned: int) -> int:
        """How many processes survive a SIGKILL."""
        del abandoned  # each of those threads ends with its process
        with self._lock:
            return sum(child.survives for child in self._children)

    def close(self) -> None:
        """End all children: with a word, then with SIGKILL."""
        with self._lock:
            self._closed.set()
            children = list(self._children)
        for child in children:
            child.ask_to_end()
        deadline = time.monotonic() + _CLOSE_TIME
        for child in children:
            self._end(child, max(0.0, deadline - time.monotonic()))

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
            if self._is_spent(child) or not child.is_alive:
                self.release()

    def _is_spent(self, child: Child) -> bool:
        program = self._program
        if program.max_tasks is not None and child.tasks >= program.max_tasks:
            return True
        return program.max_memory is not None and child.memory > program.max_memory

    def _child(self) -> Child | None:
        child: Child | None = getattr(self._mine, "child", None)
        return child

    def _start(self) -> bool:
        """Start a child for this thread. After one has worked, others can fail only for passing reasons."""
        pause = _FIRST_PAUSE
        while not self._closed.is_set():
            try:
                self._mine.child = self._started()
            except ChildStartError as exc:
                if not self._proven:
                    raise ConfigurationError(f"no child process can run the handler: {exc}") from exc
                if not self._closed.is_set():
                    _log.error("cannot start a child process: %s; next try in %g s", exc, pause)
                self._closed.wait(pause)
                pause = min(pause * 2, _LONGEST_PAUSE)
            else:
                self._proven = True
                return True
        return False

    def _started(self) -> Child:
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

    def _end(self, child: Child, patience: float = _EXIT_TIME) -> None:
        child.end(patience)
        with self._lock:
            self._children.discard(child)
