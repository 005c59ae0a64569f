"""Wheels that are built once in a run, and environments without anything in them."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from support.packages import PACKAGES, ROOT, build_wheels, make_environment

Once = Callable[[str, Callable[[Path], object]], Path]


@pytest.fixture(scope="session")
def shared_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory that all workers of this run share."""
    base = tmp_path_factory.getbasetemp()
    return base.parent if "PYTEST_XDIST_WORKER" in os.environ else base


@pytest.fixture(scope="session")
def once(shared_dir: Path) -> Once:
    """Fill a directory once in a run, whichever worker comes first; the others wait for it."""

    def fill(name: str, build: Callable[[Path], object]) -> Path:
        directory, done = shared_dir / name, shared_dir / f"{name}.done"
        with (shared_dir / f"{name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not done.exists():
                directory.mkdir(exist_ok=True)
                build(directory)
                done.touch()
        return directory

    return fill


@pytest.fixture(scope="session")
def wheels(once: Once) -> dict[str, Path]:
    """The wheels, by package."""
    directory = once("wheels", lambda directory: build_wheels(ROOT, directory))
    return {package: next(directory.glob(f"{package}-*.whl")) for package in PACKAGES}


@pytest.fixture
def clean_python(tmp_path: Path) -> Path:
    """The interpreter of an empty environment."""
    return make_environment(tmp_path / "venv")
