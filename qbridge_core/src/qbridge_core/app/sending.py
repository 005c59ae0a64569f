"""How the messages of an app's tasks reach the broker."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, fields, replace
from datetime import datetime
from functools import partial
from typing import Final

from qbridge_core.app.connection import Connection
from qbridge_core.app.queues import Queue
from qbridge_core.contract.checks import (
    check_expires,
    check_headers,
    check_publish_timeout,
    check_task_id,
    require_seconds,
)
from qbridge_core.contract.message import Message, new_id
from qbridge_core.errors import ConfigurationError
from qbridge_core.runtime.clock import Clock
from qbridge_core.task.formats.base import Outgoing


@dataclass(frozen=True, slots=True)
class SendOptions:
    """What can be said of a message beside its payload; see :meth:`AppTask.options`."""

    delay: float = 0.0
    at: datetime | None = None
    task_id: str | None = None
    headers: Mapping[str, str] | None = None
    publish_timeout: float | None = None
    expires: float | datetime | None = None

    def __post_init__(self) -> None:
        require_seconds("delay", self.delay)
        check_publish_timeout(self.publish_timeout)
        if self.at is not None:
            if not isinstance(self.at, datetime) or self.at.tzinfo is None:
                raise ConfigurationError(f"at must be a datetime with a time zone, not {self.at!r}")
            if self.delay:
                raise ConfigurationError("delay and at both say when; give one of them")
        if self.expires is not None:
            check_expires(self.expires, self.delay)

    def but(self, more: SendOptions) -> SendOptions:
        """These, but for what those say.

        Raises:
            ConfigurationError: together they make no sense.
        """
        said = {each.name: getattr(more, each.name) for each in fields(more)}
        return replace(self, **{name: value for name, value in said.items() if value != getattr(_NOTHING, name)})

    def seconds(self, clock: Clock) -> float:
        """From now on until it may be delivered."""
        return self.delay if self.at is None else max(0.0, self.at.timestamp() - clock.wall())

    def expires_at(self, clock: Clock) -> float | None:
        """When a message that is made now expires, in Unix time.

        Raises:
            ConfigurationError: it may not run before that.
        """
        return None if self.expires is None else check_expires(self.expires, self.seconds(clock), clock)


_NOTHING: Final = SendOptions()


@dataclass(frozen=True, slots=True)
class TaskMessage:
    """A message that can be sent, with others in one go: :meth:`App.send_many`. Made by ``message`` of a task.

    Attributes:
        task: the name of the task.
        queue: where it goes.
        task_id: its id.
        content: what is published.
        options: what else was said of it.
    """

    task: str
    queue: str
    task_id: str
    content: Message
    options: SendOptions


class Outbox:
    """Publishes messages, and declares their queues. Thread-safe.

    Args:
        connection: has the client.
        queue: finds the settings of a queue.
        has_task: whether a task of this name is one of the app's.
        declare: False for a producer without the right to declare.
    """

    def __init__(
        self, connection: Connection, queue: Callable[[str], Queue], has_task: Callable[[str], bool], *, declare: bool
    ) -> None:
        self._connection = connection
        self._queue = queue
        self._has_task = has_task
        self._declare = declare

    def message(self, task: str, queue: str, payload: object, version: int, options: SendOptions) -> TaskMessage:
        """Make a message, in the format of its queue.

        Args:
            task: the name of the task.
            queue: where it goes.
            payload: what JSON can say.
            version: of what the payload is made of.
            options: what else is said of it.

        Raises:
            PayloadError: the format cannot say that.
            ConfigurationError: it would expire before it may run.
        """
        writes, expires_at = self._queue(queue).writes, options.expires_at(self._connection.clock)
        if writes is None:
            content, task_id = Message.for_task(
                payload,
                task_id=options.task_id,
                headers=options.headers,
                name=task,
                version=version,
                expires_at=expires_at,
            )
            return TaskMessage(task, queue, task_id, content, options)
        message_id = new_id()
        task_id = message_id if options.task_id is None else check_task_id(options.task_id)
        headers = check_headers(options.headers)
        outgoing = Outgoing(payload, task_id, message_id, queue, task, version, headers, expires_at)
        return TaskMessage(task, queue, task_id, writes.write(outgoing), options)

    def publish(self, message: TaskMessage) -> None:
        """Publish one message; it is confirmed on return."""
        self._prepare(message.queue)
        content, options, client = message.content, message.options, self._connection.client()
        client.publish(
            message.queue,
            content.body,
            headers=content.headers,
            message_id=content.message_id,
            delay=options.seconds(client.clock),
            timeout=options.publish_timeout,
        )

    async def apublish(self, message: TaskMessage) -> None:
        """The same for coroutines; messages that are under way at the same time share their way to the broker."""
        connection, sends = self._connection, self._connection.sends
        if not connection.is_open or self._is_to_declare(message.queue):
            queue = message.queue
            await sends.share(queue, partial(self._open, queue), f"opening the queue {queue!r}")
        client, options = connection.client(), message.options
        seconds = options.seconds(client.clock)
        await sends.publish(client, message.queue, message.content, seconds, options.publish_timeout)

    async def apublish_many(self, messages: Iterable[TaskMessage]) -> list[str]:
        """``publish_many`` for coroutines: a thread waits for the broker."""
        found = list(messages)  # here: what makes them is the caller's, and not for another thread
        return await self._connection.sends.call(partial(self.publish_many, found), "messages of tasks")

    def publish_many(self, messages: Iterable[TaskMessage]) -> list[str]:
        """Publish messages, those of a queue in order and in one pipeline; all are confirmed on return.

        Raises:
            ConfigurationError: one of them is no message of a task of this app; nothing has been published then.
        """
        found = [_checked(message) for message in messages]
        for task in {message.task for message in found}:
            if not self._has_task(task):  # this one's broker may be another than that of its workers
                raise ConfigurationError(
                    f"{task!r} is a task of another app, which has a broker of its own: send it with send_many of that "
                    "app, or include that in this one"
                )
        at_once: dict[tuple[str, float | None], list[Message]] = {}
        later: list[TaskMessage] = []
        for message in found:
            if message.options.seconds(self._connection.client().clock):
                later.append(message)  # decided once: its time may come while the others are sent
            else:
                key = message.queue, message.options.publish_timeout
                at_once.setdefault(key, []).append(message.content)
        for (queue, timeout), contents in at_once.items():
            self._prepare(queue)
            self._connection.client().publish_many(queue, contents, timeout=timeout)
        for message in later:
            self.publish(message)
        return [message.task_id for message in found]

    def _open(self, queue: str) -> None:
        """In a thread that may wait: connect if need be, and declare the queue."""
        self._connection.client()
        self._prepare(queue)

    def _prepare(self, queue: str) -> None:
        if self._is_to_declare(queue):
            self._connection.declare(queue, self._queue(queue).dead_letter_queue)

    def _is_to_declare(self, queue: str) -> bool:
        return self._declare and not self._connection.has_declared(queue)


def _checked(message: object) -> TaskMessage:
    if not isinstance(message, TaskMessage):
        raise ConfigurationError(
            f"send_many takes messages of tasks, not {type(message).__name__}: write "
            "app.send_many(send_mail.message(each) for each in mails)"
        )
    return message
