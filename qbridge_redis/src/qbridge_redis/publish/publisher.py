"""Publishes messages.

A command whose reply was lost is never sent again: the caller decides whether to risk a second copy.

Facts: https://redis.io/docs/latest/commands/xadd/ (NOMKSTREAM: a missing stream is answered with nil, not made).
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from itertools import islice
from typing import Any, Final

from redis.exceptions import ResponseError

from qbridge_core.backend import (
    DUE_AT,
    SENT_AT,
    BrokerUnavailableError,
    Ended,
    Message,
    Promises,
    QBridgeError,
    UnroutableError,
    callers_own,
    check_content,
    check_message,
    check_messages,
    monotonic,
    random_bytes,
)
from qbridge_redis.connection.boundary import translated
from qbridge_redis.connection.connection import LOST, RedisConnection
from qbridge_redis.connection.errors import unreachable
from qbridge_redis.connection.reconnect_pause import ReconnectPause
from qbridge_redis.protocol.fields import Fields, encode, encode_meta
from qbridge_redis.protocol.scripts import PUBLISH_LATER, Command
from qbridge_redis.publish.posts import Posts, waited_for
from qbridge_redis.publish.promised import Call, Promised
from qbridge_redis.publish.replies import STORED_TYPES, Answer, check_replicas, to_repeat, unconfirmed
from qbridge_redis.state.context import NodeContext

_CHUNK: Final = 200
_CHUNK_BYTES: Final = 256 * 1024  # more than the socket buffers of both sides hold would only wait


class Publisher:
    """The publishing part of a client, for the queues of one server or of one hash slot. Thread-safe.

    Args:
        context: of these queues.
        promises: those of the client.
        posts: the way to the server that has the slot now, on which messages for all of its slots go together; None
            where that is not known, or there is but one server.
    """

    def __init__(self, context: NodeContext, promises: Promises[Promised], posts: Callable[[], Posts | None]) -> None:
        self._context = context
        self._promises = promises
        self._own = Posts(context.options, context.pool)
        self._posts = posts

    def publish(self, queue: str, message: Message, delay: float, timeout: float | None) -> None:
        """Publish one message; see ``QueueClient.publish``."""
        command = self._later(queue, message, delay) if delay > 0 else self._now(queue, message)
        limit = self._limit(timeout)
        deadline = monotonic() + limit
        exchange = (self._posts() or self._own).exchange
        try:
            with unconfirmed(queue, limit):
                answer = exchange.reply(command, len(message.body), deadline)
        except BrokerUnavailableError:
            if exchange is self._own.exchange:
                raise
            self._publish(queue, [command], deadline - monotonic())  # its slot may be elsewhere by now
        else:
            self._settle(queue, command, answer, deadline)

    def _settle(self, queue: str, command: Command, answer: tuple[Any, Any], deadline: float) -> None:
        """See what a reply says; a message that is not there yet may be published now."""
        reply, replicas = answer
        if type(reply) in STORED_TYPES:
            if replicas is not None:
                check_replicas(replicas, self._context.options.wait_replicas, queue)
        elif to_repeat(queue, [command], [reply], deadline):
            self._publish(queue, [command], deadline - monotonic())

    def publish_then(
        self,
        queue: str,
        messages: Sequence[Message],
        delay: float,
        timeout: float | None,
        stored: Callable[[], object],
        ended: Ended,
    ) -> None:
        """Publish messages, with others that are under way.

        Args:
            queue: where they go.
            messages: the messages.
            delay: seconds for which the server holds them back.
            timeout: seconds to wait; ``None`` means the client's setting.
            stored: called with each that is there.
            ended: called with each in the end, whatever has become of it.
        """
        limit = self._limit(timeout)
        call = Call(queue, limit, monotonic() + limit, stored, ended)
        ready: list[Promised] = []
        refused: list[tuple[int, QBridgeError]] = []
        for position, given in enumerate(messages):
            try:
                ready.append(self._promised(call, position, check_message(given), delay))
            except QBridgeError as exc:
                refused.append((position, exc))
        self._post(ready)
        for position, error in refused:
            ended(position, error)

    def _promised(self, call: Call, position: int, message: Message, delay: float) -> Promised:
        queue = call.queue
        command = self._later(queue, message, delay) if delay > 0 else self._now(queue, message)
        return Promised(call, position, command, len(message.body), self._replied)

    def _post(self, promises: Sequence[Promised]) -> None:
        exchange = (self._posts() or self._own).exchange
        for promise in promises:
            promise.exchange = exchange
            self._promises.add(promise)
        try:
            exchange.post(promises)
        except RuntimeError as exc:
            for promise in promises:
                self._promises.keep(promise, translated(exc))

    def _replied(self, promise: Promised) -> None:
        """In any thread. What takes longer than to look at the reply is done by a helper."""
        is_plain = promise.error is not None or type(promise.reply[0]) in STORED_TYPES
        if is_plain and not self._may_be_elsewhere(promise):
            self._keep(promise)
            return
        try:
            (self._posts() or self._own).helpers.run(partial(self._keep, promise))
        except RuntimeError as exc:
            self._promises.keep(promise, translated(exc))

    def _may_be_elsewhere(self, promise: Promised) -> bool:
        """Whether it was not sent, since the server that was thought to have its slot cannot be reached."""
        return isinstance(promise.error, BrokerUnavailableError) and promise.exchange is not self._own.exchange

    def _keep(self, promise: Promised) -> None:
        call, error = promise.call, None
        try:
            if self._may_be_elsewhere(promise):
                self._publish(call.queue, [promise.command], call.deadline - monotonic())
            elif promise.error is not None:
                with unconfirmed(call.queue, call.seconds):
                    raise copy.copy(promise.error) from promise.error  # each that is told adds frames of its own
            else:
                self._settle(call.queue, promise.command, promise.reply, call.deadline)
            call.stored()
        except QBridgeError as exc:
            error = exc
        except Exception as exc:  # noqa: BLE001 - whatever it is, the caller learns of it
            error = translated(exc)
            error.__cause__ = exc
        self._promises.keep(promise, error)

    def publish_many(self, queue: str, messages: Iterable[Message], timeout: float | None) -> None:
        """Publish in order; each chunk has the whole timeout, so that a long sequence is no reason to fail.

        While the server works on a chunk the next one is made and sent. What a node of a cluster sends elsewhere, and
        what finds no queue, is published at the end.
        """
        limit = self._limit(timeout)
        left: list[Command] = []
        connection = self._context.pool.take(monotonic() + limit)
        sent: Sequence[Command] = ()
        try:
            for chunk in self._chunks(queue, messages):
                before, sent = sent, chunk
                with unconfirmed(queue, limit):
                    connection.send(self._waited_for(chunk, limit), limit)
                if before:
                    left += self._confirm(connection, queue, before, limit)
            if sent:
                left += self._confirm(connection, queue, sent, limit)
            sent = ()
        finally:
            if sent:
                connection.close()  # replies may be on their way, and the next user would take them for its own
            self._context.pool.give(connection)
        if left:
            self._publish(queue, left, limit)

    def _chunks(self, queue: str, messages: Iterable[Message]) -> Iterator[Sequence[Command]]:
        iterator = callers_own(check_messages(messages))
        while batch := list(islice(iterator, _CHUNK)):
            yield from _by_size([self._now(queue, check_message(message)) for message in batch])

    def _confirm(
        self, connection: RedisConnection, queue: str, commands: Sequence[Command], timeout: float
    ) -> list[Command]:
        """Read the replies to what was sent; return what has to be published again."""
        with unconfirmed(queue, timeout):
            replies = connection.read_many(len(self._waited_for(commands, timeout)), timeout)
        replies = self._looked_through(queue, commands, replies)
        return [command for command, _ in to_repeat(queue, commands, replies, math.inf)]

    def publish_copies(self, queue: str, contents: Sequence[Fields], delay: float, create: bool) -> None:
        """Publish copies of messages, whatever their fields; with ``create`` the queue is made where it is missing."""
        if create:
            try:
                with self._context.pool.connection() as connection:
                    self._context.declarations.ensure(connection, queue, create=True)
            except LOST as exc:
                raise unreachable(exc, self._context.options) from exc
        commands = [
            self._held(queue, content, delay) if delay > 0 else self._added(queue, content) for content in contents
        ]
        self._publish(queue, commands, self._context.options.publish_timeout)

    def publish_letters(self, queue: str, contents: Sequence[Fields]) -> None:
        """Publish copies in order, some hundred at a time."""
        for start in range(0, len(contents), _CHUNK):
            for chunk in _by_size([self._added(queue, content) for content in contents[start : start + _CHUNK]]):
                self._publish(queue, chunk, self._context.options.publish_timeout)

    def _limit(self, timeout: float | None) -> float:
        return self._context.options.publish_timeout if timeout is None else max(0.001, timeout)

    def _publish(self, queue: str, commands: Sequence[Command], timeout: float) -> None:
        deadline = monotonic() + timeout
        pause = ReconnectPause()
        while commands := self._publish_once(queue, commands, deadline):
            time.sleep(pause.next())

    def _publish_once(self, queue: str, commands: Sequence[Command], deadline: float) -> Sequence[Command]:
        """Publish; return what a node of a cluster has sent elsewhere, as long as there is time to go there."""
        connection = self._context.pool.take(deadline)
        try:
            again = self._exchange(connection, queue, commands, deadline)
            elsewhere = [command for command, answer in again if answer is Answer.ELSEWHERE]
            missing = [command for command, answer in again if answer is Answer.MISSING]
            if missing:
                elsewhere += self._publish_missing(connection, queue, missing, deadline)
        finally:
            self._context.pool.give(connection)
        return elsewhere

    def _publish_missing(
        self, connection: RedisConnection, queue: str, commands: Sequence[Command], deadline: float
    ) -> Sequence[Command]:
        """Nil is a sure answer: nothing was stored. A queue that was declared is made again, and then it can be."""
        try:
            self._context.declarations.ensure(connection, queue)
        except LOST as exc:
            raise unreachable(exc, self._context.options) from exc
        again = self._exchange(connection, queue, commands, deadline)
        if any(answer is Answer.MISSING for _, answer in again):
            raise UnroutableError(f"the queue {queue!r} was deleted while publishing")
        return [command for command, _ in again]

    def _exchange(
        self, connection: RedisConnection, queue: str, commands: Sequence[Command], deadline: float
    ) -> list[tuple[Command, Answer]]:
        timeout = max(0.001, deadline - monotonic())
        with unconfirmed(queue, timeout):
            replies = connection.call_many(self._waited_for(commands, timeout), timeout)
        return to_repeat(queue, commands, self._looked_through(queue, commands, replies), deadline)

    def _waited_for(self, commands: Sequence[Command], timeout: float) -> Sequence[Command]:
        return waited_for(commands, timeout, self._context.options.wait_replicas)

    def _looked_through(self, queue: str, commands: Sequence[Command], replies: list[Any]) -> list[Any]:
        """The replies to the commands alone, after a look at how many replicas have what they wrote."""
        replicas = self._context.options.wait_replicas
        if replicas and any(reply is not None and not isinstance(reply, ResponseError) for reply in replies[:-1]):
            check_replicas(replies[-1], replicas, queue)
        return replies[: len(commands)]

    def _now(self, queue: str, message: Message) -> Command:
        return self._added(queue, self._fields(message))

    def _later(self, queue: str, message: Message, delay: float) -> Command:
        now = time.time()  # the entry is added when it is due, so its id does not tell
        times = {SENT_AT: round(now * 1000), DUE_AT: round((now + delay) * 1000)}
        return self._held(queue, [*self._fields(message), *encode_meta(times)], delay)

    def _added(self, queue: str, content: Fields) -> Command:
        return ("XADD", self._context.keys.stream(queue), "NOMKSTREAM", "*", *content)

    def _held(self, queue: str, content: Fields, delay: float) -> Command:
        keys = [self._context.keys.stream(queue), self._context.keys.delayed(queue)]
        return PUBLISH_LATER(keys, random_bytes(16), round(delay * 1_000_000), *content)

    def _fields(self, message: Message) -> list[bytes | str]:
        body, headers, message_id = check_content(message, self._context.options.max_message_bytes)
        self._context.limits.check(body, headers)
        return encode(body, headers, message_id)


def _by_size(commands: Sequence[Command]) -> Iterable[Sequence[Command]]:
    """Cut a list of commands so that no part is much larger than the limit."""
    chunk: list[Command] = []
    size = 0
    for command in commands:
        chunk.append(command)
        size += len(command[5])  # type: ignore[arg-type]  # the body
        if size >= _CHUNK_BYTES:
            yield chunk
            chunk, size = [], 0
    if chunk:
        yield chunk
