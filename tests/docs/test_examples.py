"""Every Python block of the documentation runs, and prints what the page says it prints."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import django
import pytest

from support.pages import PAGES, name
from support.wait import wait_for

BLOCK = re.compile(r"^```python\n(?P<code>.*?)^```\n(?:\n?```text\n(?P<output>.*?)^```\n)?", re.DOTALL | re.MULTILINE)
NAMED = re.compile(r"# (?P<file>[\w./]+\.py)\n")
MODULE = re.compile(r"# (?P<name>[\w/]+)\.py\n")
BROKERS = {"amqp://guest:guest@localhost:5672/": "amqp_url", "redis://localhost:6379/0": "redis_url"}


@dataclass(frozen=True)
class Block:
    """One example, and what it prints."""

    page: Path
    line: int
    code: str
    output: str | None

    def __str__(self) -> str:
        return f"{name(self.page)}:{self.line}"


def blocks() -> list[Block]:
    """All Python blocks of all pages."""
    return list(_blocks())


def _blocks() -> Iterator[Block]:
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        for match in BLOCK.finditer(text):
            yield Block(page, text.count("\n", 0, match.start()) + 1, match["code"], match["output"])


def write_named(page: Path, directory: Path, prefix: str) -> None:
    """Write the blocks of a page that begin with the name of a file, so that others can import them."""
    for block in blocks():
        if block.page == page and (named := NAMED.match(block.code)):
            (directory / named["file"]).parent.mkdir(exist_ok=True)
            code = for_this_django(with_own_queues(block.code, prefix))
            (directory / named["file"]).write_text(code, encoding="utf-8")


def with_own_queues(code: str, prefix: str) -> str:
    """Brokers are shared."""
    return code.replace('"emails', f'"{prefix}-emails')


def for_this_django(code: str) -> str:
    """What the page about Django says of older versions."""
    if django.VERSION >= (6, 0):
        return code
    older = code.replace("django.tasks", "django_tasks")
    return older.replace("INSTALLED_APPS = [", 'INSTALLED_APPS = ["django_tasks", ')


def command(code: str) -> list[str]:
    """What runs a program. What others import is imported here, too; what is in a folder is of a Django project."""
    found = MODULE.match(code)
    module = found["name"].replace("/", ".") if found else ""
    if module.endswith(".tests"):
        return ["-m", "django", "test", module]
    if re.search(r"^class Test|^def test_", code, re.MULTILINE):
        return ["-m", "pytest", "-q", "-p", "no:cacheprovider", "--rootdir", ".", "test_block.py"]
    setup = "import django; django.setup(); " if "." in module else ""
    return ["-c", f"{setup}import {module}"] if module else ["test_block.py"]


def settings_of(page: Path) -> dict[str, str]:
    """Where Django finds its settings, on a page that has some."""
    return {"DJANGO_SETTINGS_MODULE": "settings"} if "# settings.py\n" in page.read_text(encoding="utf-8") else {}


def run(block: Block, code: str, directory: Path) -> str:
    """Run a program; one that works until it is stopped gets SIGTERM when it has printed what it should."""
    (directory / "test_block.py").write_text(code, encoding="utf-8")
    output, errors = directory / "output", directory / "errors"
    with output.open("wb") as stdout, errors.open("wb") as stderr:
        process = subprocess.Popen(
            [sys.executable, *command(code)],
            cwd=directory,
            stdout=stdout,
            stderr=stderr,
            env={**os.environ, "PYTHONIOENCODING": "utf-8", "QBRIDGE_URL": "memory://", **settings_of(block.page)},
        )
        try:
            if ".start(" in code or "Supervisor(" in code or "run_workers(" in code or ".run_worker(" in code:
                expected = block.output or ""
                wait_for(lambda: process.poll() is not None or output.read_text("utf-8") == expected, 30)
                process.send_signal(signal.SIGTERM)
            status = process.wait(90)
        finally:
            process.kill()
    assert status == 0, f"{block} exits with {status}:\n{output.read_text('utf-8')}\n{errors.read_text('utf-8')}"
    return output.read_text("utf-8")


@pytest.mark.parametrize("block", blocks(), ids=str)
def test_block(request: pytest.FixtureRequest, block: Block, tmp_path: Path, unique_name: str) -> None:
    """The block runs without an error, and prints what the text block after it shows."""
    code = with_own_queues(block.code, unique_name)
    for address, fixture in BROKERS.items():
        if address in code:
            code = code.replace(address, request.getfixturevalue(fixture))
    assert "localhost" not in code, "an address that the test does not know"
    write_named(block.page, tmp_path, unique_name)
    printed = run(block, code, tmp_path).replace(f"{unique_name}-emails", "emails")
    if block.output is not None:
        assert printed == block.output


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_every_python_block_is_one_that_runs(page: Path) -> None:
    """None is skipped because it is indented, has another name for its language or other words behind it."""
    text = page.read_text(encoding="utf-8")
    looks_like_one = re.findall(r"^\s*(?:```|~~~) *py.*$", text, re.MULTILINE | re.IGNORECASE)
    assert len(looks_like_one) == sum(block.page == page for block in blocks())


def test_the_pages_have_examples() -> None:
    """The blocks are found: a change of the format cannot silently skip them all."""
    assert len(blocks()) >= 15
    assert sum(block.output is not None for block in blocks()) >= 12
