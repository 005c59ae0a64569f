"""A file that is young as long as a worker is alive, for probes that can run a command and not speak HTTP."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Final

from qbridge_core.errors import ConfigurationError
from qbridge_core.runtime.clock import monotonic
from qbridge_core.runtime.logs import logger
from qbridge_core.runtime.outage import Outage
from qbridge_core.telemetry.health import Health, Verdicts

_log: Final = logger("qbridge.health")
EVERY: Final = 2.0
"""Seconds between two touches."""


class HealthFile:
    """The file, for one thread. It says ``ready``, or ``not ready`` and why; it is gone when the worker is not alive.

    A process that hangs as a whole touches nothing, so a probe has to look at its age too.

    Args:
        path: where it is to be.

    Raises:
        ConfigurationError: nothing can be written there.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._path = Path(path)
        self._text = ""
        self._due_at = 0.0
        self._verdicts = Verdicts()
        self._trouble = Outage()
        try:
            self._show(Health(alive=True, ready=False, reason="the worker starts"))
        except OSError as exc:
            raise ConfigurationError(
                f"the health file {self._path} cannot be written: {exc.strerror or exc}; choose a path in a folder "
                "that exists and that this user may write to"
            ) from exc

    def turn(self, ask: Callable[[], Health]) -> None:
        """Touch it if it is time to; never raises. Call it at least every second."""
        now = monotonic()
        if now < self._due_at:
            return
        self._due_at = now + EVERY
        try:
            self._show(ask())
            self._trouble.back(self)
        except OSError as exc:
            self._trouble.lost(self)
            if self._trouble.is_news(exc):
                _log.error("the health file %s cannot be written, so that probes find none: %s", self._path, exc)

    def remove(self) -> None:
        """The worker has ended."""
        with suppress(OSError):
            self._path.unlink(missing_ok=True)

    def _show(self, health: Health) -> None:
        self._verdicts.note(health)
        if not health.alive:
            self._path.unlink(missing_ok=True)
            self._text = ""
            return
        text = f"{health}\n"
        if text == self._text:
            with suppress(FileNotFoundError):
                os.utime(self._path)
                return
        self._write(text)
        self._text = text

    def _write(self, text: str) -> None:
        """At once as a whole: a probe reads it at any time."""
        descriptor, name = tempfile.mkstemp(prefix=f".{self._path.name}-", dir=self._path.parent)
        try:
            with open(descriptor, "w", encoding="utf-8") as file:
                file.write(text)
            os.chmod(name, 0o644)
            os.replace(name, self._path)
        except BaseException:
            os.unlink(name)
            raise
