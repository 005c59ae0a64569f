"""A pool of two queues whose tasks run in child processes."""

from __future__ import annotations

import os

from qbridge_core import App
from support.handlers import note

part = App()
part.pool("children", queues={"urgent": 5, "normal": 1}, max_workers=2, executor="process")


@part.task(queue="urgent")
def urgent(path: str) -> None:
    """Note which process it is."""
    note(path, os.getpid())


@part.task(queue="normal")
def normal(path: str) -> None:
    """The same."""
    note(path, os.getpid())
