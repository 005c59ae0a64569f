"""Finds out why a connection cannot be made, with one more look at what is at the address.

Only when a client connects for the first time: then somebody looks at the error who has perhaps mistaken the port.
"""

from __future__ import annotations

import contextlib
import socket
import ssl
from pathlib import Path
from typing import Final

from qbridge_redis.connection.options import Address, Options, is_socket

_TIME: Final = 0.3
_ANSWERS: Final = (
    (b"+PONG", ""),
    (b"-NOAUTH", ""),
    (b"-DENIED", "it is in protected mode, which takes local connections only, until it has a password (requirepass)"),
    (b"-ERR max number", "it has no connection left (maxclients)"),
    (b"AMQP", "what answers at this port speaks AMQP, as RabbitMQ does: write amqp://, or another port"),
    (b"HTTP/", "what answers at this port speaks HTTP and is no Redis server"),
    (b"\x15\x03", "what answers at this port speaks TLS: write rediss://"),
)

_TLS_RECORDS: Final = (b"\x15", b"\x16")


def diagnose(options: Options, address: Address) -> str:
    """What is wrong at an address that could not be connected to, as a sentence; "" when nothing is known."""
    if is_socket(address):
        return _look_at_socket(address[0])
    try:
        answer = _greet(address)
    except OSError:
        return ""  # the error itself says why nothing can be reached
    if options.tls and answer.startswith((b"+PONG", b"-NOAUTH", b"-DENIED")):
        return "what answers at this port speaks Redis without TLS: write redis://, or the port for TLS"
    for beginning, meaning in _ANSWERS:
        if answer.startswith(beginning):
            return meaning
    if not answer and not options.tls and _speaks_tls(address):
        return "what answers at this port speaks TLS: write rediss://"
    return "what answers at this port does not speak Redis" if answer and not options.tls else ""


def _greet(address: Address) -> bytes:
    with socket.create_connection(address, _TIME) as connection:
        connection.sendall(b"PING\r\n\r\n")
        with contextlib.suppress(OSError):
            return connection.recv(64)
        return b""


def _speaks_tls(address: Address) -> bool:
    """Whether the answer to a first message of TLS is a record of TLS: a handshake, or an alert (RFC 8446, 5.1)."""
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE  # nothing is sent but this: only whether it answers is of interest
    # Without a socket of Python's: one whose peer is gone while it is made is never closed.
    received, hello = ssl.MemoryBIO(), ssl.MemoryBIO()
    with contextlib.suppress(ssl.SSLWantReadError):
        context.wrap_bio(received, hello).do_handshake()
    try:
        with socket.create_connection(address, _TIME) as connection:
            connection.sendall(hello.read())
            return connection.recv(1) in _TLS_RECORDS
    except OSError:
        return False


def _look_at_socket(path: str) -> str:
    try:
        if not Path(path).is_socket():
            return "there is no socket at this path: is the server running, and is it the server's 'unixsocket'?"
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(_TIME)
            connection.connect(path)
    except PermissionError:
        return "this user may not use the socket; the server's 'unixsocketperm' says who may"
    except OSError:
        return ""
    return ""
