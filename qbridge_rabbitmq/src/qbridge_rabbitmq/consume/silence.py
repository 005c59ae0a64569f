"""How long a consumer has brought nothing: because there is nothing, or because the broker has lost it."""

from __future__ import annotations

from typing import Final

_LONG: Final = 10


class Silence:
    """That of one consumer. For the I/O thread.

    Attributes:
        broken: set with each message, and when the consumer begins.
    """

    def __init__(self) -> None:
        self.broken = False
        self._looks = 0

    def lasts(self) -> bool:
        """Whether nothing has come since the last call, which is made now and then."""
        broken, self.broken = self.broken, False
        if broken:
            self._looks = 0
        return not broken

    def is_long(self) -> bool:
        """Whether the broker has been asked so often about the consumer since it began, this time included."""
        self._looks += 1
        return self._looks >= _LONG

    def end(self) -> None:
        """It is made an end of: what comes next is another one."""
        self._looks = 0
