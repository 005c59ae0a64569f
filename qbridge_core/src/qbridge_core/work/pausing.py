"""Has a session rest while its queue is paused: nothing is taken, what has not begun goes back, what runs goes on."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Final, Protocol

from qbridge_core.contract.client import QueueClient
from qbridge_core.contract.message import Delivery
from qbridge_core.errors import QBridgeError
from qbridge_core.runtime.logs import logger
from qbridge_core.work import pauses
from qbridge_core.work.dispatcher import Dispatcher

if TYPE_CHECKING:
    from qbridge_core.work.poison.isolation import Isolation
    from qbridge_core.work.pooled.reading import PoolReader

_log: Final = logger("qbridge.worker")
_REST_POLL: Final = 0.05


class Taker(Protocol):
    """What takes the messages of a queue: a dispatcher, which describes it, or a part of one."""

    @property
    def closed(self) -> bool:
        """Nothing is taken any more."""
        ...

    def open(self) -> None:
        """Start the consumer."""
        ...

    def hold(self) -> None:
        """Let nobody ask for more. Waits for nothing."""
        ...

    def rest(self) -> list[Delivery]:
        """End the consumer; return what nobody has taken, when nobody asks for more."""
        ...

    def go_on(self) -> None:
        """Start the consumer again."""
        ...


class QueueOfPool:
    """One queue of those that a dispatcher reads.

    Args:
        client: the broker.
        queue: the queue.
        dispatcher: takes its messages and those of the others.
        reader: asks for them.
    """

    def __init__(self, client: QueueClient, queue: str, dispatcher: Dispatcher, reader: PoolReader) -> None:
        self._client = client
        self._queue = queue
        self._dispatcher = dispatcher
        self._reader = reader

    @property
    def closed(self) -> bool:
        """Nothing is taken any more, of no queue."""
        return self._dispatcher.closed

    def open(self) -> None:
        """Start the consumer."""
        self._reader.open(self._queue)

    def hold(self) -> None:
        """Let nobody ask for more of this queue. Waits for nothing."""
        self._reader.close(self._queue)

    def rest(self) -> list[Delivery]:
        """End the consumer; return what nobody has taken of this queue, the last first."""
        self._reader.unsubscribe([self._queue])
        while self._reader.is_asking(self._queue) and not self.closed:
            time.sleep(_REST_POLL)
            self._reader.unsubscribe([self._queue])
        return self._dispatcher.take_all_of(self._queue)

    def go_on(self) -> None:
        """Start the consumer again, and have the one that waits for the other queues wait for this one too."""
        try:
            self._reader.open(self._queue)
        except QBridgeError as exc:  # whoever reads is told, too
            _log.debug("subscribe after a pause: %s", exc)
        if self.closed:
            self._reader.end()
        self._client.wake_receive_any()


class Pausing:
    """The rest of one session. Thread-safe.

    Args:
        client: tells which queues are paused, where it can.
        queue: the input queue.
        taker: takes its messages.
        isolation: takes its suspects, if anything does.
        give_back: hands back what no worker has begun.

    Attributes:
        queue: as above.
        is_paused: whether the queue was paused when somebody looked last.
        rests: nothing more is taken because of that.
    """

    def __init__(
        self,
        client: QueueClient,
        queue: str,
        taker: Taker,
        isolation: Isolation | None,
        give_back: Callable[[Sequence[Delivery]], None],
    ) -> None:
        self.queue = queue
        self.is_paused = False
        self.rests = False
        self._client = client
        self._taker = taker
        self._isolation = isolation
        self._give_back = give_back
        self._follows = client.capabilities.pause
        self._following = threading.Lock()

    def begin(self) -> None:
        """Start the consumer, unless the queue is paused: then as soon as it is not.

        Raises:
            QBridgeError: it cannot be started.
        """
        if self._follows:
            pauses.begin(self._client, self)
        with self._following:
            self.rests = self.is_paused  # one look: what is told from now on is followed after this
            if not self.rests:
                self._taker.open()

    def end(self) -> None:
        """Nothing is taken any more in any case."""
        if self._follows:
            pauses.end(self._client, self)

    def tell(self, paused: bool) -> bool:
        """Note whether the queue is paused; True when ``follow`` is to be called. What runs is none of its business.

        That is so when it is news, and again as long as it could not be followed.
        """
        if paused == self.is_paused:
            return self.rests != paused and not self._following.locked()
        self.is_paused = paused
        if paused:
            self._taker.hold()
        if self._isolation is not None:
            self._isolation.rests = paused
        _log.info(
            "the queue %s is paused: nothing more is taken from it until it is resumed" if paused
            else "the queue %s is resumed", self.queue, extra={"qbridge_queue": self.queue},
        )  # fmt: skip
        return True

    def follow(self) -> None:
        """Rest, or go on; may be called by several threads, and whoever comes last sees to what was told last."""
        with self._following:
            while self.rests != self.is_paused and not self._taker.closed:
                if self.is_paused:
                    self._rest()
                    self.rests = True
                else:
                    self._go_on()
                    self.rests = False

    def _rest(self) -> None:
        if left := self._taker.rest():
            self._give_back(left)

    def _go_on(self) -> None:
        self._taker.go_on()
        if self._isolation is not None:
            self._isolation.side_queue.moved()  # by others meanwhile, perhaps
