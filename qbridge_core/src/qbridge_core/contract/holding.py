"""What a client does with what is held back: delayed messages, taken in hand, and whole queues that are paused."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from qbridge_core.contract.checks import check_queue_name, check_queue_names
from qbridge_core.errors import UnsupportedError

if TYPE_CHECKING:
    from qbridge_core.contract.delayed import DelayedMessage


class Holding:
    """Looks at messages that are not due yet, and lets them go; keeps workers from taking more of a queue."""

    # ------------------------------------------------------------------ queues that are paused

    def pause(self, queue: str) -> None:
        """Have all workers of a queue rest until ``resume``, on every host; does nothing when they do already.

        Within 5 s each ``TaskManager`` with this input queue takes nothing more from it, nor from the queue of suspects
        beside it. What it has read and not begun goes back, uncounted; tasks that run finish and are settled. The mark
        lies in the broker: it outlasts workers, this client, and where the capability ``durable`` is claimed a restart
        of the broker; a worker that starts meanwhile rests from its beginning. A queue can be paused before it exists,
        and is not created by that.

        ``send``, ``receive`` and ``receive_any`` of whoever calls them, ``purge``, ``replay``, and delays that end go
        on as ever.

        Raises:
            UnsupportedError: without the capability ``pause``.
            AuthenticationError: the broker does not permit to leave the mark.
            BrokerUnavailableError, PublishUnconfirmedError: it may be paused or not, or later than in 5 s; call again.
        """
        check_queue_name(queue)
        raise self._cannot_hold("pause the workers", queue)

    def resume(self, queue: str) -> None:
        """Have the workers of a queue take its messages again, within 5 s; does nothing when it is not paused.

        Raises:
            The errors of ``pause``.
        """
        check_queue_name(queue)
        raise self._cannot_hold("resume the workers", queue)

    def paused(self, queues: Iterable[str]) -> set[str]:
        """Which of some queues are paused. Cheap, however many they are: workers ask every two seconds.

        Raises:
            UnsupportedError: without the capability ``pause``.
            ConfigurationError: one of them is no name.
            BrokerUnavailableError: no connection.
        """
        names = check_queue_names(queues)
        raise self._cannot_hold("tell which queues are paused", ", ".join(names))

    # ------------------------------------------------------------------ delayed messages

    def delayed(
        self, queue: str, limit: int = 100, *, after: DelayedMessage | str | None = None
    ) -> list[DelayedMessage]:
        """List the messages of a queue that are held back until they are due, the next one first.

        A queue that does not exist has none.

        Args:
            queue: the queue that they are for.
            limit: at most this many.
            after: a message, or its id, behind which to begin, also when it is gone by now; the last one of a page
                gives the next page.

        Raises:
            UnsupportedError: without the capability ``browse_delayed``.
            LettersGoneError: ``after`` is the id of no delayed message.
            BrokerUnavailableError: no connection.
            ConfigurationError: the limit is no whole number of at least 0, or ``after`` is neither message nor id.
        """
        del limit
        check_queue_name(queue)
        if after is not None:
            from qbridge_core.contract.delayed import check_delayed_id  # here, for few take them in hand

            check_delayed_id(after)
        raise self._cannot_hold("look at delayed messages", queue)

    def release_delayed(self, queue: str, *, messages: Iterable[DelayedMessage | str] | None = None) -> int:
        """Deliver delayed messages now; return how many.

        They keep what was counted of them, and go to the end of their queue in the order in which they were due. No
        message can be lost or doubled by that.

        Args:
            queue: the queue that they are for.
            messages: those that ``delayed`` has listed, or their ids; ``None`` for all that there are.

        Raises:
            ConfigurationError: ``messages`` are no messages.
            UnsupportedError: without the capability ``browse_delayed``.
            LettersGoneError: some are not held back any more, since they were due, or somebody else has released or
                deleted them; all others are done.
            BrokerUnavailableError: no connection.
        """
        check_queue_name(queue)
        if messages is not None:
            from qbridge_core.contract.delayed import check_delayed  # as above

            check_delayed(messages)
        raise self._cannot_hold("release delayed messages", queue)

    def delete_delayed(self, queue: str, *, messages: Iterable[DelayedMessage | str]) -> int:
        """Delete delayed messages that are named; return how many. ``purge(queue, delayed=True)`` deletes all.

        Args:
            queue: the queue that they are for.
            messages: those that ``delayed`` has listed, or their ids.

        Raises:
            The errors of ``release_delayed``.
        """
        from qbridge_core.contract.delayed import check_delayed  # as above

        check_queue_name(queue)
        check_delayed(messages)
        raise self._cannot_hold("delete single delayed messages", queue)

    def _cannot_hold(self, what: str, queue: str) -> UnsupportedError:
        return UnsupportedError(f"{type(self).__name__} cannot {what} of {queue!r}")
