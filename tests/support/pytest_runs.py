"""Runs of pytest in a process of their own, with QBridge's plugin."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

SHOP = """
from qbridge_core import App

app = App()
none = 7

@app.task(queue="emails", max_retries=0)
def send_mail(to):
    if "@" not in to:
        raise ValueError(f"{to} is no address")
"""
OURS = "qbridge_pytest.plugin"


def run(
    directory: Path,
    test: str,
    *arguments: str,
    ini: str = "",
    status: int = 0,
    plugins: tuple[str, ...] | None = (OURS,),
) -> str:
    """Run the tests of a module in pytest, and return what it printed.

    Args:
        directory: where the module is written, beside ``shop.py``.
        test: its text.
        arguments: pytest's.
        ini: lines for its settings.
        status: with which it must end.
        plugins: the modules of the plugins that it has; None for all that are installed, which takes a second more.
    """
    (directory / "shop.py").write_text(SHOP)
    (directory / "test_it.py").write_text(f"import pytest\n{test}")
    (directory / "pytest.ini").write_text(f"[pytest]\npythonpath = .\nfilterwarnings = error\n{ini}")
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("PYTEST", "QBRIDGE"))}
    if plugins is not None:
        environment["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"
    chosen = [argument for plugin in plugins or () for argument in ("-p", plugin)]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-rA", *chosen, *arguments],
        cwd=directory, env=environment, capture_output=True, text=True, check=False, timeout=110,
    )  # fmt: skip
    assert done.returncode == status, done.stdout + done.stderr
    return done.stdout
