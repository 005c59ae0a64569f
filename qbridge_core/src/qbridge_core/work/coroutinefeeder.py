"""The thread that reads messages for coroutines, as many as slots are free.

Where many managers share the process, and nothing comes for one, there is no thread: another one waits for the messages
of all such queues (:mod:`.idlereader`).
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence

from qbridge_core.contract.message import Delivery
from qbridge_core.work.dispatcher import Dispatcher
from qbridge_core.work.idlereader import fall_asleep, stir
from qbridge_core.work.poison.observer import current_observer
from qbridge_core.work.watch import Bell


class CoroutineFeeder:
    """Reads until the dispatcher closes.

    Attributes:
        hungry: set when it should look whether slots are free.
        ident: the identifier of its thread, while that runs.
        feeding: True until it has ended.
        queue: where the messages come from.

    Args:
        dispatcher: has the messages, and the count of the free slots.
        start_suspect: starts the one message that must be started alone, in a slot that is taken for it.
        fill: starts what has been read.
        fail: called with what ends it too early.
        bell: rung when it has ended.
    """

    def __init__(
        self,
        dispatcher: Dispatcher,
        start_suspect: Callable[[Delivery], None],
        fill: Callable[[], None],
        fail: Callable[[BaseException], None],
        bell: Bell,
    ) -> None:
        self.hungry = threading.Event()
        self.ident: int | None = None
        self.feeding = False
        self.queue = dispatcher.source.queue
        self._sleeps = False
        self._dispatcher = dispatcher
        self._start_suspect = start_suspect
        self._fill = fill
        self._fail = fail
        self._bell = bell

    def start(self) -> None:
        """Start the thread.

        Raises:
            RuntimeError: the system has no thread left.
        """
        self.feeding = True
        try:
            threading.Thread(target=self._feed, name="qbridge-feeder", daemon=True).start()
        except RuntimeError:
            self.feeding = False
            raise

    def look(self) -> None:
        """Have it go on by itself when it has more to do than to wait; to be called again and again."""
        if self._sleeps and not self._dispatcher.may_sleep:
            stir(self._dispatcher.source.client)

    def may_sleep(self, seconds: float) -> bool:
        """See :class:`~.idlereader.Sleeper`."""
        self._dispatcher.pulse.turn(seconds)
        return self._dispatcher.may_sleep

    def wake(self, batch: Sequence[Delivery]) -> None:
        """See :class:`~.idlereader.Sleeper`."""
        self._sleeps = False
        try:
            self._dispatcher.wake(batch)
            if batch:
                self._fill()
            if not self._dispatcher.ending:
                self.start()
                return
        except BaseException as exc:  # noqa: BLE001 - as below; or the system has no thread left
            self._fail(exc)
        self.feeding = False
        self._bell.notify()

    def _feed(self) -> None:
        self.ident = threading.get_ident()
        dispatcher = self._dispatcher
        sleeps = False
        try:
            current_observer().ready()
            while not dispatcher.ending and not sleeps:
                self._read()
                sleeps = dispatcher.may_sleep and self._falls_asleep()
        except BaseException as exc:  # noqa: BLE001 - the supervisor raises it
            self._fail(exc)
        finally:
            if not sleeps:
                self.feeding = False
                self.ident = None
                self._bell.notify()

    def _falls_asleep(self) -> bool:
        """Whether the queue is left to others: they may have had it go on, in another thread, when this returns."""
        dispatcher = self._dispatcher
        if not dispatcher.sleep():
            return False
        self.ident, self._sleeps = None, True
        if fall_asleep(dispatcher.source.client, self):
            return True
        self.ident, self._sleeps = threading.get_ident(), False
        dispatcher.wake(())
        return False

    def _read(self) -> None:
        dispatcher = self._dispatcher
        if dispatcher.idle.value <= 0 or dispatcher.has_ready:
            self.hungry.wait()
            self.hungry.clear()
            return
        suspect = dispatcher.feed()
        if suspect is not None:
            self._start_suspect(suspect)
        elif dispatcher.has_ready:
            self._fill()
