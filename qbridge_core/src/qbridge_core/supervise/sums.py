"""Adds up what the worker processes of a supervisor have counted, and has one of them look at the queues."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from qbridge_core.runtime.logs import logger
from qbridge_core.runtime.outage import Outage
from qbridge_core.runtime.signals import signal_name
from qbridge_core.supervise.program import LOOK
from qbridge_core.supervise.worker_process import WorkerProcess
from qbridge_core.telemetry.catalogue import EXITS, PROCESSES
from qbridge_core.telemetry.recorder import Recorder

_log: Final = logger("qbridge.supervisor")


class Sums:
    """The figures of all worker processes together, those that are dead included.

    Args:
        recorder: has the sums; ``None`` when nobody wants any.

    Attributes:
        wanted: whether somebody does.
    """

    def __init__(self, recorder: Recorder | None) -> None:
        self.wanted = recorder is not None
        self._recorder = recorder
        self._complaints = Outage()

    def hear(self, worker: WorkerProcess, told: list[Any]) -> None:
        """A process tells what it has counted since it told last."""
        if self._recorder is None:
            return
        try:
            self._recorder.figures.add(told, worker)
        except ValueError as exc:
            if self._complaints.is_news(ValueError):
                _log.error("what worker %d has counted cannot be read: %s", worker.process.pid, exc)

    def bury(self, worker: WorkerProcess) -> None:
        """A process has ended; what it has counted stays."""
        if self._recorder is not None:
            self._recorder.figures.forget(worker)
            self._recorder.figures.count(EXITS, _exit_of(worker.process.returncode))

    def look(self, workers: Sequence[WorkerProcess]) -> None:
        """Count the processes, and choose one that looks at the queues if none of them does."""
        if self._recorder is None:
            return
        self._recorder.figures.show(PROCESSES, len(workers))
        ready = [worker for worker in workers if worker.ready]
        if self._recorder.look_every is not None and ready and not any(worker.looks for worker in ready):
            ready[0].looks = True
            ready[0].tell(LOOK, self._recorder.look_every)


def _exit_of(status: int) -> str:
    """An exit status, or the name of the signal."""
    return str(status) if status >= 0 else signal_name(-status)
