"""One worker process, as its supervisor sees it: how it is started, told and heard."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any, Final

from qbridge_core.execute.spawned import start_program
from qbridge_core.runtime.clock import monotonic
from qbridge_core.runtime.logs import logger
from qbridge_core.telemetry.health import Health

_log: Final = logger("qbridge.supervisor")
Task = tuple[str, str]
"""The queue and the id of a task."""


class WorkerProcess:
    """One worker process, seen from outside.

    Args:
        setup: its first message: how to find the main program, and the build function.

    Attributes:
        ready: it could take messages.
        deaf: nothing that it says is heard any more.
        alone_with: the task that it runs, when it runs no other.
        complaint: what it said before it ended.
        kind: what that is about.
        grace_period: seconds that its managers give to running tasks.
        health: what it said last of that; None as long as it builds its managers.
        heard_at: ``monotonic()`` then.
        looks: it was asked to look at the queues, for all.

    Raises:
        OSError: there is no room for another process.
    """

    def __init__(self, setup: bytes) -> None:
        self.process, self.link = start_program("qbridge_core.supervise.program")
        self.ready = False
        self.deaf = False
        self.alone_with: Task | None = None
        self.complaint = self.kind = ""
        self.grace_period = 0.0
        self.health: Health | None = None
        self.heard_at = 0.0
        self.looks = False
        self.started_at = monotonic()
        with contextlib.suppress(OSError):  # its end will be seen
            self.link.send_bytes(setup)

    def tell(self, *words: object) -> None:
        """Send a command or an answer."""
        with contextlib.suppress(OSError):
            self.link.say(*words)

    def hear(self) -> Iterator[list[Any]]:
        """What it has said."""
        try:
            while not self.deaf and self.link.poll():
                yield self.link.hear()
        except (EOFError, OSError):
            self.deaf = True
        except ValueError:  # a process that a handler started may have written there
            _log.error("worker %d says what nobody understands; it is not listened to any more", self.process.pid)
            self.deaf = True
