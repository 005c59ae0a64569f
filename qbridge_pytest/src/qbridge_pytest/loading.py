"""Finds the app that the setting ``qbridge_app`` names."""

from __future__ import annotations

import importlib
from operator import attrgetter

from qbridge_core import App, ConfigurationError


def load_app(target: str) -> App:
    """Import the app that is called ``module:name``.

    Raises:
        ConfigurationError: there is none.
    """
    module, _, path = target.partition(":")
    if not module or not path:
        raise ConfigurationError(f"qbridge_app names a module and an App in it, as shop.tasks:app, not {target!r}")
    try:
        found: object = attrgetter(path)(importlib.import_module(module))
    except Exception as exc:
        hint = "; is its folder in pytest's setting pythonpath?" if isinstance(exc, ModuleNotFoundError) else ""
        raise ConfigurationError(
            f"qbridge_app = {target}: it cannot be had ({type(exc).__name__}: {exc}){hint}"
        ) from exc
    if not isinstance(found, App):
        raise ConfigurationError(f"qbridge_app = {target}: that is a {type(found).__name__} and no App")
    return found
