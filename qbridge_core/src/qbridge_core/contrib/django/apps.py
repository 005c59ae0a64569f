"""What Django loads for the entry in ``INSTALLED_APPS``."""

from __future__ import annotations

import importlib

import django
from django.apps import AppConfig
from django.core import checks


class QBridgeConfig(AppConfig):  # type: ignore[misc]
    """Has all apps of the process live in Django."""

    name = "qbridge_core.contrib.django"
    label = "qbridge"
    verbose_name = "QBridge"

    def ready(self) -> None:
        """Begin, now that there are models."""
        from qbridge_core.app.framework import use_framework
        from qbridge_core.contrib.django.checks import check_project
        from qbridge_core.contrib.django.framework import DjangoFramework

        use_framework(DjangoFramework())
        checks.register(check_project)
        if django.VERSION >= (6, 0):
            importlib.import_module("django.tasks")  # checks its backends once it is imported, and that may be too late
