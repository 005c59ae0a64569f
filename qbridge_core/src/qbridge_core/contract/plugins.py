"""The plugins that somebody names: objects with hooks, or where to import them from. Nothing else is ever activated."""

from __future__ import annotations

import functools
import importlib
import inspect
import reprlib
from collections.abc import Sequence
from operator import attrgetter
from typing import Final

import pluggy

from qbridge_core.contract import hookspecs
from qbridge_core.contract.hookspecs import PROJECT
from qbridge_core.errors import ConfigurationError

_HOOK_PREFIX: Final = "qbridge_"
_everywhere: Final[list[object]] = []


def use_everywhere(plugin: object) -> None:
    """Register a plugin with each manager, and each client of ``connect``, that this process makes from now on.

    For a program that runs managers which others make, as ``qbridge worker`` does; not thread-safe.
    """
    _everywhere.append(plugin)


def are_some_everywhere() -> bool:
    """Whether there is such a plugin."""
    return bool(_everywhere)


def plugin_manager(plugins: Sequence[object]) -> pluggy.PluginManager:
    """Register plugins, in their order, and those that are used everywhere.

    Args:
        plugins: objects with hooks, or ``"module:name"`` of one each.

    Raises:
        ConfigurationError: a plugin implements a hook that does not exist, or with other arguments; or it has none,
            or one that is not marked as such, or is a class instead of an object: its hooks would never be called. Or
            there is none of that name.
    """
    if isinstance(plugins, str) or not isinstance(plugins, Sequence):
        raise ConfigurationError(f"plugins must be a sequence of objects with hooks, not {plugins!r}")
    manager = pluggy.PluginManager(PROJECT)
    manager.add_hookspecs(hookspecs)
    found = [load_plugin(plugin) if isinstance(plugin, str) else plugin for plugin in plugins]
    found += [plugin for plugin in _everywhere if all(plugin is not each for each in found)]
    try:
        for plugin in found:
            manager.register(plugin)
        manager.check_pending()
    except pluggy.PluginValidationError as exc:
        why = _wrong_hook(exc.plugin) or f"cannot be used: {exc}"
        raise ConfigurationError(f"plugin {reprlib.repr(exc.plugin)} {why}") from exc
    except ValueError as exc:
        raise ConfigurationError(
            f"plugin {reprlib.repr(plugin)} is given twice: its hooks would be called twice"
        ) from exc
    for plugin in found:
        if problem := _why_not_called(manager, plugin):
            raise ConfigurationError(f"plugin {reprlib.repr(plugin)} {problem}")
    return manager


@functools.cache
def load_plugin(name: str) -> object:
    """Import the plugin ``"module:name"``; of a class an object is made, without arguments, once in a process.

    Raises:
        ConfigurationError: there is none.
    """
    module, _, attribute = name.partition(":")
    if not module or not attribute:
        raise ConfigurationError(f"a plugin is named as 'module:name', not {name!r}")
    try:
        found: object = attrgetter(attribute)(importlib.import_module(module))
        return found() if isinstance(found, type) else found
    except Exception as exc:
        raise ConfigurationError(f"the plugin {name!r} cannot be had: {type(exc).__name__}: {exc}") from exc


def _wrong_hook(plugin: object) -> str | None:
    """What is wrong with the hooks of a plugin that was refused, if that can be found out."""
    import difflib  # here, for most plugins are right

    known = {name: spec for name, spec in vars(hookspecs).items() if name.startswith(_HOOK_PREFIX)}
    for name in dir(plugin):
        hook = getattr(plugin, name, None)
        if not name.startswith(_HOOK_PREFIX) or not inspect.isroutine(hook):
            continue
        if name not in known:
            close = difflib.get_close_matches(name, known, 1)
            return f"has a hook that there is not, {name}" + (f"; is it {close[0]}?" if close else "")
        arguments = list(inspect.signature(known[name]).parameters)
        if more := [each for each in inspect.signature(hook).parameters if each not in arguments]:
            return f"has a {name} that asks for {', '.join(more)}; there are {', '.join(arguments)}"
    return None


def _why_not_called(manager: pluggy.PluginManager, plugin: object) -> str | None:
    """Why hooks of a plugin would not be called, or not as somebody thinks, if that is so."""
    marked = {hook.name for hook in manager.get_hookcallers(plugin) or ()}
    for name in dir(plugin):
        if name not in marked and name in vars(hookspecs) and name.startswith(_HOOK_PREFIX):
            return f"has a {name} that is not marked as a hook: write @hookimpl above it (from qbridge_core)"
    if not marked:
        return f"has no hooks: methods marked with @hookimpl whose names begin with {_HOOK_PREFIX}"
    if isinstance(plugin, type) and any(inspect.isfunction(inspect.getattr_static(plugin, name)) for name in marked):
        return f"is a class: give an object of it, {plugin.__name__}()"
    return None
