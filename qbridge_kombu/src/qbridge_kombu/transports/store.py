"""Transports of kombu's on stores that nothing more is known about than kombu does (class B)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, ClassVar, Final

from kombu.connection import Connection

from qbridge_core.backend import BrokerURL, ConfigurationError, OptionReader
from qbridge_kombu.options import option_text
from qbridge_kombu.protocol.names import encoded
from qbridge_kombu.transports.session import KombuSession
from qbridge_kombu.transports.virtual import VirtualTransport

_LONGEST_NAME: Final = 200
_IN_PROCESS: Final = "kombu.transport.memory:Transport"
"""The one transport of kombu's that other processes do not see."""
_GIVE_AWAY: Final = "it serves transports that give a message away when it is received"
_NO_BACKEND: Final = f"{_GIVE_AWAY}, and this one is served by no other scheme; see 'Not served' in docs/kombu.md"
_INSTEAD: Final[Mapping[str, str]] = {
    "kombu.transport.SQS": "use kombu+sqs://",
    "kombu.transport.azureservicebus": _NO_BACKEND,
    "kombu.transport.confluentkafka": _NO_BACKEND,
    "kombu.transport.gcpubsub": _NO_BACKEND,
    "kombu.transport.librabbitmq": "use amqp:// or kombu+amqp://",
    "kombu.transport.pgmq": _NO_BACKEND,
    "kombu.transport.pyamqp": "use amqp:// or kombu+amqp://",
}
"""kombu's modules that keep messages themselves: what to do instead. They need not be installed to be refused."""


class StoreTransport(VirtualTransport):
    """``kombu+redis://``, ``kombu+mongodb://``, ``kombu+zookeeper://`` and others: the URL goes to kombu as it is."""

    def connection_arguments(self) -> Mapping[str, Any]:
        """The parts of the URL, for kombu's transport of this name."""
        return {
            "transport": self.transport_name(),
            "hostname": self.url.host or None,
            "port": self.url.port,
            "userid": self.url.username,
            "password": self.url.password,
            "virtual_host": self.url.path or "",
            "connect_timeout": self.given["connect_timeout"],
            "transport_options": dict(self.transport_options()),
        }

    def transport_name(self) -> str:
        """kombu's name of it, which stands behind ``kombu+``."""
        return self.url.scheme.partition("+")[2]

    def transport_options(self) -> Mapping[str, Any]:
        """kombu's ``transport_options``."""
        return {}

    def name_of(self, queue: str) -> str:
        """Letters, digits and a few signs, which any store can have."""
        return encoded(queue, allowed="A-Za-z0-9._:@-", escape="%", most=_LONGEST_NAME)

    def exists(self, session: KombuSession, name: str) -> bool:
        """Where kombu's channel knows no queues, one exists from its first message on."""
        return bool(session.channel._has_queue(name))


def _option_mapping(name: str, value: object) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise ConfigurationError(f"option {name} must be a mapping given by keyword, not {value!r}")
    return value


class AnyTransport(StoreTransport):
    """``kombu+any://host/path?transport=module:Class``: a transport of somebody else's."""

    options: ClassVar[Mapping[str, OptionReader]] = {"transport": option_text, "transport_options": _option_mapping}

    def __init__(self, url: BrokerURL, options: Mapping[str, Any]) -> None:
        super().__init__(url, options)
        name = options.get("transport", "")
        if not all(part.isidentifier() for part in name.replace(":", ".").split(".")) or name.count(":") != 1:
            raise ConfigurationError(
                f"{url.scheme}:// needs the option transport, as in {url.scheme}://host?transport=package.module:Class"
            )
        if instead := _INSTEAD.get(name.partition(":")[0]):
            raise self._refusal(name, instead)
        if name == _IN_PROCESS:
            self.capabilities = replace(self.capabilities, shared=False)

    def load(self) -> None:
        """Import it.

        Raises:
            ConfigurationError: its module has no such class, or that is none of kombu's virtual ones.
        """
        from kombu.transport import virtual

        name = self.given["transport"]
        try:
            found = Connection(**self.connection_arguments()).get_transport_cls()
        except AttributeError as exc:
            raise ConfigurationError(f"there is no {name}: {exc}") from exc
        if not (isinstance(found, type) and issubclass(found, virtual.Transport)):
            raise ConfigurationError(
                f"{name} is no class on kombu.transport.virtual, whose transports {self.url.scheme}:// serves"
            )

    def connected(self, session: KombuSession) -> None:
        """Refuse one that keeps messages until they are acknowledged: they would come again and again.

        Raises:
            ConfigurationError: it is of that kind.
        """
        from kombu.transport import virtual

        acknowledges = getattr(type(session.channel), "basic_ack", None)
        if acknowledges is not virtual.Channel.basic_ack:
            raise self._refusal(self.given["transport"], _GIVE_AWAY)

    def _refusal(self, transport: str, instead: str) -> ConfigurationError:
        return ConfigurationError(
            f"{transport} acknowledges messages in a way of its own, which {self.url.scheme}:// does not know: "
            f"{instead}"
        )

    def transport_name(self) -> str:
        """The class."""
        return str(self.given["transport"])

    def transport_options(self) -> Mapping[str, Any]:
        """What was given by keyword."""
        given: Mapping[str, Any] = self.given.get("transport_options", {})
        return given
