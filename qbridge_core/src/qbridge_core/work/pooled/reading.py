"""Reads the queues of a pool: as many messages of each as its weight says, and none waits for one that is empty.

Whoever reads asks the queues for what they have now, each for its share of the free slots. What an empty one does not
need the others get. Only when all are empty it waits for all of them at once.

A consumer of a broker that pushes may hold messages that nobody has asked for. For each queue of a pool that is one,
which ends the wait, or as many as quick tasks need (the client sees to that); what is missing is asked for. When all
slots are busy with long tasks that one message would wait here, though another process could run it: then the consumer
of its queue ends, and begins anew when somebody waits for messages.
"""

from __future__ import annotations

import functools
import threading
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Final

from qbridge_core.contract.client import QueueClient
from qbridge_core.contract.message import Delivery
from qbridge_core.errors import BrokerUnavailableError, NotConnectedError, QBridgeError
from qbridge_core.runtime.aside import aside
from qbridge_core.runtime.clock import monotonic
from qbridge_core.runtime.logs import logger
from qbridge_core.runtime.outage import Outage
from qbridge_core.work.gate import Gate
from qbridge_core.work.pooled.weights import Shares

_log: Final = logger("qbridge.worker")
_LONGEST_WAIT: Final = 1.0
"""Seconds until a queue that cannot be read is tried again."""
_SOON: Final = 0.002
"""Seconds. When all others are empty nobody minds this, and quick tasks need not be asked for one by one."""
_MANY: Final = 20
"""So many messages at once are no sign of long tasks: a consumer brings them quicker than they can be asked for."""
_HELD_FOR: Final = 1.0
"""Seconds for which a message may wait in a consumer, while all slots are busy."""


