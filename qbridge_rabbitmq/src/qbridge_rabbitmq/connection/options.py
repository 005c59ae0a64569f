"""The settings of a client: checked once, frozen, and turned into pika's connection parameters."""

from __future__ import annotations

import ssl
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any, Final

import pika

from qbridge_core.backend import (
    BrokerURL,
    ConfigurationError,
    InvalidURLError,
    QueueClient,
    UnknownOptionError,
    merge_options,
    option_count,
    option_seconds,
    worker_identity,
)
from qbridge_rabbitmq.connection.hosts import Address, shuffled, trial
from qbridge_rabbitmq.connection.tls import tls_context

_SCHEMES: Final = ("amqp", "amqps")
_QUEUE_TYPES: Final = ("quorum", "classic")
FRAME_MAX: Final = 131_072
_LARGEST_SHORT: Final = 65_535
# A peer that vanished without a word is noticed when data stays unacknowledged this long, or when the keepalive
# probes fail, long before two heartbeats are missed (rabbitmq.com/docs/heartbeats).
_TCP_OPTIONS: Final = {"TCP_USER_TIMEOUT": 10_000, "TCP_KEEPIDLE": 10, "TCP_KEEPINTVL": 5, "TCP_KEEPCNT": 3}


_CHECKED: Final = "certificates are always checked, as TLS protects nobody without that; cafile names the CA to trust"
_TLS: Final = "cafile, certfile and keyfile, with an amqps:// URL"
_IN_URL: Final = "it is a part of the URL: amqp://user:password@host:port/vhost"
_NEVER_GIVES_UP: Final = "a client connects again for ever; connect_timeout limits the first time"
_FIXED: Final = "it cannot be set"
# What pika, kombu and RabbitMQ's other clients call it.
_ELSEWHERE: Final = {
    "blocked_connection_timeout": "publish_timeout",
    "cacertfile": "cafile",
    "ca_certs": "cafile",
    "channel_max": _FIXED,
    "client_properties": _FIXED,
    "connection_attempts": _NEVER_GIVES_UP,
    "connection_timeout": "connect_timeout",
    "frame_max": _FIXED,
    "heartbeat_interval": "heartbeat",
    "host": _IN_URL,
    "locale": _FIXED,
    "max_retries": "it is an argument of TaskManager",
    "password": _IN_URL,
    "port": _IN_URL,
    "prefetch_count": "prefetch",
    "retry_delay": "reconnect_delay",
    "socket_timeout": "connect_timeout",
    "ssl": _TLS,
    "ssl_ca_certs": "cafile",
    "ssl_cert_reqs": _CHECKED,
    "ssl_certfile": "certfile",
    "ssl_keyfile": "keyfile",
    "ssl_options": _TLS,
    "stack_timeout": "connect_timeout",
    "tcp_options": _FIXED,
    "timeout": "connect_timeout, publish_timeout or request_timeout",
    "user": _IN_URL,
    "username": _IN_URL,
    "verify": _CHECKED,
    "vhost": _IN_URL,
    "virtual_host": _IN_URL,
}


