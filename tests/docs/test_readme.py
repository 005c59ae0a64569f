"""What the README has its reader do first."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from support.pages import ROOT
from support.wait import wait_for
from support.worker_command import Worker

README = (ROOT / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("broker", ["redis", "amqp"])
def test_the_first_program_does_what_the_readme_says(
    request: pytest.FixtureRequest, tmp_path: Path, unique_name: str, broker: str
) -> None:
    """The producer's program, then the worker's command, with either broker in the variable: the mail is sent."""
    (commands,) = re.findall(r"```sh\n(.*?)```\n\n```\n", README, re.DOTALL)
    variable, producer, worker = (line.partition("#")[0].split() for line in commands.splitlines())
    assert variable[0] == "export"
    assert variable[1].startswith("QBRIDGE_URL=redis://")
    assert "# or amqp://" in commands
    for name, code in re.findall(r"```python\n# (\w+\.py)\n(.*?)```", README, re.DOTALL):
        (tmp_path / name).write_text(code.replace('"emails"', f'"{unique_name}"'), encoding="utf-8")
    url = str(request.getfixturevalue(f"{broker}_url"))
    assert producer[0] == "python"
    environment = os.environ | {"QBRIDGE_URL": url}
    subprocess.run([sys.executable, *producer[1:]], cwd=tmp_path, env=environment, check=True, timeout=60)
    assert worker[:2] == ["qbridge", "worker"]
    process = Worker(tmp_path, tuple(worker[2:]), {"QBRIDGE_URL": url})
    try:
        (said,) = re.findall(r"```sh\n.*?```\n\n```\n(.*?)```", README, re.DOTALL)
        wait_for(lambda: said in process.log, 60.0)
        assert process.end() == 0
    finally:
        process.close()
