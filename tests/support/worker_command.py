"""``qbridge worker`` as a process."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

from support.programs import children_of, is_alive


class Worker:
    """A worker that runs in the test's folder, and what it says."""

    def __init__(self, folder: Path, args: tuple[str, ...], variables: dict[str, str]) -> None:
        clean = {name: value for name, value in os.environ.items() if not name.startswith("QBRIDGE_")}
        self.log_path = folder / "worker.log"
        with self.log_path.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "qbridge_core", "worker", *args],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=folder, env=clean | variables,
            )  # fmt: skip

    @property
    def log(self) -> str:
        """All that it has said."""
        return self.log_path.read_text()

    def end(self) -> int:
        """SIGTERM; its exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(60)

    def close(self) -> None:
        """Kill it, and what it has started."""
        children = children_of(self.process.pid)
        self.process.kill()
        self.process.wait()
        for pid in children:
            if is_alive(pid):
                os.kill(pid, signal.SIGKILL)
