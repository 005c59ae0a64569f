"""Finds what a project has of QBridge's: in the modules ``tasks`` of its apps, and in what those import."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Iterator
from types import ModuleType

from django.apps import apps
from django.utils.module_loading import autodiscover_modules

from qbridge_core.app.app import App
from qbridge_core.errors import ConfigurationError


def discover() -> None:
    """Import ``tasks`` of each installed app that has such a module.

    Raises:
        ConfigurationError: one cannot be imported; the text has the line.
    """
    try:
        autodiscover_modules("tasks")
    except Exception as exc:
        raise ConfigurationError(
            f"a module `tasks` cannot be imported: {type(exc).__name__}: {exc}{_place(exc)}"
        ) from exc


def _place(exc: Exception) -> str:
    """The line of the innermost module that was being imported."""
    lines = [frame for frame in traceback.extract_tb(exc.__traceback__) if frame.name == "<module>"]
    return f" (line {lines[-1].lineno} of {lines[-1].filename})" if lines else ""


def found_apps() -> list[App]:
    """The outermost apps in what is imported by now."""
    found: dict[int, App] = {}
    for module in modules_of_project():
        for value in list(vars(module).values()):
            if isinstance(value, App):
                found.setdefault(id(value._root), value._root)
    return list(found.values())


def modules_of_project() -> Iterator[ModuleType]:
    """Those of the installed apps, without our own."""
    names = tuple(f"{config.name}." for config in apps.get_app_configs() if config.label != "qbridge")
    for name, module in list(sys.modules.items()):
        if isinstance(module, ModuleType) and f"{name}.".startswith(names):
            yield module
