"""The target of ``manage.py qbridge worker``: imported in each process that works, it finds all tasks."""

from __future__ import annotations

from qbridge_core.contrib.django.framework import set_up_django

set_up_django()

from qbridge_core.contrib.django.project import project_app  # noqa: E402 - needs what was set up

project = project_app()
