"""What to write in place of the options of redis-py, which many people know."""

from __future__ import annotations

from collections.abc import Collection
from typing import Final

_ALWAYS: Final = (
    "certificates are always checked, as TLS protects nobody without that; name the CA to trust with cafile"
)
_NOT_NEEDED: Final = "not needed: "
_ITSELF: Final = "a lost connection is found and made again by itself"
_HINTS: Final = {
    "ssl": "write rediss:// in place of redis://",
    "ssl_ca_certs": "write cafile",
    "ssl_ca_path": "write cafile, with the file",
    "ssl_certfile": "write certfile",
    "ssl_keyfile": "write keyfile",
    "ssl_cert_reqs": _ALWAYS,
    "ssl_check_hostname": _ALWAYS,
    "socket_connect_timeout": "write connect_timeout",
    "timeout": "write socket_timeout, connect_timeout or publish_timeout",
    "socket_keepalive": _NOT_NEEDED + "it is always on",
    "decode_responses": _NOT_NEEDED + "bodies are bytes",
    "encoding": _NOT_NEEDED + "texts are UTF-8",
    "max_connections": _NOT_NEEDED + "connections are few, and made when needed",
    "health_check_interval": _NOT_NEEDED + _ITSELF,
    "retry": _NOT_NEEDED + _ITSELF,
    "retry_on_timeout": _NOT_NEEDED + _ITSELF,
    "retry_on_error": _NOT_NEEDED + _ITSELF,
    "protocol": _NOT_NEEDED + "RESP2 is always used",
    "client_name": _NOT_NEEDED + "connections are named after host and process",
    "host": "write it into the URL",
    "port": "write it into the URL",
    "db": "write it at the end of the URL, as in redis://host:6379/2",
    "username": "write it into the URL, as in redis://user:password@host",
    "password": "write it into the URL, as in redis://user:password@host",
    "unix_socket_path": "write unix:///path/to/redis.sock",
    "cafile": "certificates are for rediss://",
    "certfile": "certificates are for rediss://",
    "keyfile": "certificates are for rediss://",
    "sentinel_username": "it is for redis+sentinel://",
    "sentinel_password": "it is for redis+sentinel://",
}


def hints(names: Collection[str]) -> str:
    """What to do with these unknown options; "" when nothing is known of them."""
    return "; ".join(f"{name}: {_HINTS[name]}" for name in sorted(names) if name in _HINTS)
