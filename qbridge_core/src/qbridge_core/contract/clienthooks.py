"""The hooks of a client: around what it publishes, and about its connection. One without plugins pays nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import Any, Final

import pluggy

from qbridge_core.contract import hookspecs
from qbridge_core.contract.checks import check_headers
from qbridge_core.contract.client import QueueClient
from qbridge_core.contract.headers import NO_HEADERS
from qbridge_core.contract.hookspecs import PROJECT
from qbridge_core.contract.message import Message
from qbridge_core.contract.plugins import are_some_everywhere, plugin_manager
from qbridge_core.contract.producing import Producing
from qbridge_core.errors import ConfigurationError, PayloadError
from qbridge_core.runtime.clock import monotonic
from qbridge_core.runtime.logs import logger

_log: Final = logger("qbridge.plugins")
_HOOKS: Final = (
    "qbridge_before_publish",
    "qbridge_connection_lost",
    "qbridge_connection_regained",
    "qbridge_published",
)


def use_plugins(client: QueueClient, plugins: Sequence[object]) -> None:
    """Have a client call the hooks of plugins that are about clients; each plugin's once, however often it is given.

    Call it before other threads use the client; there is no way back. ``connect(url, plugins=...)`` does this, and a
    ``TaskManager`` does it for its own client with those of its plugins that have such hooks.

    Args:
        client: a client, connected or not.
        plugins: objects with hooks, or ``"module:name"`` of one each.

    Raises:
        ConfigurationError: a plugin cannot be used, or has no hook of a client.
    """
    manager = plugin_manager(plugins)
    for _, plugin in manager.list_name_plugin():
        if not has_client_hooks(manager, plugin):
            raise ConfigurationError(f"plugin {plugin!r} has none of a client's hooks: {', '.join(_HOOKS)}")
    attach(client, manager)


def attach(client: QueueClient, manager: pluggy.PluginManager) -> None:
    """The same for plugins that were checked; those that have no hook of a client are left out."""
    for _, plugin in manager.list_name_plugin():
        if has_client_hooks(manager, plugin):
            if client.hooks is None:
                client.hooks = ClientHooks(client)
            client.hooks.add(plugin)


def attach_everywhere(client: QueueClient) -> None:
    """Have it call those that each client of this process has to call."""
    if are_some_everywhere():
        attach(client, plugin_manager(()))


def has_client_hooks(manager: pluggy.PluginManager, plugin: object) -> bool:
    """Whether a plugin has hooks that a client calls."""
    return any(hook.name in _HOOKS for hook in manager.get_hookcallers(plugin) or ())


class ClientHooks:
    """Stands between those who publish through a client and its methods, from the first plugin on.

    Args:
        client: whose methods are replaced, those of this object alone.
    """

    def __init__(self, client: QueueClient) -> None:
        self._manager = pluggy.PluginManager(PROJECT)
        self._manager.add_hookspecs(hookspecs)
        self._system = client.system
        self._server = client.server
        self._publish = client.publish
        self._publish_many = client.publish_many
        client.publish = self.publish  # type: ignore[method-assign]
        if type(client).publish_many is not Producing.publish_many:  # which publishes one by one
            client.publish_many = self.publish_many  # type: ignore[method-assign]
        if type(client).publish_soon is not Producing.publish_soon:
            # Hooks may wait, and both are for the thread that publishes: one thread for each message has both.
            client.publish_soon = partial(Producing.publish_soon, client)  # type: ignore[method-assign]
            client._publish_then = partial(Producing._publish_then, client)  # type: ignore[method-assign]
        if client.events is not None:
            client.events.listen(self._lost, self._regained)

    def add(self, plugin: object) -> None:
        """Have this one called, too, unless it is already."""
        if not self._manager.is_registered(plugin):
            self._manager.register(plugin)

    def publish(
        self,
        queue: str,
        body: bytes,
        *,
        headers: Mapping[str, str] | None = None,
        message_id: str | None = None,
        delay: float = 0.0,
        timeout: float | None = None,
    ) -> None:
        """In the place of the client's."""
        with self._told(queue) as count:
            count.append(1)
            headers = self._with_more(queue, message_id, headers)
            self._publish(queue, body, headers=headers, message_id=message_id, delay=delay, timeout=timeout)

    def publish_many(self, queue: str, messages: Iterable[Message], *, timeout: float | None = None) -> None:
        """In the place of the client's."""
        if not isinstance(messages, Iterable):
            self._publish_many(queue, messages, timeout=timeout)  # which says what is wrong with that
            return
        with self._told(queue) as count:
            self._publish_many(queue, self._prepared(queue, messages, count), timeout=timeout)

    def _prepared(self, queue: str, messages: Iterable[Message], count: list[int]) -> Iterator[Message]:
        for message in messages:
            count.append(1)
            if isinstance(message, Message):
                headers = self._with_more(queue, message.message_id, message.headers)
                yield message if headers is message.headers or headers is None else replace(message, headers=headers)
            else:
                yield message

    def _with_more(
        self, queue: str, message_id: str | None, headers: Mapping[str, str] | None
    ) -> Mapping[str, str] | None:
        """The headers of a message with those that plugins add; the caller's own stay as they are."""
        if not self._manager.hook.qbridge_before_publish.get_hookimpls():
            return headers
        if headers is not None and not isinstance(headers, Mapping):
            return headers  # the client says what is wrong with that
        own = NO_HEADERS if headers is None else headers
        answers = self._called(
            "qbridge_before_publish", queue=queue, message_id=message_id, headers=dict(own), system=self._system,
            server=self._server,
        ) or []  # fmt: skip
        added: dict[str, str] = {}
        for answer in answers:  # those of the last plugin come first, so the first one has the last word
            added.update(_usable(answer))
        return {**added, **own} if added else headers

    @contextmanager
    def _told(self, queue: str) -> Iterator[list[int]]:
        """Tell of the end of a call, with how many messages the client has got by then."""
        count: list[int] = []
        began, error = monotonic(), None
        try:
            yield count
        except BaseException as exc:
            error = exc
            raise
        finally:
            self._called(
                "qbridge_published", queue=queue, count=len(count), duration=monotonic() - began, exception=error,
                system=self._system, server=self._server,
            )  # fmt: skip
            error = None  # its frames hold this one

    def _lost(self, address: str, error: BaseException) -> None:
        self._called("qbridge_connection_lost", address=address, exception=error, system=self._system)

    def _regained(self, address: str, duration: float) -> None:
        self._called("qbridge_connection_regained", address=address, duration=duration, system=self._system)

    def _called(self, name: str, **arguments: Any) -> Any:
        hook: Callable[..., Any] = getattr(self._manager.hook, name)
        try:
            return hook(**arguments)
        except Exception:  # noqa: BLE001 - a plugin is foreign code
            _log.exception("a plugin's %s raised; it changes nothing for the client", name)
            return None


def _usable(answer: object) -> Mapping[str, str]:
    """The headers that a plugin adds, as far as a message can have them."""
    if not isinstance(answer, Mapping):
        _log.error("a plugin's qbridge_before_publish returned a %s and no headers", type(answer).__name__)
        return {}
    usable: dict[str, str] = {}
    for name, value in answer.items():
        try:
            usable.update(check_headers({name: value}))
        except PayloadError as exc:
            _log.error("a plugin's header is left out: %s", exc)
    return usable
