"""A pool of two queues whose tasks run in child processes."""

from __future__ import annotations

from qbridge_core import App

part = App()
part.pool("children", queues={"urgent": 5, "normal": 1}, max_workers=2, executor="process")


@part.task(queue="urgent")
def urgent() -> None:
    """Do nothing."""


@part.task(queue="normal")
def normal() -> None:
    """Do nothing."""
