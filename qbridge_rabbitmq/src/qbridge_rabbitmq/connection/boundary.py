"""The last line between a caller and errors that are not QBridge's: what got past the mapping of a method ends here.

The system may refuse what a driver's constructor takes for granted: a descriptor, a thread, memory for a socket.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import ParamSpec, TypeVar

from pika import exceptions

from qbridge_core.backend import BrokerUnavailableError, QBridgeError
from qbridge_rabbitmq.amqp import errors

P = ParamSpec("P")
R = TypeVar("R")


def bounded(method: Callable[P, R]) -> Callable[P, R]:
    """Let only QBridge's errors out of a public method, and those that say that its arguments are wrong."""

    @functools.wraps(method)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return method(*args, **kwargs)
        except QBridgeError:
            raise
        except (OSError, exceptions.AMQPError, RuntimeError) as exc:
            raise translated(exc) from exc

    return call


def translated(error: BaseException) -> QBridgeError:
    """The error for one of the system's or of pika's that nobody has dealt with."""
    return BrokerUnavailableError(f"the client cannot do this now: {errors.describe(error)}")
