"""No exception but QBridge's crosses the public methods of the client, whatever the driver or the system raises."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator
from typing import Final, ParamSpec, TypeVar

from redis.exceptions import RedisError

from qbridge_core.backend import BrokerUnavailableError, PermanentError, QBridgeError
from qbridge_redis.connection.connection import LOST
from qbridge_redis.connection.errors import in_words, refused

P = ParamSpec("P")
R = TypeVar("R")
T = TypeVar("T")
_NO_THREAD: Final = "can't start new thread"


class CallersError(Exception):
    """What the caller's own iterable raised; the ``__cause__`` crosses as it is."""


def guarded(method: Callable[P, R]) -> Callable[P, R]:
    """Have a method raise nothing but errors of the contract."""

    @functools.wraps(method)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return method(*args, **kwargs)
        except QBridgeError:
            raise
        except CallersError as exc:
            raise exc.__cause__ or exc from None
        except Exception as exc:
            if exc.__traceback__ is not None and exc.__traceback__.tb_next is None:
                raise  # Python's own TypeError: the caller has passed arguments that do not exist
            raise translated(exc) from exc

    return call


def translated(exc: Exception) -> QBridgeError:
    """The contract's error for something unexpected."""
    if isinstance(exc, RedisError) and not isinstance(exc, LOST):
        return refused(exc, "do it")
    passing = isinstance(exc, OSError | MemoryError | RedisError) or _NO_THREAD in str(exc)
    if passing:
        return BrokerUnavailableError(f"no connection can be used now: {in_words(exc)}")
    return PermanentError(f"unexpected {type(exc).__name__} in the Redis backend: {exc}")


def callers(items: Iterable[T]) -> Iterator[T]:
    """The same items; what the caller's iterable raises can be told from what the backend does."""
    try:
        yield from items
    except Exception as exc:
        raise CallersError from exc
