"""Worker processes of the fault tests, and the journal that their handlers write."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from support.wait import wait_for

_PROGRAM = Path(__file__).with_name("worker_program.py")
StartWorker = Callable[..., subprocess.Popen[bytes]]


def quick(url: str) -> str:
    """The URL with a short lease, so that a test need not wait half a minute for a dead worker's tasks."""
    return f"{url}?lease=2" if url.startswith("redis") else url


@dataclass
class Journal:
    """What the handlers of all worker processes wrote."""

    path: Path
    processes: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def counts(self, event: str) -> Counter[str]:
        """How often each task had this event."""
        if not self.path.exists():
            return Counter()
        lines = (line.split() for line in self.path.read_text().splitlines())
        return Counter(parts[1] for parts in lines if parts[0] == event)

    def start_worker(self, url: str, queue: str, timeout: float) -> subprocess.Popen[bytes]:
        """Start a worker process and return when it is connected."""
        log_path = self.path.with_name(f"worker-{len(self.processes)}.log")
        command = [sys.executable, str(_PROGRAM), url, queue, f"{queue}-dead", str(self.path), str(timeout)]
        ready = self.counts("ready")["-"]
        with log_path.open("wb") as log:
            process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)
        self.processes.append(process)
        wait_for(lambda: process.poll() is not None or self.counts("ready")["-"] > ready, 30, "the worker starts")
        assert process.poll() is None, log_path.read_text()
        return process

    def close(self) -> None:
        """Kill the workers that still run."""
        for process in self.processes:
            process.kill()
            process.wait()
