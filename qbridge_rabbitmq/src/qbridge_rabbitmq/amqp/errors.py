"""From pika's errors and AMQP reply codes to QBridge's errors."""

from __future__ import annotations

import re
from typing import Final

from pika import exceptions

from qbridge_core.backend import (
    AuthenticationError,
    BrokerUnavailableError,
    ConfigurationError,
    MessageTooLargeError,
    QBridgeError,
    QueueMismatchError,
    UnroutableError,
)

ACCESS_REFUSED: Final = 403
NOT_FOUND: Final = 404
RESOURCE_LOCKED: Final = 405
PRECONDITION_FAILED: Final = 406
NOT_ALLOWED: Final = 530
NOT_IMPLEMENTED: Final = 540
_MISMATCHES: Final = (PRECONDITION_FAILED, NOT_ALLOWED, NOT_IMPLEMENTED)
_REFUSED: Final = re.compile(r"\((403|530)\)|\b(ACCESS_REFUSED|NOT_ALLOWED)\b")
_STREAM: Final = re.compile(r"'x-queue-type' for .* current is (the value )?'stream'")
_AT_LIMIT: Final = re.compile(r"queue limit in vhost '(.*?)' \((\d+)\) is reached")
_DENIED: Final = re.compile(
    r"(?:(configure|write|read) )?access to (queue|exchange|topic) '(.*?)' in vhost '(.*?)' refused for user '(.*?)'"
)
_LOCKED: Final = (
    "it belongs to another connection alone (it was declared as exclusive, or with an exclusive consumer); choose "
    "another name, or have it declared without that"
)
_TOO_LARGE: Final = re.compile(r"message size (\d+) .*larger than\D*(\d+)?")


def reply_code(error: BaseException | None) -> int:
    """The AMQP reply code with which the broker closed a channel or connection; 0 when there is none."""
    if isinstance(error, exceptions.ChannelClosed | exceptions.ConnectionClosed):
        return int(error.reply_code)
    return 0


def reply_text(error: BaseException | None) -> str:
    """What the broker said when it closed a channel or connection, else the error's own text."""
    if isinstance(error, exceptions.ChannelClosed | exceptions.ConnectionClosed):
        return f"{error.reply_code} {error.reply_text}"
    return describe(error) if error is not None else ""


def describe(error: BaseException) -> str:
    """One line about a connection error. pika hides the cause in nested arguments, but never puts passwords there."""
    inner: BaseException = error
    while True:
        nested = getattr(inner, "exceptions", None) or [a for a in inner.args if isinstance(a, BaseException)]
        nested = [getattr(inner, "exception", None)] if not nested and hasattr(inner, "exception") else nested
        if not nested or not isinstance(nested[-1], BaseException):
            break
        inner = nested[-1]
    text = str(inner)
    return f"{type(inner).__name__}: {text}" if text else type(inner).__name__


def is_missing(error: BaseException | None) -> bool:
    """Whether a queue or exchange does not exist.

    The code alone does not say it: a classic queue whose node is down is answered with 404 too, and must not be
    created anew.
    """
    return reply_code(error) == NOT_FOUND and " no " in reply_text(error)


def is_stream(error: BaseException) -> bool:
    """Whether a declaration was refused because the name belongs to a stream."""
    return bool(_STREAM.search(reply_text(error)))


def stream(queue: str) -> QueueMismatchError:
    """The error for a stream in the place of a queue."""
    return QueueMismatchError(
        f"{queue!r} is a stream, in which messages stay after they were acknowledged; tasks need a queue: "
        "choose another name, or delete the stream and let declare() create a queue"
    )


def is_refusal(error: BaseException) -> bool:
    """Whether the broker refused the credentials or the virtual host (and not just went away meanwhile)."""
    if isinstance(error, exceptions.AuthenticationError):
        return True
    if isinstance(error, exceptions.ProbableAuthenticationError | exceptions.ProbableAccessDeniedError):
        return bool(_REFUSED.search(repr(error)))
    return reply_code(error) in {ACCESS_REFUSED, NOT_ALLOWED}


def too_large(error: BaseException | None) -> tuple[int, int]:
    """The size of the message for which the broker closed the channel, and the limit; 0 when that was not the reason.

    The limit is 0 too when the broker does not tell it.
    """
    match = _TOO_LARGE.search(reply_text(error))
    return (int(match.group(1)), int(match.group(2) or 0)) if match else (0, 0)


def is_forbidden(error: BaseException | None, exchange: str) -> bool:
    """Whether a channel was closed because the user may not write to an exchange; "" is the default one."""
    return reply_code(error) == ACCESS_REFUSED and f"'{exchange or 'amq.default'}'" in reply_text(error)


def from_channel(error: BaseException, what: str, needs: str = "") -> QBridgeError:
    """The error for a request about ``what`` that the broker answered by closing the channel or the connection.

    Args:
        error: the answer.
        what: begins the text.
        needs: the permissions that the request takes; RabbitMQ before 3.13 does not say which one is missing.
    """
    if isinstance(error, QBridgeError):
        return error
    kind, text = _meaning(error, needs)
    return kind(f"{what}: {text}")


def _meaning(error: BaseException, needs: str) -> tuple[type[QBridgeError], str]:
    code, text = reply_code(error), reply_text(error)
    kind: type[QBridgeError] = QueueMismatchError if code in _MISMATCHES else BrokerUnavailableError
    if is_missing(error):
        kind, text = UnroutableError, f"it does not exist; declare it first ({text})" if "no queue" in text else text
    elif is_at_limit(error):
        kind, text = ConfigurationError, _at_limit(text)
    elif code == RESOURCE_LOCKED or "exclusive use" in text:
        kind, text = QueueMismatchError, _LOCKED
    elif code == ACCESS_REFUSED and "reserved prefix" not in text:
        kind, text = AuthenticationError, denied(text, needs)
    elif code == ACCESS_REFUSED or isinstance(error, exceptions.ShortStringTooLong):
        kind = ConfigurationError  # AMQP keeps names that start with amq. for the broker itself
    elif too_large(error)[0]:
        kind = MessageTooLargeError
    return kind, text


def denied(text: str, needs: str) -> str:
    """What a missing permission asks for (rabbitmq.com/docs/access-control)."""
    found = _DENIED.search(text)
    if found is None:
        return text
    named, kind, name, vhost, user = found.groups()
    return (
        f"user {user!r} lacks the permission {named or needs or 'that this needs'} on {kind} {name!r} in the virtual "
        f"host {vhost!r}; grant it with: rabbitmqctl set_permissions -p {vhost} {user} CONFIGURE WRITE READ (three "
        "regular expressions)"
    )


def is_at_limit(error: BaseException) -> bool:
    """Whether a queue was not created because its virtual host may have no more."""
    return bool(_AT_LIMIT.search(reply_text(error)))


def _at_limit(text: str) -> str:
    found = _AT_LIMIT.search(text)
    vhost, limit = found.groups() if found else ("", "")
    return (
        f"it cannot be created: the virtual host {vhost!r} has reached its limit of {limit} queues; delete some, or "
        f"raise it with: rabbitmqctl set_vhost_limits -p {vhost} '{{\"max-queues\": N}}'"
    )
