"""Finds what ``module:name`` means, and says in a sentence why it means nothing."""

from __future__ import annotations

import difflib
import importlib
import os
import sys
import traceback
from collections.abc import Callable
from types import FrameType
from typing import Final, TypeVar

from qbridge_core.errors import ConfigurationError, NotConnectedError, QBridgeError
from qbridge_core.execute.executor import loading
from qbridge_core.runtime.signatures import call_signature

_Error = TypeVar("_Error", bound=QBridgeError)
_FORM: Final = "a target is module:name, as in shop.tasks:build"
_OURS: Final = ("qbridge_core.", "importlib", "_frozen_importlib")


def make_importable() -> None:
    """Have modules of the current directory found, as ``python -m`` does."""
    here = os.getcwd()
    if here not in sys.path and "" not in sys.path:
        sys.path.insert(0, here)


def load(target: str) -> object:
    """Import the module and return what is there under the name; the name may have dots.

    Raises:
        ConfigurationError: there is no such thing, or the module cannot be imported; notes have the traceback then.
        QBridgeError: what the module asks of QBridge while it is imported fails.
    """
    module, path = _parts(target)
    found: object = _imported(module, target)
    for name in path.split("."):
        try:
            found = getattr(found, name)
        except AttributeError:
            raise ConfigurationError(_missing(target, found, name)) from None
    return found


def _parts(target: str) -> tuple[str, str]:
    module, colon, path = target.partition(":")
    if module.endswith(".py") or "/" in module or os.sep in module:
        dotted = module.removesuffix(".py").removeprefix("./").replace(os.sep, "/").strip("/").replace("/", ".")
        raise ConfigurationError(
            f"{target!r} is the path of a file; write the name of the module, {dotted}:{path or 'name'}, and call it "
            "where that can be imported"
        )
    if not colon:
        before, dot, last = module.rpartition(".")
        meant = f"; did you mean {before}:{last}?" if dot else f": which function or TaskManager of {module}?"
        raise ConfigurationError(f"{target!r} names no module and something in it ({_FORM}){meant}")
    names = [*module.split("."), *path.split(".")]
    if not all(name.isidentifier() for name in names):
        raise ConfigurationError(f"{target!r} is no name in a module: {_FORM}")
    return module, path


def _imported(module: str, target: str) -> object:
    was_loading = loading.is_set()
    loading.set()  # a program that starts its manager when it is imported is told so
    try:
        return importlib.import_module(module)
    except NotConnectedError as exc:
        raise ConfigurationError(f"{module} cannot be imported: {exc}") from exc
    except QBridgeError:
        raise
    except ModuleNotFoundError as exc:
        if exc.name is None or not f"{module}.".startswith(f"{exc.name}."):
            raise failure(ConfigurationError, f"{module} cannot be imported", exc) from exc
        raise ConfigurationError(
            f"there is no module {exc.name!r} for {target}: it is neither in {os.getcwd()}, the current directory, nor "
            "installed"
        ) from None
    except Exception as exc:
        raise failure(ConfigurationError, f"{module} cannot be imported", exc) from exc
    finally:
        if not was_loading:
            loading.clear()


def takes_payload(function: Callable[..., object], wanted: bool = False) -> bool:
    """Whether a function is a handler, and not one that builds a manager. A handler must not be called by mistake.

    Args:
        function: one that needs an argument is a handler, and so is one with ``*args``, such as a decorator's wrapper.
        wanted: what becomes of one whose only argument has a default.
    """
    try:
        signature = call_signature(function)
    except (TypeError, ValueError):  # some builtins have none
        return True
    if any(each.kind is each.VAR_POSITIONAL for each in signature.parameters.values()):
        return True
    try:
        signature.bind()
    except TypeError:
        return True
    try:
        signature.bind(None)
    except TypeError:
        return False
    return wanted


def failure(kind: type[_Error], what: str, exc: Exception) -> _Error:
    """An error that says in a line what failed, with the traceback as notes: from the user's code on."""
    error = kind(f"{what}: {type(exc).__name__}: {exc}")
    frames = exc.__traceback__
    while frames is not None and _is_ours(frames.tb_frame):
        frames = frames.tb_next
    for text in traceback.format_exception(type(exc), exc, frames):
        for line in text.splitlines():
            error.add_note(line)
    return error


def _is_ours(frame: FrameType) -> bool:
    return str(frame.f_globals.get("__name__", "")).startswith(_OURS)


def _missing(target: str, found: object, name: str) -> str:
    where = target.partition(":")[0] if target.partition(":")[2].partition(".")[0] == name else repr(found)
    names = [each for each in dir(found) if not each.startswith("_")]
    alike = difflib.get_close_matches(name, names, 1)
    return f"{where} has nothing called {name!r}" + (f"; did you mean {alike[0]!r}?" if alike else "")
