"""What probes learn of a worker program, from its first moment on."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from qbridge_core.telemetry.health import Health


class Probes:
    """What the program's pages and its file are made from.

    Args:
        file: the path of the file; ``None`` where nobody wants one.
        stall: seconds that something may be overdue before the worker is not alive.

    Attributes:
        file: as above.
        stall: as above.
        source: tells the health; another one when it is known what runs.
    """

    def __init__(self, file: Path | None, stall: float) -> None:
        self.file = file
        self.stall = stall
        self.source: Callable[[], Health] = _starting

    def health(self) -> Health:
        """That of the program; in any thread."""
        return self.source()


def _starting() -> Health:
    """Targets are imported and connected, which may take long: a broker may not be up yet."""
    return Health(alive=True, ready=False, reason="the worker starts")
