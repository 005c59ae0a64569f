"""What ``manage.py check`` says of a project beside what backends say of theirs."""

from __future__ import annotations

import traceback
from collections.abc import Iterator
from typing import Any

from django.core import checks

from qbridge_core.contract.registry import client_for
from qbridge_core.contrib.django.finding import discover, found_apps
from qbridge_core.contrib.django.framework import DjangoFramework, url_of_settings
from qbridge_core.contrib.django.project import several
from qbridge_core.errors import ConfigurationError


def check_project(**kwargs: Any) -> list[checks.CheckMessage]:
    """Look at the broker of the settings, and at the apps in the modules ``tasks``."""
    del kwargs
    try:
        discover()
    except Exception as exc:  # noqa: BLE001 - whatever it is, it keeps the tasks from being found
        text = f"a module `tasks` cannot be imported: {type(exc).__name__}: {exc}"
        return [checks.Error(text, hint=_place(exc), id="qbridge.E004")]
    return [*_of_broker(), *_of_apps(), *_of_queues()]


def _place(exc: Exception) -> str | None:
    """The line of the innermost module that was being imported."""
    lines = [frame for frame in traceback.extract_tb(exc.__traceback__) if frame.name == "<module>"]
    return f"See line {lines[-1].lineno} of {lines[-1].filename}." if lines else None


def _of_broker() -> Iterator[checks.CheckMessage]:
    try:
        if found_apps():
            client_for(DjangoFramework().url())
        elif (url := url_of_settings()) is not None:
            client_for(url)
    except ConfigurationError as exc:
        yield checks.Error(str(exc), id="qbridge.E001")


def _of_apps() -> Iterator[checks.CheckMessage]:
    if problem := several(found_apps()):
        yield checks.Error(problem, id="qbridge.E005")


def _of_queues() -> Iterator[checks.CheckMessage]:
    for app in found_apps():
        used = {task.queue for task in app.tasks}
        for name in app._queues.keys() - used if used else ():
            yield checks.Warning(
                f"the queue {name!r} has settings, and no task; there are {', '.join(sorted(used))}", id="qbridge.W001"
            )