class PoolReader:
    """What the queues of a pool have. ``receive`` and ``leave`` are for one thread at a time, the rest for any.

    Args:
        client: the broker.
        weights: of the queues.

    Attributes:
        queues: their names.
        gate: keeps everybody from reading while none of them is open.
        failing: why some of them cannot be read, and since when (``monotonic()``).
    """

    def __init__(self, client: QueueClient, weights: Mapping[str, int]) -> None:
        self.queues: Final = tuple(weights)
        self.gate: Final = Gate()
        self.failing: dict[str, tuple[float, Exception]] = {}
        self._client = client
        self._shares = Shares(weights)
        self._all = self._open = frozenset(weights)
        self._asked: frozenset[str] = frozenset()
        self._retry_at: dict[str, float] = {}
        self._outage = Outage()
        self._came_at = dict.fromkeys(weights, 0.0)
        self._consumed: set[str] = set()
        self._opening = threading.Lock()
        self._consuming = {queue: threading.Lock() for queue in weights}
        self._is_over = False
        self._tidying = threading.Lock()

    # ------------------------------------------------------------------ for whoever reads

    def receive(self, count: int, timeout: float) -> list[Delivery]:
        """Take up to ``count`` messages; wait up to ``timeout`` seconds for the first.

        They are in the order in which they should run. After a wait there may be one of each queue.

        Raises:
            NotConnectedError: somebody disconnected the client.
            Exception: none of the queues can be read; this is why the first cannot.
        """
        self._asked = self._all  # before the look: who closes one sees either this, or nobody who asks for it
        queues = self._asked = self._open
        if not queues:
            return []
        now = monotonic()
        batch = self._take(count, {queue for queue in queues if self._retry_at.get(queue, 0.0) <= now})
        if self.failing:
            self._say_what_fails(queues)
        return batch or self._wait(queues, timeout)

    def leave(self) -> None:
        """What ``receive`` has returned is where others look for it."""
        self._asked = frozenset()

    def _take(self, count: int, queues: set[str]) -> list[Delivery]:
        """What is there now."""
        came: dict[str, deque[Delivery]] = {queue: deque() for queue in queues}
        asked = dict.fromkeys(queues, 0)
        left, spent = set(queues), 0
        shares: Mapping[str, int] = {}
        while left:
            shares = shares or self._shares.shares(count - spent, left)
            # In the order of their turns. One that was empty has the first, so what it leaves is known before
            # the others are asked, and each is asked once.
            queue = next((queue for queue, share in shares.items() if share > asked[queue]), None)
            if queue is None:
                break
            missing = shares[queue] - asked[queue]
            asked[queue] = shares[queue]
            is_last = len(left) == 1 < len(queues) and not any(came.values())
            found = self._ask(queue, missing, _SOON if is_last else 0.0)
            came[queue].extend(found)
            if not found:  # one that has less than its share may have more in a moment, and gets the next turns
                left.discard(queue)
                spent += len(came[queue])
                shares = {}
        return self._in_turn(came)

    def _ask(self, queue: str, count: int, patience: float) -> list[Delivery]:
        """What a queue has now.

        Args:
            queue: the queue.
            count: how many at most.
            patience: seconds for which what is on its way may be awaited, before the broker is asked for more.
        """
        try:
            found = self._client.receive(queue, count, patience) if patience else []
            found = found or self._client.receive(queue, count, 0.0)
        except NotConnectedError:
            raise
        except Exception as exc:  # noqa: BLE001 - whatever it is, it is no trouble of the others
            self._note_failure(queue, exc)
            return []
        if self.failing:
            self._note_success(queue)
        if found:
            self._came_at[queue] = monotonic()
            if len(found) >= _MANY:
                self._consume(queue)
        return found

    def _in_turn(self, came: Mapping[str, deque[Delivery]]) -> list[Delivery]:
        left = {queue: found for queue, found in came.items() if found}
        batch: list[Delivery] = []
        while left:
            queue = self._shares.take(left.keys())
            found = left[queue]
            batch.append(found.popleft())
            if not found:
                del left[queue]
        return batch

    def _wait(self, queues: frozenset[str], timeout: float) -> list[Delivery]:
        readable = [queue for queue in self.queues if queue in queues and self._is_readable(queue)]
        if not readable:
            self._retry_at.clear()  # whoever reads makes pauses
            raise next(exc for _, exc in self.failing.values())
        if len(readable) < len(queues):
            timeout = min(timeout, _LONGEST_WAIT)
        if self._is_over:
            return []
        came: dict[str, deque[Delivery]] = {}
        for delivery in self._client.receive_any(dict.fromkeys(readable, 1), timeout):
            came.setdefault(delivery.queue, deque()).append(delivery)
            self._came_at[delivery.queue] = monotonic()
        return self._in_turn(came)

    def _is_readable(self, queue: str) -> bool:
        """Whether it can be waited for; there is a consumer then."""
        if queue in self.failing:
            return False
        try:
            self._consume(queue)
        except NotConnectedError:
            raise
        except QBridgeError as exc:
            self._note_failure(queue, exc)
            return False
        return True

    # ------------------------------------------------------------------ consumers

    def open(self, queue: str) -> None:
        """Read a queue from now on, or again.

        Raises:
            QBridgeError: its consumer cannot begin.
        """
        with self._opening:
            self._open |= {queue}
            self.gate.open()
        self._consume(queue)

    def close(self, queue: str) -> None:
        """Read a queue no more. Waits for nothing."""
        with self._opening:
            self._open -= {queue}
            if not self._open:
                self.gate.shut()

    def is_asking(self, queue: str) -> bool:
        """Whether somebody asks for messages of a queue, or has got some that are not there yet for others."""
        return queue in self._asked

    def end(self) -> None:
        """End all consumers for good, and the wait for messages. May be called again, for a reader that was late."""
        self._is_over = True  # before the locks: who begins a consumer sees this, or it is ended here
        self.unsubscribe(self.queues)

    def unsubscribe(self, queues: Sequence[str]) -> None:
        """End the consumers of these queues, all at once, and the wait for them."""
        helpers = [aside("qbridge-unsubscribe", functools.partial(self._unsubscribe, queue)) for queue in queues[1:]]
        for queue in queues[:1]:
            self._unsubscribe(queue)
        for helper in helpers:
            helper.join()
        self._client.wake_receive_any()

    def _unsubscribe(self, queue: str) -> None:
        try:
            with self._consuming[queue]:
                self._consumed.discard(queue)
                self._client.unsubscribe(queue)
        except QBridgeError as exc:
            _log.debug("unsubscribe: %s", exc)

    def tidy(self) -> None:
        """All slots are busy: give back what consumers have held for a while. Waits for nothing."""
        late = monotonic() - _HELD_FOR
        idle = [queue for queue in list(self._consumed) if self._came_at[queue] < late]
        if idle and self._client.reads_ahead and self._tidying.acquire(blocking=False):
            aside("qbridge-unsubscribe", lambda: self._tidy(idle))

    def _tidy(self, queues: Sequence[str]) -> None:
        try:
            self.unsubscribe(queues)
        finally:
            self._tidying.release()

    def _consume(self, queue: str) -> None:
        if queue not in self._consumed:
            with self._consuming[queue]:
                if not self._is_over:
                    self._client.subscribe(queue, 1)
                    self._consumed.add(queue)

    # ------------------------------------------------------------------ failures

    def _note_failure(self, queue: str, exc: Exception) -> None:
        now = monotonic()
        self._outage.lost(queue)
        since, _ = self.failing.get(queue, (now, exc))
        self.failing[queue] = since, exc
        self._retry_at[queue] = now + _LONGEST_WAIT

    def _note_success(self, queue: str) -> None:
        if self.failing.pop(queue, None) is not None:
            self._retry_at.pop(queue, None)
            self._outage.back(queue)
            _log.info("receiving from %s again", queue, extra={"qbridge_queue": queue})

    def _say_what_fails(self, queues: frozenset[str]) -> None:
        """Once and then each minute; where all fail, whoever reads does it."""
        failing = {queue: exc for queue, (_, exc) in self.failing.items() if queue in queues}
        if len(failing) == len(queues):
            return
        for queue, exc in failing.items():
            said_by_client = self._client.logs_outages and isinstance(exc, BrokerUnavailableError)
            if not said_by_client and self._outage.is_news((queue, type(exc))):
                _log.error(
                    "cannot receive from %s: %s; it is tried again until it works, the other queues are read meanwhile",
                    queue, exc,
                    extra={"qbridge_queue": queue}, exc_info=None if isinstance(exc, QBridgeError) else exc,
                )  # fmt: skip
