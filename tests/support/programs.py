"""Python programs of a test, and the processes that they start."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Final

TESTS: Final = str(Path(__file__).parents[1])
"""A program that uses ``support`` begins with ``sys.path.insert(0, TESTS)``."""


class Programs:
    """Programs that a test writes into its folder and starts. What they print is in its file ``log``."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._processes: list[subprocess.Popen[bytes]] = []

    def start(self, code: str, name: str = "worker.py") -> subprocess.Popen[bytes]:
        """Write a program, over the one of that name, and start it."""
        path = self._folder / name
        path.write_text(code)
        with (self._folder / "log").open("ab") as log:
            self._processes.append(subprocess.Popen([sys.executable, str(path)], stdout=log, stderr=log))
        return self._processes[-1]

    def close(self) -> None:
        """Kill all that still run, and what they have started."""
        for process in self._processes:
            children = children_of(process.pid)
            process.kill()
            process.wait()
            for pid in children:
                if is_alive(pid):
                    os.kill(pid, signal.SIGKILL)


def is_alive(pid: int) -> bool:
    """True while the process runs."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


def children_of(pid: int) -> list[int]:
    """The processes that a process has started."""
    found: list[int] = []
    for entry in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # one that has just ended
            if int(entry.read_text().rpartition(")")[2].split()[1]) == pid:
                found.append(int(entry.parent.name))
    return found