@dataclass(frozen=True, slots=True)
class Options:
    """Everything that can be set, by keyword or in the URL's query.

    Attributes:
        prefetch: how many unsettled deliveries a subscribed queue may hold here. ``None`` holds what ``subscribe`` asks
            for, and for quick tasks more: a quarter of a second of work, at most 300.
        heartbeat: seconds; a silent connection is dropped after about twice as long.
        connect_timeout: seconds that ``connect`` may take. Several servers share them, each gets two at least.
        publish_timeout: seconds to wait for the confirmation of a message.
        request_timeout: seconds to wait for the answer to anything else (declare, stats, purge).
        consumer_timeout: the server's setting of that name, in seconds; a task must not take longer. It matters for
            queues that somebody else declared, and before RabbitMQ 3.12, from which on ``declare`` lifts the limit.
        max_message_bytes: the longest body that ``publish`` takes.
        queue_type: type of the work queues that ``declare`` creates, ``quorum`` or ``classic``. Dead-letter and delay
            queues are quorum queues always.
        reconnect_delay: seconds before the first attempt to reconnect; doubled for each further one.
        reconnect_delay_max: the longest of these pauses.
        cafile: certificates to trust instead of the system's (``amqps``).
        certfile: this client's certificate (``amqps``).
        keyfile: the key of ``certfile``, if it is in another file.
        management_url: ``http://user:password@host:15672`` or ``https://…``, RabbitMQ's management API: where it is
            given, policies that take messages out of the queues are warned of. Without a user the one of the URL.
    """

    prefetch: int | None = None
    heartbeat: int = 10
    connect_timeout: float = 10.0
    publish_timeout: float = 10.0
    request_timeout: float = 10.0
    consumer_timeout: float = 1800.0
    max_message_bytes: int = QueueClient.max_message_bytes
    queue_type: str = "quorum"
    reconnect_delay: float = 0.2
    reconnect_delay_max: float = 3.0
    cafile: str | None = None
    certfile: str | None = None
    keyfile: str | None = None
    management_url: BrokerURL | None = None

    @classmethod
    def read(cls, url: BrokerURL, given: Mapping[str, object]) -> Options:
        """Merge and check the options of a URL's query and of the keywords.

        Raises:
            InvalidURLError: the URL has another scheme.
            UnknownOptionError: an option does not exist.
            ConfigurationError: a value makes no sense.
        """
        if url.scheme not in _SCHEMES:
            raise InvalidURLError(f"{url} does not start with amqp:// or amqps://")
        known = [option.name for option in fields(cls)]
        try:
            merged = merge_options(url, given, known)
        except UnknownOptionError as exc:
            names = sorted({*url.query, *given} - set(known))
            raise UnknownOptionError(f"{exc}{_hints(names)}") from None
        options = cls(**{name: _READERS[name](name, value) for name, value in merged.items()})
        if url.scheme == "amqp" and (options.certfile or options.keyfile):
            raise ConfigurationError("certfile and keyfile need an amqps:// URL")
        if url.scheme == "amqp" and options.cafile and not options.manages_by_tls:
            raise ConfigurationError("cafile needs an amqps:// URL, or a management_url that begins with https://")
        if options.keyfile and not options.certfile:
            raise ConfigurationError("keyfile needs certfile")
        return options

    @property
    def manages_by_tls(self) -> bool:
        """Whether the management API is asked by ``https``."""
        return self.management_url is not None and self.management_url.scheme == "https"


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where to connect and how. ``str`` hides the password.

    Attributes:
        url: names all servers.
        options: how to connect.
        addresses: the servers, in the order in which they are tried.
        tls: certificates, with ``amqps``.
    """

    url: BrokerURL
    options: Options
    addresses: tuple[Address, ...]
    tls: ssl.SSLContext | None = field(default=None, repr=False)

    @classmethod
    def create(cls, url: BrokerURL, options: Options) -> Endpoint:
        """Read the certificates, so that a wrong file is an error at once.

        Raises:
            ConfigurationError: a certificate or key cannot be used.
        """
        default_port = 5671 if url.scheme == "amqps" else 5672
        addresses = shuffled([(host or "localhost", port or default_port) for host, port in url.hosts])
        if url.scheme != "amqps":
            return cls(url, options, addresses)
        return cls(url, options, addresses, tls_context(options.cafile, options.certfile, options.keyfile))

    @property
    def server(self) -> Address | None:
        """The server, for hooks; None for a node of a cluster."""
        return self.addresses[0] if len(self.addresses) == 1 else None

    @property
    def credentials(self) -> tuple[str, str]:
        """User and password."""
        return self.url.username or "guest", _password(self.url)

    @property
    def vhost(self) -> str:
        """The virtual host."""
        return self.url.path or "/"

    def management_tls(self) -> ssl.SSLContext | None:
        """The certificates to trust for the management API, where it is asked by ``https``."""
        options = self.options
        if self.tls is not None or not options.manages_by_tls:
            return self.tls
        return tls_context(options.cafile, options.certfile, options.keyfile)

    @property
    def trial(self) -> float:
        """Seconds that connecting to one server may take."""
        return trial(self.options.connect_timeout, len(self.addresses))

    def parameters(self, address: Address, role: str) -> pika.ConnectionParameters:
        """What pika needs for one connection; ``role`` appears in the broker's list of connections."""
        options = self.options
        host, port = address
        # A name may stand for two addresses, for example one of IPv6 and one of IPv4: neither uses up the time.
        socket_timeout = min(5.0, self.trial if len(self.addresses) == 1 else self.trial / 2)
        return pika.ConnectionParameters(
            host=host,
            port=port,
            virtual_host=self.vhost,
            credentials=pika.PlainCredentials(*self.credentials),
            heartbeat=options.heartbeat,
            frame_max=FRAME_MAX,
            connection_attempts=1,
            socket_timeout=socket_timeout,
            stack_timeout=self.trial,
            ssl_options=pika.SSLOptions(self.tls, host) if self.tls else None,
            tcp_options=dict(_TCP_OPTIONS),
            client_properties={"connection_name": f"qbridge {worker_identity()} {role}"},
        )

    def show(self, address: Address) -> str:
        """The URL of one of the servers, without the password."""
        return str(self.url if len(self.addresses) == 1 else replace(self.url, hosts=(address,)))

    def __str__(self) -> str:
        return str(self.url)


