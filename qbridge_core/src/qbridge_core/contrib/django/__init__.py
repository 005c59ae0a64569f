"""Tasks of a Django project: a backend for ``django.tasks``, and apps that live in Django; needs the extra ``django``.

``INSTALLED_APPS`` names this package, and ``TASKS`` names ``qbridge_core.contrib.django.QBridgeBackend``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from qbridge_core.contrib.django.backend.sending import QBridgeBackend
    from qbridge_core.contrib.django.project import project_app

__all__ = ["QBridgeBackend", "project_app"]


def __getattr__(name: str) -> object:
    """Import what is asked for: Django imports this package before there are settings, models or tasks."""
    if name == "QBridgeBackend":
        from qbridge_core.contrib.django.backend.sending import QBridgeBackend

        return QBridgeBackend
    if name == "project_app":
        from qbridge_core.contrib.django.project import project_app

        return project_app
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
