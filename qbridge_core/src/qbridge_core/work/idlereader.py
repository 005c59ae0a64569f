"""One thread of each client that waits for the messages of many queues at rest, in the place of one for each.

It is for the readers of coroutines, which have nothing else to do. One whose queue rests ends its thread and leaves the
queue here; the first message, or whatever else there is to do for it, has it start a thread again. As long as it is
here, it has asked for messages as far as anybody can tell: what pauses its queue waits until the wait is over, what
ends it too, and a probe sees this thread turn.
"""

from __future__ import annotations

import threading
import time
import weakref
from collections.abc import Collection, Sequence
from typing import Final, Protocol

from qbridge_core.contract.client import QueueClient
from qbridge_core.contract.message import Delivery
from qbridge_core.runtime.clock import monotonic
from qbridge_core.runtime.endurance import Endurance
from qbridge_core.runtime.logs import logger
from qbridge_core.work.perclient import PerClient

_log: Final = logger("qbridge.worker")
_LONGEST: Final = 30.0
_AGAIN: Final = 0.05
_PAUSE: Final = 60.0
"""Seconds after an error for which each has its own thread."""


class Sleeper(Protocol):
    """Who has left its queue here.

    Attributes:
        queue: the queue.
    """

    queue: str

    def may_sleep(self, seconds: float) -> bool:
        """Whether it has nothing else to do; the calling thread waits for it, for so many seconds at most."""
        ...

    def wake(self, batch: Sequence[Delivery]) -> None:
        """Go on by itself, with what has come. Never waits, never raises."""
        ...


class IdleReader:
    """The thread, which is there as long as somebody sleeps. Thread-safe.

    Args:
        client: the broker.
    """

    def __init__(self, client: QueueClient) -> None:
        self._client = client
        self._lock = threading.Lock()
        self._sleepers: dict[str, Sleeper] = {}
        self._known: Collection[str] = ()
        self._turned = threading.Condition(self._lock)
        self._is_running = False
        self._rests_until = 0.0
        self._endurance = Endurance("waiting for the messages of idle queues")

    def add(self, sleeper: Sleeper) -> bool:
        """Wait for its messages from now on; False when it has to do so itself. Returns when they are waited for."""
        queue = sleeper.queue
        with self._lock:
            if queue in self._sleepers or monotonic() < self._rests_until:
                return False
            if not self._is_running:
                try:
                    threading.Thread(target=self._run, name="qbridge-idle-reader", daemon=True).start()
                except RuntimeError:  # the system has no thread left
                    return False
                self._is_running = True
            self._sleepers[queue] = sleeper
        while not self._is_waited_for(queue):  # again and again: somebody else's wait may be the one that is ended
            pass
        return True

    def _is_waited_for(self, queue: str) -> bool:
        try:
            self._client.wake_receive_any()
        except Exception:  # noqa: BLE001 - the wait ends by itself
            _log.exception("the wait for the messages of idle queues cannot be ended")
        with self._turned:
            return self._turned.wait_for(lambda: queue in self._known or queue not in self._sleepers, _AGAIN)

    def _run(self) -> None:
        is_over = False
        while not is_over:
            with self._endurance:
                is_over = not self._turn()
                continue
            time.sleep(_AGAIN)  # something unexpected was raised

    def _turn(self) -> bool:
        """Wait once; False when nobody sleeps any more, and the thread is to end."""
        if not (queues := self._next()):
            return False
        came: Sequence[Delivery] = ()
        try:
            came = self._client.receive_any(dict.fromkeys(queues, 1), _LONGEST)
        except BaseException as exc:  # noqa: BLE001 - each of them finds out by itself what is wrong
            _log.debug("cannot wait for the messages of idle queues: %s", exc)
            self._rests_until = monotonic() + _PAUSE
            self._wake(queues, came)
        else:
            self._wake({delivery.queue for delivery in came}, came)
        return True

    def _next(self) -> Collection[str]:
        """What to wait for; nothing when nobody sleeps any more, and the thread is to end."""
        while True:
            with self._turned:
                busy = [queue for queue, one in self._sleepers.items() if not one.may_sleep(_LONGEST)]
                if not busy:
                    self._known = list(self._sleepers)
                    self._is_running = bool(self._known)
                    self._turned.notify_all()
                    return self._known
            self._wake(busy, ())

    def _wake(self, queues: Collection[str], came: Sequence[Delivery]) -> None:
        for queue in queues:
            with self._lock:
                sleeper = self._sleepers.pop(queue)
            sleeper.wake([delivery for delivery in came if delivery.queue == queue])


_readers: Final = PerClient(lambda client: IdleReader(weakref.proxy(client)))


def fall_asleep(client: QueueClient, sleeper: Sleeper) -> bool:
    """Leave a queue to the reader of its client; see :meth:`IdleReader.add`."""
    return _readers.of(client).add(sleeper)


def stir(client: QueueClient) -> None:
    """Have the reader of a client look who has something else to do. Never waits; call it again until it has."""
    client.wake_receive_any()
