"""From pika's errors and AMQP reply codes to QBridge's errors."""

from __future__ import annotations

import re
from typing import Final

from pika import exceptions

from qbridge_core import (
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
_REFUSED: Final = re.compile(r"\((403|530)\)|\b(ACCESS_REFUSED|NOT_ALLOWED)\b")
_STREAM: Final = re.compile(r"'x-queue-type' for .* current is (the value )?'stream'")
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


def not_connected(where: object, error: BaseException) -> QBridgeError:
    """The error for an attempt to connect that failed."""
    if is_refusal(error):
        return AuthenticationError(f"{where} refused the connection: {describe(error)}")
    return BrokerUnavailableError(f"no connection to {where}: {describe(error)}")


def from_channel(error: BaseException, what: str) -> QBridgeError:
    """The error for a request about ``what`` that the broker answered by closing the channel or the connection."""
    if isinstance(error, QBridgeError):
        return error
    code, text = reply_code(error), reply_text(error)
    kind: type[QBridgeError] = BrokerUnavailableError
    if is_missing(error):
        kind = UnroutableError
    elif code == ACCESS_REFUSED:
        # AMQP keeps names that start with amq. for the broker itself; no user may take one.
        kind = ConfigurationError if "reserved prefix" in text else AuthenticationError
    elif too_large(error)[0]:
        kind = MessageTooLargeError
    elif code in {RESOURCE_LOCKED, PRECONDITION_FAILED, NOT_ALLOWED, NOT_IMPLEMENTED}:
        kind = QueueMismatchError
    elif isinstance(error, exceptions.ShortStringTooLong):
        kind = ConfigurationError
    return kind(f"{what}: {text}")
