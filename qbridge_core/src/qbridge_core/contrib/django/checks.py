"""What ``manage.py check`` says of a project beside what backends say of theirs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from django.core import checks

from qbridge_core.app.app import App
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
    except ConfigurationError as exc:
        return [checks.Error(str(exc), id="qbridge.E004")]
    found = found_apps()
    return [*_of_broker(found), *_of_apps(found), *_of_queues(found)]


def _of_broker(found: Sequence[App]) -> Iterator[checks.CheckMessage]:
    try:
        if found:
            client_for(DjangoFramework().url())
        elif (url := url_of_settings()) is not None:
            client_for(url)
    except ConfigurationError as exc:
        yield checks.Error(str(exc), id="qbridge.E001")


def _of_apps(found: Sequence[App]) -> Iterator[checks.CheckMessage]:
    if problem := several(found):
        yield checks.Error(problem, id="qbridge.E005")


def _of_queues(found: Sequence[App]) -> Iterator[checks.CheckMessage]:
    for app in found:
        used = {task.queue for task in app.tasks}
        for name in app._layout.own.keys() - used if used else ():
            yield checks.Warning(
                f"the queue {name!r} has settings, and no task; there are {', '.join(sorted(used))}", id="qbridge.W001"
            )
