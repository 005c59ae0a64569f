"""What a client does for workers: taking messages and settling them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from qbridge_core.contract.checks import check_count, check_queue_name, check_wait, check_wanted
from qbridge_core.contract.message import Delivery
from qbridge_core.contract.turns import Waits, receive_in_turn
from qbridge_core.errors import QBridgeError

if TYPE_CHECKING:
    from qbridge_core.contract.dead_letter import Failure


class Consuming(ABC):
    """Takes messages from queues, and tells the broker what became of them."""

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
        ``wake_receive_any`` was called. ``unsubscribe`` for one of the queues may end it too. Several threads may do it
        at once, each for other queues. The default asks each
        queue in its turn. A backend that can waits for all of them at once, with as many threads and connections as
        for one.

        Args:
            wanted: the names of the queues, and how many messages of each one to take at most.
            timeout: as for ``receive``.

        Raises:
            The errors of ``receive``, for the first queue that cannot be read; what came from the others is returned
                instead, or stays there.
            ConfigurationError: ``wanted`` is no mapping of names to whole numbers of at least 1.
        """
        counts, seconds = check_wanted(wanted), check_wait(timeout)
        with self._waits().one(_no_need) as woken:
            return receive_in_turn(self.receive, counts, seconds, woken)

    def wake_receive_any(self) -> None:
        """Have each ``receive_any`` that waits return, or the next one when none does; to call it with other queues.

        Never waits.
        """
        self._waits().wake()

    def _waits(self) -> Waits:
        """Those of ``receive_any``. Made here, since no subclass has to call ``__init__``."""
        waits: Waits = vars(self).setdefault("_waits_for_any", Waits())
        return waits

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
            What going through ``deliveries`` raises, as it is.
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


def _no_need() -> None:
    """The event is enough."""
