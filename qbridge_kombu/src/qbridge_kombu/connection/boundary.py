"""The last line between a caller and errors that are not QBridge's: what got past the mapping of a method ends here."""

from __future__ import annotations

from typing import Final

from qbridge_core.backend import BrokerUnavailableError, PermanentError, QBridgeError, guarded, is_passing


def _translated(exc: Exception) -> QBridgeError:
    """The contract's error for something unexpected."""
    if is_passing(exc):
        return BrokerUnavailableError(f"the client cannot do this now: {type(exc).__name__}: {exc}")
    return PermanentError(f"unexpected {type(exc).__name__} in the kombu backend: {exc}")


guarded_method: Final = guarded(_translated)
"""Lets only QBridge's errors out of a public method."""
