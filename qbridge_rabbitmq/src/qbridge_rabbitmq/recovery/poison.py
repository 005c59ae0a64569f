"""Which redelivered messages may have killed a worker.

The broker says that a message was delivered before, and not why it came back. Its worker may have died, so it is a
suspect; running it alone costs time, so those that came back for a reason that can be told are spared:

* what this client had read ahead, or held, when its channel ended (:mod:`qbridge_rabbitmq.recovery.lost_deliveries`
  knows that);
* what comes after this client has lost its connection, for some seconds and then until the first message that is new:
  the broker was restarted, or the network failed, and others have lost theirs too;
* what comes soon after this client has retired a consumer: what was on its way there comes back;
* more than a few hundred in a row from a queue that does not count deliveries: a classic queue that survived a crash
  of the broker says of all its messages that they were delivered before.
"""

from __future__ import annotations

from typing import Final

_AFTERMATH: Final = 10.0
# A quorum queue that comes back may deliver new messages before it notices that its former consumers are gone.
_SETTLING: Final = 5.0
# What a dead worker can have held (``consume.prefetch``) is less; the row ends with a message that is new.
_LONGEST_ROW: Final = 300
# From 4.3 on the second counts all deliveries, and the first one only those that failed.
_COUNTED: Final = (b"x-delivery-count", b"x-acquired-count")


class PoisonRule:
    """Judges the redelivered messages of one queue, for the I/O thread.

    Attributes:
        roused: whether the next new message has to be reported by ``calm``.
    """

    def __init__(self) -> None:
        self.roused = False
        self._aftermath = False
        self._resumed_at = 0.0
        self._until = 0.0
        self._spared_until = 0.0
        self._row = 0

    def connection_lost(self) -> None:
        """The connection, and maybe that of other workers, is lost."""
        self._aftermath = self.roused = True

    def resumed(self, now: float) -> None:
        """Messages can come again."""
        self._resumed_at = now
        self._until = now + _AFTERMATH

    def spare(self, now: float) -> None:
        """A consumer is about to be retired."""
        self._spared_until = now + _AFTERMATH

    def calm(self, now: float) -> None:
        """A message came that was never delivered before."""
        self._row = 0
        if not self._aftermath or now >= self._resumed_at + _SETTLING:
            self.roused = self._aftermath = False

    def blames(self, properties: bytes, now: float) -> bool:
        """Whether a redelivered message that nobody here knows may have killed a worker."""
        if now < self._spared_until:
            return False
        if self._aftermath and now < self._until:
            self._until = now + _AFTERMATH
            return False
        self.roused = True
        self._row = 0 if any(name in properties for name in _COUNTED) else self._row + 1
        return self._row <= _LONGEST_ROW
