"""The points at which a worker can be made to die: where they are in a run, and what they are called."""

from __future__ import annotations

import functools
import inspect
import linecache
from collections.abc import Callable, Iterable, Iterator, Sequence
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
_ANNOTATIONS: Final = "__annotate__"
"""The function that Python 3.14 makes of the annotations of another one."""


@dataclass(frozen=True, slots=True)
class Point:
    """A place in a run.

    Attributes:
        name: one of ``NAMED``, or "line".
        code: the handler's, where it is a line.
        line: its number in the file.
        of: whose runs count: tasks and functions; any when there are none.
        task: the name of the task, where the test has other ones.
    """

    name: str
    code: CodeType | None = None
    line: int = 0
    of: tuple[object, ...] = ()
    task: str = ""

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
            return "-".join([*([self.task] if self.task else []), *self.name.split()])
        return f"{_function_of(self.code)}-line-{self.line}"


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
    found = getattr(_innermost(handler), "__code__", None)
    return found if isinstance(found, CodeType) else None


def lines_of(handler: object) -> list[Point]:
    """Each line of a handler that can be run, and of the functions that are written in it, in their order."""
    code = code_of(handler)
    return [] if code is None else sorted(_lines_in(code), key=lambda point: point.line)


def _innermost(function: Any) -> Any:
    """What stands behind partial objects, decorators and instances that can be called, in whatever order."""
    while True:
        if isinstance(function, functools.partial):
            function = function.func
        elif callable(function) and (unwrapped := inspect.unwrap(function)) is not function:
            function = unwrapped
        elif callable(function) and not inspect.isroutine(function) and not inspect.isclass(function):
            function = type(function).__call__
        else:
            return function


def _lines_in(code: CodeType, around: frozenset[int] = frozenset()) -> Iterator[Point]:
    numbers = {line for _, _, line in code.co_lines() if line is not None and line > code.co_firstlineno}
    numbers = numbers or {code.co_firstlineno}
    if _is_nameless(code):  # a part of an expression, in another Python version not even a function
        numbers -= around
    yield from (Point("line", code, line) for line in numbers)
    for inner in code.co_consts:
        if isinstance(inner, CodeType) and inner.co_name != _ANNOTATIONS:
            yield from _lines_in(inner, around | numbers)


def _is_nameless(code: CodeType) -> bool:
    return code.co_name.startswith("<") and code.co_name != "<lambda>"


def _function_of(code: CodeType) -> str:
    """The name of a function, or of the one that has this expression."""
    if not _is_nameless(code):
        return code.co_name
    return next(name for name in reversed(code.co_qualname.split(".")) if name not in {code.co_name, "<locals>"})


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
            points += _around(named(name), handlers)
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


def _around(name: str, handlers: Sequence[object]) -> list[Point]:
    tasks = [each for each in handlers if isinstance(each, AppTask)]
    if len(tasks) < 2:
        return [Point(name, of=tuple(tasks or handlers))]
    return [Point(name, of=(task,), task=task.name.rpartition(".")[2]) for task in tasks]


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
