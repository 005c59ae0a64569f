"""What the replies to published messages say, and the errors that publishing raises for them."""

from __future__ import annotations

import contextlib
import enum
from collections.abc import Iterator, Sequence
from typing import Any, Final

from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import ResponseError
from redis.exceptions import TimeoutError as RedisTimeoutError

from qbridge_core.backend import PublishUnconfirmedError, QBridgeError, UnroutableError, monotonic
from qbridge_redis.connection.connection import LOST
from qbridge_redis.connection.errors import code, is_redirect, is_transient, refused, unreachable
from qbridge_redis.protocol.scripts import Command

STORED_TYPES: Final = frozenset({bytes, int})
"""Types of the replies to what was stored: an id, now or for later."""


class Answer(enum.Enum):
    """What a reply means for one message."""

    STORED = "it is there"
    MISSING = "it is not, because there is no such queue"
    ELSEWHERE = "it is not, because another node of the cluster has the queue"
    REFUSED = "it is not, and the error says why"


def answer(reply: Any) -> Answer:
    """Read one reply."""
    if type(reply) in STORED_TYPES:
        return Answer.STORED
    if reply is None:
        return Answer.MISSING
    if is_redirect(reply):
        return Answer.ELSEWHERE
    return Answer.REFUSED if isinstance(reply, ResponseError) else Answer.STORED


def to_repeat(
    queue: str, commands: Sequence[Command], replies: Sequence[Any], deadline: float
) -> list[tuple[Command, Answer]]:
    """What is to be published again, in its order, and why: it is MISSING or ELSEWHERE.

    Raises:
        QBridgeError: a message was refused, or is elsewhere and there is no time left to go there.
    """
    if STORED_TYPES.issuperset(map(type, replies)):
        return []
    has_time = monotonic() < deadline
    answers = [answer(reply) for reply in replies]
    for said, reply in zip(answers, replies, strict=True):
        if said is Answer.REFUSED or (said is Answer.ELSEWHERE and not has_time):
            raise _refused(reply, queue) from reply
    return [(command, said) for command, said in zip(commands, answers, strict=True) if said is not Answer.STORED]


def check_replicas(reply: Any, wanted: int, queue: str) -> None:
    """See that enough replicas have what was just published."""
    if isinstance(reply, int) and reply >= wanted:
        return
    if isinstance(reply, ResponseError) and not is_transient(reply):
        raise refused(reply, f"wait for the replicas of {queue!r}") from reply
    raise PublishUnconfirmedError(
        f"the message for {queue!r} is on the master and on {reply} of the {wanted} replicas that wait_replicas asks "
        "for; a failover may lose it"
    )


@contextlib.contextmanager
def unconfirmed(queue: str, timeout: float) -> Iterator[None]:
    """Say what a lost connection means for what was published."""
    try:
        yield
    except LOST as exc:
        if isinstance(exc, RedisConnectionError) and code(exc) in ("LOADING", "NOAUTH"):
            raise unreachable(exc, "Redis") from exc
        why = f"the connection was lost before the confirmation for {queue!r}"
        if isinstance(exc, RedisTimeoutError):
            why = f"no confirmation for {queue!r} within {timeout:.3g} s"
        raise PublishUnconfirmedError(f"{why} ({exc}); the message may or may not be there") from exc


def _refused(reply: ResponseError, queue: str) -> QBridgeError:
    error = refused(reply, f"publish to {queue!r}")
    if "Invalid stream ID" in str(reply) and not is_transient(reply):
        return UnroutableError(f"the queue {queue!r} can take no more entries: {reply}")
    return error
