"""The units for systemd."""

from __future__ import annotations

import configparser
import subprocess
import sys
from pathlib import Path

import pytest

from support.deployment import STOPS_WITHIN, UNITS, tool


def settings(path: Path) -> configparser.SectionProxy:
    """How a unit's service is run."""
    parser = configparser.ConfigParser(strict=False, interpolation=None)
    parser.optionxform = str  # type: ignore[method-assign,assignment]
    parser.read(path, encoding="utf-8")
    return parser["Service"]


@pytest.mark.parametrize("unit", UNITS, ids=lambda path: path.name)
def test_systemd_finds_nothing_wrong(unit: Path, tmp_path: Path) -> None:
    """Every setting is known, and the program is there: that of this environment in place of /srv/shop/.venv."""
    program = settings(unit)["ExecStart"].split()[0]
    assert program == "/srv/shop/.venv/bin/qbridge"
    copy = tmp_path / unit.name
    copy.write_text(unit.read_text(encoding="utf-8").replace(program, str(Path(sys.executable).with_name("qbridge"))))
    done = subprocess.run(
        [tool("systemd-analyze"), "verify", "--man=no", str(copy)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert unit.name not in done.stderr, done.stderr


def test_a_worker_gets_the_time_that_it_needs_to_stop() -> None:
    """And nobody but its supervisor tells its processes to."""
    (worker,) = (unit for unit in UNITS if "worker" in unit.name)
    service = settings(worker)
    assert float(service["TimeoutStopSec"]) >= STOPS_WITHIN + 5
    assert service["KillMode"] == "mixed"
