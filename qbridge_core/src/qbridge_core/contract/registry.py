"""From a URL's scheme to a backend.

Backends are found through the entry-point group ``qbridge``, one entry point a scheme, and imported when their
scheme is first used: one that is broken or missing never touches another.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Final

import pluggy

from qbridge_core.contract import hookspecs, installed
from qbridge_core.contract.checks import require_seconds
from qbridge_core.contract.client import QueueClient
from qbridge_core.contract.clienthooks import attach_everywhere, use_plugins
from qbridge_core.contract.hookspecs import PROJECT, BackendFactory
from qbridge_core.contract.installed import EntryPoint
from qbridge_core.errors import (
    BackendLoadError,
    BackendNotInstalledError,
    BrokerUnavailableError,
    ConfigurationError,
    DuplicateBackendError,
    QBridgeError,
    UnknownSchemeError,
)
from qbridge_core.runtime.clock import monotonic
from qbridge_core.runtime.logs import logger
from qbridge_core.runtime.trying import keep_trying

if TYPE_CHECKING:
    from qbridge_core.contract.url import BrokerURL

ENTRY_POINT_GROUP: Final = "qbridge"
LOSSY_GROUP: Final = "qbridge.lossy"
"""Names the schemes, beside their own entry points, whose clients do not claim ``redelivers``."""
_LOSES: Final = "loses what a killed worker holds; needs allow_loss"
_log: Final = logger("qbridge.connect")
_START_TIMEOUT: Final = "start_timeout"
_IN_QUERY: Final = re.compile(rf"([?&]){_START_TIMEOUT}=[^&#]*&?")
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
    "kombu+amqp": "kombu",
    "kombu+amqps": "kombu",
    "kombu+any": "kombu",
    "kombu+filesystem": "kombu",
    "kombu+memory": "kombu",
    "kombu+redis": "kombu",
    "kombu+rediss": "kombu",
    "kombu+sqlalchemy": "kombu",
    "kombu+sqs": "kombu",
}

_lock = threading.Lock()
_registered: dict[str, BackendFactory] = {}
_loaded: dict[str, BackendFactory] = {}


def connect(url: str, *, start_timeout: float = 0.0, plugins: Sequence[object] = (), **options: object) -> QueueClient:
    """Return a connected client for the broker at ``url``.

    Args:
        url: ``amqp://``, ``amqps://``, ``redis://``, ``rediss://``, ``redis+sentinel://``, ``redis+cluster://``,
            ``memory://``, ``kombu+…://`` or any installed backend's.
        start_timeout: seconds to keep trying while the broker is not up yet; the log says so. A ``TaskManager`` that
            starts within that time waits for what its queues need, too: of a cluster another server may be up first.
            May stand in the URL's query too.
        plugins: objects whose hooks the client calls around what it publishes and about its connection, or
            ``"module:name"`` of one each; see :func:`~qbridge_core.use_plugins`.
        options: the backend's options; they win over the same names in the URL's query.

    Raises:
        ConfigurationError: the URL or an option is wrong, or the backend is not installed (the message says what
            to do).
        BrokerUnavailableError: the broker cannot be reached, nor could it for ``start_timeout`` seconds.
        AuthenticationError: it refused the credentials.
    """
    parsed = _parsed(url)
    if _START_TIMEOUT in parsed.query:
        start_timeout = start_timeout or _seconds(parsed.query[_START_TIMEOUT])
    patience = require_seconds(_START_TIMEOUT, start_timeout)
    client = client_for(url, **options)
    if plugins:
        use_plugins(client, plugins)
    attach_everywhere(client)
    _connect(client, patience, parsed)
    return client


def client_for(url: str, **options: object) -> QueueClient:
    """Return a client that is not connected yet, for those who want to know what keeps it from that.

    Raises:
        ConfigurationError: as ``connect``.
    """
    parsed = _parsed(url)
    if _START_TIMEOUT in parsed.query:
        url = _IN_QUERY.sub(r"\1", url).rstrip("?&")
    return _made(_factory(parsed.scheme), url, options, parsed)


def _parsed(url: str) -> BrokerURL:
    try:
        from qbridge_core.contract.url import BrokerURL  # here, for an import alone needs no URL
    except (OSError, ImportError) as exc:  # for example no descriptor is left
        raise BackendLoadError(f"a part of QBridge cannot be loaded: {exc}") from exc
    return BrokerURL.parse(url)


def _made(factory: BackendFactory, url: str, options: Mapping[str, object], parsed: BrokerURL) -> QueueClient:
    try:
        client = factory(url, options)
    except QBridgeError:
        raise
    except OSError as exc:  # for example no descriptor is left
        raise BrokerUnavailableError(f"no client can be made for {parsed}: {exc}") from exc
    if not isinstance(client, QueueClient):
        raise BackendLoadError(
            f"the backend of {parsed.scheme}:// is broken: its factory returned a {type(client).__name__} and no "
            "QueueClient"
        )
    return client


def _seconds(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise ConfigurationError(f"{_START_TIMEOUT} must be a number of seconds, not {text!r}") from None


def _connect(client: QueueClient, patience: float, url: BrokerURL) -> None:
    """Connect; for so many seconds a broker that cannot be reached is one that is about to come."""

    def say(left: float, exc: Exception) -> None:
        _log.warning("waiting for %s, for %.0f s more: %s", url, left, exc)

    client._awaited_until = deadline = monotonic() + patience
    keep_trying(client.connect, deadline, BrokerUnavailableError, say)


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
    """The schemes that can be used and the distribution that serves each; nothing is imported for it.

    Behind the distribution stands what a scheme's broker does not keep: ``qbridge-kombu (loses what a killed worker
    holds; needs allow_loss)``. All others deliver at least once.
    """
    lossy = {(entry.distribution, entry.name) for entry in _entry_points(group=LOSSY_GROUP)}
    found = {}
    for entry in _entry_points():
        owner = entry.distribution
        found[entry.name] = f"{owner} ({_LOSES})" if (owner, entry.name) in lossy else owner
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
            f"the backend for {scheme}:// ({entry.distribution}) is installed but cannot be imported: {exc}"
        ) from exc
    factories = _factories(plugin, entry)
    if scheme not in factories:
        raise BackendLoadError(
            f"{entry.distribution} announces {scheme}:// but its qbridge_backends hook does not have it"
        )
    return factories[scheme]


def _entry_point(scheme: str) -> EntryPoint:
    found = {(e.distribution, e.value): e for e in _entry_points(scheme)}
    if len(found) > 1:
        owners = " and ".join(sorted(owner for owner, _ in found))
        raise DuplicateBackendError(f"{owners} both serve {scheme}://; uninstall one of them")
    if found:
        return next(iter(found.values()))
    if scheme in _EXTRAS:
        raise BackendNotInstalledError(
            f"the backend for {scheme}:// is not installed; {how_to_install(_EXTRAS[scheme])}"
        )
    known = ", ".join(f"{name}://" for name in sorted({*_schemes(), *_EXTRAS}))
    raise UnknownSchemeError(f"no backend serves {scheme}://; known schemes: {known}{_of_kombu(scheme)}")


def how_to_install(extra: str) -> str:
    """What to type for an extra that is missing, as the README says it, too."""
    folder = f"./qbridge_{extra}" if extra in _EXTRAS.values() else f'"./qbridge_core[{extra}]"'
    return (
        f'run: pip install --find-links dist "qbridge-core[{extra}]" where dist is the folder that `make wheels` fills '
        f"(from a checkout of QBridge: pip install {folder})"
    )


def _of_kombu(scheme: str) -> str:
    """What else can be done with a transport of kombu's that has no scheme."""
    if not scheme.startswith("kombu+"):
        return ""
    return (
        "; a transport of kombu's without a scheme is named as kombu+any://host?transport=package.module:Class, if it "
        "can be served at all: see docs/kombu.md"
    )


