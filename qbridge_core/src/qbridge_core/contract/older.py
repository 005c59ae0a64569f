"""Backends that were written before there were some arguments and methods: they go on working, and refuse new ones."""

from __future__ import annotations

import functools
from collections.abc import Callable
from types import FunctionType
from typing import Any, Final

from qbridge_core.errors import UnsupportedError

_ADDED: Final = {
    "dead_letters": ("after",),
    "purge": ("delayed",),
    "replay": ("letters", "body", "headers"),
    "send": ("expires", "encoder", "publish_timeout"),
    "send_many": ("expires", "encoder", "publish_timeout"),
}
_TAKES_ANY: Final = 0x08  # the flag of a code object for ``**arguments``


def refuse_what_is_new(cls: type) -> None:
    """Let methods of a class that lack an argument of the contract raise ``UnsupportedError`` for it."""
    for name, added in _ADDED.items():
        method = vars(cls).get(name)
        if isinstance(method, FunctionType) and (missing := [one for one in added if not _takes(method, one)]):
            setattr(cls, name, _refusing(method, missing))


def keep_up(cls: type, method: str, companion: str, default: Callable[..., Any]) -> None:
    """Let a class that overrides a method have the default of another one, unless it overrides that one, too.

    What the class that it derives from has there goes past its method.
    """
    if _place(cls, method) < _place(cls, companion):
        setattr(cls, companion, default)


def _place(cls: type, name: str) -> int:
    """How far up a class finds what it has by this name."""
    return next(position for position, each in enumerate(cls.__mro__) if name in vars(each))


def _takes(method: Callable[..., Any], argument: str) -> bool:
    while (wrapped := getattr(method, "__wrapped__", None)) is not None:
        method = wrapped
    code = getattr(method, "__code__", None)
    if code is None or code.co_flags & _TAKES_ANY:
        return True  # it says itself what it takes
    return argument in code.co_varnames[: code.co_argcount + code.co_kwonlyargcount]


def _refusing(method: Callable[..., Any], missing: list[str]) -> Callable[..., Any]:
    @functools.wraps(method)
    def call(self: object, *args: Any, **kwargs: Any) -> Any:
        for argument in missing:
            value = kwargs.pop(argument, None)
            if value is not None and value is not False:
                raise UnsupportedError(f"{type(self).__name__}.{method.__name__} does not know {argument!r}")
        return method(self, *args, **kwargs)

    return call
