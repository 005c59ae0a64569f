"""What a log line shows of values from outside: they cannot forge a line, and no code of theirs can do harm."""

from __future__ import annotations

import traceback
from types import TracebackType
from typing import Any, Final

ExcInfo = tuple[type[BaseException], BaseException, TracebackType | None]
_PLAIN: Final = frozenset({str, int, float, bool, bytes, type(None)})
_BUILTIN_TEXTS: Final = (BaseException.__str__, OSError.__str__)
# The attributes themselves: a subclass may have put properties in front of them.
_ARGS: Final[Any] = vars(BaseException)["args"].__get__
_FILENAME: Final[Any] = vars(OSError)["filename"].__get__
_FILENAME2: Final[Any] = vars(OSError)["filename2"].__get__


def escaped(text: str) -> str:
    """The text in one line, with everything escaped that a terminal or a reader could take for something else."""
    text = str.__str__(text)  # a subclass may run code of its own
    if text.isprintable():
        return text
    return "".join(each if each.isprintable() else each.encode("unicode_escape").decode() for each in text)


def shown(arg: object) -> object:
    """An argument of a message as the record gets it."""
    if isinstance(arg, str):
        return escaped(arg)
    return arg if isinstance(arg, int | float) else text_of(arg)


def text_of(value: object) -> str:
    """The ``str`` of anything."""
    try:
        return escaped(str(value))
    except BaseException:  # noqa: BLE001 - foreign code
        return f"({type_name(value)}, whose text cannot be read)"


def exception_now(exc: BaseException) -> str:
    """The text of an exception, or only its type where reading the text may run foreign code."""
    parts = [*_ARGS(exc)]
    if isinstance(exc, OSError):
        parts += _FILENAME(exc), _FILENAME2(exc)
    simple = type(exc).__str__ in _BUILTIN_TEXTS and all(type(part) in _PLAIN for part in parts)
    return str(exc) if simple else type_name(exc)


def type_name(value: object) -> str:
    """The name of its class."""
    return str(type.__dict__["__name__"].__get__(type(value)))  # a metaclass may run code of its own


def traceback_of(exc_info: ExcInfo) -> str:
    """The traceback with its lines indented, so that none of a message's can be taken for a record."""
    try:
        text = "".join(traceback.format_exception(*exc_info))
    except BaseException:  # noqa: BLE001 - foreign code
        text = f"({type_name(exc_info[1])}, whose traceback cannot be read)"
    return "\n".join(f"  {escaped(line)}" for line in text.rstrip("\n").split("\n"))
