"""What a consumer has brought and nobody has taken.

Messages go from the I/O thread to the taker in the pieces in which they came from the socket: handing over each by
itself would wake the other thread each time, and both would wait for the interpreter's lock most of the time.
"""

from __future__ import annotations

import queue as queues
from collections import deque
from collections.abc import Callable

from qbridge_rabbitmq.state.in_flight import Arrival


class Buffer:
    """Arrivals on their way to one taker. ``take`` is for one thread at a time, ``put`` and ``wake`` for any.

    Attributes:
        size: of the bodies that came lately, about.
        listener: called whenever there is something for the taker, in whatever thread; it must not wait.
    """

    def __init__(self) -> None:
        self._pieces: queues.SimpleQueue[list[Arrival]] = queues.SimpleQueue()
        self._rest: deque[Arrival] = deque()  # of the piece that the taker has begun
        self._gathered: list[Arrival] = []
        self._left: list[Arrival] = []
        self.size = 0
        self.listener: Callable[[], object] | None = None

    @property
    def is_empty(self) -> bool:
        """Whether a taker would wait."""
        return not self._rest and self._pieces.empty()

    def put(self, arrival: Arrival) -> None:
        """Hand over one arrival now."""
        self._hand_over([arrival])

    def wake(self) -> None:
        """End the taker's wait, or its next one."""
        self._hand_over([])

    def _hand_over(self, piece: list[Arrival]) -> None:
        self._pieces.put(piece)
        if (listener := self.listener) is not None:
            listener()

    def take(self, limit: int, timeout: float) -> list[Arrival]:
        """Wait for a piece and take up to ``limit`` arrivals; none when the time is over or something woke the taker.

        What a channel that has ended brought is left out: it comes again.
        """
        items: list[Arrival] = []
        self._take_rest(items, limit)
        try:
            while len(items) < limit:
                waits = timeout > 0 and not items
                self._rest.extend(self._pieces.get(timeout=timeout) if waits else self._pieces.get_nowait())
                self._take_rest(items, limit)
                if waits and not items:
                    break
        except queues.Empty:
            pass
        return items

    def _take_rest(self, items: list[Arrival], limit: int) -> None:
        rest = self._rest
        try:
            while len(items) < limit:
                arrival = rest.popleft()
                if not arrival.channel.lost:
                    items.append(arrival)
        except IndexError:
            pass

    def drain(self) -> list[Arrival]:
        """In any thread: remove and return what was handed over."""
        drained: list[Arrival] = []
        try:
            while True:
                drained.append(self._rest.popleft())
        except IndexError:
            pass
        try:
            while True:
                drained += self._pieces.get_nowait()
        except queues.Empty:
            return drained

    def take_left(self) -> list[Arrival]:
        """In any thread: what nobody has taken before ``leave``; the caller gives it back. Nothing that is lost."""
        left, self._left = self._left, []
        return [arrival for arrival in left if not arrival.channel.lost]

    # ------------------------------------------------------------------ I/O thread

    def gather(self, arrival: Arrival, after_reading: list[Callable[[], None]]) -> None:
        """Hand over an arrival with the others that come in the same piece, at ``release``, which is put there."""
        if not self._gathered:
            after_reading.append(self.release)
        self._gathered.append(arrival)

    def release(self) -> None:
        """Hand over what was gathered."""
        if self._gathered:
            gathered, self._gathered = self._gathered, []
            # Large ones come by themselves: one of a piece tells enough. Growth counts at once, and shrinking slowly.
            size = len(gathered[-1].body)
            self.size = size if size > self.size else self.size - (self.size - size) // 8
            self._hand_over(gathered)

    def leave(self) -> None:
        """Put what nobody has taken aside, since what has brought it ends."""
        self.release()
        self._left += self.drain()
        self.wake()  # one that was meant to wake a receive may have been among them
