"""Lets a worker process say what it runs, to somebody who will see how the process ends.

Of the tasks only suspects (see ``side_queue``) are reported, which run alone; others pay nothing.
"""

from __future__ import annotations

from typing import Protocol


class Observer(Protocol):
    """Sees the worker processes die."""

    def ready(self) -> None:
        """A manager of this process is about to take its first message; may be said again."""
        ...

    def began(self, queue: str, task_id: str) -> None:
        """This process runs this task and no other."""
        ...

    def ended(self) -> None:
        """This process has survived it."""
        ...

    def last_death(self, queue: str, task_id: str) -> str:
        """How the last process that ran this task alone ended, in words; "" when nobody knows."""
        ...


class NoObserver:
    """The observer of a process that runs by itself."""

    def ready(self) -> None:
        """Nobody listens."""

    def began(self, queue: str, task_id: str) -> None:
        """Nobody listens."""

    def ended(self) -> None:
        """Nobody listens."""

    def last_death(self, queue: str, task_id: str) -> str:
        """Nobody knows."""
        del queue, task_id
        return ""


class _Current:
    """Holds the observer of this process."""

    observer: Observer = NoObserver()


def current_observer() -> Observer:
    """The observer of this process."""
    return _Current.observer


def set_observer(observer: Observer) -> None:
    """Make this the observer of this process, before its managers start."""
    _Current.observer = observer
