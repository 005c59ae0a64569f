"""The worker process: ``python -m soak.worker_program SETTINGS``, a JSON object; see `Settings`."""

from __future__ import annotations

import json
import logging
import sys
from dataclasses import asdict, dataclass
from typing import Any

from qbridge_core import Retry, TaskManager, connect, current_task
from soak.journal import JournalWriter
from soak.plan import Fate, delay, fate
from support.parent import end_with_parent


@dataclass(frozen=True)
class Settings:
    """What the process is told; `Plan` says the rest."""

    url: str
    queue: str
    dead_letter_queue: str
    journal: str
    threads: int
    leak: int

    def dump(self) -> str:
        """For the command line."""
        return json.dumps(asdict(self))


class Handler:
    """Does what the number of the task says, and writes down that it did."""

    def __init__(self, settings: Settings) -> None:
        self._journal = JournalWriter(settings.journal)
        self._leak = settings.leak
        self._leaked: list[bytearray] = []

    def __call__(self, payload: dict[str, Any]) -> None:
        """Run one task."""
        number, attempt = payload["number"], current_task().attempt
        what = fate(number)
        if self._leak:
            self._leaked.append(bytearray(b"x" * self._leak))
        self._journal.note(number, attempt)
        if attempt <= what.failed_runs:
            if what is Fate.WAITS:
                raise Retry(after=delay(number))
            raise ValueError("as planned")


def main(settings: Settings) -> None:
    """Work until a signal says stop, with the default options of everything but the number of threads."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    end_with_parent()
    handler = Handler(settings)
    with connect(settings.url) as client:
        TaskManager(client, handler, settings.queue, settings.dead_letter_queue, max_workers=settings.threads).start()


if __name__ == "__main__":
    main(Settings(**json.loads(sys.argv[1])))
