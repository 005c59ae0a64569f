"""The command as a process."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import IO, Protocol

import pytest

from support.terminal import Terminal
from support.warm import WarmCommand

STARTS_PYTHON = {"worker"}
"""Commands that start further processes, and import what is theirs as their first one does."""


class QBridge(Protocol):
    """Runs the command with arguments and returns how it ended."""

    def __call__(
        self, *args: str, stdin: str = "", code: int | None = 0, cwd: Path | None = None, **variables: str
    ) -> subprocess.CompletedProcess[str]:
        """Args: the command's, its input, the exit code that is right (``None``: any), a folder, variables for it."""


class StartQBridge(Protocol):
    """Starts the command, and leaves it to the test; it is killed after that."""

    def __call__(
        self, *args: str, stdout: IO[bytes] | int = subprocess.PIPE, close_input: bool = False, **variables: str
    ) -> subprocess.Popen[str]:
        """Args: the command's, where its output goes, whether its input is closed, variables for it."""


@pytest.fixture(scope="session")
def warm_command() -> Iterator[WarmCommand]:
    """One for all tests of this process."""
    with closing(WarmCommand()) as command:
        yield command


@pytest.fixture
def qbridge(tmp_path: Path, warm_command: WarmCommand) -> QBridge:
    """Run ``qbridge`` in the test's folder, with no settings of the one who runs the tests."""

    def run(
        *args: str, stdin: str = "", code: int | None = 0, cwd: Path | None = None, **variables: str
    ) -> subprocess.CompletedProcess[str]:
        folder, environment = cwd or tmp_path, _environment(variables)
        if STARTS_PYTHON.isdisjoint(args) and not any(name.startswith("PYTHON") for name in variables):
            done = warm_command.run(args, stdin, folder, environment, 60)
        else:
            done = subprocess.run(
                _command(*args), input=stdin, capture_output=True, text=True, timeout=60,
                cwd=folder, env=environment, check=False,
            )  # fmt: skip
        assert code is None or done.returncode == code, f"{args}: {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done

    return run


@pytest.fixture
def start_qbridge(tmp_path: Path) -> Iterator[StartQBridge]:
    """Start ``qbridge`` as ``qbridge`` runs it."""
    started: list[subprocess.Popen[str]] = []

    def start(
        *args: str, stdout: IO[bytes] | int = subprocess.PIPE, close_input: bool = False, **variables: str
    ) -> subprocess.Popen[str]:
        without = ["sh", "-c", 'exec "$@" <&-', "sh"] if close_input else []
        process = subprocess.Popen(
            [*without, *_command(*args)], stdin=subprocess.PIPE, stdout=stdout, stderr=subprocess.PIPE, text=True,
            cwd=tmp_path, env=_environment(variables),
        )  # fmt: skip
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


class OpenTerminal(Protocol):
    """Starts the command in a terminal, which is closed after the test."""

    def __call__(self, *args: str, size: tuple[int, int] = (120, 30), **variables: str) -> Terminal:
        """Args: the command's, columns and lines of the terminal, variables for it."""


@pytest.fixture
def open_terminal(tmp_path: Path) -> Iterator[OpenTerminal]:
    """Run ``qbridge`` in a terminal."""
    opened: list[Terminal] = []

    def start(*args: str, size: tuple[int, int] = (120, 30), **variables: str) -> Terminal:
        opened.append(Terminal(_command(*args), tmp_path, _environment(variables), size))
        return opened[-1]

    yield start
    for terminal in opened:
        terminal.close()


def _command(*args: str) -> list[str]:
    return [sys.executable, "-m", "qbridge_core", *args]


def _environment(variables: dict[str, str]) -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.startswith("QBRIDGE_")} | variables