def _entry_points(scheme: str | None = None, group: str = ENTRY_POINT_GROUP) -> list[EntryPoint]:
    """The backends that are installed."""
    try:
        found = installed.entry_points(group)
    except (OSError, ImportError) as exc:
        raise BackendLoadError(f"the installed packages cannot be searched for a backend: {exc}") from exc
    return [entry for entry in found if scheme is None or entry.name == scheme]


def _schemes() -> set[str]:
    """Names of all schemes, for a caller that holds the lock."""
    return {entry.name for entry in _entry_points()} | set(_registered)


def _factories(plugin: object, entry: EntryPoint) -> dict[str, BackendFactory]:
    """Ask one plugin for its factories; a plugin manager of its own keeps other plugins out of it."""
    manager = pluggy.PluginManager(PROJECT)
    manager.add_hookspecs(hookspecs)
    try:
        manager.register(plugin, entry.value)
        manager.check_pending()
        answers = manager.hook.qbridge_backends()
    except Exception as exc:
        raise BackendLoadError(f"{entry.distribution} is not a working QBridge backend: {exc}") from exc
    if len(answers) != 1 or not isinstance(answers[0], Mapping) or not all(map(callable, answers[0].values())):
        raise BackendLoadError(f"the qbridge_backends hook of {entry.distribution} must return scheme -> factory")
    return dict(answers[0])
