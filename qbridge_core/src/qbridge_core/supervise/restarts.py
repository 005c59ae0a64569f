"""The place of one worker process after the other, and the pauses between them."""

from __future__ import annotations

import contextlib
import os
import signal
from typing import Final

from qbridge_core.runtime.clock import monotonic
from qbridge_core.runtime.logs import logger
from qbridge_core.runtime.pause import GrowingPause
from qbridge_core.supervise.program import PASSING
from qbridge_core.supervise.worker_process import WorkerProcess

_log: Final = logger("qbridge.supervisor")
_FIRST_PAUSE: Final = 0.2
_LONGEST_PAUSE: Final = 30.0
_LONGEST_WAIT_FOR_BROKER: Final = 3.0
_LONG_LIFE: Final = 30.0


class Slot:
    """The place of one worker process after the other.

    Attributes:
        worker: the one that is there now, if any.
        start_at: when the next one may start (monotonic time).
        proven: a worker here was ready once.
    """

    def __init__(self) -> None:
        self.worker: WorkerProcess | None = None
        self.start_at = 0.0
        self.proven = False
        self._pause = GrowingPause(_FIRST_PAUSE, _LONGEST_PAUSE)

    def start(self, setup: bytes) -> None:
        """Start a process."""
        try:
            self.worker = WorkerProcess(setup)
        except OSError as exc:
            pause = self._pause.next()
            self.start_at = monotonic() + pause
            _log.error("no worker process could be started: %s; next try in %g s", exc, pause)

    def bury(self) -> float:
        """Free the place of a process that has ended; return the seconds until the next one."""
        assert self.worker is not None  # noqa: S101 - the caller has looked
        now = monotonic()
        if now - self.worker.started_at >= _LONG_LIFE:
            self._pause.reset()
        pause = self._pause.next()
        if self.worker.process.returncode == PASSING:  # work shall go on soon after the broker is back
            pause = min(pause, _LONGEST_WAIT_FOR_BROKER)
        self.worker.link.close()
        self.worker = None
        self.start_at = now + pause
        return pause

    def clear(self) -> None:
        """Kill the process, if there is one, and wait for its end."""
        if self.worker is not None:
            self.kill()
            self.worker.process.wait()
            self.bury()

    def strike(self) -> None:
        """Kill the process without a look whether it has ended; takes no lock, for a signal handler."""
        if self.worker is not None:
            with contextlib.suppress(OSError):
                os.kill(self.worker.process.pid, signal.SIGKILL)

    def kill(self) -> None:
        """Kill the process, if there is one."""
        if self.worker is not None and self.worker.process.poll() is None:
            self.worker.process.kill()
