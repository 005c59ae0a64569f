"""What ``module:name`` may mean to ``qbridge worker``, and what is said where it means nothing."""

from __future__ import annotations

import re
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest

from qbridge_core import (
    BrokerUnavailableError,
    ConfigurationError,
    ConstantBackoff,
    ExponentialBackoff,
    LinearBackoff,
    QBridgeError,
)
from qbridge_core.cli.worker.backoffs import read_backoff
from qbridge_core.cli.worker.target import Target

MODULES = {
    "shop_app": """
        from qbridge_core import App
        app = App()
        @app.task(queue="mails")
        def mail(to: str) -> None: ...
        @app.task(queue="images")
        def draw(path: str) -> None: ...
    """,
    "shop_tasks": """
        from qbridge_core import TaskManager, connect
        from qbridge_memory import MemoryClient

        NAME = "shop"

        class Shop:
            @staticmethod
            def build():
                return TaskManager(connect("memory://"), print, "nested", "dead")

        def manager_of(queue):
            return TaskManager(connect("memory://"), print, queue, "dead")

        manager = manager_of("at-import")

        def build():
            return manager_of("built")

        def handle(payload):
            pass

        def handle_with_task(payload, task):
            pass

        def either(payload=None):
            return manager_of("either")

        def decorated(*args, **kwargs):
            raise AssertionError("a handler was called")

        def nothing():
            pass

        def several():
            return [build()]

        async def slow():
            return build()

        def broken():
            raise KeyError("DATABASE")

        def away():
            return TaskManager(connect("redis://127.0.0.1:1/0"), print, "q", "dead")

        def unconnected():
            return TaskManager(MemoryClient(), print, "q", "dead")

        def disconnected():
            found = build()
            found.queue_client.disconnect()
            return found
    """,
    "shop_without": "import not_there\n",
    "shop_slip": "def build(:\n",
    "shop_script": "import sys\nsys.exit(3)\n",
    "shop_started": """
        from qbridge_core import TaskManager, connect
        manager = TaskManager(connect("memory://"), print, "q", "dead")
        manager.start()
    """,
    "shop_unconnected": """
        from qbridge_core import TaskManager
        from qbridge_memory import MemoryClient
        manager = TaskManager(MemoryClient(), print, "q", "dead")
    """,
}


