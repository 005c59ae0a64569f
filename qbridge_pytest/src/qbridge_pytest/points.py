"""The points at which a worker can be made to die: where they are in a run, and what they are called."""

from __future__ import annotations

import functools
import inspect
import linecache
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from types import CodeType
from typing import Any, Final

from qbridge_core import AppTask, ConfigurationError

RECEIVED: Final = "received"
START: Final = "start"
BEFORE_PUBLISH: Final = "before publish"
PUBLISH: Final = "publish"
DONE: Final = "done"
SETTLED: Final = "settled"
NAMED: Final = (RECEIVED, START, BEFORE_PUBLISH, PUBLISH, DONE, SETTLED)
"""Around each call of the broker, and before the handler's first line; in the order of a run."""
ALL: Final = "all"


@dataclass(frozen=True, slots=True)
class Point:
    """A place in a run.

    Attributes:
        name: one of ``NAMED``, or "line".
        code: the handler's, where it is a line.
        line: its number in the file.
    """

    name: str
    code: CodeType | None = None
    line: int = 0

    @property
    def place(self) -> str:
        """Where it is, in words."""
        if self.code is None:
            return _WORDS[self.name]
        text = linecache.getline(self.code.co_filename, self.line).strip()
        return f"before line {self.line} of {self.code.co_qualname}: {text}".rstrip(": ")

    @property
    def id(self) -> str:
        """What the test is called that has it."""
        if self.code is None:
            return self.name.replace(" ", "-")
        return f"{self.code.co_name}-line-{self.line}"


_WORDS: Final = {
    RECEIVED: "when the message was received, and no handler had begun",
    START: "before the first line of the handler",
    BEFORE_PUBLISH: "before the handler's message was sent",
    PUBLISH: "after the handler's message was sent",
    DONE: "when the handler had ended, and nothing was settled",
    SETTLED: "after the settlement",
}


def code_of(handler: object) -> CodeType | None:
    """The code of a handler or of an app's task; ``None`` for what is not written in Python."""
    function: Any = handler.function if isinstance(handler, AppTask) else handler
    while isinstance(function, functools.partial):
        function = function.func
    function = inspect.unwrap(function) if callable(function) else function
    if not inspect.isroutine(function) and callable(function):
        function = type(function).__call__
    found = getattr(function, "__code__", None)
    return found if isinstance(found, CodeType) else None


def lines_of(handler: object) -> list[Point]:
    """Each line of a handler that can be run."""
    code = code_of(handler)
    if code is None:
        return []
    numbers = {line for _, _, line in code.co_lines() if line is not None and line > code.co_firstlineno}
    return [Point("line", code, line) for line in sorted(numbers or {code.co_firstlineno})]


def chosen(names: object, handlers: Sequence[object]) -> list[Point]:
    """The points that a test asks for.

    Args:
        names: "all", or a list of names of points and "lines".
        handlers: those whose lines count.

    Raises:
        ConfigurationError: there is no such point, or it is not known whose lines.
    """
    wanted = (*NAMED, "lines") if names == ALL else names
    if isinstance(wanted, str) or not isinstance(wanted, Iterable):
        raise ConfigurationError(f'crash_points must be "all" or a list of {_known()}, not {names!r}')
    points: list[Point] = []
    for name in wanted:
        if name == "lines":
            points += _lines(handlers)
        else:
            points.append(Point(named(name)))
    return points


def named(name: object) -> str:
    """The name of a point.

    Raises:
        ConfigurationError: there is none of this name.
    """
    if not isinstance(name, str) or name not in NAMED:
        raise ConfigurationError(f"there is no crash point {name!r}; there are {_known()}")
    return name


def handlers_in(test: Callable[..., object]) -> list[object]:
    """The tasks of apps that a test names."""
    code, known = inspect.unwrap(test).__code__, inspect.unwrap(test).__globals__
    return [found for name in code.co_names if isinstance(found := known.get(name), AppTask)]


def _lines(handlers: Sequence[object]) -> list[Point]:
    found = [line for handler in handlers for line in lines_of(handler)]
    if not found:
        raise ConfigurationError(
            "it is not known whose lines are crash points: name the handler, as in "
            '@pytest.mark.qbridge(crash_points="all", handler=charge)'
        )
    return found


def _known() -> str:
    return ", ".join(repr(name) for name in (*NAMED, "lines"))
