"""Rejects deliveries: hands them back, sends them to another attempt, or moves them to the dead-letter queue.

Each is one script call that only the holder of the entry can carry out, so repeating it after a lost reply is safe.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from redis.exceptions import ResponseError

from qbridge_core.backend import (
    ATTEMPTS,
    CRASHES,
    DUE_AT,
    HISTORY,
    SENT_AT,
    SUSPICIONS,
    Delivery,
    DeliveryLostError,
    Failure,
    PermanentError,
    PublishUnconfirmedError,
    QBridgeError,
    meta_text,
    monotonic,
    rejection,
)
from qbridge_redis.connection.connection import LOST
from qbridge_redis.connection.errors import checked, is_missing_group, is_redirect, refused, unreachable
from qbridge_redis.connection.reconnect_pause import ReconnectPause
from qbridge_redis.protocol import fields
from qbridge_redis.protocol.fields import REDELIVERED, SUSPECTED, Fields, encode, encode_meta
from qbridge_redis.protocol.scripts import RELEASE, RESTORE, SETTLE, Command
from qbridge_redis.queues.permissions import ask_missing_rights
from qbridge_redis.state.context import NodeContext, log
from qbridge_redis.state.handbacks import HANDBACK, LONG_AGO, handback_consumer
from qbridge_redis.state.in_flight import EntryTag

_DONE: Final = 1
_NOT_HELD: Final = 0
_DELETED: Final = -1
_TOO_MANY: Final = -2
_COPIED: Final = 2
_TRIES: Final = 2
_PATIENCE: Final = 10.0  # seconds for which an outage elsewhere may hold a slot
_BATCH: Final = 100


@dataclass(frozen=True, slots=True)
class _State:
    """The next state of a message: where it goes and what is written beside it."""

    mode: str
    meta: Mapping[str, str | int]
    delay: float = 0.0
    message_id: str = ""
    target: str | None = None


class Rejections:
    """The rejecting part of a client. Thread-safe."""

    def __init__(self, context: NodeContext) -> None:
        self._context = context

    def hand_back(self, delivery: Delivery, delay: float) -> None:
        """Return it to the queue, nothing counted but what was noted of it."""
        noted = delivery.noted
        if noted is None or delay:
            state = _handed_back(delivery.tag, delay)
            if delay and HISTORY in delivery.meta:  # the run that wants to wait may be in it
                state = replace(state, meta={**state.meta, HISTORY: meta_text(delivery.meta, HISTORY)})
            self._settle(delivery, state)
            return
        tag: EntryTag = delivery.tag
        if not tag.in_flight.begin(tag):
            return
        failure = noted.failure
        meta = failure.dead_letter_headers() if noted.is_final else failure.retry_headers()
        # Not as a copy: that would come back at once, and what refuses it does so for longer.
        if self._release(tag, handback_consumer(meta), 0):
            tag.in_flight.handbacks.remember(tag.entry_id, noted)
            return
        tag.in_flight.reopen(tag)
        self._settle(delivery, _State("back", {**failure.retry_headers(), REDELIVERED: 1}))

    def retry(self, delivery: Delivery, failure: Failure, delay: float, queue: str | None) -> None:
        """Write the copy for the next attempt, into ``queue`` when that is another one."""
        meta = {**failure.retry_headers(), REDELIVERED: 1, DUE_AT: _due(delay)}
        if queue is None or queue == delivery.queue:
            self._settle(delivery, _State("retry", meta, delay, failure.task_id))
        else:
            self._settle(delivery, _State("move", meta, delay, failure.task_id, queue))

    def dead_letter(self, delivery: Delivery, failure: Failure | None) -> None:
        """Move it to the dead-letter queue."""
        failure = failure or rejection(delivery)
        self._settle(delivery, _State("dead", failure.dead_letter_headers(), 0.0, failure.task_id))

    def hand_back_all(self, tags: Sequence[EntryTag], deadline: float) -> bool:
        """Return what is left at the end; False when the server is gone or ``deadline`` comes first."""
        for start in range(0, len(tags), _BATCH):
            batch = tags[start : start + _BATCH]
            remaining = max(0.05, deadline - monotonic())
            try:
                with self._context.pool.connection(remaining) as connection:
                    replies = connection.call_many([self._command(t, _handed_back(t)) for t in batch], remaining)
                    left = [t for t, reply in zip(batch, replies, strict=True) if reply not in (_DONE, _NOT_HELD)]
                    if left:
                        connection.call_many(
                            [self._release_command(tag, HANDBACK, LONG_AGO) for tag in left], remaining
                        )
            except (QBridgeError, *LOST) as exc:
                log.warning("%d deliveries come back only after the lease: %s", len(tags) - start, exc)
                return False
        return True

    def _settle(self, delivery: Delivery, state: _State) -> None:
        tag: EntryTag = delivery.tag
        if not tag.in_flight.begin(tag):
            return
        try:
            reply = self._carried_out(delivery, state)
            if isinstance(reply, ResponseError):
                raise refused(reply, f"settle a delivery of {delivery.queue!r}") from reply
        except QBridgeError as exc:
            if not self._is_given_up(tag, state, exc) or not self._give_up(tag, state):
                tag.in_flight.reopen(tag)
                raise
            self._explain_release(delivery, state, exc)
        except BaseException:
            tag.in_flight.reopen(tag)
            raise
        else:
            self._book(tag, reply)

    def _carried_out(self, delivery: Delivery, state: _State) -> Any:
        """Do it the way that it can be done; return the reply."""
        tag: EntryTag = delivery.tag
        away = self._away(delivery.queue, state)
        if not self._context.keys.together(delivery.queue, away):
            return self._copy_across(delivery, state, away)
        reply = self._run(self._command(tag, state), tag)
        if reply == _DELETED or (reply == _NOT_HELD and tag.deleted and not tag.reply_lost):
            log.warning("a delivery of %s was deleted while it ran; writing it anew", delivery.queue)
            reply = self._run(self._restore_command(delivery, state), tag)
        if reply == _TOO_MANY:
            # Nor could a script take it out of the delayed ones.
            return self._copy_across(delivery, replace(state, delay=0.0), away)
        return reply

    def _copy_across(self, delivery: Delivery, state: _State, away: str) -> int:
        """Where no script can do it: the copy is confirmed, and then the original acknowledged."""
        tag: EntryTag = delivery.tag
        try:
            content = self._held_content(delivery, state)
            if content is None:
                return _NOT_HELD
            self._context.publish_copies(away, [self._fitting(content)], state.delay, True)
        except LOST as exc:
            raise unreachable(exc, self._context.options) from exc
        tag.in_flight.reopen(tag)
        tag.in_flight.ack(tag)
        self._context.acks_waiting.set()
        return _COPIED

    def _fitting(self, content: Fields) -> Fields:
        """The content, or of one that no command may carry what fits."""
        limit = self._context.limits.command
        for whole in (content, fields.without_history(content)):
            if fields.size_of(whole) <= limit:
                return whole
        return fields.shortened(fields.without_history(content), limit)

    # ------------------------------------------------------------------ when the server refuses

    def _is_given_up(self, tag: EntryTag, state: _State, error: QBridgeError) -> bool:
        """Whether the slot of a delivery should be free rather than wait for somebody to put things right."""
        settlement, now = tag.settlement, monotonic()
        assert settlement is not None  # noqa: S101 - begin has set it
        settlement.refused_at = settlement.refused_at or now
        if isinstance(error, PermanentError):
            return state.mode == "back"  # what to do about other refusals the caller decides
        # Where this queue's own server is away, there is nothing to release either, and the release says so.
        return now - settlement.refused_at > _PATIENCE

    def _give_up(self, tag: EntryTag, state: _State) -> bool:
        idle = LONG_AGO if state.mode == "back" and not state.delay else 0
        return self._release(tag, handback_consumer(state.meta), idle)

    def _release(self, tag: EntryTag, consumer: str, idle: int) -> bool:
        """Give it back without a copy; False when that is impossible too."""
        try:
            with self._context.pool.connection() as connection:
                done = bool(connection.call(self._release_command(tag, consumer, idle)) == 1)
        except (QBridgeError, *LOST):
            return False
        if done:
            tag.in_flight.finish(tag)
        return done

    def _release_command(self, tag: EntryTag, consumer: str, idle: int) -> Command:
        who = (self._context.options.group, self._context.consumer)
        return RELEASE([self._context.keys.stream(tag.in_flight.queue)], *who, consumer, idle, tag.entry_id)

    def _explain_release(self, delivery: Delivery, state: _State, error: QBridgeError) -> None:
        """Say it loudly once, and let the caller know that a failure is not where it should be."""
        queue = delivery.queue
        if self._context.is_new_complaint(queue, str(error)):
            why = ask_missing_rights(self._context, queue) or error
            log.error("%s; what cannot be settled goes back to %s and is tried again later", why, queue)
        if state.mode != "back":
            raise DeliveryLostError(f"{error}; it went back to {queue!r} with its failed attempts") from error

    def _held_content(self, delivery: Delivery, state: _State) -> Fields | None:
        """The fields of the copy; None when this client does not hold the original any more."""
        tag: EntryTag = delivery.tag
        stream, entry_id = self._context.keys.stream(delivery.queue), tag.entry_id
        who = (self._context.options.group, entry_id, entry_id, 1, self._context.consumer)
        with self._context.pool.connection() as connection:
            pending, entries = connection.call_many(
                [("XPENDING", stream, *who), ("XRANGE", stream, entry_id, entry_id)]
            )
        groupless = isinstance(pending, ResponseError) and is_missing_group(pending)
        held = groupless or bool(checked(pending, f"settle a delivery of {delivery.queue!r}"))
        found = checked(entries, f"settle a delivery of {delivery.queue!r}")
        if found and held:
            copied = fields.handed_back if state.mode == "back" else fields.moved
            return copied(found[0][1], tag.entry_id, state.message_id, state.meta)
        if held or (tag.deleted and not found):
            return self._content(delivery, state)
        return None

    def _away(self, queue: str, state: _State) -> str:
        """The queue that the message goes to."""
        if state.mode == "dead":
            return self._context.declarations.dead_letter_queue(queue)
        return state.target or queue

    def _keys(self, queue: str, state: _State) -> list[bytes]:
        keys, away = self._context.keys, self._away(queue, state)
        return [keys.stream(queue), keys.delayed(away), keys.stream(away)]

    def _command(self, tag: EntryTag, state: _State) -> Command:
        who = (self._context.options.group, self._context.consumer, tag.entry_id)
        what = (state.mode, round(state.delay * 1_000_000), state.message_id)
        return SETTLE(self._keys(tag.in_flight.queue, state), *who, *what, *encode_meta(state.meta))

    def _restore_command(self, delivery: Delivery, state: _State) -> Command:
        what = (delivery.tag.entry_id, state.mode, round(state.delay * 1_000_000))
        keys, group = self._keys(delivery.queue, state), self._context.options.group
        return RESTORE(keys, group, *what, *self._content(delivery, state))

    @staticmethod
    def _content(delivery: Delivery, state: _State) -> Fields:
        """The fields of the next state, from memory."""
        content = encode(delivery.body, delivery.headers, delivery.message_id or state.message_id or None)
        meta = {**delivery.meta, **state.meta} if state.mode == "back" else dict(state.meta)
        if sent := delivery.sent_at_ms:
            meta[SENT_AT] = sent
        return content + encode_meta(meta)

    def _run(self, command: Command, tag: EntryTag) -> Any:
        """Call the script, again when the reply is lost: what it has settled, it does not settle again.

        A node of a cluster that sends the command elsewhere has done nothing; that may take a while.
        """
        pause, losses = ReconnectPause(), 0
        deadline = monotonic() + self._context.options.publish_timeout
        while True:
            try:
                with self._context.pool.connection() as connection:
                    reply = connection.call(command)
            except LOST as exc:
                tag.reply_lost = True
                losses += 1
                if losses == _TRIES:
                    queue = tag.in_flight.queue
                    raise PublishUnconfirmedError(f"no reply to a settlement of {queue!r}: {exc}") from exc
            else:
                if not is_redirect(reply) or monotonic() >= deadline:
                    return reply
                time.sleep(pause.next())

    @staticmethod
    def _book(tag: EntryTag, reply: Any) -> None:
        if reply == _COPIED:
            return  # its acknowledgement is on its way
        tag.in_flight.finish(tag)
        if reply != _DONE and not tag.reply_lost:
            queue = tag.in_flight.queue
            raise DeliveryLostError(f"a delivery of {queue!r} was taken back by the broker; it is delivered again")


def _due(delay: float) -> int:
    return round((time.time() + delay) * 1000)


def _handed_back(tag: EntryTag, delay: float = 0.0) -> _State:
    meta: dict[str, str | int] = {REDELIVERED: 1}
    if delay:
        meta[DUE_AT] = _due(delay)
    if counts := tag.counts:
        if counts.crashes:
            meta[CRASHES] = counts.crashes
        if counts.suspected:
            meta[SUSPECTED] = 1
        if counts.attempts:
            meta[ATTEMPTS] = counts.attempts
        if counts.suspicions:
            meta[SUSPICIONS] = counts.suspicions
    return _State("back", meta, delay)
