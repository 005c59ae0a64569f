"""The states of a consumer, and which may follow which.

Beside its state a consumer has two wishes, a prefetch and requests for single messages, and one doubt: whether the
queue is there. A step is taken when a wish, an answer of the broker or a loss makes one possible; see ``Consumer``.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from typing import Final


class State(Enum):
    """What there is of a consumer."""

    DISCONNECTED = "no connection"
    IDLE = "a connection, and no channel"
    OPENING = "a channel was asked for"
    OPEN = "a channel, and nothing consumes"
    STARTING = "a consumer was asked for"
    CONSUMING = "the broker has confirmed the consumer"
    CANCELLING = "the consumer is asked to end"
    CLOSING = "the channel is asked to end"


_LOSSES: Final = {State.IDLE, State.DISCONNECTED}
NEXT: Final[Mapping[State, frozenset[State]]] = {
    State.DISCONNECTED: frozenset({State.IDLE}),
    State.IDLE: frozenset({State.OPENING, State.DISCONNECTED}),
    State.OPENING: frozenset({State.OPEN, State.CLOSING} | _LOSSES),
    State.OPEN: frozenset({State.STARTING, State.CLOSING} | _LOSSES),
    State.STARTING: frozenset({State.CONSUMING, State.CANCELLING, State.OPEN, State.CLOSING} | _LOSSES),
    State.CONSUMING: frozenset({State.CANCELLING, State.OPEN, State.CLOSING} | _LOSSES),
    State.CANCELLING: frozenset({State.OPEN, State.CLOSING} | _LOSSES),
    State.CLOSING: frozenset(_LOSSES),
}
"""From a consumer back to an open channel goes one that the broker has cancelled or lost."""
USABLE: Final = frozenset({State.OPEN, State.STARTING, State.CONSUMING, State.CANCELLING})
"""Something can be sent on the channel."""
