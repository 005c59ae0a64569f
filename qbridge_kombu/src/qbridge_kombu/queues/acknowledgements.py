"""Acknowledgements: noted at once, and sent together by the thread that settles."""

from __future__ import annotations

import threading
from collections import deque
from contextlib import suppress
from itertools import islice
from typing import Final

from qbridge_core.backend import GrowingPause, monotonic
from qbridge_kombu.state.context import Context
from qbridge_kombu.state.in_flight import Tag
from qbridge_kombu.transports.session import KombuSession

_FIRST_PAUSE: Final = 0.1
_LONGEST_PAUSE: Final = 5.0
_LOOK: Final = 0.01


class Acknowledgements:
    """What is to be removed from the broker. Thread-safe; nothing waits for it but ``flush``.

    What was received through a session that is lost is remembered as finished with: the broker delivers it again, and
    it is acknowledged then.
    """

    def __init__(self, context: Context) -> None:
        self._context = context
        self._lock = threading.Lock()
        self._waiting: dict[str, deque[Tag]] = {}
        self._sending: set[str] = set()
        self._pause = GrowingPause(_FIRST_PAUSE, _LONGEST_PAUSE)
        self._timer: threading.Timer | None = None

    def add(self, tag: Tag) -> None:
        """Have it sent soon."""
        if self._context.transport.instant_acknowledge:
            self._context.in_flight.settled(tag)
            return
        with self._lock:
            self._waiting.setdefault(tag.queue, deque()).append(tag)
            starts = tag.queue not in self._sending
            self._sending.add(tag.queue)
        if starts:
            self._post(tag.queue)

    def flush(self, seconds: float) -> bool:
        """Whether all has been sent within so many seconds."""
        deadline = monotonic() + seconds
        while self._is_waiting():
            left = deadline - monotonic()
            if left <= 0:
                return False
            self._send_again()
            threading.Event().wait(min(_LOOK, left))
        return True

    def stop(self) -> None:
        """Send nothing more."""
        with self._lock:
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None

    def _is_waiting(self) -> bool:
        with self._lock:
            return bool(self._sending) or any(self._waiting.values())

    def _post(self, queue: str) -> None:
        context = self._context
        thread = context.settler(queue)
        thread.post(
            lambda session: self._send(session, queue), f"acknowledge in {queue!r}", lambda: self._failed(queue)
        )

    def _send(self, session: KombuSession, queue: str) -> None:
        transport = self._context.transport
        while True:
            with self._lock:
                waiting = self._waiting.get(queue, deque())
                batch = list(islice(waiting, transport.acknowledge_batch))
                if not batch:
                    self._sending.discard(queue)
                    return
            mine = [tag for tag in batch if not transport.bound_to_session or tag.session is session]
            if mine:
                transport.acknowledge(session, mine[0].name, [tag.received for tag in mine])
                transport.confirm_acknowledged(session)  # or what went into the void would run again
            with self._lock:
                for _ in batch:
                    waiting.popleft()
                self._pause.reset()
            for tag in batch:
                self._context.in_flight.settled(tag)

    def _failed(self, queue: str) -> None:
        """The connection was lost, or could not be made: again after a pause."""
        with self._lock:
            self._sending.discard(queue)
            if self._timer is None and not self._context.closing.is_set():
                timer = threading.Timer(self._pause.next(), self._send_again)
                timer.daemon = True
                timer.name = "qbridge-kombu-acknowledgements"
                with suppress(RuntimeError):  # the system has no thread left: the next one, or a flush, sends them
                    timer.start()
                    self._timer = timer

    def _send_again(self) -> None:
        with self._lock:
            self._timer = None
            queues = [queue for queue, waiting in self._waiting.items() if waiting and queue not in self._sending]
            self._sending.update(queues)
        for queue in queues:
            self._post(queue)
