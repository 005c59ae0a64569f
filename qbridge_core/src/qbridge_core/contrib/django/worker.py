"""The target of ``manage.py qbridge worker``: in each process that works, it finds all tasks."""

from __future__ import annotations

from qbridge_core.app.app import App
from qbridge_core.contrib.django.framework import set_up_django


def __getattr__(name: str) -> App:
    """Make ``project`` when it is asked for, in a process that may not have set Django up."""
    if name != "project":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    set_up_django()
    from qbridge_core.contrib.django.project import project_app

    found = project_app()
    found.refuse_own_broker()
    return found
