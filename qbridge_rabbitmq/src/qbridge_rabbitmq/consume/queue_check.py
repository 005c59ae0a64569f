"""Is the queue there? Consuming from one that is missing ends the channel, and with it all that is unsettled on it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from qbridge_core.backend import GrowingPause
from qbridge_rabbitmq.connection.io_thread import IOThread

_PAUSES: Final = 0.2, 3.0
Restore = Callable[[str, Callable[[BaseException | None], None]], None]
"""Creates a queue again if it is one of ours, else looks whether it is there; calls back with what is wrong."""


class QueueCheck:
    """Has a queue looked for after a pause, one look at a time. For the I/O thread.

    Args:
        queue: its name.
        io: the I/O thread.
        restore: looks for it.
        answered: called with what is wrong, unless the look was called off.

    Attributes:
        under_way: whether the answer is awaited.
    """

    def __init__(
        self, queue: str, io: IOThread, restore: Restore, answered: Callable[[BaseException | None], None]
    ) -> None:
        self.under_way = False
        self._queue = queue
        self._io = io
        self._restore = restore
        self._answered = answered
        self._number = 0
        self._pause = GrowingPause(*_PAUSES)

    def begin(self, pause: float) -> None:
        """Look after so many seconds."""
        self.call_off()
        self.under_way = True
        number = self._number
        self._io.later(pause, lambda: self._look(number))

    def begin_again(self) -> None:
        """Look after a pause that grows from time to time, until ``succeeded``."""
        self.begin(self._pause.next())

    def succeeded(self) -> None:
        """The queue is there and can be consumed from: the next pause is short again."""
        self._pause.reset()

    def call_off(self) -> None:
        """What was begun is of no interest any more."""
        self._number += 1
        self.under_way = False

    def _look(self, number: int) -> None:
        if number == self._number:
            self._restore(self._queue, lambda error: self._on_answer(number, error))

    def _on_answer(self, number: int, error: BaseException | None) -> None:
        if number == self._number:
            self.under_way = False
            self._answered(error)
