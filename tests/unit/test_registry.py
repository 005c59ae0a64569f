"""From a scheme to a backend: found lazily, and each way to fail has an error of its own.

The plugins are distributions made up in a directory, seen by a process of their own.
"""

from __future__ import annotations

import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from qbridge_core import ConfigurationError, connect, register_backend
from support.pages import install_line

GOOD = """
import qbridge_core
from qbridge_memory import MemoryClient

@qbridge_core.hookimpl
def qbridge_backends():
    return {"good": lambda url, options: MemoryClient("memory://", **options)}
"""
Install = Callable[[str, str, str], None]
Run = Callable[[str], str]


@pytest.fixture
def install(tmp_path: Path) -> Install:
    """A function that makes up a distribution: its name, its scheme, the code of its module."""

    def make(distribution: str, scheme: str, code: str) -> None:
        module = distribution.replace("-", "_")
        (tmp_path / f"{module}.py").write_text(code)
        info = tmp_path / f"{module}-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text(f"[qbridge]\n{scheme} = {module}\n")

    return make


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """A function that runs code in a process that sees the distributions, and returns what it printed."""

    def execute(code: str) -> str:
        script = textwrap.dedent(code)
        result = subprocess.run(
            [sys.executable, "-W", "error", "-c", f"import sys; sys.path.insert(0, {str(tmp_path)!r})\n{script}"],
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )
        assert result.returncode == 0, result.stderr
        return result.stdout.strip()

    return execute


FAIL = """
import qbridge_core
try:
    qbridge_core.connect({url!r})
except qbridge_core.QBridgeError as exc:
    print(type(exc).__name__, exc, repr(exc.__cause__), sep="|")
"""


def test_an_installed_backend_serves_its_scheme(install: Install, run: Run) -> None:
    """An entry point and a hook are all that a backend needs; its options reach it."""
    install("qb-good", "good", GOOD)
    assert run("import qbridge_core; print(type(qbridge_core.connect('good://')).__name__)") == "MemoryClient"
    assert run(FAIL.format(url="good://").replace("'good://'", "'good://', x=1")).startswith("UnknownOptionError|")


def test_the_scheme_is_found_in_any_case(install: Install, run: Run) -> None:
    """``GOOD://`` is ``good://``."""
    install("qb-good", "good", GOOD)
    assert run("import qbridge_core; print(qbridge_core.connect('GOOD://').connected)") == "True"


def test_an_unknown_scheme_names_the_known_ones(install: Install, run: Run) -> None:
    """The error lists what is installed and what could be."""
    install("qb-good", "good", GOOD)
    kind, text, _ = run(FAIL.format(url="kafka://h")).split("|")
    assert kind == "UnknownSchemeError"
    assert "kafka://" in text
    known = [scheme.strip().removesuffix("://") for scheme in text.partition("known schemes: ")[2].split(",")]
    assert known == sorted(known)
    assert {"amqp", "amqps", "good", "kombu+amqp", "memory", "redis", "redis+sentinel", "rediss"} <= set(known)


@pytest.mark.parametrize(
    ("scheme", "extra"),
    [("amqp", "rabbitmq"), ("amqps", "rabbitmq"), ("redis", "redis"), ("memory", "memory"), ("kombu+amqp", "kombu")],
)
def test_a_missing_backend_has_its_install_line(run: Run, scheme: str, extra: str) -> None:
    """A scheme of ours without its distribution says what to type, in the words of the page about it."""
    hide = "from qbridge_core.contract import installed; installed.entry_points = lambda group: []\n"
    kind, text, _ = run(hide + FAIL.format(url=f"{scheme}://u:secret@h")).split("|")
    assert kind == "BackendNotInstalledError"
    assert f"run: {install_line(extra)} " in text
    assert "secret" not in text


@pytest.mark.parametrize(
    "code",
    ["import no_such_module", "1 / 0", "def (", "raise RuntimeError('secret of its own')"],
    ids=["missing import", "error", "syntax", "raises"],
)
def test_a_backend_that_cannot_be_imported_says_why(install: Install, run: Run, code: str) -> None:
    """The error names the distribution and keeps the reason as its cause."""
    install("qb-bad", "bad", code)
    kind, text, cause = run(FAIL.format(url="bad://h")).split("|")
    assert kind == "BackendLoadError"
    assert "qb-bad" in text
    assert cause != "None"


def test_a_broken_backend_harms_no_other(install: Install, run: Run) -> None:
    """A backend whose import fails, and one with a wrong hook, leave the good one as it is."""
    install("qb-bad", "bad", "1 / 0")
    install("qb-worse", "worse", GOOD.replace("qbridge_backends", "qbridge_backend"))
    install("qb-good", "good", GOOD)
    assert run("import qbridge_core; print(qbridge_core.connect('good://').connected)") == "True"
    assert "good" in run("import qbridge_core; print(qbridge_core.backends())")


def test_two_backends_for_one_scheme_are_an_error(install: Install, run: Run) -> None:
    """Neither is chosen in silence; the error names both."""
    install("qb-good", "good", GOOD)
    install("qb-other", "good", GOOD)
    kind, text, _ = run(FAIL.format(url="good://")).split("|")
    assert kind == "DuplicateBackendError"
    assert "qb-good and qb-other" in text


def test_a_distribution_that_is_found_twice_is_no_duplicate(install: Install, run: Run, tmp_path: Path) -> None:
    """The same distribution on two entries of ``sys.path`` (an editable install) is still one."""
    install("qb-good", "good", GOOD)
    again = f"sys.path.insert(0, {str(tmp_path)!r} + '/.')\n"
    assert run(again + "import qbridge_core; print(qbridge_core.connect('good://').connected)") == "True"


