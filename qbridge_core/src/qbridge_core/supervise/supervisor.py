"""Runs several worker processes, starts those anew that die, and remembers how they died."""

from __future__ import annotations

import logging
import os
import pickle
import signal
import socket
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from multiprocessing.connection import wait
from types import FrameType
from typing import TYPE_CHECKING, Any, Final

from qbridge_core.contract.checks import require_seconds
from qbridge_core.errors import (
    AuthenticationError,
    BrokerUnavailableError,
    ConfigurationError,
    QBridgeError,
    WorkerStartError,
)
from qbridge_core.execute.executor import loading
from qbridge_core.runtime.clock import monotonic
from qbridge_core.runtime.exits import describe_exit
from qbridge_core.runtime.interpreter import main_program
from qbridge_core.runtime.logs import flush, logger
from qbridge_core.runtime.signals import Insistence, signal_name
from qbridge_core.runtime.system import require_posix
from qbridge_core.supervise.builds import checked, name_of
from qbridge_core.supervise.program import (
    ACCESS,
    ANSWER,
    ASK,
    BEGAN,
    BROKER,
    COMPLAINT,
    ENDED,
    FIGURES,
    GRACE,
    HEALTH,
    NOW,
    PASSING,
    READY,
    SETTINGS,
    STOP,
)
from qbridge_core.supervise.restarts import Slot
from qbridge_core.supervise.sums import Sums
from qbridge_core.supervise.vitals import Vitals
from qbridge_core.supervise.worker_process import Task, WorkerProcess
from qbridge_core.telemetry.health import STALL, Health
from qbridge_core.telemetry.healthfile import HealthFile
from qbridge_core.telemetry.recorder import Recorder

if TYPE_CHECKING:
    from qbridge_core.work.manager import TaskManager

_log: Final = logger("qbridge.supervisor")
_LOOK_EVERY: Final = 0.1
_FALSE_STARTS: Final = 5
_LAST_WORDS: Final = 5.0
_REMEMBERED_DEATHS: Final = 10_000
_SAY_EVERY: Final = 10.0
_SEE_OUTPUT: Final = "their output says why"
_CAUSES: Final = {SETTINGS: ConfigurationError, ACCESS: AuthenticationError, BROKER: BrokerUnavailableError}
# A manager takes its own grace period (25 s), and then up to 3 s to give back what it holds and to disconnect.
_BEHIND_GRACE: Final = 3.5
DEFAULT_GRACE_PERIOD: Final = 28.5
DEFAULT_START_TIMEOUT: Final = 60.0


