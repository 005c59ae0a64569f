"""Builds the distributions and installs them into clean environments.

What the environments need (pluggy, pika, redis-py, kombu) comes from the configured package index.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Final

ROOT = Path(__file__).parents[2]
PACKAGES: Final[dict[str, list[str]]] = {
    "qbridge_core": [],
    "qbridge_rabbitmq": ["amqp", "amqps"],
    "qbridge_redis": [
        "redis",
        "rediss",
        "redis+sentinel",
        "rediss+sentinel",
        "redis+cluster",
        "rediss+cluster",
        "unix",
    ],
    "qbridge_memory": ["memory"],
    "qbridge_kombu": [
        "kombu+amqp",
        "kombu+amqps",
        "kombu+any",
        "kombu+filesystem",
        "kombu+memory",
        "kombu+redis",
        "kombu+rediss",
        "kombu+sqlalchemy",
        "kombu+sqs",
    ],
    "qbridge_pytest": [],
}
"""The packages, and the schemes that each serves."""


def run(*command: str | Path, cwd: Path | None = None) -> str:
    """Run a command and return its output; on failure show all of it."""
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{command} failed:\n{done.stdout}\n{done.stderr}"
    return done.stdout.strip()


def pip(*args: str | Path, python: Path | None = None) -> str:
    """Run pip of this environment, on another environment if one is given."""
    target: list[str | Path] = ["--python", python] if python else []
    return run(sys.executable, "-m", "pip", "--no-input", "--disable-pip-version-check", *target, *args)


def build_wheels(source: Path, directory: Path) -> None:
    """Build the wheels of the distributions that a checkout has."""
    sources = [source / package for package in PACKAGES if (source / package).exists()]
    pip("wheel", "--quiet", "--no-deps", "--no-build-isolation", "--wheel-dir", directory, *sources)


def make_environment(directory: Path) -> Path:
    """Make an empty environment and return its interpreter."""
    run(sys.executable, "-m", "venv", "--without-pip", directory)
    return directory / "bin" / "python"
