"""The framework that a program lives in, if it lives in one: where its broker is, and what stands around its tasks."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, Final

_used: Final[list[Framework]] = []


class Framework(ABC):
    """What a framework does for all apps of its process. Thread-safe.

    A child process gets a copy before anything of its tasks: where that is unpickled, it sets the framework up, so that
    their modules can be imported.
    """

    @abstractmethod
    def url(self) -> str:
        """The broker of an app that nobody has opened.

        Raises:
            ConfigurationError: the settings do not say.
        """

    @abstractmethod
    def around(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """What is called in the place of a task's function, with its arguments: a coroutine function for one such."""


def use_framework(framework: Framework) -> None:
    """Have it hold for all apps of this process from now on; what was used before is forgotten."""
    _used[:] = [framework]


def framework_here() -> Framework | None:
    """The one that is used in this process."""
    return _used[0] if _used else None