def _hints(names: list[str]) -> str:
    return "".join(f". Instead of {name}: {_ELSEWHERE[name]}" for name in names if name in _ELSEWHERE)


def _password(url: BrokerURL) -> str:
    if url.password is not None:
        return url.password
    return "guest" if url.username is None else ""


def _whole(name: str, value: object) -> int:
    """A number that fits into the two bytes that AMQP has for it."""
    number = _number(name, value)
    if not number.is_integer() or number < 1:
        raise ConfigurationError(f"option {name} must be a whole number of at least 1, not {value!r}")
    if number > _LARGEST_SHORT:
        raise ConfigurationError(f"option {name} must be at most {_LARGEST_SHORT}, not {value!r}")
    return int(number)


def _prefetch(name: str, value: object) -> int | None:
    return None if value is None else _whole(name, value)


def _of_the_server(name: str, value: object) -> float:
    """A duration for which nobody waits here; many servers allow days, and have it in milliseconds."""
    return option_seconds(name, value, 1e9, usual=1e6)


def _heartbeat(name: str, value: object) -> int:
    return int(option_seconds(name, _whole(name, value)))


def _number(name: str, value: object) -> float:
    if isinstance(value, int | float | str) and not isinstance(value, bool):
        try:
            return float(value)
        except (ValueError, OverflowError):
            pass
    raise ConfigurationError(f"option {name} must be a number, not {value!r}")


def _queue_type(name: str, value: object) -> str:
    if value not in _QUEUE_TYPES:
        raise ConfigurationError(f"option {name} must be one of {', '.join(_QUEUE_TYPES)}, not {value!r}")
    return str(value)


def _file(name: str, value: object) -> str | None:
    if value is not None and not isinstance(value, str):
        raise ConfigurationError(f"option {name} must be the path of a file, not {value!r}")
    return value


def _management_url(name: str, value: object) -> BrokerURL | None:
    if value is None:
        return None
    wanted = f"option {name} must look like http://user:password@host:15672 or https://host:15671"
    if not isinstance(value, str):
        raise ConfigurationError(f"{wanted}, not {type(value).__name__}")
    try:
        url = BrokerURL.parse(value)
    except InvalidURLError as exc:
        if "://" not in value:
            raise ConfigurationError(f"{wanted}; this one has no http:// or https://") from None
        raise ConfigurationError(f"{wanted}: {exc}") from None
    if url.scheme not in {"http", "https"} or url.query or len(url.hosts) > 1:
        raise ConfigurationError(f"{wanted}, with one host and no query, not {url}")
    return url


_READERS: Final[dict[str, Callable[[str, object], Any]]] = {
    "prefetch": _prefetch,
    "heartbeat": _heartbeat,
    "connect_timeout": option_seconds,
    "publish_timeout": option_seconds,
    "request_timeout": option_seconds,
    "consumer_timeout": _of_the_server,
    "max_message_bytes": option_count,
    "queue_type": _queue_type,
    "reconnect_delay": option_seconds,
    "reconnect_delay_max": option_seconds,
    "cafile": _file,
    "certfile": _file,
    "keyfile": _file,
    "management_url": _management_url,
}
