"""The contract between QBridge and a message broker.

A backend subclasses :class:`QueueClient`, implements the eight abstract methods and the ``connected`` property, and
declares in ``capabilities`` what else it can do. ``qbridge_core.testing`` holds the suite that checks it.

**Threads.** Every method may be called from any thread. ``receive`` for one queue is called by one thread at a
time, and ``receive_any`` too, which counts as a ``receive`` for each of its queues; all other methods may be called
while they block.

**Delivery.** A delivery belongs to the client that received it until it is settled, once, by ``ack`` or ``reject``;
the first settlement counts and later ones do nothing. What is unsettled when the client disconnects, or when its
process dies, is delivered again by the broker, at once and uncounted in the first case. While its client lives and is
connected, a delivery stays its own, however long its task takes: a lease is renewed.

**Before ``connect`` and after ``disconnect``** each call that needs the broker raises
:class:`~qbridge_core.errors.NotConnectedError` at once; ``unsubscribe``, ``subscribe`` and ``flush`` may do nothing
instead. A delivery from before a ``disconnect`` is not the client's any more: settling it raises
:class:`~qbridge_core.errors.DeliveryLostError` or, where the backend can, is carried out. What was declared is
remembered over ``disconnect`` and ``connect``. A client belongs to the process that connected it: in a forked child it
is not connected, and nothing that the child does with it reaches its parent's connection.

**Connection loss.** A connected client finds its connection again by itself, with backoff and for ever, until
``disconnect``. Meanwhile calls raise :class:`~qbridge_core.errors.BrokerUnavailableError` (``receive`` after
waiting for its timeout), and settlements of deliveries that the broker will hand out again raise
:class:`~qbridge_core.errors.DeliveryLostError` or, where the backend can still carry them out, succeed. A broker that
is silent is as good as gone: each call ends in bounded time. Queues that the broker has lost are declared again.

**Message ids** are kept and are no keys: two messages with one id are two messages.

**Errors.** Only errors of :mod:`qbridge_core.errors` cross this boundary, with the driver's as ``__cause__``. No
password is in any of them, in their causes, in a log or in a ``repr``.
"""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from types import TracebackType
from typing import ClassVar, Self

from qbridge_core.contract.capabilities import Capabilities
from qbridge_core.contract.checks import (
    DEFAULT_MAX_MESSAGE_BYTES,
    check_count,
    check_queue_name,
    check_replay,
    check_wait,
    check_wanted,
)
from qbridge_core.contract.dead_letter import DeadLetter, Failure
from qbridge_core.contract.headers import SOURCE_QUEUE, meta_text
from qbridge_core.contract.letters import check_after, check_choice, check_letters
from qbridge_core.contract.message import Delivery, Message, QueueStats, check_message
from qbridge_core.contract.older import refuse_what_is_new
from qbridge_core.contract.replay import replay_letters
from qbridge_core.contract.turns import receive_in_turn
from qbridge_core.errors import PayloadError, QBridgeError, UnroutableError, UnsupportedError

_PAGE = 100
_NO_CAPABILITIES = Capabilities()


