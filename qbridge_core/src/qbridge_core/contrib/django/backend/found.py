"""Finds the tasks that ``django.tasks`` has made."""

from __future__ import annotations

import importlib

from qbridge_core.contrib.django.backend.library import Task
from qbridge_core.contrib.django.finding import modules_of_project


def found_tasks() -> list[Task]:
    """The tasks that ``django.tasks`` has made, in what is imported by now; one for each function."""
    found: dict[str, Task] = {}
    for module in modules_of_project():
        for value in list(vars(module).values()):
            if isinstance(value, Task) and value.func.__module__ == module.__name__:
                found.setdefault(value.module_path, value)
    return list(found.values())


def task_called(path: str) -> Task:
    """The task of this name, in another process that has imported nothing yet.

    Raises:
        LookupError: there is none.
    """
    module = importlib.import_module(path.rpartition(".")[0])
    for value in vars(module).values():
        if isinstance(value, Task) and value.module_path == path:
            return value
    raise LookupError(f"there is no task {path}")
