"""Finds what a project has of QBridge's: in the modules ``tasks`` of its apps, and in what those import."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from types import ModuleType

from django.apps import apps
from django.utils.module_loading import autodiscover_modules

from qbridge_core.app.app import App


def discover() -> None:
    """Import ``tasks`` of each installed app that has such a module.

    Raises:
        Exception: whatever keeps one from being imported.
    """
    autodiscover_modules("tasks")


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