@pytest.mark.parametrize(
    "code",
    [
        GOOD.replace("qbridge_backends", "qbridge_backend"),
        GOOD.replace("qbridge_backends()", "qbridge_backends(scheme)"),
        GOOD.replace("return", "raise ValueError(1)\n    return"),
        GOOD.replace('"good"', '"other"'),
        "x = 1",
    ],
    ids=["misspelled", "wrong arguments", "raises", "another scheme", "no hook"],
)
def test_a_backend_with_a_wrong_hook_is_refused(install: Install, run: Run, code: str) -> None:
    """A hook that is misspelled, misdeclared, broken or missing is an error that names the distribution."""
    install("qb-bad", "good", code)
    kind, text, _ = run(FAIL.format(url="good://")).split("|")
    assert kind == "BackendLoadError"
    assert "qb-bad" in text


def test_a_misspelled_hook_is_named(install: Install, run: Run) -> None:
    """The author of a backend reads which name does not exist."""
    install("qb-bad", "good", GOOD.replace("qbridge_backends", "qbridge_backend"))
    _, text, _ = run(FAIL.format(url="good://")).split("|")
    assert "'qbridge_backend'" in text


def test_a_backend_is_imported_when_its_scheme_is_used(install: Install, run: Run) -> None:
    """Neither importing the core nor listing the backends imports one; connecting imports that one alone."""
    install("qb-good", "good", GOOD)
    install("qb-loud", "loud", "print('imported')")
    printed = run("""
        import qbridge_core
        names = qbridge_core.backends()
        drivers = {"qb_good", "qb_loud", "qbridge_memory", "qbridge_redis", "qbridge_rabbitmq", "qbridge_kombu"}
        drivers |= {"pika", "redis", "kombu"}
        print(sorted(drivers & set(sys.modules)), names["good"], names["loud"])
        qbridge_core.connect("good://")
        print(sorted({"qb_good", "qb_loud", "pika", "redis"} & set(sys.modules)))
    """)
    assert printed.splitlines() == ["[] qb-good qb-loud", "['qb_good']"]


def test_backends_are_sorted_and_named(install: Install, run: Run) -> None:
    """The listing says which distribution serves which scheme."""
    install("qb-good", "good", GOOD)
    printed = run("""
        import qbridge_core
        qbridge_core.register_backend("abc", print)
        names = qbridge_core.backends()
        print(list(names) == sorted(names), names["abc"], names["memory"])
    """)
    assert printed == "True registered in this process qbridge-memory"


def test_the_listing_says_of_whom_messages_are_lost(install: Install, run: Run, tmp_path: Path) -> None:
    """A distribution marks its own schemes, and no other's."""
    install("qb-good", "good", GOOD)
    marks = "[qbridge.lossy]\ngood = qb_good\nmemory = qb_good\n"
    with (tmp_path / "qb_good-1.0.dist-info" / "entry_points.txt").open("a") as points:
        points.write(marks)
    printed = run("""
        import qbridge_core
        names = qbridge_core.backends()
        print(names["good"], names["memory"], sep="|")
    """)
    assert printed == "qb-good (loses what a killed worker holds; needs allow_loss)|qbridge-memory"


def test_a_registered_factory_comes_first(run: Run, install: Install) -> None:
    """``register_backend`` wins over an installed backend, and gets the URL and the options."""
    install("qb-bad", "good", "1 / 0")
    printed = run("""
        import qbridge_core
        from qbridge_memory import MemoryClient
        def factory(url, options):
            print(url, options)
            return MemoryClient()
        qbridge_core.register_backend("GOOD", factory)
        print(qbridge_core.connect("good://h/x?y=1", z=2).connected)
    """)
    assert printed.splitlines() == ["good://h/x?y=1 {'z': 2}", "True"]


@pytest.mark.parametrize("scheme", ["", "a b", "good://", "a/b", "a_b", None, 3])
def test_only_a_scheme_can_be_registered(scheme: Any) -> None:
    """The error shows what a scheme looks like."""
    with pytest.raises(ConfigurationError, match="not a URL scheme"):
        register_backend(scheme, lambda url, options: connect("memory://"))


def test_only_a_callable_can_be_registered() -> None:
    """The error shows how it will be called."""
    with pytest.raises(ConfigurationError, match=r"factory\(url, options\)"):
        register_backend("good", None)  # type: ignore[arg-type]


def test_a_factory_that_makes_no_client_is_refused(run: Run) -> None:
    """The error names the scheme and what came instead; the first call of a method would say nothing of both."""
    printed = run("""
        import qbridge_core
        qbridge_core.register_backend("walled", lambda url, options: None)
        try:
            qbridge_core.connect("walled://h")
        except qbridge_core.BackendLoadError as exc:
            print(exc)
    """)
    assert printed.strip() == "the backend of walled:// is broken: its factory returned a NoneType and no QueueClient"


EXHAUSTED = """
    import contextlib, os, resource
    from qbridge_core import BackendLoadError, BrokerUnavailableError, backends, connect
    {before}
    resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
    held = []
    for free in range(4):
        with contextlib.suppress(OSError):
            while True:
                held.append(os.open(os.devnull, os.O_RDONLY))
        for _ in range(free):
            os.close(held.pop())
        try:
            connect("memory://")
        except (BackendLoadError, BrokerUnavailableError) as exc:
            assert isinstance(exc.__cause__, OSError), exc
            print("refused", end=" ")
        while held:
            os.close(held.pop())
    print(connect("memory://").connected)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="no such limit")
@pytest.mark.parametrize("before", ["", "backends()"])
def test_g18_without_a_free_descriptor_a_backend_is_not_called_missing(run: Run, before: str) -> None:
    """The lack is named, with its cause, and the backend is found as soon as it is over."""
    assert run(EXHAUSTED.format(before=before)) == "refused True"
