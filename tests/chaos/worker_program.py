"""The worker process: ``python -m chaos.worker_program SETTINGS``, a JSON object; see `Settings`.

It ends when its standard input does, so that nothing is left behind when the harness dies.
"""

from __future__ import annotations

import itertools
import json
import logging
import os
import sys
import time
from dataclasses import asdict, dataclass
from typing import Any

from chaos.history import DONE, FAILED
from qbridge_core import ConstantBackoff, TaskManager, connect, current_task
from support.parent import end_with_parent


@dataclass(frozen=True)
class Settings:
    """What the process is told."""

    url: str
    queue: str
    dead_letter_queue: str
    journal: str
    threads: int
    max_retries: int
    max_crashes: int
    backoff: float

    def dump(self) -> str:
        """For the command line."""
        return json.dumps(asdict(self))


class Handler:
    """Does what a payload says, ``{"id": …, "seconds": …, "fails": N}``, and writes a line before and after.

    The first N attempts fail.
    """

    def __init__(self, journal: str) -> None:
        # One write to a file opened for appending is whole and in order, and the kernel has it when we are killed.
        self._journal = os.open(journal, os.O_CREAT | os.O_APPEND | os.O_WRONLY)
        self._numbers = itertools.count()
        self._pid = os.getpid()

    def note(self, *fields: object) -> None:
        """Append one line."""
        line = " ".join(str(field) for field in (*fields, self._pid, time.monotonic()))
        os.write(self._journal, f"{line}\n".encode())

    def __call__(self, payload: dict[str, Any]) -> None:
        """Run one task."""
        number, attempt = next(self._numbers), current_task().attempt
        self.note("start", payload["id"], number, attempt)
        time.sleep(payload["seconds"])
        if attempt <= payload["fails"]:
            self.note(FAILED, payload["id"], number)
            raise ValueError("as planned")
        self.note(DONE, payload["id"], number)


def main(settings: Settings) -> None:
    """Work until a signal says stop."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    end_with_parent()
    handler = Handler(settings.journal)
    with connect(settings.url) as client:
        handler.note("ready")
        TaskManager(
            client,
            handler,
            settings.queue,
            settings.dead_letter_queue,
            max_retries=settings.max_retries,
            task_timeout=60.0,
            max_workers=settings.threads,
            max_crashes=settings.max_crashes,
            backoff=ConstantBackoff(settings.backoff),
        ).start()


if __name__ == "__main__":
    main(Settings(**json.loads(sys.argv[1])))
