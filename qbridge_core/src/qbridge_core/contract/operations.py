"""What a client does for those who operate queues: counting, emptying, and dead letters taken in hand."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Collection, Iterable, Mapping
from contextlib import suppress
from typing import TYPE_CHECKING

from qbridge_core.contract.checks import check_queue_name, check_replay
from qbridge_core.contract.consuming import Consuming
from qbridge_core.contract.headers import SOURCE_QUEUE, meta_text
from qbridge_core.contract.holding import Holding
from qbridge_core.contract.message import Delivery, QueueStats
from qbridge_core.contract.producing import Producing
from qbridge_core.contract.replay import replay_letters
from qbridge_core.errors import UnroutableError, UnsupportedError

if TYPE_CHECKING:
    from qbridge_core.contract.dead_letter import DeadLetter

_PAGE = 100


class Operations(Producing, Consuming, Holding):
    """Looks at queues and dead letters, and moves or deletes what is there."""

    # ------------------------------------------------------------------ queues

    @abstractmethod
    def stats(self, queue: str) -> QueueStats:
        """Count the messages of a queue, and say how many letters and consumers it has and how old the oldest one is.

        A queue that does not exist has none, and is not created. What is due counts as ready, whether somebody
        receives it or not. The counts are exact where ``exact_stats`` is claimed; ``dead``, ``consumers`` and
        ``oldest_age`` are told where ``capabilities.details`` names them.

        Raises:
            BrokerUnavailableError: no connection.
        """

    def count(self, queue: str) -> QueueStats:
        """Count the messages of a queue as ``stats`` does, and ask the broker for nothing else but ``paused``.

        For whoever counts again and again, as workers do. The default calls ``stats``.

        Raises:
            BrokerUnavailableError: no connection.
        """
        return self.stats(queue)

    def _occupied(self, queues: Collection[str]) -> set[str]:
        """Those of these queues that ``count`` would say have something ready or in flight, and perhaps some others.

        For workers, which look into a thousand queues that hardly ever have anything; with a backend that can tell so
        of many queues at once, the others need not be counted. The default says so of all.

        Raises:
            QBridgeError: nobody can tell now.
        """
        return set(queues)

    def describe(self, queue: str) -> QueueStats:
        """Tell what ``stats`` tells, and what else the broker knows of the queue: see ``QueueStats``.

        For people and dashboards: it may ask for more, and elsewhere, than ``stats`` does. The default calls ``stats``.

        Raises:
            BrokerUnavailableError: no connection.
        """
        return self.stats(queue)

    def queues(self) -> dict[str, str | None]:
        """List the queues of QBridge's, by name, each with its dead-letter queue as far as that is known.

        Dead-letter queues are queues, too. What QBridge keeps for itself (side queues of suspects, delays) is left out.
        How far a client sees is up to the broker: see the backend; those that it has declared are there in any case.

        Raises:
            UnsupportedError: the backend cannot tell.
            BrokerUnavailableError: no connection.
        """
        raise UnsupportedError(f"{type(self).__name__} cannot list queues")

    def purge(self, queue: str, *, delayed: bool = False) -> int:
        """Delete the ready messages of a queue (a dead-letter queue too), and what is due; return how many.

        Deliveries in flight, letters that a consumer holds too, and delayed messages stay. A queue that does not exist
        has none to delete. The default receives and acknowledges them.

        Args:
            queue: the queue.
            delayed: delete the delayed messages of the queue instead, those that were sent with a delay and those that
                wait to be retried. What is ready stays then, and so may one that becomes due meanwhile.

        Raises:
            BrokerUnavailableError: no connection.
            UnsupportedError: ``delayed`` without the capability ``purge_delayed``.
        """
        if delayed:
            raise UnsupportedError(f"{type(self).__name__} cannot delete the delayed messages of {queue!r}")
        purged = 0
        with suppress(UnroutableError):
            while batch := self.receive(queue, _PAGE, 0.0):
                for delivery in batch:
                    self.ack(delivery)
                purged += len(batch)
        self.flush()
        return purged

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
        from qbridge_core.contract.letters import check_after  # here, for few look at letters

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
        At most as many as were there at the start (as ``count`` counts them, which may be too few where ``exact_stats``
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
        from qbridge_core.contract.letters import check_choice  # as above

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
        from qbridge_core.contract.letters import check_letters  # as above

        check_queue_name(dead_letter_queue)
        check_letters(letters)
        raise self._cannot_choose(dead_letter_queue)

    def import_letters(self, dead_letter_queue: str, letters: Iterable[DeadLetter]) -> int:
        """Put letters into a dead-letter queue as they lie in another one, here or at another broker; return how many.

        They come to its end in their order, all confirmed on return, and are listed, replayed and edited as those they
        were made from; their ids are others. A header whose value is no text stays what it is where the broker has such
        values, and becomes the JSON text of it where not. All are held in memory: give a hundred at a time. Nothing is
        moved: the letters that these were made from are where they were, and whoever imports twice has them twice.

        Args:
            dead_letter_queue: where to; an existing queue.
            letters: what ``dead_letters`` has listed, or made from that.

        Raises:
            ConfigurationError: ``letters`` are no letters; nothing is there.
            PayloadError: this broker cannot keep one of them; nothing is there.
            MessageTooLargeError: one is larger than what this broker takes; some may be there.
            UnsupportedError: without the capability ``imports``.
            The errors of ``publish``, for the first that failed; others of the call may be there.
        """
        from qbridge_core.contract.imports import check_imports  # as above

        check_queue_name(dead_letter_queue)
        check_imports(letters)
        raise UnsupportedError(f"{type(self).__name__} cannot put letters into {dead_letter_queue!r} as they were")

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
