"""The reference of the command line is what the commands say of themselves."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from support.pages import DOCS, ROOT


def test_the_reference_is_that_of_the_commands(tmp_path: Path) -> None:
    """docs/cli.md is what scripts/write-cli-reference.py writes."""
    written = tmp_path / "cli.md"
    subprocess.run([sys.executable, str(ROOT / "scripts" / "write-cli-reference.py"), str(written)], check=True)
    assert (DOCS / "cli.md").read_text() == written.read_text(), "run scripts/write-cli-reference.py"
