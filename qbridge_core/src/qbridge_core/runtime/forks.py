"""Ends the copies of this process that a handler makes.

A handler may fork and let the copy return as well, or leave by an exception. The copy has our stack: it would go on as
if it were the worker, settle or report the task a second time, and keep the connections open.
"""

from __future__ import annotations

import os
import sys
import traceback
from typing import Final, NoReturn


class _Process:
    """This process.

    Attributes:
        forks: how often it or those that it comes from were forked. Reading it costs less than asking for the pid.
    """

    forks = 0

    def count(self) -> None:
        """This is a copy."""
        self.forks += 1


process: Final = _Process()

if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=process.count)


class OneProcess:
    """Ends every process but the one that began the block, one that C code has forked too."""

    def __enter__(self) -> None:
        self._process = os.getpid()

    def __exit__(self, kind: object, exc: BaseException | None, frames: object) -> None:
        if os.getpid() != self._process:
            end_copy(exc)


def end_copy(exc: BaseException | None) -> NoReturn:
    """End a copy as a program of its own would have ended."""
    status = 0 if exc is None else 1
    try:
        if isinstance(exc, SystemExit) and (exc.code is None or isinstance(exc.code, int)):
            status = exc.code or 0
        elif isinstance(exc, SystemExit):
            sys.stderr.write(f"{exc.code}\n")
        elif exc is not None:
            traceback.print_exception(exc)
        flush_output()
    finally:
        os._exit(status & 0xFF)


def flush_output() -> None:
    """Write what was printed."""
    for stream in (sys.stdout, sys.stderr):
        try:  # noqa: SIM105 - without ``contextlib``, whose calls cost more than the rest
            stream.flush()
        except Exception:  # noqa: BLE001, S110 - a program may have closed or replaced them
            pass
