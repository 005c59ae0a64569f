"""No exception but QBridge's crosses the public methods of the client, whatever the driver or the system raises."""

from __future__ import annotations

from typing import Final

from redis.exceptions import RedisError

from qbridge_core.backend import BrokerUnavailableError, PermanentError, QBridgeError, guarded, is_passing
from qbridge_redis.connection.connection import LOST
from qbridge_redis.connection.errors import in_words, refused


def translated(exc: Exception) -> QBridgeError:
    """The contract's error for something unexpected."""
    if isinstance(exc, RedisError) and not isinstance(exc, LOST):
        return refused(exc, "do it")
    if is_passing(exc) or isinstance(exc, RedisError):
        return BrokerUnavailableError(f"no connection can be used now: {in_words(exc)}")
    return PermanentError(f"unexpected {type(exc).__name__} in the Redis backend: {exc}")


guarded_method: Final = guarded(translated)
