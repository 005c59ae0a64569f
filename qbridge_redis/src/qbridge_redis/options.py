"""The settings of a client: read from the URL and the keywords, checked once, never changed."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Final

from qbridge_core import BrokerURL, ConfigurationError, InvalidURLError, merge_options

_TLS_ONLY: Final = {"cafile", "certfile", "keyfile"}
_FROM_URL: Final = {"host", "port", "db", "username", "password", "tls"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """The settings; durations are seconds.

    Attributes:
        prefix: put before every queue name to make its key.
        group: the consumer group that all workers of a queue share.
        lease: how long a worker may be silent before others take over what it holds.
        publish_timeout: how long ``publish`` waits for the server's reply.
        connect_timeout: how long one attempt to connect may take.
        socket_timeout: how long any other reply may take before the connection counts as broken.
        cafile: certificates to trust instead of the system's (``rediss://`` only, as the next ones). The server's
            certificate is always checked, its host name too.
        certfile: this client's certificate.
        keyfile: the key of ``certfile``.
    """

    host: str = "localhost"
    port: int = 6379
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
        if parsed.scheme not in ("redis", "rediss"):
            raise InvalidURLError(f"{parsed} is not of the form redis://host:port/db or rediss://host:port/db")
        tls = parsed.scheme == "rediss"
        known = {f.name for f in fields(cls)} - _FROM_URL - (set() if tls else _TLS_ONLY)
        given = merge_options(parsed, options, known)
        return cls(
            host=parsed.host or "localhost",
            port=6379 if parsed.port is None else parsed.port,
            db=_database(parsed),
            username=parsed.username or None,
            password=parsed.password or None,
            tls=tls,
            **{name: _READERS[name](name, value) for name, value in given.items()},  # type: ignore[arg-type]
        )

    def __str__(self) -> str:
        return f"{'rediss' if self.tls else 'redis'}://{self.host}:{self.port}/{self.db}"


def _database(url: BrokerURL) -> int:
    path = url.path or "0"
    if not path.isascii() or not path.isdigit():
        raise InvalidURLError(f"{url} must end with the number of a database, for example redis://localhost:6379/0")
    return int(path)


def _seconds(name: str, value: object) -> float:
    try:
        seconds = float(value) if isinstance(value, str | int | float) and not isinstance(value, bool) else math.nan
    except ValueError:
        seconds = math.nan
    if not 0 < seconds < math.inf:
        raise ConfigurationError(f"{name} must be a number of seconds above 0, not {value!r}")
    return seconds


def _lease(name: str, value: object) -> float:
    seconds = _seconds(name, value)
    if seconds < 0.5:
        raise ConfigurationError(f"{name} must be at least 0.5 seconds, or leases run out between two renewals")
    return seconds


def _text(name: str, value: object) -> str:
    if not isinstance(value, str):
        raise ConfigurationError(f"{name} must be a string, not {value!r}")
    return value


def _name(name: str, value: object) -> str:
    if not _text(name, value):
        raise ConfigurationError(f"{name} must not be empty")
    return _text(name, value)


_READERS: Final = {
    "prefix": _text,
    "group": _name,
    "lease": _lease,
    "publish_timeout": _seconds,
    "connect_timeout": _seconds,
    "socket_timeout": _seconds,
    "cafile": _name,
    "certfile": _name,
    "keyfile": _name,
}
