"""What probes learn of a worker program, from its first moment on."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Final

from qbridge_core.runtime.logs import logger
from qbridge_core.telemetry.health import Health

_log: Final = logger("qbridge.worker")


class Probes:
    """What the program's pages and its file are made from.

    Args:
        file: the path of the file; ``None`` where nobody wants one.
        stall: seconds that something may be overdue before the worker is not alive.

    Attributes:
        file: as above.
        stall: as above.
        source: tells the health; another one when it is known what runs.
        shown: what is shown over HTTP, and where; "" when nothing is.
    """

    def __init__(self, file: Path | None, stall: float) -> None:
        self.file = file
        self.stall = stall
        self.source: Callable[[], Health] = _starting
        self.shown = ""

    def health(self) -> Health:
        """That of the program; in any thread."""
        return self.source()

    def say_what_is_shown(self) -> None:
        """Say it in the log, which is set up by now."""
        if self.shown:
            _log.info("%s", self.shown)


def _starting() -> Health:
    """Targets are imported and connected, which may take long: a broker may not be up yet."""
    return Health(alive=True, ready=False, reason="the worker starts")
