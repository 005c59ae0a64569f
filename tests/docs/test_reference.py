"""The pages that list things list all of them."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import re
from pathlib import Path
from types import ModuleType

import pytest

import qbridge_core
import qbridge_kombu
import qbridge_memory
import qbridge_pytest
import qbridge_rabbitmq
import qbridge_redis
from qbridge_core import QBridgeError, Supervisor, TaskManager, UnknownOptionError, connect, errors, hookspecs
from qbridge_kombu import KombuClient
from qbridge_kombu.transports import SCHEMES
from support.pages import DOCS, INSTALL, PAGES, ROOT, name


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
    own = ("amqps://localhost/", "rediss+sentinel://localhost/mymaster")
    for url in (*own, *(f"{scheme}://" for scheme in SCHEMES)):
        with pytest.raises(UnknownOptionError) as caught:
            connect(url, no_such_option=1)
        known |= set(str(caught.value).partition("known options: ")[2].split(", "))
    table = table_after(DOCS / "settings.md", "| Backend | Option")
    assert set(re.findall(r"`([a-z_]+)(?:=[^`]*)?`", table)) == known


ENOUGH = {
    "kombu+any": "kombu+any://?transport=a.b:C",
    "kombu+filesystem": "kombu+filesystem:///tmp/jobs",
    "kombu+sqlalchemy": "kombu+sqlalchemy:////tmp/jobs.db?dialect=sqlite",
    "kombu+sqs": "kombu+sqs://",
}
"""URLs of those transports for which a scheme is not enough."""


def test_the_page_of_kombu_claims_what_the_transports_do() -> None:
    """Each scheme has a row, and each cell is what its client says of itself."""
    table = table_after(DOCS / "kombu.md", "## What each one can promise\n")
    header = (DOCS / "kombu.md").read_text(encoding="utf-8").partition("| Scheme |")[2].splitlines()[0]
    names = re.findall(r"`(\w+)`", header)
    rows = [line for line in table.splitlines() if line.startswith("| `kombu")]
    shown = {scheme: re.findall(r"\b(yes|no)\b", row) for row in rows for scheme in re.findall(r"`(kombu\+\w+)`", row)}
    claimed = {}
    for scheme in SCHEMES:
        capabilities = KombuClient(ENOUGH.get(scheme, f"{scheme}://"), allow_loss=True).capabilities
        claimed[scheme] = ["yes" if getattr(capabilities, name) else "no" for name in names]
    assert shown == claimed


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
    for hook, function in inspect.getmembers(hookspecs, inspect.isfunction):
        if hook.startswith("qbridge_") and hook != "qbridge_backends":
            arguments = ", ".join(f"`{argument}`" for argument in inspect.signature(function).parameters)
            assert f"| `{hook}` | {arguments} |" in table


def test_the_readme_installs_what_its_programs_need() -> None:
    """Who follows it from its top can run each of its programs."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    (extras,) = re.findall(r'"qbridge-core\[([\w,]+)\]"', text)
    schemes = set(re.findall(r"\b(\w+)://(?:guest|localhost|\")", text))
    assert schemes == {"amqp", "redis", "memory"}
    assert {{"amqp": "rabbitmq"}.get(scheme, scheme) for scheme in schemes} | {"cli"} <= set(extras.split(","))


def test_all_pages_install_in_one_way() -> None:
    """Whichever page somebody copies the command from, it is the one that works today: that of `docs/install.md`."""
    commands = {page: INSTALL.findall(page.read_text(encoding="utf-8")) for page in PAGES}
    assert {name(page) for page in commands if commands[page]} >= {
        "README.md",
        "docs/install.md",
        "qbridge_core/README.md",
    }
    assert len({command for found in commands.values() for command, _ in found}) == 1


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_every_module_that_a_page_names_exists(page: Path) -> None:
    """A module that was moved or renamed leaves no name behind."""
    named = set(re.findall(r"`((?:qbridge_\w+|QBridge)(?:\.\w+)+)`", page.read_text(encoding="utf-8")))
    assert not [dotted for dotted in sorted(named) if not exists(dotted)]


def exists(dotted: str) -> bool:
    """Whether a dotted name is a module, or something in one."""
    path = dotted.split(".")
    found: object = importlib.import_module(path[0])
    for i, part in enumerate(path[1:], 2):
        if isinstance(found, ModuleType) and not hasattr(found, part):
            try:
                importlib.import_module(".".join(path[:i]))
            except ModuleNotFoundError:
                return False
        if not hasattr(found, part):
            return False
        found = getattr(found, part)
    return True


@pytest.mark.parametrize(
    "package", [qbridge_core, qbridge_kombu, qbridge_memory, qbridge_pytest, qbridge_rabbitmq, qbridge_redis]
)
def test_the_architecture_has_every_package(package: ModuleType) -> None:
    """What a distribution consists of is on the page, with a word about what it is for."""
    text = (ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8")
    parts = [found.name for found in pkgutil.iter_modules(package.__path__, f"{package.__name__}.") if found.ispkg]
    assert not [part for part in [package.__name__, *parts] if not re.search(rf"`{part}`( \|)? \S", text)]


def test_the_page_of_threads_names_threads_that_there_are() -> None:
    """Each thread of its table is started somewhere under this name."""
    named = set(re.findall(r"`(qbridge-[a-z-]+)`", (ROOT / "docs/threads.md").read_text(encoding="utf-8")))
    code = "".join(path.read_text(encoding="utf-8") for path in ROOT.glob("qbridge_*/src/**/*.py"))
    assert named
    assert not [thread for thread in named if f'"{thread}"' not in code]


def test_the_page_of_threads_names_all_of_them() -> None:
    """Each name that a thread gets is on it, but for that of the suite for authors of backends."""
    page = (ROOT / "docs/threads.md").read_text(encoding="utf-8")
    code = "".join(path.read_text(encoding="utf-8") for path in ROOT.glob("qbridge_*/src/**/*.py"))
    given = set(re.findall(r"""(?:name=|aside\(|call\()"(qbridge-[a-z-]+)\"""", code)) - {"qbridge-testing-link"}
    assert given
    assert not [name for name in given if f"`{name}`" not in page]


def test_the_tests_that_show_a_guarantee_exist() -> None:
    """Every test that a page names is in the tree."""
    named = {name for page in PAGES for name in re.findall(r"`(test_\w+)`", page.read_text(encoding="utf-8"))}
    files = [*(ROOT / "tests").rglob("test_*.py"), *(ROOT / "qbridge_core/src/qbridge_core/testing").glob("*.py")]
    existing = {name for file in files for name in re.findall(r"def (test_\w+)", file.read_text(encoding="utf-8"))}
    assert named
    assert not named - existing
