"""Tells the code of a handler from that of libraries, by the modules that it lives in."""

from __future__ import annotations

import functools
import os
import sys
from types import FrameType, MethodType, ModuleType
from typing import Any, Final

OURS: Final = frozenset(
    {"qbridge_core", "qbridge_kombu", "qbridge_memory", "qbridge_rabbitmq", "qbridge_redis", "QBridge"}
)
_MAIN: Final = "__main__"


class OwnCode:
    """The code that belongs to a handler: the top-level package of its module, wherever that is installed.

    A handler that calls one function or another has the code of all of them.

    For a handler in ``__main__`` or in a module that is in no package this is everything in its directory, because the
    parts of a program made of plain files lie side by side; but not where distributions were installed into the same
    directory. The standard library is nobody's own code, and QBridge only to the handlers that its own conformance
    suite has.

    Args:
        *functions: any callables; decorators that say what they wrap (``functools.wraps``) are looked through.
    """

    def __init__(self, *functions: object) -> None:
        self._modules = frozenset(_full_name(_module_of(function)) for function in functions)
        self._tops = frozenset(module.partition(".")[0] for module in self._modules)
        self._known: dict[str, bool] = {}

    def includes(self, frame: FrameType) -> bool:
        """True for a frame in the handler's own code."""
        name = frame.f_globals.get("__name__")
        if type(name) is not str:
            return False
        known = self._known.get(name)
        if known is None:
            known = self._known[name] = self._is_own(_full_name(name))
        return known

    @functools.cached_property
    def _directories(self) -> frozenset[str | None]:
        return frozenset(map(_directory_of_program, self._tops)) - {None}

    def _is_own(self, name: str) -> bool:
        top = name.partition(".")[0]
        if not name or top in sys.stdlib_module_names:
            return False
        if top in OURS:
            return name in self._modules
        return top in self._tops or (bool(self._directories) and _directory_of(top) in self._directories)


def unwrapped(handler: object) -> object:
    """The innermost callable: what partial objects and decorators that say what they wrap call in the end."""
    seen = set[int]()
    while id(handler) not in seen:
        seen.add(id(handler))
        name = "func" if isinstance(handler, functools.partial) else "__wrapped__"
        handler = getattr(handler, name, handler)
    return handler


def is_ours(frame: FrameType) -> bool:
    """True for a frame in one of QBridge's distributions."""
    name = frame.f_globals.get("__name__")
    return type(name) is str and name.partition(".")[0] in OURS


def _module_of(handler: object) -> str:
    handler = unwrapped(handler)
    if isinstance(handler, MethodType):
        # The class of the object, not the one that it inherits the method from: that may be a framework's.
        handler = handler.__self__ if isinstance(handler.__self__, type) else type(handler.__self__)
    elif not isinstance(getattr(handler, "__module__", None), str):
        handler = type(handler)
    name: object = getattr(handler, "__module__", None)
    return name if isinstance(name, str) else ""


def _full_name(name: str) -> str:
    """The name that a module has when it is imported: ``python -m package.module`` runs it as ``__main__``."""
    spec = getattr(sys.modules.get(_MAIN), "__spec__", None) if name == _MAIN else None
    return name if spec is None else str(spec.name)


def _directory_of_program(top: str) -> str | None:
    """The directory of a program made of plain files; None for a package, and where distributions are installed."""
    module = sys.modules.get(top)
    if module is None or hasattr(module, "__path__") or top in sys.stdlib_module_names:
        return None
    directory = _directory_of(top)
    try:
        names = os.listdir(directory) if directory else []
    except OSError:
        return None
    return None if any(name.endswith(".dist-info") for name in names) else directory


def _directory_of(top: str) -> str | None:
    """The directory that a top-level module or package was found in."""
    module: ModuleType | None = sys.modules.get(top)
    paths: Any = getattr(module, "__path__", None)
    try:
        found = next(iter(paths)) if paths is not None else getattr(module, "__file__", None)
    except (StopIteration, TypeError):
        return None
    return os.path.dirname(os.path.abspath(found)) if isinstance(found, str) else None
