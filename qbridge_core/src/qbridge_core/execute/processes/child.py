"""One child process, as its worker sees it: how it is told, heard, interrupted and killed.

:mod:`qbridge_core.execute.processes.program` is the program at the other end.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Iterator, Sequence
from typing import Any, Final

from qbridge_core.contract.dead_letter import Reason
from qbridge_core.execute.executor import NotStartedError
from qbridge_core.execute.processes.program import BROKEN, CANCEL, DONE, RAISED, STOP, packed
from qbridge_core.execute.processes.startmark import StartMark, shared_file
from qbridge_core.execute.spawned import JsonLink, start_program
from qbridge_core.runtime.clock import monotonic
from qbridge_core.runtime.exits import describe_exit
from qbridge_core.runtime.logs import logger
from qbridge_core.task.explanation import Explanation
from qbridge_core.task.run import Run
from qbridge_core.task.verdict import Action, Judged, Verdict

_log: Final = logger("qbridge.worker")
_TERM_TIME: Final = 1.0
EXIT_TIME: Final = 5.0
"""Seconds that a process gets to end by itself."""
_KILL_TIME: Final = 5.0
_SURVIVAL_TIME: Final = 2.0  # a process takes a moment to die, on a busy machine a long one
_LOOK_EVERY: Final = 0.5
_LONG_START: Final = 30.0
_LONGEST_REPORT: Final = 1 << 26


class ChildStartError(Exception):
    """A child process did not get as far as its first task."""


class Child:
    """One child process, used by one worker thread; ``cancel``, ``kill`` and ``end`` may be called by any.

    Raises:
        ChildStartError: there is no room for another process.
    """

    def __init__(self) -> None:
        try:
            self._lifeline, self._started, self._process, self._link = _start()
        except OSError as exc:
            raise ChildStartError(f"no process could be started: {exc}") from exc
        self._signalling = threading.Lock()
        self._using = threading.RLock()
        self._busy = False
        self._cancelled = False
        self._killed = False
        self._killed_at = 0.0
        self._number = 0
        self.tasks = 0
        self.memory = 0
        self.end_in_words = ""
        self._is_ready = False

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
                    _log.warning(
                        "a child process still imports the handler's module, or enters the lifespan, after %g s",
                        _LONG_START,
                    )
                answer, *details = self._receive()
            except (EOFError, OSError) as exc:
                raise ChildStartError(f"it {self._outcome()} before it was ready") from exc
        if answer == BROKEN:
            raise ChildStartError(str(details[0]))
        self._is_ready = True

    def run(self, run: Run) -> None:
        """Run a task and wait for its end.

        Raises:
            NotStartedError: the process was gone before the task began, or speaks of another task.
            Judged: the handler raised, or the process died.
        """
        self._number += 1
        with self.at_work():
            try:
                self._link.send_bytes(packed(self._number, [run]))
                answer, self.memory, *details = self._report(DONE, RAISED)
            except (EOFError, OSError) as exc:
                outcome = self._outcome()
                if self._started.get() != self._number:
                    raise NotStartedError(f"the child process {outcome} while it was idle") from exc
                self.end_in_words = outcome
                text = f"the process that ran it {self.end_in_words}"
                raise Judged(Verdict(Action.CRASH, Explanation(Reason.CRASHED, "", text))) from None
        self.tasks += 1
        if answer == RAISED:
            raise Judged(Verdict.from_json(details[0]))

    @contextlib.contextmanager
    def at_work(self) -> Iterator[None]:
        """Around what the worker's thread does with it while it runs tasks."""
        with self._using:
            self._busy = True
            try:
                yield
            finally:
                self._busy = False

    @property
    def next_number(self) -> int:
        """The number of the task that it is given next."""
        return self._number + 1

    def begin(self, runs: Sequence[Run]) -> None:
        """Have it run several tasks, one after the other, within ``at_work``.

        :class:`~qbridge_core.execute.processes.batch.Batch` knows what to make of the reports.

        Raises:
            OSError: the process has ended.
        """
        first = self._number + 1
        self._number += len(runs)
        self._link.send_bytes(packed(first, runs))

    def hear(self, seconds: float) -> list[Any] | None:
        """The next report, or None when none has come after so many seconds.

        Raises:
            EOFError, OSError: the process has ended, or writes nonsense.
        """
        return self._receive() if self._has_spoken(seconds) else None

    @property
    def begun(self) -> int:
        """The number of the task that it has begun last."""
        return self._started.get()

    def outcome(self) -> str:
        """How the process ended, in words; what is left of it is killed."""
        self.end_in_words = self._outcome()
        return self.end_in_words

    def confused(self) -> None:
        """It speaks of a task that it was not given: nothing that comes can be relied on, so it is killed."""
        self.kill()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._wait(_KILL_TIME)

    @property
    def identity(self) -> str:
        """``host:pid`` of the process."""
        return f"{socket.gethostname()}:{self._process.pid}"

    @property
    def is_alive(self) -> bool:
        """False when the process has ended."""
        with self._signalling:
            return self._process.poll() is None

    @property
    def is_usable(self) -> bool:
        """False when the process has ended, or soon will have."""
        return not self._killed and self.is_alive

    @property
    def is_leaving(self) -> bool:
        """True when ``ask_to_end`` lets it end by itself, in its own time, because no handler runs."""
        return self._is_ready and not self._busy and not self._cancelled

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
                self._killed, self._killed_at = True, monotonic()
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.killpg(self._process.pid, signal.SIGKILL)

    @property
    def survives(self) -> bool:
        """True when it was killed and is still there, which the kernel allows to a process that waits in a driver."""
        return self._killed and monotonic() - self._killed_at > _SURVIVAL_TIME and self.is_alive

    def end(self, patience: float = EXIT_TIME) -> None:
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
            self._started.close()
            if self._lifeline >= 0:
                os.close(self._lifeline)
                self._lifeline = -1

    # ------------------------------------------------------------------ parts

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
        deadline = monotonic() + seconds
        while True:
            with self._signalling:
                status = self._process.poll()
            if status is not None:
                return status
            if monotonic() > deadline:
                raise subprocess.TimeoutExpired("a child process", seconds)
            time.sleep(0.005)

    def _tell(self, message: bytes) -> None:
        """Send a word, if the process is there and not in the middle of a long message."""
        with contextlib.suppress(OSError):
            self._link.send_bytes(message, patience=0.1)

    def _report(self, *expected: str) -> list[Any]:
        """The next report, which has to be about the task at hand.

        Raises:
            EOFError, OSError: the process has ended.
            NotStartedError: it is about another task. Then nothing that comes can be relied on, and nothing that the
                process still does can be known: it is killed, and the task need not be the culprit.
        """
        match self._receive():
            case [str(word), int(number), *details] if word in expected and number == self._number:
                return [word, *details]
        self.confused()
        raise NotStartedError("the child process confused its tasks and was killed")

    def _receive(self) -> list[Any]:
        """The next message.

        The end of the process is looked for as well: what it started may have inherited its end of the connection.

        Raises:
            EOFError, OSError: the process has ended, or writes nonsense.
        """
        while not self._has_spoken(_LOOK_EVERY):
            pass
        try:
            return self._link.hear(_LONGEST_REPORT)
        except ValueError as exc:
            raise OSError("no report") from exc

    def _has_spoken(self, seconds: float) -> bool:
        if self._link.poll(seconds):
            return True
        if not self.is_alive and not self._link.poll():
            raise EOFError
        return False


def _start() -> tuple[int, StartMark, subprocess.Popen[bytes], JsonLink]:
    """Start the program, with what both ends share.

    Raises:
        OSError: there is no room for another process.
    """
    with contextlib.ExitStack() as ours, contextlib.ExitStack() as theirs:
        inherited, lifeline = os.pipe()
        theirs.callback(os.close, inherited)
        ours.callback(os.close, lifeline)
        shared = shared_file()
        theirs.callback(os.close, shared)
        started = StartMark(shared)
        ours.callback(started.close)
        process, link = start_program("qbridge_core.execute.processes.program", inherited, shared)
        ours.pop_all()
    return lifeline, started, process, link
