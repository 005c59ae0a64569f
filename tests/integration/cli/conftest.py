"""The command as a process."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Protocol

import pytest


class QBridge(Protocol):
    """Runs the command with arguments and returns how it ended."""

    def __call__(
        self, *args: str, stdin: str = "", code: int | None = 0, **variables: str
    ) -> subprocess.CompletedProcess[str]:
        """Args: the command's, its input, the exit code that is right (``None``: any), and variables for it."""


@pytest.fixture
def qbridge(tmp_path: Path) -> QBridge:
    """Run ``qbridge`` in the test's folder, with no settings of the one who runs the tests."""

    def run(*args: str, stdin: str = "", code: int | None = 0, **variables: str) -> subprocess.CompletedProcess[str]:
        clean = {name: value for name, value in os.environ.items() if not name.startswith("QBRIDGE_")}
        done = subprocess.run(
            [sys.executable, "-m", "qbridge_core", *args],
            input=stdin, capture_output=True, text=True, timeout=60, cwd=tmp_path, env=clean | variables, check=False,
        )  # fmt: skip
        assert code is None or done.returncode == code, f"{args}: {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done

    return run
