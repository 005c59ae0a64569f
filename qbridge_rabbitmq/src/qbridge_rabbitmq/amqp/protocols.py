"""What speaks at a port that does not speak AMQP 0-9-1: the likeliest mistakes in a URL, by their names."""

from __future__ import annotations

import re
import socket
from typing import Final

from pika import exceptions

_PROBE_TIMEOUT: Final = 0.7
# A Redis, a web server and a TLS server each answer this at once, and none of them does anything for it.
_QUESTION: Final = b"GET / HTTP/1.0\r\n\r\n"
_ENOUGH: Final = 4
_KINDS: Final = (
    (re.compile(rb"[-+]\w"), "this port speaks Redis, not AMQP: write redis:// for it, or RabbitMQ's port (5672)"),
    (
        re.compile(rb"HTTP/"),
        "this port speaks HTTP, not AMQP (RabbitMQ's management has 15672): RabbitMQ's AMQP port is 5672",
    ),
    (re.compile(rb"[\x15\x16]\x03"), "this port speaks TLS: write amqps:// for it, or RabbitMQ's plain port (5672)"),
    (re.compile(rb"SSH-"), "this port speaks SSH, not AMQP: RabbitMQ's port is 5672"),
    (re.compile(rb"AMQP\x00\x00\x09\x01"), ""),
    (re.compile(rb"AMQP"), "this port speaks another version of AMQP: RabbitMQ and QBridge speak AMQP 0-9-1"),
)
_METHOD_ON_CHANNEL_0: Final = b"\x01\x00\x00"


class OtherProtocol(exceptions.IncompatibleProtocolError):
    """The server speaks something else; the text says what."""


def foreign(greeting: bytes) -> str:
    """What is wrong with the first bytes that came from a server; "" when they may begin AMQP 0-9-1.

    Its handshake begins with a method frame on channel 0 (AMQP 0-9-1 specification, 2.2.4 and 4.2.3).
    """
    if greeting.startswith(_METHOD_ON_CHANNEL_0[: len(greeting)]):
        return ""
    if (known := _name(greeting)) is not None:
        return known
    return f"this port does not speak AMQP (it says {greeting[:20]!r}): RabbitMQ's port is 5672"


def probe(address: tuple[str, int]) -> str:
    """Ask a server that is silent what it is; "" when it stays so. Blocks for about a second at most."""
    try:
        with socket.create_connection(address, _PROBE_TIMEOUT) as sock:
            sock.settimeout(_PROBE_TIMEOUT)
            sock.sendall(_QUESTION)
            answer = b""
            while len(answer) < _ENOUGH and (data := sock.recv(64)):
                answer += data
    except OSError:
        return ""
    return _name(answer) or ""


def _name(data: bytes) -> str | None:
    return next((text for pattern, text in _KINDS if pattern.match(data)), None)
