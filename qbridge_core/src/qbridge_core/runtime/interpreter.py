"""Starts Python processes that begin from scratch: a fork of a process with threads can deadlock."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from multiprocessing import spawn
from typing import Any


def start_interpreter(module: str, descriptors: Sequence[int]) -> subprocess.Popen[bytes]:
    """Run ``module.main(*descriptors)`` in a new interpreter, which inherits these descriptors and our output.

    It is the leader of a process group: the terminal's Ctrl-C does not reach it, and a signal can reach what it starts.

    Raises:
        OSError: there is no room for another process.
    """
    flags: list[str] = subprocess._args_from_interpreter_flags()  # type: ignore[attr-defined]
    arguments = ", ".join(map(str, descriptors))
    code = f"import sys; sys.path[:] = {sys.path!r}; from {module} import main; main({arguments})"
    return subprocess.Popen(  # noqa: S603 - our own program
        [spawn.get_executable(), *flags, "-c", code],
        stdin=subprocess.DEVNULL,
        pass_fds=descriptors,
        process_group=0,
    )


def main_program() -> dict[str, Any]:
    """How the new process finds the main program and its modules; ``multiprocessing.spawn.prepare`` takes it there."""
    preparation = spawn.get_preparation_data("qbridge")
    preparation.pop("authkey", None)  # belongs to multiprocessing's own children
    return preparation
