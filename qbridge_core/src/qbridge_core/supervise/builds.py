"""The functions that build the managers of a worker process."""

from __future__ import annotations

import importlib
import pickle
from collections.abc import Callable, Sequence

from qbridge_core.errors import ConfigurationError


def checked(builds: Sequence[object]) -> bytes:
    """All of them as another process can be told of them.

    Raises:
        ConfigurationError: one is no build function, or cannot be imported elsewhere.
    """
    if not builds:
        raise ConfigurationError("build must have a function for each queue; the list is empty")
    for build in builds:
        _check_build(build)
    try:
        return pickle.dumps(builds)
    except Exception as exc:
        raise ConfigurationError(
            f"another process must be able to import the build function ({exc}); define it at the top level of a module"
        ) from exc


def _check_build(build: object) -> None:
    if isinstance(build, str):
        module, separator, name = build.partition(":")
        if not (module and separator and name.isidentifier()):
            raise ConfigurationError(f"build must look like 'module:function', not {build!r}")
    elif not callable(build):
        raise ConfigurationError(f"build must be a function that returns a TaskManager, not {build!r}")


def name_of(build: object) -> str:
    """What the log calls it."""
    name = getattr(build, "__qualname__", None)
    return str(build) if name is None else f"{getattr(build, '__module__', '?')}:{name}"


def find(build: Callable[[], object] | str) -> Callable[[], object]:
    """The build function, also from its name ``module:function``."""
    if not isinstance(build, str):
        return build
    module, _, name = build.partition(":")
    function: Callable[[], object] = getattr(importlib.import_module(module), name)
    return function
