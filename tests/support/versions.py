"""Which server answers, by its own words."""

from __future__ import annotations

import re
import socket
from urllib.parse import urlsplit

from support.brokers import BrokerError, redis_command

_AMQP_HEADER = b"AMQP\x00\x00\x09\x01"
_AMQP_VERSION = re.compile(rb"\x07versionS...(?P<size>.)", re.DOTALL)


def amqp_version(url: str) -> str:
    """What the RabbitMQ at the URL calls itself when it greets; "" when it does not answer."""
    parts = urlsplit(url)
    try:
        with socket.create_connection((parts.hostname or "127.0.0.1", parts.port or 5672), timeout=2) as connection:
            connection.sendall(_AMQP_HEADER)
            with connection.makefile("rb") as stream:
                head = stream.read(7)
                start = stream.read(int.from_bytes(head[3:7], "big"))
    except OSError:
        return ""
    found = _AMQP_VERSION.search(start)
    return f"RabbitMQ {start[found.end() :][: found['size'][0]].decode()}" if found else ""


def redis_version(url: str) -> str:
    """What the Redis or Valkey at the URL calls itself; "" when it does not tell."""
    try:
        info = str(redis_command(url, "INFO", "server", timeout=2))
    except (OSError, BrokerError):
        return ""
    facts = dict(line.split(":", 1) for line in info.splitlines() if ":" in line)
    if "valkey_version" in facts:
        return f"Valkey {facts['valkey_version']}"
    return f"Redis {facts['redis_version']}"
