"""The settings of a client: read from the URL and the keywords, checked once, never changed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from enum import Enum
from typing import Final

from qbridge_core.backend import (
    BrokerURL,
    ConfigurationError,
    InvalidURLError,
    QueueClient,
    UnknownOptionError,
    merge_options,
    option_count,
    option_seconds,
)
from qbridge_redis.connection.hints import hints

_TLS_ONLY: Final = {"cafile", "certfile", "keyfile"}
_SENTINEL_ONLY: Final = {"sentinel_username", "sentinel_password"}
_MOST: Final = 2_147_483_647
"""What a server can count to."""
_LOGIN: Final = {"db", "username", "password"}
_FROM_URL: Final = {"deployment", "hosts", "service", "tls"} | _LOGIN
_FORMS: Final = {
    "redis": "{0}://host:port/db",
    "redis+sentinel": "{0}://sentinel1:26379,sentinel2:26379/service/db",
    "redis+cluster": "{0}://node1:6379,node2:6379",
    "unix": "{0}:///path/to/redis.sock?db=0",
}

_PORT: Final = 6379
_SENTINEL_PORT: Final = 26379

Address = tuple[str, int]
"""Host and port, or the path of a Unix socket and 0."""


class Deployment(Enum):
    """What the hosts of the URL are."""

    SINGLE = "redis"
    SENTINEL = "redis+sentinel"
    CLUSTER = "redis+cluster"


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """The settings; durations are seconds.

    Attributes:
        deployment: what ``hosts`` are.
        hosts: the server, or the sentinels that know it, or some nodes of the cluster.
        service: the name under which the sentinels know the server.
        prefix: put before every queue name to make its key.
        group: the consumer group that all workers of a queue share.
        lease: how long a worker may be silent before others take over what it holds.
        publish_timeout: how long ``publish`` waits for the server's reply.
        connect_timeout: how long one attempt to connect may take.
        socket_timeout: how long any other reply may take before the connection counts as broken.
        wait_replicas: how many replicas must have a message before ``publish`` returns.
        max_message_bytes: the longest body that ``publish`` takes.
        sentinel_username: how to log in to the sentinels (``+sentinel`` only, as the next one); no user, no password
            and no login when neither is given.
        sentinel_password: the password of the sentinels.
        cafile: certificates to trust instead of the system's (``rediss://`` only, as the next ones). The server's
            certificate is always checked, its host name too.
        certfile: this client's certificate.
        keyfile: the key of ``certfile``.
    """

    deployment: Deployment = Deployment.SINGLE
    hosts: tuple[Address, ...] = (("localhost", 6379),)
    service: str = ""
    db: int = 0
    username: str | None = None
    password: str | None = field(default=None, repr=False)
    tls: bool = False
    prefix: str = ""
    group: str = "qbridge"
    lease: float = 30.0
    publish_timeout: float = 10.0
    connect_timeout: float = 3.0
    socket_timeout: float = 3.0
    wait_replicas: int = 0
    max_message_bytes: int = QueueClient.max_message_bytes
    sentinel_username: str | None = None
    sentinel_password: str | None = field(default=None, repr=False)
    cafile: str | None = None
    certfile: str | None = None
    keyfile: str | None = None

    @classmethod
    def parse(cls, url: str, options: Mapping[str, object]) -> Options:
        """Read the URL and the keyword options over it.

        Raises:
            InvalidURLError: the URL is not one of Redis.
            UnknownOptionError: an option that does not exist, or one of TLS without ``rediss://``.
            ConfigurationError: a value is unusable.
        """
        parsed = BrokerURL.parse(url)
        name, tls = parsed.scheme.replace("rediss", "redis", 1), parsed.scheme.startswith("rediss")
        if name not in _FORMS:
            raise InvalidURLError(f"{parsed} is no URL of Redis, like {_known_forms()}")
        local = name == "unix"
        deployment = Deployment.SINGLE if local else Deployment(name)
        sentinel = deployment is Deployment.SENTINEL
        known = {f.name for f in fields(cls)} - (_FROM_URL - (_LOGIN if local else set()))
        known -= (set() if tls else _TLS_ONLY) | (set() if sentinel else _SENTINEL_ONLY)
        given = {"wait_replicas": 0 if deployment is Deployment.SINGLE else 1, **_merged(parsed, options, known)}
        if local:
            hosts, service, database = _socket(parsed), "", 0
        else:
            hosts = _hosts(parsed, deployment)
            service, database = _path(parsed, deployment)
        place = {"deployment": deployment, "hosts": hosts, "service": service, "tls": tls}
        login = {"db": database, "username": parsed.username or None, "password": parsed.password or None}
        return cls(**place, **login | {name: _READERS[name](name, value) for name, value in given.items()})  # type: ignore[arg-type]

    @property
    def server(self) -> tuple[str, int | None] | None:
        """The server, for hooks; None for one of several."""
        if self.deployment is not Deployment.SINGLE:
            return None
        host, port = self.hosts[0]
        return host, port or None

    @property
    def patience(self) -> float:
        """Seconds after which any call has ended, whatever the server does, beside what its arguments ask for."""
        return self.publish_timeout + self.connect_timeout + self.socket_timeout

    def __str__(self) -> str:
        scheme = self.deployment.value.replace("redis", "rediss", 1) if self.tls else self.deployment.value
        hosts = ",".join(address_text(address) for address in self.hosts)
        service = f"/{self.service}" if self.service else ""
        if is_socket(self.hosts[0]):
            return f"unix://{hosts}?db={self.db}"
        return f"{scheme}://{hosts}{service}/{self.db}"


def address_text(address: Address) -> str:
    """``host:port``, with brackets where the host is an IPv6 address."""
    host, port = address
    if is_socket(address):
        return host
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def is_socket(address: Address) -> bool:
    """Whether it is the path of a Unix socket."""
    return address[0].startswith("/")


def _merged(url: BrokerURL, options: Mapping[str, object], known: set[str]) -> dict[str, object]:
    try:
        return merge_options(url, options, known)
    except UnknownOptionError as exc:
        if hint := hints({*url.query, *options} - known):
            raise UnknownOptionError(f"{exc}; {hint}") from None
        raise


def _socket(url: BrokerURL) -> tuple[Address, ...]:
    if not url.path or url.hosts != (("", None),):
        raise InvalidURLError(f"{url} must name a socket by its whole path, {_form(url)}")
    return (("/" + url.path, 0),)


def _known_forms() -> str:
    return " or ".join(form.format(name) for name, form in _FORMS.items())


def _hosts(url: BrokerURL, deployment: Deployment) -> tuple[Address, ...]:
    default = _SENTINEL_PORT if deployment is Deployment.SENTINEL else _PORT
    if deployment is Deployment.SINGLE and len(url.hosts) > 1:
        raise InvalidURLError(f"{url} names several servers; write redis+sentinel:// or redis+cluster:// for them")
    return tuple((host or "localhost", default if port is None else port) for host, port in url.hosts)


def _path(url: BrokerURL, deployment: Deployment) -> tuple[str, int]:
    """The service and the database that the path names."""
    service, database = "", url.path or "0"
    if deployment is Deployment.SENTINEL:
        service, _, database = (url.path or "").partition("/")
        if not service:
            raise InvalidURLError(f"{url} must name the service that the sentinels watch, {_form(url)}")
    if not (database or "0").isascii() or not (database or "0").isdigit():
        raise InvalidURLError(f"{url} must end with the number of a database, {_form(url)}")
    number = _count("the number of a database", database or "0")
    if deployment is Deployment.CLUSTER and number:
        raise InvalidURLError(f"{url} names a database, but a cluster has only 0, {_form(url)}")
    return service, number


def _form(url: BrokerURL) -> str:
    name = url.scheme.replace("rediss", "redis", 1)
    return f"for example {_FORMS[name].format(url.scheme)}"


def _lease(name: str, value: object) -> float:
    seconds = option_seconds(name, value)
    if seconds < 0.5:
        raise ConfigurationError(f"{name} must be at least 0.5 seconds, or leases run out between two renewals")
    return seconds


def _count(name: str, value: object) -> int:
    text = str(value)
    if isinstance(value, bool | float) or not text.isascii() or not text.isdigit():
        raise ConfigurationError(f"{name} must be a whole number from 0, not {value!r}")
    if len(text) > len(str(_MOST)) or int(text) > _MOST:  # int() itself refuses very long texts, with a ValueError
        raise ConfigurationError(f"{name} must be at most {_MOST}, not {text[:40]}")
    return int(text)


def _text(name: str, value: object) -> str:
    if not isinstance(value, str):
        raise ConfigurationError(f"{name} must be a string, not {value!r}")
    return value


def _name(name: str, value: object) -> str:
    if not _text(name, value):
        raise ConfigurationError(f"{name} must not be empty")
    return _text(name, value)


def _secret(name: str, value: object) -> str:
    if not isinstance(value, str) or not value:
        raise ConfigurationError(f"{name} must be a string that is not empty")  # and is not shown
    return value


_READERS: Final = {
    "db": _count,
    "username": _name,
    "password": _secret,
    "prefix": _text,
    "group": _name,
    "lease": _lease,
    "publish_timeout": option_seconds,
    "connect_timeout": option_seconds,
    "socket_timeout": option_seconds,
    "wait_replicas": _count,
    "max_message_bytes": option_count,
    "sentinel_username": _name,
    "sentinel_password": _secret,
    "cafile": _name,
    "certfile": _name,
    "keyfile": _name,
}
