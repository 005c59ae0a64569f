"""Rejects deliveries: hands them back, sends them to another attempt, or moves them to the dead-letter queue.

Each is one script call that only the holder of the entry can carry out, so repeating it after a lost reply is safe.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
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
from qbridge_redis.backoff import Backoff
from qbridge_redis.failures import checked, is_missing_group, is_redirect, refused, unreachable
from qbridge_redis.fields import REDELIVERED, SUSPECTED, Fields, encode, encode_meta, moved
from qbridge_redis.ledger import Ticket
from qbridge_redis.link import LOST
from qbridge_redis.scripts import RESTORE, SETTLE, Command
from qbridge_redis.session import Session, log

_DONE: Final = 1
_NOT_HELD: Final = 0
_DELETED: Final = -1
_TRIES: Final = 2
_BATCH: Final = 100


@dataclass(frozen=True, slots=True)
class _State:
    """The next state of a message: where it goes and what is written beside it."""

    mode: str
    meta: Mapping[str, str | int]
    delay: float = 0.0
    message_id: str = ""
    target: str | None = None


class Settler:
    """The rejecting part of a client. Thread-safe."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def hand_back(self, delivery: Delivery, delay: float) -> None:
        """Return it to the queue, nothing counted."""
        self._settle(delivery, _handed_back(delivery.tag, delay))

    def retry(self, delivery: Delivery, failure: Failure, delay: float, queue: str | None) -> None:
        """Write the copy for the next attempt, into ``queue`` when that is another one."""
        meta = {**failure.retry_headers(), REDELIVERED: 1}
        if queue is None or queue == delivery.queue:
            self._settle(delivery, _State("retry", meta, delay, failure.task_id))
        else:
            self._settle(delivery, _State("move", meta, delay, failure.task_id, queue))

    def dead_letter(self, delivery: Delivery, failure: Failure | None) -> None:
        """Move it to the dead-letter queue."""
        failure = failure or rejection(delivery)
        self._settle(delivery, _State("dead", failure.dead_letter_headers(), 0.0, failure.task_id))

    def hand_back_all(self, tickets: Sequence[Ticket], deadline: float) -> bool:
        """Return what is left at the end; False when the server is gone or ``deadline`` comes first."""
        for start in range(0, len(tickets), _BATCH):
            commands = [self._command(ticket, _handed_back(ticket)) for ticket in tickets[start : start + _BATCH]]
            remaining = max(0.05, deadline - time.monotonic())
            try:
                with self._session.links.lease(remaining) as link:
                    replies = link.call_many(commands, remaining)
            except (QBridgeError, *LOST) as exc:
                log.warning("%d deliveries come back only after the lease: %s", len(tickets) - start, exc)
                return False
            for reply in replies:
                if isinstance(reply, ResponseError):
                    log.warning("a delivery comes back only after the lease: %s", reply)
        return True

    def _settle(self, delivery: Delivery, state: _State) -> None:
        ticket: Ticket = delivery.tag
        ledger = ticket.ledger
        if not ledger.begin(ticket):
            return
        away = self._away(delivery.queue, state)
        if not self._session.keys.together(delivery.queue, away):
            self._carry(delivery, state, away)
            return
        answered = False
        try:
            reply = self._run(self._command(ticket, state), ticket)
            if reply == _DELETED or (reply == _NOT_HELD and ticket.uprooted and not ticket.unsure):
                log.warning("a delivery of %s was deleted while it ran; writing it anew", delivery.queue)
                reply = self._run(self._restore_command(delivery, state), ticket)
            answered = True
        finally:
            if not answered:
                ledger.reopen(ticket)
        self._book(ticket, reply)

    def _carry(self, delivery: Delivery, state: _State, away: str) -> None:
        """Where no script can write to both queues: the copy is confirmed, and then the original acknowledged."""
        ticket: Ticket = delivery.tag
        carried = False
        try:
            content = self._held_content(delivery, state)
            if content is not None:
                self._session.carry(away, [content], state.delay, True)
            carried = True
        except LOST as exc:
            raise unreachable(exc, self._session.options) from exc
        finally:
            if not carried:
                ticket.ledger.reopen(ticket)
        if content is None:
            self._book(ticket, _NOT_HELD)
            return
        ticket.ledger.reopen(ticket)
        ticket.ledger.ack(ticket)
        self._session.acks_waiting.set()

    def _held_content(self, delivery: Delivery, state: _State) -> Fields | None:
        """The fields of the copy; None when this client does not hold the original any more."""
        ticket: Ticket = delivery.tag
        stream, entry_id = self._session.keys.stream(delivery.queue), ticket.entry_id
        who = (self._session.options.group, entry_id, entry_id, 1, self._session.consumer)
        with self._session.links.lease() as link:
            pending, entries = link.call_many([("XPENDING", stream, *who), ("XRANGE", stream, entry_id, entry_id)])
        groupless = isinstance(pending, ResponseError) and is_missing_group(pending)
        held = groupless or bool(checked(pending, f"settle a delivery of {delivery.queue!r}"))
        found = checked(entries, f"settle a delivery of {delivery.queue!r}")
        if found and held:
            return moved(found[0][1], state.message_id, state.meta)
        if held or (ticket.uprooted and not found):
            return self._content(delivery, state)
        return None

    def _away(self, queue: str, state: _State) -> str:
        """The queue that the message goes to."""
        if state.mode == "dead":
            return self._session.queues.dead_letter_queue(queue)
        return state.target or queue

    def _keys(self, queue: str, state: _State) -> list[bytes]:
        keys, away = self._session.keys, self._away(queue, state)
        return [keys.stream(queue), keys.delayed(away), keys.stream(away)]

    def _command(self, ticket: Ticket, state: _State) -> Command:
        who = (self._session.options.group, self._session.consumer, ticket.entry_id)
        what = (state.mode, round(state.delay * 1_000_000), state.message_id)
        return SETTLE(self._keys(ticket.ledger.queue, state), *who, *what, *encode_meta(state.meta))

    def _restore_command(self, delivery: Delivery, state: _State) -> Command:
        what = (delivery.tag.entry_id, state.mode, round(state.delay * 1_000_000))
        keys, group = self._keys(delivery.queue, state), self._session.options.group
        return RESTORE(keys, group, *what, *self._content(delivery, state))

    @staticmethod
    def _content(delivery: Delivery, state: _State) -> Fields:
        """The fields of the next state, from memory."""
        content = encode(delivery.body, delivery.headers, delivery.message_id or state.message_id or None)
        meta = {**delivery.meta, **state.meta} if state.mode == "back" else state.meta
        return content + encode_meta(meta)

    def _run(self, command: Command, ticket: Ticket) -> Any:
        """Call the script, again when the reply is lost: what it has settled, it does not settle again.

        A node of a cluster that sends the command elsewhere has done nothing; that may take a while.
        """
        backoff, losses = Backoff(), 0
        deadline = time.monotonic() + self._session.options.publish_timeout
        while True:
            try:
                with self._session.links.lease() as link:
                    reply = link.call(command)
            except LOST as exc:
                ticket.unsure = True
                losses += 1
                if losses == _TRIES:
                    queue = ticket.ledger.queue
                    raise PublishUnconfirmedError(f"no reply to a settlement of {queue!r}: {exc}") from exc
            else:
                if not is_redirect(reply) or time.monotonic() >= deadline:
                    return reply
                time.sleep(backoff.next())

    def _book(self, ticket: Ticket, reply: Any) -> None:
        queue = ticket.ledger.queue
        if isinstance(reply, ResponseError):
            ticket.ledger.reopen(ticket)
            raise refused(reply, f"settle a delivery of {queue!r}") from reply
        ticket.ledger.finish(ticket)
        if reply != _DONE and not ticket.unsure:
            raise DeliveryLostError(f"a delivery of {queue!r} was taken back by the broker; it is delivered again")


def _handed_back(ticket: Ticket, delay: float = 0.0) -> _State:
    meta: dict[str, str | int] = {REDELIVERED: 1}
    if ticket.crashes:
        meta[CRASHES] = ticket.crashes
    if ticket.suspected:
        meta[SUSPECTED] = 1
    return _State("back", meta, delay)