@pytest.fixture(autouse=True)
def modules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A folder with modules, which can be imported."""
    for name, text in MODULES.items():
        (tmp_path / f"{name}.py").write_text(textwrap.dedent(text))
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr("qbridge_core.cli.worker.target.set_up_logs", lambda *_: None)
    yield
    for name in MODULES:
        sys.modules.pop(name, None)


@pytest.mark.parametrize(
    ("name", "queue"),
    [
        ("shop_tasks:build", "built"),
        ("shop_tasks:manager", "at-import"),
        ("shop_tasks:Shop.build", "nested"),
        ("shop_tasks:either", "either"),
    ],
)
def test_a_target_is_a_build_function_or_a_manager(name: str, queue: str) -> None:
    """A function without arguments is called, a TaskManager taken as it is."""
    assert [manager.input_queue for manager in Target(name)()] == [queue]


def test_a_target_is_an_app(monkeypatch: pytest.MonkeyPatch) -> None:
    """It has a manager for each of its queues, or of those that are named, on the broker that was said."""
    monkeypatch.delenv("QBRIDGE_URL", raising=False)
    managers = Target("shop_app:app", "memory://", typed=("--url",))()
    assert [manager.input_queue for manager in managers] == ["mails", "images"]
    (manager,) = Target("shop_app:app", None, queues=("images",))()
    assert manager.input_queue == "images"
    assert manager.queue_client is managers[0].queue_client


@pytest.mark.parametrize("name", ["handle", "handle_with_task", "either"])
def test_a_target_is_a_handler_with_a_queue(name: str) -> None:
    """What takes a payload becomes the handler of a manager with the settings that were given."""
    (manager,) = Target(f"shop_tasks:{name}", "memory://", "mails", {"grace_period": 7.0}, ("--queue",))()
    assert (manager.input_queue, manager.grace_period) == ("mails", 7.0)


@pytest.mark.parametrize(
    ("target", "said"),
    [
        (Target("shop_nowhere:build"), "there is no module 'shop_nowhere'"),
        (Target("shop_tasks.part:build"), "there is no module 'shop_tasks.part'"),
        (Target("shop_tasks:biuld"), "did you mean 'build'?"),
        (Target("shop_tasks:Shop.biuld"), "did you mean 'build'?"),
        (Target("shop_tasks:NAME"), "is a str; a target is an App, a function that returns a TaskManager"),
        (Target("shop_tasks:Shop"), "is a class"),
        (Target("shop_app:app", None, "mails", {}, ("--queue", "--url")), "is an App.*leave out --queue$"),
        (Target("shop_app:app", "memory://", queues=("other",)), "no task of this app has the queue 'other'"),
        (Target("shop_app:mail"), "shop_app:mail is a task of an App; the target is the App"),
        (Target("shop_tasks:build", queues=("mails",)), "is no App; leave out -Q"),
        (Target("shop_tasks.py:build"), "the name of the module, shop_tasks:build"),
        (Target("./src/shop_tasks.py"), "the name of the module, src.shop_tasks:name"),
        (Target("shop_tasks"), "which function or TaskManager of shop_tasks?"),
        (Target("shop_tasks.build"), "did you mean shop_tasks:build?"),
        (Target("shop tasks:build"), "is no name in a module"),
        (Target("shop_tasks:"), "is no name in a module"),
        (Target("shop_tasks:handle"), "takes an argument, so it is a handler: say which queue with --queue"),
        (Target("shop_tasks:decorated"), "takes an argument, so it is a handler"),
        (Target("shop_tasks:manager_of"), "A function that builds a TaskManager takes none"),
        (Target("shop_tasks:handle", None, "mails", {}, ("--queue",)), "Give --url"),
        (Target("shop_tasks:build", None, None, {}, ("--dead", "--url")), "no handler.*leave out --dead, --url"),
        (Target("shop_tasks:manager", None, None, {}, ("--dead",)), "is a TaskManager.*leave out --dead"),
        (Target("shop_tasks:nothing"), "returned nothing"),
        (Target("shop_tasks:several"), "returned a list.*a function for each queue"),
        (Target("shop_tasks:slow"), "`async def`"),
        (Target("shop_tasks:unconnected"), "cannot build its TaskManager: the queue client is not connected"),
        (Target("shop_tasks:disconnected"), "the client of shop_tasks:disconnected is not connected"),
        (Target("shop_without:build"), "cannot be imported: ModuleNotFoundError: No module named 'not_there'"),
        (Target("shop_slip:build"), "cannot be imported: SyntaxError"),
        (Target("shop_script:build"), "ends the process"),
        (Target("shop_started:manager"), "below `if __name__ == '__main__':`"),
        (Target("shop_unconnected:manager"), "shop_unconnected cannot be imported: the queue client is not connected"),
    ],
    ids=lambda value: value.name if isinstance(value, Target) else "",
)
def test_each_natural_mistake_has_a_sentence(target: Target, said: str) -> None:
    """It says what is wrong and what to write, and is told apart from a broker that is away."""
    with pytest.raises(ConfigurationError, match=said):
        target()


def test_what_a_build_function_raises_is_shown_where_it_is_raised() -> None:
    """The traceback begins in the user's code, and is no mistake in the use of the command."""
    with pytest.raises(QBridgeError, match="cannot build its TaskManager: KeyError: 'DATABASE'") as caught:
        Target("shop_tasks:broken")()
    assert not isinstance(caught.value, ConfigurationError)
    notes = caught.value.__notes__
    assert notes[0].startswith("Traceback")
    assert "shop_tasks.py" in notes[1]
    with pytest.raises(BrokerUnavailableError):
        Target("shop_tasks:away")()


def test_a_target_hides_the_password() -> None:
    """The log of a supervisor names its targets; the URL of a handler's broker is not part of that."""
    target = Target("shop_tasks:handle", "redis://:secret@host/0", "mails")
    assert str(target) == "shop_tasks:handle"
    assert "secret" not in repr(target)


@pytest.mark.parametrize(
    ("text", "backoff"),
    [
        ("5", ConstantBackoff(5.0)),
        ("0.5", ConstantBackoff(0.5)),
        ("linear:2", LinearBackoff(2.0, 2.0, 300.0)),
        ("linear:2:60", LinearBackoff(2.0, 2.0, 60.0)),
        ("exponential:1", ExponentialBackoff(1.0)),
        ("exponential:400", ExponentialBackoff(400.0, cap=400.0)),
        ("exponential:1:3600", ExponentialBackoff(1.0, cap=3600.0)),
    ],
)
def test_a_backoff_is_written_in_a_word(text: str, backoff: Any) -> None:
    """Seconds, or how they grow from the first to the longest."""
    assert read_backoff(text) == backoff


@pytest.mark.parametrize("text", ["", "five", "-1", "nan", "linear", "linear:1:2:3", "exponential:x", "quick:1"])
def test_a_backoff_that_nobody_understands_is_refused(text: str) -> None:
    """As wrong usage."""
    with pytest.raises(click.BadParameter, match=re.escape(repr(text))):
        read_backoff(text)
