"""Rejects deliveries: hands them back, sends them to another attempt, or moves them to the dead-letter queue.

Each is one script call that only the holder of the entry can carry out, so repeating it after a lost reply is safe.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any, Final

from redis.exceptions import ResponseError

from qbridge_core import (
    Delivery,
    DeliveryLostError,
    Failure,
    PublishUnconfirmedError,
    QBridgeError,
    rejection,
)
from qbridge_core.message import CRASHES
from qbridge_redis.failures import refused
from qbridge_redis.fields import REDELIVERED, encode_meta
from qbridge_redis.ledger import Ticket
from qbridge_redis.link import LOST
from qbridge_redis.scripts import SETTLE, Command
from qbridge_redis.session import Session, log

_DONE: Final = 1
_NOT_HELD: Final = 0
_TRIES: Final = 2
_BATCH: Final = 100


class Settler:
    """The rejecting part of a client. Thread-safe."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def hand_back(self, delivery: Delivery) -> None:
        """Return it to the queue, nothing counted."""
        self._settle(delivery, self._back_command(delivery.tag))

    def retry(self, delivery: Delivery, failure: Failure, delay: float) -> None:
        """Write the copy for the next attempt."""
        meta = {**failure.retry_headers(), REDELIVERED: 1}
        self._settle(delivery, self._command(delivery.tag, "retry", meta, delay, failure.task_id))

    def dead_letter(self, delivery: Delivery, failure: Failure | None) -> None:
        """Move it to the dead-letter queue."""
        failure = failure or rejection(delivery)
        command = self._command(delivery.tag, "dead", failure.dead_letter_headers(), 0.0, failure.task_id)
        self._settle(delivery, command)

    def hand_back_all(self, tickets: Sequence[Ticket], deadline: float) -> bool:
        """Return what is left at the end; False when the server is gone or ``deadline`` comes first."""
        for start in range(0, len(tickets), _BATCH):
            commands = [self._back_command(ticket) for ticket in tickets[start : start + _BATCH]]
            try:
                remaining = deadline - time.monotonic()
                with self._session.links.lease(max(0.05, remaining)) as link:
                    replies = link.call_many(commands, max(0.05, remaining))
            except (QBridgeError, *LOST) as exc:
                log.warning("%d deliveries come back only after the lease: %s", len(tickets) - start, exc)
                return False
            for reply in replies:
                if isinstance(reply, ResponseError):
                    log.warning("a delivery comes back only after the lease: %s", reply)
        return True

    def _back_command(self, ticket: Ticket) -> Command:
        meta: dict[str, str | int] = {REDELIVERED: 1}
        if ticket.crashes:
            meta[CRASHES] = ticket.crashes
        return self._command(ticket, "back", meta, 0.0, "")

    def _command(self, ticket: Ticket, mode: str, meta: dict[str, str | int], delay: float, message_id: str) -> Command:
        session, queue = self._session, ticket.ledger.queue
        dead = session.keys.stream(session.queues.dead_letter_queue(queue))
        keys = [session.keys.stream(queue), session.keys.delayed(queue), dead]
        who = (session.options.group, session.consumer, ticket.entry_id)
        return SETTLE(keys, *who, mode, round(delay * 1_000_000), message_id, *encode_meta(meta))

    def _settle(self, delivery: Delivery, command: Command) -> None:
        ticket: Ticket = delivery.tag
        ledger = ticket.ledger
        if not ledger.begin(ticket):
            return
        sent = False
        try:
            reply = self._run(command, ticket)
            sent = True
        finally:
            if not sent:
                ledger.reopen(ticket, unsure=ticket.unsure)
        self._book(delivery, ticket, reply)

    def _run(self, command: Command, ticket: Ticket) -> Any:
        """Call the script, a second time when the reply is lost: it does nothing for an entry that it has settled."""
        for attempt in range(_TRIES):
            try:
                with self._session.links.lease() as link:
                    return link.call(command)
            except LOST as exc:
                ticket.unsure = True
                if attempt + 1 == _TRIES:
                    raise PublishUnconfirmedError(
                        f"no reply to a settlement of {ticket.ledger.queue!r}: {exc}"
                    ) from exc
        raise AssertionError("unreachable")

    def _book(self, delivery: Delivery, ticket: Ticket, reply: Any) -> None:
        if isinstance(reply, ResponseError):
            ticket.ledger.reopen(ticket, unsure=False)
            raise refused(reply, f"settle a delivery of {delivery.queue!r}") from reply
        ticket.ledger.finish(ticket)
        if reply == _DONE or (reply == _NOT_HELD and ticket.unsure):
            return
        raise DeliveryLostError(f"a delivery of {delivery.queue!r} was taken back by the broker")
