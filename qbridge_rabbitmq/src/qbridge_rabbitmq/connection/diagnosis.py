"""Why there is no connection, in words that say what to do about it."""

from __future__ import annotations

import re
import socket
import ssl
from collections.abc import Iterator
from typing import Final

from pika import exceptions

from qbridge_core.backend import AuthenticationError, BrokerUnavailableError, QBridgeError
from qbridge_rabbitmq.amqp import errors
from qbridge_rabbitmq.amqp.protocols import OtherProtocol
from qbridge_rabbitmq.connection.hosts import Address
from qbridge_rabbitmq.connection.options import Endpoint

_NO_VHOST: Final = re.compile(r"vhost '?(.+?)'? not found")
_NO_ACCESS: Final = re.compile(r"access to vhost '(.*)' refused for user '(.*?)'")
_LIMIT: Final = re.compile(r"((?:user |node |vhost )?(?:connection|channel) limit[^'\"]*)")
_OS_ERROR: Final = re.compile(r"(\w+Error)\(\d+, '([^']*)'\)")
_RESETS: Final = ("ConnectionResetError", "BrokenPipeError")
_WRAPPED: Final = re.compile(r"\(\d+\) ([\"'])(.+)\1")
_LOCAL: Final = ("localhost", "127.0.0.1", "::1")
# OpenSSL names each of its errors (openssl/sslerr.h, tls1.h); these have one likely cause.
_TLS: Final = {
    "WRONG_VERSION_NUMBER": "this port does not speak TLS: write amqp:// for it, or RabbitMQ's TLS port (5671)",
    "RECORD_LAYER_FAILURE": "this port does not speak TLS: write amqp:// for it, or RabbitMQ's TLS port (5671)",
    "TLSV13_ALERT_CERTIFICATE_REQUIRED": "the server wants a client certificate: give it with the option certfile",
    "SSLV3_ALERT_HANDSHAKE_FAILURE": "the server refused the TLS handshake; it may want a client certificate: certfile",
    "TLSV1_ALERT_UNKNOWN_CA": "the server does not trust the client certificate of the option certfile",
}
_SETTING_UP: Final = "the server closed the connection while it was being set up"
_MEANINGS: Final = (
    (OtherProtocol, "{cause.args[0]}"),
    (socket.gaierror, "the host name {host!r} cannot be resolved ({cause.strerror})"),
    (ConnectionRefusedError, "nothing listens on port {port} of {host} (connection refused)"),
    ((ConnectionResetError, BrokenPipeError), "the connection was reset"),
    (TimeoutError, "{host} does not answer on port {port}"),
    (exceptions.AMQPHeartbeatTimeout, "nothing came from the broker for {silence:g} s (1.5 times the heartbeat)"),
    (exceptions.ConnectionClosedByBroker, "the broker closed the connection: {cause.reply_code} {cause.reply_text}"),
    (
        exceptions.IncompatibleProtocolError,
        "the server closed the connection before it spoke AMQP; it is starting, or {port} is not its port for AMQP",
    ),
    (exceptions.ProbableAuthenticationError, _SETTING_UP),
    (exceptions.ProbableAccessDeniedError, _SETTING_UP),
)


def explain(error: BaseException, endpoint: Endpoint, address: Address) -> QBridgeError:
    """The error for a connection that was lost, or that did not come about. Its text fits behind a colon."""
    kind: type[QBridgeError] = AuthenticationError if errors.is_refusal(error) else BrokerUnavailableError
    text = errors.reply_text(_innermost(error))
    if wrapped := _WRAPPED.search(text):
        text = wrapped[2]
    if kind is AuthenticationError:
        if limit := _LIMIT.search(text):
            return BrokerUnavailableError(f"the broker lets nobody else in: {limit[1].strip()}")
        return AuthenticationError(_refusal(text, endpoint, address))
    causes = list(_chain(error))
    return kind(next((said for cause in causes if (said := _say(cause, endpoint, address))), text))


def _refusal(text: str, endpoint: Endpoint, address: Address) -> str:
    user = endpoint.url.username or "guest"
    if missing := _NO_VHOST.search(text):
        return _no_vhost(missing[1])
    if refused := _NO_ACCESS.search(text):
        vhost, user = refused.groups()
        return (
            f"user {user!r} has no access to the virtual host {vhost!r}; a broker's administrator grants it with: "
            f"rabbitmqctl set_permissions -p {vhost} {user} '.*' '.*' '.*'"
        )
    if "ACCESS_REFUSED" not in text:
        return f"the broker refused the connection: {text}"
    hint = ""
    if user == "guest" and address[0] not in _LOCAL:
        hint = "; RabbitMQ lets the user guest in from its own host only"
    return f"the broker refused user {user!r} or its password{hint} ({text})"


def _no_vhost(vhost: str) -> str:
    hint = ""
    if vhost.startswith("/") and len(vhost) > 1:
        hint = f"; if you mean {vhost[1:]!r}, leave the second slash out of the URL"
    return f"the virtual host {vhost!r} does not exist (rabbitmqctl add_vhost {vhost} makes it){hint}"


def _say(cause: BaseException, endpoint: Endpoint, address: Address) -> str:
    """What one of an error's causes means; "" when it says nothing by itself."""
    host, port = address
    for kind, text in _MEANINGS:
        if isinstance(cause, kind):
            silence = 1.5 * endpoint.options.heartbeat
            return text.format(host=host, port=port, silence=silence, cause=cause)
    match cause:
        case ssl.SSLCertVerificationError():
            return _distrust(cause, host)
        case ssl.SSLError():
            return _TLS.get(cause.reason or "", f"the TLS handshake failed: {cause.reason or cause}")
        case OSError():
            return cause.strerror or str(cause)
        case exceptions.StreamLostError():
            return _lost(str(cause.args[0]))
    return ""


def _lost(text: str) -> str:
    """pika tells the cause of a loss as the text of its error."""
    inner = _OS_ERROR.search(text)
    if inner is None:
        return "the server closed the connection" if "EOF" in text else text
    return "the connection was reset" if inner[1] in _RESETS else inner[2]


def _distrust(cause: ssl.SSLCertVerificationError, host: str) -> str:
    if "match" in cause.verify_message:
        return f"the server's certificate is for another host than {host!r}: {cause.verify_message}"
    return (
        f"the server's certificate is not trusted ({cause.verify_message}): name the certificate of its authority "
        "with the option cafile"
    )


def _innermost(error: BaseException) -> BaseException:
    *_, last = _chain(error)
    return last


def _chain(error: BaseException) -> Iterator[BaseException]:
    """An error and what pika has wrapped in it, from the outside in."""
    seen = 0
    current: BaseException | None = error
    while isinstance(current, BaseException) and seen < 20:
        yield current
        seen += 1
        nested = getattr(current, "exceptions", None) or [a for a in current.args if isinstance(a, BaseException)]
        wrapped = getattr(current, "exception", None)
        current = nested[-1] if nested else wrapped if isinstance(wrapped, BaseException) else None