class QueueClient(ABC):
    """A connection to one message broker. Create it through :func:`qbridge_core.connect` or a backend's class."""

    logs_outages: ClassVar[bool] = False
    """True when the client itself logs that its connection is lost (one WARNING: what, why, and that it reconnects), a
    reminder each minute, and one INFO line with the duration when it is back. Workers are silent about it then."""
    max_message_bytes: int = DEFAULT_MAX_MESSAGE_BYTES
    """The longest body that ``publish`` takes, an option of each backend; also what a worker with this client takes."""

    def __init_subclass__(cls, **arguments: object) -> None:
        super().__init_subclass__(**arguments)
        refuse_what_is_new(cls)

    @property
    def capabilities(self) -> Capabilities:
        """What this client can do. A class attribute of a backend takes its place, or a property of the instance.

        It may depend on the URL, the options or the server, and is read when the client is connected.
        """
        return _NO_CAPABILITIES

    # ------------------------------------------------------------------ connection

    @property
    @abstractmethod
    def connected(self) -> bool:
        """True between ``connect`` and ``disconnect``, also while a lost connection is being rebuilt."""

    @abstractmethod
    def connect(self) -> None:
        """Connect. Does nothing when already connected. Blocks at most for the backend's connect timeout.

        A broker that does not answer is one that cannot be reached.

        Raises:
            BrokerUnavailableError: the broker cannot be reached.
            AuthenticationError: it refused the credentials or the virtual host.
        """

    @abstractmethod
    def disconnect(self) -> None:
        """Flush the settlements, close, and give unsettled deliveries back to the broker.

        Others get those at once, however long their leases are, and nothing is counted. Never raises for a broker that
        is gone, takes bounded time, and does nothing when not connected. Blocked calls of other threads end at once.
        """

    # ------------------------------------------------------------------ queues

    @abstractmethod
    def declare(self, queue: str, dead_letter_queue: str | None = None) -> None:
        """Create the queue (and its dead-letter queue) where missing, and remember the pair for ``reject``.

        A queue that exists already is used as it is, never changed or deleted. Idempotent; after a reconnect the
        client repeats it by itself. Without a ``dead_letter_queue`` rejected messages go to ``<queue>.dead``, which is
        created when it is first needed. Declared again without one, the pair stays as it is; with another one, that
        counts for what is rejected from then on.

        Raises:
            BrokerUnavailableError: no connection.
            QueueMismatchError: the name is taken by something that cannot serve as a queue.
            ConfigurationError: no queue can have one of the names, or they are the same.
        """

    @abstractmethod
    def stats(self, queue: str) -> QueueStats:
        """Count the messages of a queue; one that does not exist has none, and is not created.

        What is due counts as ready, whether somebody receives it or not. Exact where ``exact_stats`` is claimed.

        Raises:
            BrokerUnavailableError: no connection.
        """

    def purge(self, queue: str) -> int:
        """Delete the ready messages of a queue (a dead-letter queue too); return how many.

        Deliveries in flight, letters that a consumer holds too, and delayed messages stay. A queue that does not exist
        has none to delete. The default receives and acknowledges them.

        Raises:
            BrokerUnavailableError: no connection.
        """
        purged = 0
        with suppress(UnroutableError):
            while batch := self.receive(queue, _PAGE, 0.0):
                for delivery in batch:
                    self.ack(delivery)
                purged += len(batch)
        self.flush()
        return purged

    # ------------------------------------------------------------------ publishing

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

    def publish_many(self, queue: str, messages: Iterable[Message], *, timeout: float | None = None) -> None:
        """Publish messages in order; return once all are confirmed. Backends pipeline this.

        ``timeout`` counts anew for each part of the pipeline, so that a long sequence is no reason to fail.

        Raises:
            The errors of ``publish``, for the first message that failed; others of the call may have been published.
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
    ) -> str:
        """Publish a task: ``payload`` in QBridge's JSON envelope. Return its task id.

        Args:
            queue: name of an existing queue.
            payload: what the handler gets; anything that JSON can say.
            task_id: appears in logs and dead letters; a UUID when missing.
            delay: seconds before it may be delivered.
            headers: the producer's own headers: strings, no names with the prefix ``x-qbridge-``.

        Raises:
            PayloadError: the payload cannot be written as JSON.
            The errors of ``publish``.
        """
        message, task_id = Message.for_task(payload, task_id=task_id, headers=headers)
        self.publish(queue, message.body, headers=message.headers, message_id=message.message_id, delay=delay)
        return task_id

    def send_many(self, queue: str, payloads: Iterable[object]) -> list[str]:
        """Publish one task for each payload, all confirmed on return. Return their task ids in order.

        Raises:
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
        tasks = list(_as_tasks(payloads))
        self.publish_many(queue, [message for message, _ in tasks])
        return [task_id for _, task_id in tasks]

    # ------------------------------------------------------------------ consuming

    @abstractmethod
    def receive(self, queue: str, max_messages: int = 1, timeout: float = 0.0) -> list[Delivery]:
        """Take up to ``max_messages`` ready messages; wait up to ``timeout`` seconds for the first one.

        Returns as soon as at least one message is there; an empty list when the time is over or ``unsubscribe`` was
        called. ``timeout=0`` returns what the broker has ready now.

        Raises:
            BrokerUnavailableError: no connection for the whole timeout.
            NotConnectedError: ``disconnect`` was called.
            UnroutableError: the queue does not exist and was not declared through this client.
            ConfigurationError: ``max_messages`` is no whole number of at least 1, or ``timeout`` no finite number.
        """

    def receive_any(self, wanted: Mapping[str, int], timeout: float = 0.0) -> list[Delivery]:
        """Take ready messages of several queues; wait up to ``timeout`` seconds for the first one.

        Returns as soon as at least one message is there; an empty list when the time is over, or sooner when
        ``wake_receive_any`` or, for one of the queues, ``unsubscribe`` was called. The default asks each queue in its
        turn. A backend that can waits for all of them at once, with as many threads and connections as for one.

        Args:
            wanted: the names of the queues, and how many messages of each one to take at most.
            timeout: as for ``receive``.

        Raises:
            The errors of ``receive``, for the first queue that cannot be read, when nothing came from the others.
            ConfigurationError: ``wanted`` is no mapping of names to whole numbers of at least 1.
        """
        return receive_in_turn(self.receive, check_wanted(wanted), check_wait(timeout), self._woken())

    def wake_receive_any(self) -> None:
        """Have the ``receive_any`` that waits return, or the next one when none does; to call it with other queues.

        Never waits.
        """
        self._woken().set()

    def _woken(self) -> threading.Event:
        """Ends the default's wait. Made here, since no subclass has to call ``__init__``."""
        woken: threading.Event = vars(self).setdefault("_woken_event", threading.Event())
        return woken

    def subscribe(self, queue: str, prefetch: int) -> None:
        """Announce that ``receive`` will be called again and again, with ``prefetch`` messages wanted at once.

        A backend with server push starts its consumer here and may hold up to its prefetch limit of messages that
        ``receive`` has not returned yet. Called again it sets the prefetch anew; it may be called after ``unsubscribe``
        too, after which ``receive`` works as it did before. The default only checks the arguments.

        Raises:
            ConfigurationError: no queue can have this name, or ``prefetch`` is no whole number of at least 1.
        """
        check_queue_name(queue)
        check_count("prefetch", prefetch, 1)

    def check_task_timeout(self, queue: str, seconds: float, workers: int) -> None:  # noqa: B027 - optional
        """Refuse runs that take longer than the broker lets a living worker hold a message; see G11.

        Called before ``subscribe``. A backend that takes nothing from a worker that lives, as the default says, allows
        any length.

        Args:
            queue: a declared queue.
            seconds: how long a run may take.
            workers: how many run at once.

        Raises:
            ConfigurationError: it would be delivered to another worker while it runs; the text says what to change.
        """

    def unsubscribe(self, queue: str) -> None:  # noqa: B027 - optional
        """End what ``subscribe`` began: wake a blocked ``receive`` and give back, uncounted, what it has not returned.

        Deliveries that were returned stay valid. The default does nothing.
        """

    @abstractmethod
    def ack(self, delivery: Delivery) -> None:
        """Settle a delivery: the work is done, the message leaves the broker.

        May be sent a few milliseconds later together with others; ``flush`` and ``disconnect`` send it now. Does
        nothing for a delivery that is settled already.

        Raises:
            DeliveryLostError: the broker took the delivery back and will deliver it again. A backend that can still
                remove the message does that instead: its work is done.
            BrokerUnavailableError: not done, and not put off either; the delivery is still unsettled, so call again.
            NotConnectedError: ``disconnect`` was called.
        """

    @abstractmethod
    def reject(
        self,
        delivery: Delivery,
        requeue: bool = True,
        *,
        delay: float = 0.0,
        failure: Failure | None = None,
        queue: str | None = None,
    ) -> None:
        """Settle a delivery: the work is not done. Returns when the broker holds the message's next state.

        * ``requeue=True`` without ``failure``: hand it back, for now or (with ``delay``) for later; nothing is counted,
          neither attempts nor crashes, and what was counted or suspected before stays. Whether it goes to the front or
          to the end of its queue is the backend's choice. ``queue`` means nothing here.
        * ``requeue=True`` with ``failure``: another attempt after ``delay`` seconds; ``failure.retry_headers()``
          travel with it, and the next delivery shows ``attempts == failure.attempts``. With ``queue`` it goes to that
          queue instead of its own; the queue is created when missing.
        * ``requeue=False``: move it to the dead-letter queue with ``failure.dead_letter_headers()`` (without a
          failure: reason ``rejected`` and what the delivery knows). ``delay`` and ``queue`` mean nothing here.

        A hand-back without ``delay`` needs neither room nor a right that the broker may refuse: where it takes no
        copy, the delivery itself goes back. With ``delivery.noted`` it follows a failure whose copy was refused; a
        client that recognizes the message when it comes again shows that, and what it counts, on the next delivery
        (:meth:`~qbridge_core.contract.message.Delivery.note`). Where nobody recognizes it the failure is not counted.

        Body and producer's headers are kept byte for byte. The copy is confirmed before the original is removed,
        or both happen in one atomic step: a crash in between can duplicate the message and never lose it. Does nothing
        for a delivery that is settled already.

        Raises:
            BrokerUnavailableError, BrokerBlockedError, PublishUnconfirmedError: not done; the delivery is still
                unsettled, so call again later.
            QueueFullError, AuthenticationError, QueueMismatchError, UnroutableError: not done; where it was to go the
                broker refuses it. A worker hands it back instead.
            MessageTooLargeError: not done; no copy with ``failure`` can be written. A worker dead-letters it instead.
            DeliveryLostError: the broker took the delivery back; it will be delivered again.
            UnsupportedError: ``delay`` without the capability.
            NotConnectedError: ``disconnect`` was called.
        """

    def hand_back(self, deliveries: Iterable[Delivery]) -> None:
        """Hand several deliveries back, each as ``reject(delivery)`` does, in their order.

        The default calls that for one after the other. A backend that waits for the broker in ``reject`` can have it
        work on all of them at once: a worker that stops has a second or two for everything that it holds.

        Args:
            deliveries: gone through once; who takes the next one has handed back the one before, or goes on to do all
                together.

        Raises:
            QBridgeError: the first error of ``reject``; the others went back, as far as they can.
        """
        errors: list[QBridgeError] = []
        for delivery in deliveries:
            try:
                self.reject(delivery, requeue=True)
            except QBridgeError as exc:
                errors.append(exc)
        if errors:
            raise errors[0]

    def flush(self, timeout: float = 5.0) -> bool:
        """Send the settlements that were put off; return True when none is left. The default has none.

        Raises:
            ConfigurationError: ``timeout`` is no finite number.
        """
        check_wait(timeout)
        return True

    # ------------------------------------------------------------------ dead letters

    def dead_letters(self, queue: str, limit: int = 100, *, after: DeadLetter | str | None = None) -> list[DeadLetter]:
        """List a dead-letter queue, oldest first, without consuming or reordering it.

        Letters that a consumer holds may be missing. A queue that does not exist has none.

        Args:
            queue: the dead-letter queue.
            limit: at most this many.
            after: a letter, or its id, behind which to begin; the last one of a page gives the next page.

        Raises:
            UnsupportedError: the backend cannot look without consuming, or ``after`` without the capability
                ``letters``.
            LettersGoneError: the letter ``after`` is gone, and the backend cannot tell where it was.
            BrokerUnavailableError: no connection.
            ConfigurationError: the limit is no whole number of at least 0, or ``after`` is neither letter nor id.
        """
        check_after(after)
        raise UnsupportedError(f"{type(self).__name__} cannot list {queue!r} (limit {limit}) without consuming it")

    def replay(
        self,
        dead_letter_queue: str,
        *,
        target: str | None = None,
        limit: int | None = None,
        letters: Iterable[DeadLetter | str] | None = None,
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> int:
        """Send dead letters back to the queue they came from, counters reset; return how many went back.

        A queue that does not exist has none. How often a message was sent back is counted in a header of QBridge's,
        which it keeps on all its ways, where the capability ``letters`` is claimed.
        At most as many as were there at the start (as ``stats`` counts them, which may be too few where ``exact_stats``
        is not claimed), so that letters which fail again at once do not go round. A letter
        is removed only after its copy is confirmed. Letters that a consumer holds stay with it and use up no limit.
        When one cannot be sent back, it and those behind it stay in their order, whether hand-backs go to the front or
        to the end.

        With ``letters`` only those go, in the order of the queue, and the others keep theirs. Killed at any point
        nothing is lost, and one letter at most is there twice. An edited letter is another message: it has a new
        message id, and the id of its task.

        Args:
            dead_letter_queue: where to take them from.
            target: the queue to send all of them to, instead of each one's own source queue.
            limit: at most this many.
            letters: those that ``dead_letters`` has listed, or their ids; an id that is named twice stands for two.
            body: new bytes for the only one that is named.
            headers: new headers for the only one that is named, in place of the producer's.

        Raises:
            ConfigurationError: the target is no queue, or the dead-letter queue itself; the limit is no whole number
                of at least 0; or ``letters``, ``body`` and ``headers`` make no sense together.
            UnsupportedError: ``letters`` without the capability.
            LettersGoneError: some are not there, or a consumer holds them; all others went back.
            UnroutableError: a letter does not say where it came from, or that queue is gone; it stays where it is.
            The errors of ``publish``.
        """
        check_replay(dead_letter_queue, target, limit)
        if check_choice(letters, limit=limit, body=body, headers=headers, most=self.max_message_bytes) is not None:
            raise self._cannot_choose(dead_letter_queue)
        return replay_letters(self, dead_letter_queue, target, limit)

    def delete_letters(self, dead_letter_queue: str, *, letters: Iterable[DeadLetter | str]) -> int:
        """Delete dead letters that are named; return how many there were. The others keep their order.

        Args:
            dead_letter_queue: where they are.
            letters: those that ``dead_letters`` has listed, or their ids; an id that is named twice stands for two.

        Raises:
            ConfigurationError: ``letters`` are no letters.
            UnsupportedError: without the capability ``letters``.
            LettersGoneError: some are not there, or a consumer holds them; all others are deleted.
            BrokerUnavailableError: no connection.
        """
        check_queue_name(dead_letter_queue)
        check_letters(letters)
        raise self._cannot_choose(dead_letter_queue)

    def _cannot_choose(self, queue: str) -> UnsupportedError:
        return UnsupportedError(f"{type(self).__name__} cannot take single letters from {queue!r}")

    def _take_letters(self, queue: str, count: int) -> list[Delivery]:
        """Up to ``count`` letters; none when there are no more."""
        return self.receive(queue, count, 0.0)

    def _replay_one(self, delivery: Delivery, target: str | None) -> None:
        queue = target or meta_text(delivery.meta, SOURCE_QUEUE)
        if not queue:
            raise UnroutableError(
                f"a dead letter in {delivery.queue!r} does not say which queue it came from; give replay a target"
            )
        self._publish_letter(queue, delivery)
        self.ack(delivery)

    def _publish_letter(self, queue: str, delivery: Delivery) -> None:
        """Publish the copy; a backend that can do so without asking for ``max_message_bytes`` does."""
        self.publish(queue, delivery.body, headers=delivery.headers, message_id=delivery.message_id)

    # ------------------------------------------------------------------ context manager

    def __enter__(self) -> Self:
        self.connect()
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.disconnect()


def _as_tasks(payloads: Iterable[object]) -> Iterator[tuple[Message, str]]:
    for position, payload in enumerate(payloads):
        try:
            yield Message.for_task(payload)
        except PayloadError as exc:
            raise PayloadError(f"payload {position} of send_many, of which nothing was sent: {exc}") from exc
