"""The probes of docs/health.md do what the page says."""

from __future__ import annotations

import json
import os
import re
import subprocess
import time
from pathlib import Path

import pytest

from qbridge_core import Health
from qbridge_core.telemetry.healthfile import HealthFile
from support.pages import DOCS

PATH = "/tmp/qbridge-health"
READY = Health(True, True)
PAGE = (DOCS / "health.md").read_text(encoding="utf-8")
COMMANDS = dict(re.findall(r"^(\w+):\n  exec:\n    command: (\[.*\])$", PAGE, re.MULTILINE))


def status(probe: str, path: Path) -> int:
    """The exit status of a probe, for a file elsewhere."""
    command = [word.replace(PATH, str(path)) for word in json.loads(COMMANDS[probe])]
    assert str(path) in command[-1]
    return subprocess.run(command, timeout=60, check=False, capture_output=True).returncode


@pytest.fixture
def file(tmp_path: Path) -> HealthFile:
    """The file of a worker that starts."""
    return HealthFile(tmp_path / "health")


def test_the_probes_follow_the_file(file: HealthFile, tmp_path: Path) -> None:
    """Green while it is young, and ready when it says so; red when it is two minutes old, or gone."""
    path = tmp_path / "health"
    assert (status("livenessProbe", path), status("readinessProbe", path) != 0) == (0, True)
    file.turn(lambda: READY)
    assert (status("livenessProbe", path), status("readinessProbe", path)) == (0, 0)
    os.utime(path, (time.time() - 120,) * 2)
    assert status("livenessProbe", path) != 0
    assert status("readinessProbe", path) != 0
    file.remove()
    assert status("livenessProbe", path) != 0
    assert status("readinessProbe", path) != 0


def test_the_probes_over_http_ask_for_the_pages_that_there_are() -> None:
    """With the port that the command of the page has."""
    asked = re.findall(r"^(\w+):\n  httpGet: \{path: (\S+), port: (\d+)\}$", PAGE, re.MULTILINE)
    assert asked == [("livenessProbe", "/livez", "8080"), ("readinessProbe", "/readyz", "8080")]
    assert "--health-port 8080 --health-host 0.0.0.0" in PAGE
