"""From a URL's scheme to a backend.

Backends are found through the entry-point group ``qbridge``, one entry point a scheme, and imported when their
scheme is first used: one that is broken or missing never touches another.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from importlib import metadata
from types import ModuleType
from typing import Final

import pluggy

from qbridge_core import hookspecs
from qbridge_core.client import QueueClient
from qbridge_core.errors import (
    BackendLoadError,
    BackendNotInstalledError,
    ConfigurationError,
    DuplicateBackendError,
    UnknownSchemeError,
)
from qbridge_core.hookspecs import PROJECT, BackendFactory
from qbridge_core.url import BrokerURL

ENTRY_POINT_GROUP: Final = "qbridge"
_EXTRAS: Final = {
    "amqp": "rabbitmq",
    "amqps": "rabbitmq",
    "redis": "redis",
    "rediss": "redis",
    "redis+sentinel": "redis",
    "rediss+sentinel": "redis",
    "redis+cluster": "redis",
    "rediss+cluster": "redis",
    "unix": "redis",
    "memory": "memory",
}

_lock = threading.Lock()
_registered: dict[str, BackendFactory] = {}
_loaded: dict[str, BackendFactory] = {}


def connect(url: str, **options: object) -> QueueClient:
    """Return a connected client for the broker at ``url``.

    Args:
        url: ``amqp://``, ``amqps://``, ``redis://``, ``rediss://``, ``redis+sentinel://``, ``redis+cluster://``,
            ``memory://`` or any installed backend's.
        options: the backend's options; they win over the same names in the URL's query.

    Raises:
        ConfigurationError: the URL or an option is wrong, or the backend is not installed (the message says what
            to do).
        BrokerUnavailableError: the broker cannot be reached.
        AuthenticationError: it refused the credentials.
    """
    client = _factory(BrokerURL.parse(url).scheme)(url, options)
    client.connect()
    return client


def register_backend(scheme: str, factory: BackendFactory) -> None:
    """Use ``factory(url, options)`` for a scheme in this process, before any installed backend. Thread-safe.

    Raises:
        ConfigurationError: the scheme is no URL scheme, or the factory is not callable.
    """
    if not isinstance(scheme, str) or not scheme.replace("+", "").replace("-", "").isalnum():
        raise ConfigurationError(f"{scheme!r} is not a URL scheme: use letters and digits, without '://'")
    if not callable(factory):
        raise ConfigurationError(f"the factory for {scheme!r} must be callable as factory(url, options)")
    with _lock:
        _registered[scheme.lower()] = factory


def backends() -> dict[str, str]:
    """The schemes that can be used and the distribution that serves each; nothing is imported for it."""
    found = {entry.name: _distribution(entry) for entry in metadata.entry_points(group=ENTRY_POINT_GROUP)}
    with _lock:
        found.update(dict.fromkeys(_registered, "registered in this process"))
    return dict(sorted(found.items()))


def _factory(scheme: str) -> BackendFactory:
    with _lock:
        found = _registered.get(scheme) or _loaded.get(scheme)
    if found is None:
        found = _load(scheme)  # without the lock: what is imported may ask the registry something itself
        with _lock:
            found = _loaded.setdefault(scheme, found)
    return found


def _load(scheme: str) -> BackendFactory:
    entry = _entry_point(scheme)
    try:
        plugin = entry.load()
    except Exception as exc:
        raise BackendLoadError(
            f"the backend for {scheme}:// ({_distribution(entry)}) is installed but cannot be imported: {exc}"
        ) from exc
    factories = _factories(plugin, entry)
    if scheme not in factories:
        raise BackendLoadError(
            f"{_distribution(entry)} announces {scheme}:// but its qbridge_backends hook does not have it"
        )
    return factories[scheme]


def _entry_point(scheme: str) -> metadata.EntryPoint:
    found = {(_distribution(e), e.value): e for e in metadata.entry_points(group=ENTRY_POINT_GROUP, name=scheme)}
    if len(found) > 1:
        owners = " and ".join(sorted(owner for owner, _ in found))
        raise DuplicateBackendError(f"{owners} both serve {scheme}://; uninstall one of them")
    if found:
        return next(iter(found.values()))
    if scheme in _EXTRAS:
        raise BackendNotInstalledError(
            f"the backend for {scheme}:// is not installed; run: pip install qbridge-core[{_EXTRAS[scheme]}] "
            f"(from a checkout of QBridge: pip install ./qbridge_{_EXTRAS[scheme]})"
        )
    known = ", ".join(f"{name}://" for name in sorted({*_schemes(), *_EXTRAS}))
    raise UnknownSchemeError(f"no backend serves {scheme}://; known schemes: {known}")


def _schemes() -> set[str]:
    """Names of all schemes, for a caller that holds the lock."""
    return {entry.name for entry in metadata.entry_points(group=ENTRY_POINT_GROUP)} | set(_registered)


def _factories(plugin: ModuleType, entry: metadata.EntryPoint) -> dict[str, BackendFactory]:
    """Ask one plugin for its factories; a plugin manager of its own keeps other plugins out of it."""
    manager = pluggy.PluginManager(PROJECT)
    manager.add_hookspecs(hookspecs)
    try:
        manager.register(plugin, entry.value)
        manager.check_pending()
        answers = manager.hook.qbridge_backends()
    except Exception as exc:
        raise BackendLoadError(f"{_distribution(entry)} is not a working QBridge backend: {exc}") from exc
    if len(answers) != 1 or not isinstance(answers[0], Mapping) or not all(map(callable, answers[0].values())):
        raise BackendLoadError(f"the qbridge_backends hook of {_distribution(entry)} must return scheme -> factory")
    return dict(answers[0])


def _distribution(entry: metadata.EntryPoint) -> str:
    return entry.dist.name if entry.dist is not None else entry.value
