"""A Django project, and its ``manage.py``."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Protocol

import pytest

PROJECT = Path(__file__).parent / "project"


class Manage(Protocol):
    """Runs ``manage.py`` with arguments, and returns how it ended."""

    def __call__(self, *args: str, code: int | None = 0, **variables: str) -> subprocess.CompletedProcess[str]:
        """Args: the arguments, the exit code that is right (``None``: any), and variables."""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The project, in a folder of the test's own."""
    pytest.importorskip("django")
    shutil.copytree(PROJECT, tmp_path / "project", ignore=shutil.ignore_patterns("__pycache__"))
    return tmp_path / "project"


@pytest.fixture
def manage(folder: Path) -> Manage:
    """Run ``manage.py`` of the project."""

    def run(*args: str, code: int | None = 0, **variables: str) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            command(*args), capture_output=True, text=True, timeout=100, cwd=folder, env=environment(variables),
            check=False,
        )  # fmt: skip
        assert code is None or done.returncode == code, f"{args}: {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done

    return run


def command(*args: str) -> list[str]:
    """``manage.py`` with arguments."""
    return [sys.executable, "-W", "error", "manage.py", *args]


def environment(variables: dict[str, str]) -> dict[str, str]:
    """Nobody's settings, and these."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("QBRIDGE_", "DJANGO_"))}
    return clean | variables
