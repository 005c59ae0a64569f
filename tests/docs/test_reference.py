"""The pages that list things list all of them."""

from __future__ import annotations

import inspect
import re
from pathlib import Path

import pytest

import qbridge_core
from qbridge_core import QBridgeError, Supervisor, TaskManager, UnknownOptionError, connect, errors, hookspecs
from support.pages import DOCS, PAGES, ROOT


def table_after(page: Path, start: str) -> str:
    """The table that follows these words."""
    text = page.read_text(encoding="utf-8").partition(start)[2]
    assert text, f"{page} does not have {start!r}"
    return text[text.index("|---") :].partition("\n\n")[0]


def first_cells(table: str) -> list[str]:
    """The name in backticks with which each row begins."""
    return re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE)


@pytest.mark.parametrize("described", [TaskManager, Supervisor])
def test_the_settings_have_every_argument(described: type[object]) -> None:
    """The tables have the arguments of the classes, with the defaults that they have."""
    table = table_after(DOCS / "settings.md", f"## {described.__name__}\n")
    parameters = inspect.signature(described).parameters.values()
    assert sorted(first_cells(table)) == sorted(parameter.name for parameter in parameters)
    shown = dict(re.findall(r"^\| `(\w+)` \| `([^`]+)` \|", table, re.MULTILINE))
    defaults = {parameter.name: repr(parameter.default).replace("'", '"') for parameter in parameters}
    assert shown == {name: defaults[name] for name in shown}


def test_the_settings_have_every_option() -> None:
    """The table of options has what the backends know, no more and no less."""
    known = set()
    for url in ("amqps://localhost/", "rediss+sentinel://localhost/mymaster"):
        with pytest.raises(UnknownOptionError) as caught:
            connect(url, no_such_option=1)
        known |= set(str(caught.value).partition("known options: ")[2].split(", "))
    table = table_after(DOCS / "settings.md", "| Backend | Option")
    assert set(re.findall(r"`([a-z_]+)(?:=[^`]*)?`", table)) == known


def test_the_page_of_errors_has_every_error() -> None:
    """It draws the tree of the module, in the module's words."""
    page = (DOCS / "errors.md").read_text(encoding="utf-8")
    tree = (errors.__doc__ or "").partition("::\n\n")[2].partition("\n\nA driver")[0]
    assert "\n".join(line.removeprefix("    ") for line in tree.splitlines()).replace("``", "`") in page
    exported = {
        each for each in vars(qbridge_core).values() if isinstance(each, type) and issubclass(each, QBridgeError)
    }
    assert {each.__name__ for each in exported} <= set(re.findall(r"(\w+Error)", page))


def test_the_page_of_hooks_has_every_hook() -> None:
    """The table has the hooks of a task and of a worker with their arguments."""
    table = table_after(DOCS / "hooks.md", "| Hook |")
    for name, function in inspect.getmembers(hookspecs, inspect.isfunction):
        if name.startswith("qbridge_") and name != "qbridge_backends":
            arguments = ", ".join(f"`{argument}`" for argument in inspect.signature(function).parameters)
            assert f"| `{name}` | {arguments} |" in table


def test_the_readme_installs_what_its_programs_need() -> None:
    """Who follows it from its top can run each of its programs."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    (extras,) = re.findall(r'"qbridge-core\[([\w,]+)\]"', text)
    schemes = set(re.findall(r'connect\("(\w+)://', text))
    assert schemes
    assert {{"amqp": "rabbitmq"}.get(scheme, scheme) for scheme in schemes} <= set(extras.split(","))


def test_the_tests_that_show_a_guarantee_exist() -> None:
    """Every test that a page names is in the tree."""
    named = {name for page in PAGES for name in re.findall(r"`(test_\w+)`", page.read_text(encoding="utf-8"))}
    files = [*(ROOT / "tests").rglob("test_*.py"), *(ROOT / "qbridge_core/src/qbridge_core/testing").glob("*.py")]
    existing = {name for file in files for name in re.findall(r"def (test_\w+)", file.read_text(encoding="utf-8"))}
    assert named
    assert not named - existing
