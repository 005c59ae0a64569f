"""The publisher process: ``python -m soak.publisher_program SETTINGS``, a JSON object; see `Settings`."""

from __future__ import annotations

import json
import sys
import time
from dataclasses import asdict, dataclass
from typing import Final

from qbridge_core import connect
from soak.journal import ended_runs
from soak.plan import message
from support.parent import end_with_parent

_BATCH: Final = 500
_PAUSE: Final = 0.02


@dataclass(frozen=True)
class Settings:
    """What the process is told; `Plan` says the rest."""

    url: str
    queue: str
    journal: str
    count: int
    backlog: int
    padding: int

    def dump(self) -> str:
        """For the command line."""
        return json.dumps(asdict(self))


def main(settings: Settings) -> None:
    """Publish everything, each part when the worker has done enough of what came before it."""
    end_with_parent()
    padding = "x" * settings.padding
    with connect(settings.url) as client:
        for start in range(0, settings.count, _BATCH):
            # Retries are runs too, so the backlog is a little longer than this.
            while start - ended_runs(settings.journal) >= settings.backlog:
                time.sleep(_PAUSE)
            numbers = range(start, min(start + _BATCH, settings.count))
            client.publish_many(settings.queue, [message(number, padding) for number in numbers])


if __name__ == "__main__":
    main(Settings(**json.loads(sys.argv[1])))
