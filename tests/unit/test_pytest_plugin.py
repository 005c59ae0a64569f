"""The plugin for pytest, in runs of its own: its setting, its failures, and other plugins beside it."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

from qbridge_core import App, ConfigurationError
from qbridge_pytest.loading import load_app
from support.pytest_runs import OURS, SHOP, run


def test_dead_letters_fail_the_test_that_has_not_expected_them(tmp_path: Path) -> None:
    """With their tracebacks, as failures of the test itself; what was looked at, allowed or not worked on is none."""
    output = run(
        tmp_path,
        """
from shop import app, send_mail

def test_unexpected(qbridge):
    send_mail.send("ann")
    qbridge.run()

def test_expected(qbridge):
    send_mail.send("ann")
    qbridge.run()
    assert qbridge.letters("emails")[0].exception_message == "ann is no address"

def test_not_worked_on(qbridge):
    send_mail.send("ann")

@pytest.mark.xfail(strict=True)
def test_known(qbridge):
    send_mail.send("ann")
    qbridge.run()

def test_without_it():
    assert not app.is_connected
""",
        ini="qbridge_app = shop:app\n",
        status=1,
    )
    assert "1 failed, 3 passed, 1 xfailed" in output
    assert "FAILED test_it.py::test_unexpected - Failed: this test has one dead letter" in output
    assert re.search(r"\ntask \S+ of 'emails': failed: ValueError: ann is no address", output)
    assert re.search(r'\n +raise ValueError\(f"\{to\} is no address"\)', output)


def test_a_test_that_fails_shows_what_became_of_its_messages(tmp_path: Path) -> None:
    """In a section of the report; the failure is that of the test, whatever letters there are."""
    output = run(
        tmp_path,
        """
import shop

def test_it(qbridge):
    qbridge.open(shop.app)
    shop.send_mail.send("ann")
    qbridge.run()
    qbridge.sent("emails", payload={"to": "bob"})
""",
        status=1,
    )
    assert "--- Captured qbridge call ---" in output
    assert re.search(r"task \S+\n  .{19}  sent to 'emails'\n  .{19}  received\n  .{19}  dead-lettered", output)
    assert re.search(r"E +payload\['to'\] is 'ann'; wanted 'bob'", output)
    assert "did not expect" not in output
    assert not re.search(r"(kit|happened)\.py", output.split("Captured")[0]), "the traceback ends in the test"


def test_what_a_fixture_does_is_looked_at_as_well(tmp_path: Path) -> None:
    """Letters of its teardown do not go unnoticed; what fails in its set-up, or in a TestCase, has a story."""
    output = run(
        tmp_path,
        """
import unittest

from shop import send_mail

@pytest.fixture
def late(qbridge):
    yield
    send_mail.send("ann")
    qbridge.run()

@pytest.fixture
def early(qbridge):
    send_mail.send("bob@x")
    qbridge.sent("emails", payload={"to": "ann"})

def test_late(late):
    pass

def test_early(early):
    pass

class TestCase(unittest.TestCase):
    @pytest.fixture(autouse=True)
    def kit(self, qbridge):
        self.qbridge = qbridge

    def test_method(self):
        send_mail.send("eve@x")
        assert not self.qbridge.run().succeeded
""",
        ini="qbridge_app = shop:app\n",
        status=1,
    )
    assert "ERROR test_it.py::test_late - Failed: this test has one dead letter" in output
    for when in ("setup", "call", "teardown"):
        assert f"--- Captured qbridge {when} ---" in output


@pytest.mark.parametrize(
    ("target", "text"),
    [
        ("shop", "names a module and an App in it, as shop.tasks:app, not 'shop'"),
        (":app", "names a module and an App in it"),
        ("shop_of_tests:none", "that is a int and no App"),
        ("shop_of_tests:other", "module 'shop_of_tests' has no attribute 'other'"),
        ("shops_of_tests:app", "No module named 'shops_of_tests'); is its folder in pytest's setting pythonpath?"),
    ],
)
def test_a_setting_that_names_no_app_is_explained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, target: str, text: str
) -> None:
    """The error says what is wrong with it."""
    (tmp_path / "shop_of_tests.py").write_text(SHOP)
    monkeypatch.syspath_prepend(tmp_path)
    assert isinstance(load_app("shop_of_tests:app"), App)
    with pytest.raises(ConfigurationError) as info:
        load_app(target)
    assert text in str(info.value)
    del sys.modules["shop_of_tests"]


def test_each_test_of_a_parallel_run_has_its_own_broker(tmp_path: Path) -> None:
    """Under pytest-xdist as without it."""
    run(
        tmp_path,
        """
from shop import send_mail

@pytest.mark.parametrize("number", range(8))
def test_it(qbridge, number):
    send_mail.send(f"{number}@example.org")
    assert qbridge.run().succeeded == 1
    assert qbridge.sent(send_mail)[0].payload == {"to": f"{number}@example.org"}
""",
        "-n", "2",
        ini="qbridge_app = shop:app\n",
        plugins=(OURS, "xdist.plugin"),
    )  # fmt: skip


ASYNC = """
import asyncio

import shop

{mark}
async def test_it(qbridge):
    await shop.send_mail.asend("ann@example.org")
    await shop.send_mail.options(delay=86_400).asend("ann")
    assert qbridge.run(ahead=0).succeeded == 1
    report = await {thread}(qbridge.run)
    assert report.dead_lettered == 1
"""


@pytest.mark.parametrize(
    ("plugin", "mark", "thread", "ini"),
    [
        (
            "pytest_asyncio.plugin", "@pytest.mark.asyncio", "asyncio.to_thread",
            "asyncio_default_fixture_loop_scope = function\n",
        ),
        ("anyio.pytest_plugin", "@pytest.mark.anyio", "__import__('anyio').to_thread.run_sync", ""),
    ],
    ids=["pytest-asyncio", "anyio"],
)  # fmt: skip
def test_a_coroutine_can_be_the_test(tmp_path: Path, plugin: str, mark: str, thread: str, ini: str) -> None:
    """It sends with ``asend``, and runs in its own thread or in another; its letters are looked for, too."""
    test, plugins = ASYNC.format(mark=mark, thread=thread), (OURS, plugin)
    output = run(tmp_path, test, ini=f"qbridge_app = shop:app\n{ini}", status=1, plugins=plugins)
    assert "passed" not in output.splitlines()[-1]
    assert "this test has one dead letter that it did not expect" in output


def test_the_plugin_costs_a_run_without_it_next_to_nothing(tmp_path: Path) -> None:
    """pytest finds it by itself, and only the fixture imports QBridge."""
    run(
        tmp_path,
        """
import sys

def test_it(pytestconfig):
    assert pytestconfig.pluginmanager.has_plugin("qbridge")
    assert not [m for m in sys.modules if m.startswith("qbridge_core")]
""",
        "-p", "no:asyncio",
        plugins=None,
    )  # fmt: skip
