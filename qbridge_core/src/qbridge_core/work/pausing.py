"""Has a session rest while its queue is paused: nothing is taken, what has not begun goes back, what runs goes on."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Final

from qbridge_core.contract.client import QueueClient
from qbridge_core.contract.message import Delivery
from qbridge_core.runtime.logs import logger
from qbridge_core.work import pauses
from qbridge_core.work.dispatcher import Dispatcher
from qbridge_core.work.poison.isolation import Isolation

_log: Final = logger("qbridge.worker")


class Pausing:
    """The rest of one session. Thread-safe.

    Args:
        client: tells which queues are paused, where it can.
        queue: the input queue.
        dispatcher: takes its messages.
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
        dispatcher: Dispatcher,
        isolation: Isolation | None,
        give_back: Callable[[Sequence[Delivery]], None],
    ) -> None:
        self.queue = queue
        self.is_paused = False
        self.rests = False
        self._client = client
        self._dispatcher = dispatcher
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
                self._dispatcher.open()

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
            self._dispatcher.gate.shut()
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
            while self.rests != self.is_paused and not self._dispatcher.closed:
                if self.is_paused:
                    self._rest()
                    self.rests = True
                else:
                    self._go_on()
                    self.rests = False

    def _rest(self) -> None:
        if left := self._dispatcher.rest():
            self._give_back(left)

    def _go_on(self) -> None:
        self._dispatcher.go_on()
        if self._isolation is not None:
            self._isolation.side_queue.moved()  # by others meanwhile, perhaps
