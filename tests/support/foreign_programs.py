"""Programs of Celery's and Dramatiq's, as a test starts and asks them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import ClassVar

from support.wait import wait_for


class ForeignProgram:
    """The other side, in processes of its own.

    Args:
        url: the broker's, as QBridge has it.
        queue: where its tasks go.
        folder: for its files.
    """

    program: ClassVar[str]
    ready: ClassVar[bytes]

    def __init__(self, url: str, queue: str, folder: Path) -> None:
        self._arguments = [url.removeprefix("kombu+").partition("?")[0], queue, str(folder / "journal")]
        self._log = folder / "worker.log"
        self._worker: subprocess.Popen[bytes] | None = None
        self._producer = subprocess.Popen(self._command("send"), stdin=subprocess.PIPE, stdout=subprocess.PIPE)

    def _command(self, name: str) -> list[str]:
        return [sys.executable, str(Path(__file__).with_name(self.program)), name, *self._arguments]

    def send(self, *numbers: int | str) -> str:
        """Send a task for each; return "sent", or an error."""
        assert self._producer.stdin is not None
        assert self._producer.stdout is not None
        self._producer.stdin.write(b"%s\n" % " ".join(map(str, numbers)).encode())
        self._producer.stdin.flush()
        return self._producer.stdout.readline().decode().strip()

    def start(self) -> None:
        """Start a worker, and return when it works."""
        with self._log.open("wb") as log:
            self._worker = subprocess.Popen(self._command("work"), stdout=log, stderr=subprocess.STDOUT)
        wait_for(lambda: self.ready in self._log.read_bytes(), 60, "the worker starts")

    def is_alive(self) -> bool:
        """Whether the worker has not ended."""
        return self._worker is not None and self._worker.poll() is None

    def done(self) -> list[int]:
        """The numbers of the tasks that have run."""
        journal = Path(self._arguments[2])
        return [int(line.split()[1]) for line in journal.read_text().splitlines()] if journal.exists() else []

    def close(self) -> None:
        """End the processes."""
        with self._producer as producer:
            producer.kill()
        if self._worker is not None:
            self._worker.kill()
            self._worker.wait()


class CeleryProgram(ForeignProgram):
    """Celery's side."""

    program = "celery_program.py"
    ready = b" ready."

    def discarded(self) -> int:
        """How many messages the worker says that it has thrown away."""
        return self._log.read_text().count("Received and deleted unknown message")


class DramatiqProgram(ForeignProgram):
    """Dramatiq's side."""

    program = "dramatiq_program.py"
    ready = b"ready"
