"""What a client does for those who send: the publishing part of the contract."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Final

from qbridge_core.contract.asides import Asides, Ended, error_of, promised
from qbridge_core.contract.checks import (
    DEFAULT_MAX_MESSAGE_BYTES,
    check_delay,
    check_expires,
    check_publish_timeout,
    check_queue_name,
)
from qbridge_core.contract.encoding import Encoder, check_encoder
from qbridge_core.contract.message import Message, check_message, check_sequence
from qbridge_core.errors import PayloadError
from qbridge_core.runtime.clock import SYSTEM_CLOCK, Clock, monotonic

if TYPE_CHECKING:
    from concurrent.futures import Future

_LEAST_PATIENCE: Final = 10.0


class Producing(ABC):
    """Publishes messages, and waits until the broker has them."""

    max_message_bytes: int = DEFAULT_MAX_MESSAGE_BYTES
    """The longest body that ``publish`` takes, an option of each backend; also what a worker with this client takes."""

    clock: Clock = SYSTEM_CLOCK
    """Tells the time of what is written beside messages, by managers, too. Another one is for tests, on a backend that
    keeps its delays by it."""

    patience: float = 30.0
    """Seconds after which a call of this client has ended, whatever the broker does, in addition to what its arguments
    ask for. A thread that takes longer in one hangs (:meth:`qbridge_core.TaskManager.health`)."""

    @abstractmethod
    def publish(
        self,
        queue: str,
        body: bytes,
        *,
        headers: Mapping[str, str] | None = None,
        message_id: str | None = None,
        delay: float = 0.0,
        timeout: float | None = None,
    ) -> None:
        """Publish one message and return once the broker has taken responsibility for it.

        Args:
            queue: name of an existing queue.
            body: the exact bytes.
            headers: the producer's own headers: strings, no names with the prefix ``x-qbridge-``.
            message_id: unique for each message, 1 to 255 bytes in UTF-8. No key: the same id twice is two messages.
            delay: seconds for which the broker holds the message back, at most ``capabilities.max_delay``.
            timeout: seconds to wait for the confirmation; ``None`` means the client's setting.

        Raises:
            BrokerUnavailableError: no connection; the broker does not have the message.
            BrokerBlockedError: the broker takes no messages now (memory or disk alarm, no memory left).
            QueueFullError: it refused this message, as it does at the length limit of a queue.
            PublishUnconfirmedError: the confirmation did not come in time; publishing again may duplicate it.
            UnroutableError: the queue does not exist.
            MessageTooLargeError: it is over the client's ``max_message_bytes`` or the broker's limit, which leaves room
                for the longest explanation of a dead letter (about 40 KB; see ``Failure``): what was accepted can be
                settled in every way.
            UnsupportedError: ``delay`` without the capability.
            ConfigurationError: ``delay`` is negative, no number or too long, ``timeout`` is no number, or no queue can
                have this name.
            PayloadError: headers or message id cannot be kept.
        """

    def publish_soon(
        self, queue: str, messages: Sequence[Message], *, delay: float = 0.0, timeout: float | None = None
    ) -> list[Future[None]]:
        """Publish messages as ``publish`` does, and never wait: the future of each ends when the broker confirms it.

        All that is under way shares its way to the broker and back where the backend can. Messages of one thread for
        one queue keep their order, as far as they have no delay. A future ends in any case: when ``timeout`` is over,
        and by ``disconnect``; it cannot be cancelled. How many are under way is for the caller to bound, as
        :class:`~qbridge_core.AsyncQueueClient` does. What waits for a future is called in a thread of the client's,
        which it must not hold up.

        The default has ``publish`` called by one of 32 threads, so it keeps no order.

        Returns futures with the errors of ``publish``, those about arguments, too, in the order of the messages; each
        error is an object of its own.

        Raises:
            ConfigurationError: ``messages`` is no sequence of them.
        """
        return [
            promised(lambda message=each: self._publish_aside(queue, message, delay, timeout))  # type: ignore[misc]
            for each in check_sequence(messages)
        ]

    def _publish_then(
        self, queue: str, messages: Sequence[Message], ended: Ended, *, delay: float = 0.0, timeout: float | None = None
    ) -> None:
        """The same for one who asks for no futures, each of which costs more than the way of its message.

        A backend that has its own makes its futures on top of it, with :func:`futures_for`.

        Args:
            queue: as for ``publish_soon``.
            messages: likewise, a sequence of them.
            ended: called once with each position and the error that its message has, in any thread, which it must not
                hold up. It may be called before this returns.
            delay: as for ``publish_soon``.
            timeout: likewise.
        """
        for position, future in enumerate(self.publish_soon(queue, messages, delay=delay, timeout=timeout)):
            future.add_done_callback(lambda done, position=position: ended(position, error_of(done)))  # type: ignore[misc]

    def _publish_aside(self, queue: str, given: Message, delay: float, timeout: float | None) -> Future[None]:
        message, seconds = check_message(given), check_publish_timeout(timeout)
        due = None if seconds is None else monotonic() + seconds

        def publish() -> None:
            left = None if due is None else max(0.0, due - monotonic())
            body, headers, message_id = message.body, message.headers, message.message_id
            self.publish(queue, body, headers=headers, message_id=message_id, delay=delay, timeout=left)

        return self._asides().call(publish, longest_wait(self, seconds))

    def _asides(self) -> Asides:
        """The threads of the default. Made here, since no subclass has to call ``__init__``."""
        asides: Asides | None = vars(self).get("_asides_here")
        if asides is None:
            asides = vars(self).setdefault("_asides_here", Asides("qbridge-publish"))
        return asides

    def publish_many(self, queue: str, messages: Iterable[Message], *, timeout: float | None = None) -> None:
        """Publish messages in order; return once all are confirmed. Backends pipeline this.

        ``timeout`` counts anew for each part of the pipeline, so that a long sequence is no reason to fail. One of a
        backend's own does not call ``publish``: plugins would be told of each message twice.

        Raises:
            The errors of ``publish``, for the first message that failed; others of the call may have been published.
            What going through ``messages`` raises, as it is; those before it may have been published.
        """
        check_queue_name(queue)
        for given in messages:
            message = check_message(given)
            self.publish(queue, message.body, headers=message.headers, message_id=message.message_id, timeout=timeout)

    def send(
        self,
        queue: str,
        payload: object,
        *,
        task_id: str | None = None,
        delay: float = 0.0,
        headers: Mapping[str, str] | None = None,
        expires: float | datetime | None = None,
        encoder: Encoder | None = None,
        publish_timeout: float | None = None,
    ) -> str:
        """Publish a task: ``payload`` in QBridge's JSON envelope. Return its task id.

        Args:
            queue: name of an existing queue.
            payload: what the handler gets; anything that JSON can say, or that ``encoder`` makes of it.
            task_id: appears in logs and dead letters; a UUID when missing.
            delay: seconds before it may be delivered.
            headers: the producer's own headers: strings, no names with the prefix ``x-qbridge-``.
            expires: seconds from now on, or a time with a time zone. What no worker has begun by then is a dead letter,
                and does not run; what has begun is retried as ever.
            encoder: called with each value that JSON does not have; returns one that it has, as ``default`` of
                ``json.dumps`` does. A ``json.JSONEncoder`` will do.
            publish_timeout: seconds to wait for the confirmation; ``None`` means the client's setting.

        Raises:
            PayloadError: the payload cannot be written as JSON; the text says where.
            ConfigurationError: ``expires`` or ``encoder`` makes no sense.
            The errors of ``publish``.
        """
        message, task_id = task_message(
            payload, self.clock, task_id=task_id, delay=delay, headers=headers, expires=expires, encoder=encoder
        )
        self.publish(
            queue,
            message.body,
            headers=message.headers,
            message_id=message.message_id,
            delay=delay,
            timeout=publish_timeout,
        )
        return task_id

    def send_many(
        self,
        queue: str,
        payloads: Iterable[object],
        *,
        expires: float | datetime | None = None,
        encoder: Encoder | None = None,
        publish_timeout: float | None = None,
    ) -> list[str]:
        """Publish one task for each payload, all confirmed on return. Return their task ids in order.

        Args:
            queue: name of an existing queue.
            payloads: what the handlers get.
            expires: as for ``send``.
            encoder: as for ``send``.
            publish_timeout: as for ``publish_many``.

        Raises:
            ConfigurationError: ``expires`` or ``encoder`` makes no sense.
            PayloadError: one of the payloads cannot be written as JSON, or they are one string or mapping, whose
                characters or keys nobody wants to send, or nothing to go through; nothing has been published then.
            The errors of ``publish``.
        """
        check_queue_name(queue)
        if isinstance(payloads, str | bytes | Mapping):
            raise PayloadError(
                f"send_many takes a list of payloads, not one {type(payloads).__name__}; use send() for that"
            )
        if not isinstance(payloads, Iterable):
            raise PayloadError(
                f"send_many takes payloads to go through, not {type(payloads).__name__}; use send() for one"
            )
        expires_at = None if expires is None else check_expires(expires, 0.0, self.clock)
        tasks = list(_as_tasks(payloads, expires_at, check_encoder(encoder)))
        self.publish_many(queue, [message for message, _ in tasks], timeout=publish_timeout)
        return [task_id for _, task_id in tasks]


def longest_wait(client: Producing, seconds: float | None) -> float:
    """How many seconds a message may be under way: those of its caller, or without them what the client takes."""
    return max(client.patience, _LEAST_PATIENCE) if seconds is None else seconds


def task_message(
    payload: object,
    clock: Clock,
    *,
    task_id: str | None,
    delay: float,
    headers: Mapping[str, str] | None,
    expires: float | datetime | None,
    encoder: Encoder | None,
) -> tuple[Message, str]:
    """The message of a task and its id, from the arguments of ``send``; ``clock`` is that of the client.

    Raises:
        The errors of ``send``.
    """
    return Message.for_task(
        payload,
        task_id=task_id,
        headers=headers,
        expires_at=None if expires is None else check_expires(expires, check_delay(delay), clock),
        encoder=None if encoder is None else check_encoder(encoder),
    )


def _as_tasks(
    payloads: Iterable[object], expires_at: float | None, encoder: Encoder | None
) -> Iterator[tuple[Message, str]]:
    for position, payload in enumerate(payloads):
        try:
            yield Message.for_task(payload, expires_at=expires_at, encoder=encoder)
        except PayloadError as exc:
            raise PayloadError(f"payload {position} of send_many, of which nothing was sent: {exc}") from exc
