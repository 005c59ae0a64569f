"""Tells the supervisor what this worker process has counted."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any, Final

from qbridge_core.runtime.endurance import Endurance
from qbridge_core.telemetry.recorder import Recorder

EVERY: Final = 0.25
"""Seconds between two times at least: as much is lost of what a process has counted that dies of SIGKILL."""


class Teller:
    """Sends what was counted as soon as something was, from a thread of its own; an idle process wakes nobody.

    Args:
        say: sends it.
        has_room: whether that would not have to wait; what is not sent is sent later, with what comes then.

    Attributes:
        recorder: counts.
    """

    def __init__(self, say: Callable[[list[list[Any]]], None], has_room: Callable[[], bool]) -> None:
        self.recorder = Recorder(None)
        self._say = say
        self._has_room = has_room
        self._one_at_a_time = threading.Lock()
        threading.Thread(target=self._run, name="qbridge-figures", daemon=True).start()

    def tell(self) -> None:
        """Send what was counted until now."""
        with self._one_at_a_time:
            if self._has_room():
                self.recorder.figures.changed.clear()
                self._say(self.recorder.figures.take())

    def _run(self) -> None:
        changed = self.recorder.figures.changed
        enduring = Endurance("what tells the supervisor what was counted")
        while changed.wait():
            with enduring:
                self.tell()
            time.sleep(EVERY)
