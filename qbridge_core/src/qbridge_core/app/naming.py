"""What a task is called in messages."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from typing import Any, Final

from qbridge_core.contract.checks import MAX_ID_CHARS
from qbridge_core.errors import ConfigurationError

_MAIN_PROGRAMS: Final = ("__main__", "__mp_main__")


def name_of(function: Callable[..., Any], given: str | None) -> str:
    """The name that was given, or else the module and the function.

    Raises:
        ConfigurationError: it is no function that can be a task, or has no name that another process would find.
    """
    if inspect.isclass(function) or not callable(function):
        raise ConfigurationError(f"a task is a function, not {function!r}")
    if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
        raise ConfigurationError(
            f"{function!r} is a generator function (it has a yield): calling it would run nothing, so it is no task"
        )
    if given is not None:
        return check_name(given)
    module = getattr(function, "__module__", None)
    own = getattr(function, "__qualname__", "<nameless>")
    advice = f'give it one, as in @app.task(name="{getattr(function, "__name__", "send_mail")}")'.replace(
        "<lambda>", "x"
    )
    if module in _MAIN_PROGRAMS or module is None:
        raise ConfigurationError(
            f"{own} is defined in the main program, whose name differs from process to process, so this task needs a "
            f"name: {advice}; or put it into a module"
        )
    if "<" in own:
        raise ConfigurationError(f"{own} of {module} has no name that other processes know: {advice}")
    return check_name(f"{module}.{own}")


def check_aliases(aliases: object) -> tuple[str, ...]:
    """Return them, if a task can have been called so.

    Raises:
        ConfigurationError: it cannot, or they are no list.
    """
    if isinstance(aliases, str) or not isinstance(aliases, Iterable):
        raise ConfigurationError(f"aliases must be a list of names, not {aliases!r}")
    return tuple(map(check_name, aliases))


def check_name(name: object) -> str:
    """Return it, if a task can be called so.

    Raises:
        ConfigurationError: it cannot.
    """
    if not isinstance(name, str) or not 0 < len(name) <= MAX_ID_CHARS or not name.isprintable():
        raise ConfigurationError(
            f"the name of a task is a string of 1 to {MAX_ID_CHARS} printable characters, not {name!r}"
        )
    return name
