"""Which broker an app uses, and what apps share."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from typing import Any

import pytest

from qbridge_core import (
    App,
    ConfigurationError,
    Outcome,
)
from qbridge_core.app.connection import URL_VARIABLE


def test_without_a_broker_the_error_says_how_to_name_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sending, before anything is open and without the variable."""
    monkeypatch.delenv(URL_VARIABLE, raising=False)
    task = App().task(name="a")(lambda: None)
    with pytest.raises(ConfigurationError, match=r"which broker\? Use the app within `with app\.open\(url\):`, or set"):
        task.send()


def test_open_is_for_the_whole_process(unique_name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another thread sends through the same client; after the block it is closed, and it can be opened again."""
    monkeypatch.delenv(URL_VARIABLE, raising=False)
    app = App()
    task = app.task(name="a")(lambda: None)
    for _ in range(2):
        with app.open(f"memory://{unique_name}", max_message_bytes=10_000) as client:
            thread = threading.Thread(target=task.send)
            thread.start()
            thread.join()
            assert client.stats("default").ready == 1
            with pytest.raises(ConfigurationError, match="open already"), app.open("memory://"):
                pass
            assert app.run_until_idle().succeeded == 1
        assert not client.connected


def test_a_program_that_has_sent_something_ends_in_silence() -> None:
    """It disconnects at its end, also where the interpreter starts no thread any more."""
    program = """
from qbridge_core import App
App().task(name="a")(lambda: None).send()
"""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", program], capture_output=True, text=True, timeout=60, check=False,
        env={**os.environ, URL_VARIABLE: "memory://"},
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")


def test_two_apps_share_nothing(unique_name: str) -> None:
    """Neither names nor clients."""
    one, other = App(), App()
    first, second = one.task(name="a")(lambda: None), other.task(name="a")(lambda: None)
    with one.open(f"memory://{unique_name}") as client, other.open(f"memory://{unique_name}-2") as others:
        first.send()
        second.send()
        assert client is not others
        assert one.run_until_idle().succeeded == other.run_until_idle().succeeded == 1


def test_an_app_declares_its_queues_unless_it_is_told_not_to(unique_name: str) -> None:
    """A producer without that right sends to queues that others have declared."""
    from qbridge_core import UnroutableError, connect

    app = App(declare=False)
    task = app.task(name="a")(lambda: None)
    with app.open(f"memory://{unique_name}"), pytest.raises(UnroutableError):
        task.send()
    with connect(f"memory://{unique_name}") as client, app.open(f"memory://{unique_name}"):
        client.declare("default", "default.dead")
        task.send()
        assert client.stats("default").ready == 1


def test_an_included_app_uses_what_the_other_one_has(app: App) -> None:
    """Its tasks, those that come later too, are sent and worked off through the app that includes it."""
    part = App()
    first = part.task(name="first", queue="parts")(lambda: None)
    part.queue("parts", dead_letter_queue="lost")
    app.include(part)
    later = part.task(name="later", max_retries=0)(lambda: 1 / 0)
    first.send()
    later.send()
    report = app.run_until_idle()
    assert report.counts == {Outcome.SUCCEEDED: 1, Outcome.FAILED: 1}
    assert app.managers(["parts"])[0]._plan.dead_letter_queue == "lost"


def test_include_refuses_what_makes_no_sense(app: App) -> None:
    """An app in two others, in itself, something else, and names that are there already."""
    part, nested, clash = App(), App(), App()
    nothing: Any = "shop"
    app.include(part)
    part.include(nested)
    app.task(name="a")(lambda: None)
    clash.task(name="a")(lambda: None)
    with pytest.raises(ConfigurationError, match="included already"):
        App().include(part)
    with pytest.raises(ConfigurationError, match="included already"):
        nested.include(app)
    with pytest.raises(ConfigurationError, match="include takes an App, not a str"):
        app.include(nothing)
    with pytest.raises(ConfigurationError, match="two tasks are called 'a'"):
        nested.include(clash)
    with pytest.raises(ConfigurationError, match="two tasks are called 'a'"):
        nested.task(name="a")(lambda: None)


def test_an_app_without_tasks_says_so(app: App) -> None:
    """Most often a module was not imported."""
    with pytest.raises(ConfigurationError, match="this app has no tasks; import the modules that define them"):
        app.run_worker()
    app.task(name="a")(lambda: None)
    names: Any = "default"
    with pytest.raises(ConfigurationError, match=r"queues must be a list of names, not 'default': write \['default'\]"):
        app.run_worker(names)


@pytest.mark.parametrize("argument", [{"declare": "no"}, {"on_unknown": -1}, {"grace_period": "long"}])
def test_wrong_arguments_of_an_app_are_refused(argument: dict[str, Any]) -> None:
    """When it is made."""
    with pytest.raises(ConfigurationError, match=next(iter(argument))):
        App(**argument)
