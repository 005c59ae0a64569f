"""What cannot be a task, or a setting of a queue, is refused where it is written."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from qbridge_core import (
    App,
    ConfigurationError,
    TaskContext,
)
from support.apps import client_of


def positional(first: int, /) -> None:
    """Positional-only."""


def many(*numbers: int) -> None:
    """Any number of arguments."""


def named(**numbers: int) -> None:
    """Any names."""


def mutable(tags: list[str] = []) -> None:  # noqa: B006
    """A default that all share."""


def missing(mail: Mail) -> None:  # type: ignore[name-defined]  # noqa: F821
    """An annotation that is nowhere."""


def second(number: int, task: TaskContext) -> None:
    """The context is not the first."""


def bound(self, number: int) -> None:  # type: ignore[no-untyped-def]
    """What Celery calls with bind=True."""


def a_generator() -> Iterator[int]:
    """Runs nothing when it is called."""
    yield 1


@pytest.mark.parametrize(
    ("function", "match"),
    [
        (positional, r"t: first is positional-only, and a payload goes by names; drop the /"),
        (many, r"t: \*numbers: .*int.* has no name in a payload"),
        (named, r"t: \*\*numbers: .*int.* has no name in a payload"),
        (mutable, r"t: the default of tags is a list, which all runs would share; let it be None"),
        (missing, r"t: an annotation names 'Mail', which is not there yet, or only for type checkers"),
        (second, r"t: the parameter that gets the TaskContext is the first one"),
        (bound, r"t: self would have to be in each payload: .* where a type says so, as in self: TaskContext"),
        (a_generator, r"is a generator function"),
        (int, r"a task is a function"),
        (5, r"a task is a function"),
    ],
)
def test_a_function_that_cannot_be_a_task_is_refused(app: App, function: Any, match: str) -> None:
    """At once, with what to change."""
    with pytest.raises(ConfigurationError, match=match):
        app.task(name="t")(function)
    assert app.tasks == []


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"queue": "x" * 300}, "queue"),
        ({"task_timeout": 0}, "task_timeout must be a positive number"),
        ({"max_retries": -1}, "max_retries must be an integer"),
        ({"backoff": 5}, "backoff must be an object"),
        ({"dead_letter_on": [5]}, "dead_letter_on must hold exception classes"),
        ({"dead_letter_on": LookupError}, "dead_letter_on must hold exception classes"),
        ({"retry_rules": 5}, "rules must be a tuple of ExceptionRule objects"),
        ({"name": ""}, "the name of a task is a string"),
        ({"aliases": [5]}, "the name of a task is a string"),
        ({"whole_payload": True}, "whole_payload=True is for a function of one parameter, not 2"),
    ],
)
def test_wrong_arguments_of_a_task_are_refused(app: App, arguments: dict[str, Any], match: str) -> None:
    """Where they are given."""
    with pytest.raises(ConfigurationError, match=match):
        app.task(**{"name": "t", **arguments})(lambda first, second: None)


def test_a_function_inside_another_one_needs_a_name(app: App) -> None:
    """No other process would know it."""
    with pytest.raises(
        ConfigurationError, match=r"has no name that other processes know: give it one, as in @app\.task\("
    ):
        app.task(lambda: None)


def test_a_task_of_the_main_program_needs_a_name() -> None:
    """Its module is called differently in each process."""
    code = "from qbridge_core import App\napp = App()\n@app.task\ndef send_mail(): pass\n"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "send_mail is defined in the main program" in result.stderr
    assert '@app.task(name="send_mail")' in result.stderr


@pytest.mark.parametrize("second", [{"name": "b", "aliases": ["a"]}, {"name": "old"}, {"name": "a"}])
def test_two_tasks_with_one_name_are_refused(app: App, second: dict[str, Any]) -> None:
    """An alias is a name, too; the error says where both are."""
    app.task(name="a", aliases=["old"])(lambda: None)
    with pytest.raises(ConfigurationError, match=r"two tasks are called '(a|old)': .*test_app_registration\..* and "):
        app.task(**second)(lambda: None)


def test_a_task_is_not_made_a_task_again(app: App) -> None:
    """It would get its context twice."""
    a = app.task(name="a")(lambda: None)
    for each in (app, App()):
        with pytest.raises(ConfigurationError, match="a is a task already: its other names are aliases"):
            each.task(name="b")(a)


@pytest.mark.parametrize("aliases", ["old", None, 5])
def test_aliases_are_a_list_of_names(app: App, aliases: Any) -> None:
    """A text would be one name for each of its letters."""
    with pytest.raises(ConfigurationError, match="aliases must be a list of names, not "):
        app.task(name="a", aliases=aliases)


@pytest.mark.parametrize(
    ("setting", "match"),
    [
        ({"max_worker": 5}, "queue 'emails' has no setting 'max_worker'; did you mean 'max_workers'"),
        ({"task_timeout": 5}, r"no setting 'task_timeout'.*is an argument of each task"),
        ({"dead_letter_queue": "emails"}, "emails"),
    ],
)
def test_an_unknown_setting_of_a_queue_is_refused(app: App, setting: dict[str, Any], match: str) -> None:
    """With the names that there are."""
    with pytest.raises(ConfigurationError, match=match):
        app.queue("emails", **setting)


def test_a_queue_has_its_settings_once(app: App) -> None:
    """Twice is a mistake of one of two places."""
    app.queue("emails", max_workers=1)
    with pytest.raises(ConfigurationError, match="queue 'emails' has its settings already"):
        app.queue("emails", max_workers=2)


def test_a_queue_has_its_settings_in_one_of_the_apps_that_go_together(app: App) -> None:
    """Else those of one would be passed over, with the formats of its messages."""
    part, other = App(), App()
    for each in (part, other):
        each.queue("emails", max_workers=1)
    app.include(part)
    for refused in (lambda: app.include(other), lambda: app.queue("emails", max_workers=2)):
        with pytest.raises(ConfigurationError, match="queue 'emails' has its settings already, in this app or in one"):
            refused()


def test_letters_do_not_go_where_tasks_are_taken_from(app: App) -> None:
    """They would run again, whether the name was given or is the usual one."""
    app.queue("emails", dead_letter_queue="images")
    for queue in ("emails", "images"):
        app.task(name=queue, queue=queue)(lambda: None)
    with pytest.raises(ConfigurationError, match="dead_letter_queue of 'emails' cannot be 'images', from which this"):
        app.managers(["emails"])
    usual = App()
    for queue in ("emails", "emails.dead"):
        usual.task(name=queue, queue=queue)(lambda: None)
    with pytest.raises(ConfigurationError, match=r"dead_letter_queue of 'emails' cannot be 'emails\.dead', from which"):
        usual.managers()


def test_the_settings_of_a_queue_count(app: App) -> None:
    """Its dead-letter queue, for one."""
    app.queue("emails", dead_letter_queue="lost", max_workers=1)

    @app.task(name="a", queue="emails", max_retries=0)
    def a() -> None:
        raise ValueError

    a.send()
    app.run_until_idle()
    assert client_of(app).stats("lost").ready == 1
