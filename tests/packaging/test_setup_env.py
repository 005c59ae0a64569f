"""Which Python `make env` takes: fake ones are put on PATH, so that nothing is installed."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from support.packages import ROOT

FAKE = """#!/bin/bash
# Answers as far as setup-env.sh asks, notes what it was asked, and makes an environment that is itself.
echo "$(basename "$0") $*" >>{asked}
case "$*" in
    --version) echo "Python of a test" ;;
    "-c import sys;"*) exit {old} ;;
    "-c import ensurepip,"*) exit {bare} ;;
    "-m venv "*) mkdir -p "$4/bin" && cp "$0" "$4/bin/python" ;;
esac
"""


class Setup:
    """Runs the script on a PATH that begins with a folder of fakes."""

    def __init__(self, room: Path) -> None:
        self.room = room
        self.bin = room / "bin"
        self.bin.mkdir()
        self.add("apt-get")  # so that the real one installs nothing

    def add(self, name: str, *, old: bool = False, bare: bool = False) -> None:
        """Put a Python on PATH: one that is too old, or one without the modules that make environments."""
        path = self.bin / name
        path.write_text(FAKE.format(asked=self.room / "asked", old=int(old), bare=int(bare)))
        path.chmod(0o755)

    def run(self, **environment: str) -> subprocess.CompletedProcess[str]:
        """Set up an environment."""
        return subprocess.run(
            [ROOT / "scripts" / "setup-env.sh", self.room / "venv"],
            env={"PATH": f"{self.bin}:{os.environ['PATH']}", **environment},
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )

    def makers(self) -> list[str]:
        """Which Pythons made an environment."""
        lines = (self.room / "asked").read_text().splitlines()
        return [name for name, _, asked in (line.partition(" ") for line in lines) if asked.startswith("-m venv ")]


@pytest.fixture
def setup(tmp_path: Path) -> Setup:
    """A folder without Pythons, yet."""
    return Setup(tmp_path)


def test_the_python3_that_comes_first_makes_the_environment(setup: Setup) -> None:
    """Whichever supported version `python3` is, it is taken before those that have one in their name."""
    setup.add("python3")
    setup.add("python3.13")
    done = setup.run()
    assert done.returncode == 0, done.stderr
    assert setup.makers() == ["python3"]
    assert "taking" not in done.stdout


@pytest.mark.parametrize("unfit", ["old", "bare"])
def test_another_python_is_taken_when_python3_does_not_do(setup: Setup, unfit: str) -> None:
    """One that is too old, or cannot make environments, is passed over, and that is said."""
    setup.add("python3", old=unfit == "old", bare=unfit == "bare")
    setup.add("python3.14")
    done = setup.run()
    assert done.returncode == 0, done.stderr
    assert setup.makers() == ["python3.14"]
    assert "python3 is not Python 3.11 or newer with venv and ensurepip; taking python3.14." in done.stdout


@pytest.mark.parametrize(
    ("unfit", "sentence"),
    [("old", "error: Python 3.11 or newer is needed, and"), ("bare", "cannot create virtual environments")],
)
def test_a_python_that_does_not_do_is_refused(setup: Setup, unfit: str, sentence: str) -> None:
    """The one that was asked for is never replaced by another; a sentence says what it lacks and what helps."""
    setup.add("mine", old=unfit == "old", bare=unfit == "bare")
    setup.add("python3")
    done = setup.run(PYTHON=str(setup.bin / "mine"))
    assert done.returncode == 1
    assert sentence in done.stderr
    assert str(setup.bin / "mine") in done.stderr
    assert "apt-get install" in done.stderr
    assert setup.makers() == []