class Supervisor:
    """Keeps a number of worker processes running, each with one or more TaskManagers of its own.

    A process that ends is replaced: after 0.2 s, then after twice as long each time up to 30 s (3 s when the broker
    cannot be reached), until one has lived for 30 s. That goes on for ever, unless no worker ever gets as far as its
    first message. The supervisor handles no messages itself. On backends that count crashes it lets a dead letter with
    reason ``crashed`` say how the worker died.

    Args:
        build: called in each process to make the connected client and return the TaskManager, which is then started;
            its client is disconnected at the end. Another process must be able to import the function; its name
            as ``"module:function"`` does as well. A list of such functions or names means several queues in each
            process, which start and stop together, as with :func:`~qbridge_core.run_workers`.
        processes: how many workers.
        grace_period: seconds that the workers get to stop. Where it is left out, and the managers' own is longer than
            25, it is 3.5 more than theirs; a value of your own should be that, too.
        start_timeout: seconds to wait for a broker that is not up yet, before any worker could reach it. The log says
            what is waited for.
        metrics: a :class:`~qbridge_core.contrib.prometheus.Metrics`. The managers of all processes are counted, those
            of dead ones included, and the sums are there.
        health_file: a path. The file there is touched every other second while this and all processes are alive; see
            docs/health.md. Not made where it is left out.
        stall: seconds that something in a worker process, or all of it, may be overdue before it is not alive.

    Raises:
        ConfigurationError: an argument is wrong; the text says which and why.

    As for ``multiprocessing``, the main program must be guarded by ``if __name__ == "__main__":``. Not on Windows.
    ``stop`` and ``health`` may be called from any thread.

    Attributes:
        stopped_by_signal: whether a signal has asked for the end of the last ``run``.
    """

    def __init__(
        self,
        build: Callable[[], TaskManager] | str | Sequence[Callable[[], TaskManager] | str],
        processes: int,
        *,
        grace_period: float = DEFAULT_GRACE_PERIOD,
        start_timeout: float = DEFAULT_START_TIMEOUT,
        metrics: Recorder | None = None,
        health_file: str | os.PathLike[str] | None = None,
        stall: float = STALL,
    ) -> None:
        builds = list(build) if isinstance(build, list | tuple) else [build]
        self._builds = checked(builds)
        self._what = ", ".join(map(name_of, builds))
        if isinstance(processes, bool) or not isinstance(processes, int) or processes < 1:
            raise ConfigurationError(f"processes must be an integer of at least 1, not {processes!r}")
        require_posix("Supervisor")
        self._grace_period = require_seconds("grace_period", grace_period)
        self._start_timeout = require_seconds("start_timeout", start_timeout)
        if metrics is not None and not isinstance(metrics, Recorder):
            raise ConfigurationError(f"metrics must be a Metrics of qbridge_core.contrib.prometheus, not {metrics!r}")
        self._sums = Sums(metrics)
        self._vitals = Vitals(require_seconds("stall", stall, positive=True))
        self._health_file = None if health_file is None else HealthFile(health_file)
        self._slots = [Slot() for _ in range(processes)]
        self._deaths: OrderedDict[Task, str] = OrderedDict()
        self._stop_requests = 0
        self._false_starts = 0
        self._reason = ""  # why going on is useless
        self._complaint = _SEE_OUTPUT
        self._kind = ""  # what the reason or the complaint is about
        self._started_at = self._say_at = 0.0
        self.stopped_by_signal = False
        self._signal = ""
        self._running = threading.Lock()

    def run(self) -> None:
        """Run the workers until ``stop`` is called or, in the main thread, SIGINT or SIGTERM arrives.

        The workers then stop gracefully; a second signal ends their grace period, a third one kills them and ends this
        process at once (exit status 128 + signal).

        Raises:
            ConfigurationError: it runs already.
            WorkerStartError: worker processes ended again and again before they could take messages, where none could
                before; one ended because of a ``ConfigurationError``, which another start would not mend; or the
                broker was not there within ``start_timeout``. Its ``__cause__`` is a ``ConfigurationError``,
                ``BrokerUnavailableError`` or ``AuthenticationError`` where it was that. Once a worker could, none of
                that is a reason any more.
        """
        if loading.is_set():
            raise ConfigurationError(
                "the main program starts its Supervisor again in each worker process, which imports it: "
                "put the start below `if __name__ == '__main__':`"
            )
        if not self._running.acquire(blocking=False):
            raise ConfigurationError("this Supervisor is running already")
        try:
            self._stop_requests = self._false_starts = 0
            self._reason = self._kind = ""
            self.stopped_by_signal, self._signal = False, ""
            self._started_at = self._say_at = monotonic()
            self._slots = [Slot() for _ in self._slots]
            _log.info("the supervisor starts %d worker processes of %s", len(self._slots), self._what)
            with self._signals():
                self._supervise()
        finally:
            for slot in self._slots:  # left over only when something unforeseen was raised
                slot.clear()
            self._vitals.end()
            if self._health_file is not None:
                self._health_file.remove()
            self._running.release()
            flush()
        if self._gives_up:
            raise WorkerStartError(
                self._reason
                or f"{self._false_starts} worker processes in a row ended before they were ready: {self._complaint}"
            ) from self._cause

    def stop(self) -> None:
        """Ask the workers to stop gracefully; ``run`` returns when they have."""
        self._stop_requests = max(1, self._stop_requests)

    def health(self) -> Health:
        """Whether this and all worker processes are alive, and one is ready, for a probe; waits for nobody.

        A process that has died is replaced, and costs no life; one in which something hangs for ``stall`` seconds, or
        that has said nothing for so long, does, with its number in the reason. ``/livez`` should have an answer that
        makes somebody start all anew: what hangs does not come back by itself.
        """
        unready = "" if self._running.locked() else "the supervisor does not run"
        if self._stop_requests or self._gives_up:
            unready = unready or "the supervisor stops"
        return self._vitals.health(self._workers, unready)

    @property
    def _workers(self) -> list[WorkerProcess]:
        return [worker for slot in self._slots if (worker := slot.worker) is not None]

    # ------------------------------------------------------------------ the loop

    @property
    def _cause(self) -> QBridgeError | None:
        known = _CAUSES.get(self._kind)
        return None if known is None else known(self._reason or self._complaint)

    @property
    def _gives_up(self) -> bool:
        return bool(self._reason) or self._false_starts >= _FALSE_STARTS

    def _supervise(self) -> None:
        setup = pickle.dumps((main_program(), self._builds, self._sums.wanted, self._vitals.stall))
        while not self._stop_requests and not self._gives_up:
            self._guarded(lambda: self._look_after(setup))
        self._drain()

    def _look_after(self, setup: bytes) -> None:
        for slot in self._slots:
            if slot.worker is None and monotonic() >= slot.start_at:
                slot.start(setup)
        self._attend()

    @staticmethod
    def _guarded(step: Callable[[], None]) -> None:
        """The workers need somebody who looks after them, whatever goes wrong here."""
        try:
            step()
        except Exception:  # noqa: BLE001 - as the docstring says
            _log.exception("the supervisor goes on after an unexpected error")
            time.sleep(_LOOK_EVERY)

    def _drain(self) -> None:
        """Have all workers stop; kill those that do not in time."""
        deadline = monotonic() + self._patience
        if self._stop_requests:
            _log.info("the supervisor stops its workers: %s", self._signal or "stop() was called")
        self._tell(STOP)
        hurried = False
        while any(slot.worker is not None for slot in self._slots):
            if self._stop_requests > 1 and not hurried:
                hurried = True
                self._tell(NOW)
                deadline = min(deadline, monotonic() + _LAST_WORDS)
            if self._stop_requests > 2 or monotonic() > deadline:
                for slot in self._slots:
                    slot.kill()
            self._guarded(self._attend)

    @property
    def _patience(self) -> float:
        """Seconds that the workers get: what was asked for, otherwise what their managers need, if that is longer."""
        if self._grace_period != DEFAULT_GRACE_PERIOD:
            return self._grace_period
        wanted = [slot.worker.grace_period + _BEHIND_GRACE for slot in self._slots if slot.worker is not None]
        return max(self._grace_period, *wanted, 0.0)

    def _tell(self, word: str) -> None:
        for slot in self._slots:
            if slot.worker is not None:
                slot.worker.tell(word)

    def _attend(self) -> None:
        """Wait a moment, hear what the workers say, and see who has died."""
        links = {
            slot.worker.link.fileno(): slot for slot in self._slots if slot.worker is not None and not slot.worker.deaf
        }
        if not links:
            time.sleep(_LOOK_EVERY)
        for link in wait(list(links), _LOOK_EVERY) if links else ():
            worker = links[link].worker  # type: ignore[index]
            if worker is not None:
                self._listen(links[link], worker)  # type: ignore[index]
        for slot in self._slots:
            if slot.worker is not None and slot.worker.process.poll() is not None:
                self._bury(slot, slot.worker)
        self._sums.look(self._workers)
        self._vitals.turn(self._workers)
        if self._health_file is not None:
            self._health_file.turn(self.health)

    def _listen(self, slot: Slot, worker: WorkerProcess) -> None:
        for words in worker.hear():
            if words == [READY]:
                slot.proven = worker.ready = True
                self._false_starts = 0
            else:
                self._heed(worker, words)

    def _heed(self, worker: WorkerProcess, words: list[Any]) -> None:
        match words:
            case [str(word), str(queue), str(task_id)] if word == BEGAN:
                worker.alone_with = (queue, task_id)
            case [str(word), str(text), str(kind)] if word == COMPLAINT:
                worker.complaint, worker.kind = text, kind
                if kind == SETTINGS and not any(each.proven for each in self._slots):
                    self._reason, self._kind = text, kind  # another start would change nothing
            case [str(word), float(seconds)] if word == GRACE:
                worker.grace_period = seconds
            case [str(word), list(told)] if word == FIGURES:
                self._sums.hear(worker, told)
            case [str(word), list(told)] if word == HEALTH:
                self._vitals.hear(worker, told)
            case [str(word)] if word == ENDED:
                worker.alone_with = None
            case [str(word), int(number), str(queue), str(task_id)] if word == ASK:
                worker.tell(ANSWER, number, self._deaths.get((queue, task_id), ""))

    def _bury(self, slot: Slot, worker: WorkerProcess) -> None:
        self._listen(slot, worker)  # to what it said before it died
        self._sums.bury(worker)
        how = describe_exit(worker.process.returncode)
        name = f"worker {socket.gethostname()}:{worker.process.pid}"
        if worker.alone_with is not None and worker.process.returncode != 0:
            self._deaths[worker.alone_with] = f"{name}, {how}"
            self._deaths.move_to_end(worker.alone_with)
            if len(self._deaths) > _REMEMBERED_DEATHS:
                self._deaths.popitem(last=False)
        stopping = self._stop_requests or self._gives_up
        waits = not stopping and self._waits_for_broker(worker)
        if not stopping and not waits and self._is_false_start(slot, worker):
            self._false_starts += 1
            self._complaint, self._kind = worker.complaint or _SEE_OUTPUT, worker.kind
        pause = slot.bury()
        if stopping or waits:
            _log.log(logging.INFO if stopping else logging.DEBUG, "%s %s", name, how)
        elif self._gives_up:
            _log.error("%s %s before it was ready, like others before it; all workers are stopped", name, how)
        else:
            _log.error("%s %s; another one starts in %g s", name, how, pause)

    def _waits_for_broker(self, worker: WorkerProcess) -> bool:
        """True when the broker is not up yet, and there is time left to wait for it."""
        if worker.process.returncode != PASSING or any(slot.proven for slot in self._slots):
            return False
        now = monotonic()
        left = self._started_at + self._start_timeout - now
        why = worker.complaint or _SEE_OUTPUT
        if left <= 0:
            waited = (
                f"within {self._start_timeout:g} s"
                if self._start_timeout
                else "(start_timeout says for how long to try)"
            )
            self._reason = f"no worker process could reach the broker {waited}: {why}"
            self._kind = BROKER
        elif now >= self._say_at:
            self._say_at = now + _SAY_EVERY
            _log.warning("the workers wait for their broker, for %.0f s more: %s", left, why)
        return True

    def _is_false_start(self, slot: Slot, worker: WorkerProcess) -> bool:
        """True for a death that hints at a mistake which restarts cannot mend."""
        if worker.ready or slot.proven:
            return False
        passing = worker.process.returncode == PASSING and any(each.proven for each in self._slots)
        return not passing

    @contextmanager
    def _signals(self) -> Iterator[None]:
        """SIGINT and SIGTERM stop the workers, if this is the main thread."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return

        insistence = Insistence()

        def stop(number: int, frame: FrameType | None) -> None:
            del frame
            self._stop_requests += 1
            self.stopped_by_signal = True
            self._signal = self._signal or signal_name(number)
            if self._stop_requests > 2:
                for slot in self._slots:
                    slot.strike()
            insistence.count(number)

        previous = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)
