"""The thread that reads messages for coroutines, as many as slots are free."""

from __future__ import annotations

import threading
from collections.abc import Callable

from qbridge_core.contract.message import Delivery
from qbridge_core.work.dispatcher import Dispatcher
from qbridge_core.work.poison.observer import current_observer
from qbridge_core.work.watch import Bell


class CoroutineFeeder:
    """Reads until the dispatcher closes.

    Attributes:
        hungry: set when it should look whether slots are free.
        ident: the identifier of its thread, while that runs.
        feeding: True until it has ended.

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

    def _feed(self) -> None:
        self.ident = threading.get_ident()
        try:
            current_observer().ready()
            while not self._dispatcher.ending:
                self._read()
        except BaseException as exc:  # noqa: BLE001 - the supervisor raises it
            self._fail(exc)
        finally:
            self.feeding = False
            self.ident = None
            self._bell.notify()

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
