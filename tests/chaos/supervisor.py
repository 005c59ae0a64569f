"""Keeps one worker process running, as systemd or Kubernetes would: whenever it ends, it is started again."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

from support.wait import wait_for

_TESTS = Path(__file__).parents[1]
_STOP_TIMEOUT = 60.0  # the worker's own grace period is 25 s


class Supervisor:
    """Runs the program until `stop`. `terminate` and `kill` return when the process has ended
    and the next one has been started.

    Attributes:
        kills: when each process was killed by `kill` (monotonic seconds), by pid.
        stops: when each process was told to stop by `terminate`, by pid; not the last one, by `stop`.
        exits: processes that ended unasked, or not with status 0 after a SIGTERM.
    """

    def __init__(self, settings: str, log: Path) -> None:
        self.kills: dict[int, float] = {}
        self.stops: dict[int, float] = {}
        self.exits: list[str] = []
        self._command = [sys.executable, "-m", "chaos.worker_program", settings]
        self._log = log
        self._expected: set[int] = set()
        self._ending = threading.Event()
        self._process = self._spawn()
        self._thread = threading.Thread(target=self._watch, name="supervisor", daemon=True)
        self._thread.start()

    def _spawn(self) -> subprocess.Popen[bytes]:
        with self._log.open("ab") as log:
            return subprocess.Popen(
                self._command,
                stdin=subprocess.PIPE,  # never written to; its end tells the worker that we are gone
                stdout=log,
                stderr=subprocess.STDOUT,
                env=os.environ | {"PYTHONPATH": str(_TESTS)},
                start_new_session=True,  # Ctrl-C reaches the harness, which then ends the worker
            )

    def _watch(self) -> None:
        while True:
            process = self._process
            status = process.wait()
            if process.stdin is not None:
                process.stdin.close()
            if process.pid not in self._expected:
                self.exits.append(f"worker {process.pid} ended unasked with status {status}; its log: {self._log}")
            if self._ending.is_set():
                return
            time.sleep(0.1)  # one that cannot start must not take the whole machine
            self._process = self._spawn()

    @property
    def pid(self) -> int:
        """The process that runs now, or ran last."""
        return self._process.pid

    def terminate(self) -> None:
        """Ask the worker to stop, with SIGTERM."""
        process = self._process
        self._expected.add(process.pid)
        if not self._ending.is_set():
            self.stops[process.pid] = time.monotonic()
        process.send_signal(signal.SIGTERM)
        try:
            status = process.wait(_STOP_TIMEOUT)
        except subprocess.TimeoutExpired:
            self.exits.append(f"worker {process.pid} did not end within {_STOP_TIMEOUT:g} s after a SIGTERM")
            process.kill()
        else:
            if status != 0:
                self.exits.append(f"worker {process.pid} ended with status {status} after a SIGTERM; log: {self._log}")
        self._wait_for_the_next(process)

    def kill(self) -> None:
        """Kill the worker, with SIGKILL."""
        process = self._process
        self._expected.add(process.pid)
        self.kills[process.pid] = time.monotonic()
        process.kill()
        self._wait_for_the_next(process)

    def _wait_for_the_next(self, process: subprocess.Popen[bytes]) -> None:
        process.wait()
        wait_for(lambda: self._ending.is_set() or self._process is not process, 10, "the next worker is started")

    def stop(self) -> None:
        """Ask the worker to stop and start no other."""
        self._ending.set()
        self.terminate()
        self._thread.join()

    def close(self) -> None:
        """End the worker at once, if there still is one."""
        self._ending.set()

        def ended() -> bool:
            self._expected.add(self._process.pid)
            self._process.kill()  # does nothing to one that has ended
            return not self._thread.is_alive()

        wait_for(ended, 10, "the worker ends")
