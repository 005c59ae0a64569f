"""Repeats what the broker must be made to do, and knows when to stop asking for it.

A broker that cannot be reached, or takes no messages for now, is asked again until it can. One that refuses (a queue is
full, a right is missing, a message is too large) may go on refusing for hours, and whoever waits for that holds what
others could use: after some tries the caller is told, to do something that needs less.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import Final

from qbridge_core.errors import (
    BrokerBlockedError,
    BrokerUnavailableError,
    DeliveryLostError,
    MessageTooLargeError,
    NotConnectedError,
    PublishUnconfirmedError,
    QBridgeError,
    TransientError,
)
from qbridge_core.runtime.logs import logger
from qbridge_core.runtime.outage import Outage
from qbridge_core.runtime.pause import GrowingPause
from qbridge_core.task import foreign
from qbridge_core.task.run import in_words

_log: Final = logger("qbridge.worker")
# With the pauses between them these take one and a half seconds: short enough for the others, and long enough for what
# goes back to the queue and comes again at once not to become a hot loop.
_TRIES: Final = 5
_PASSING: Final = (BrokerUnavailableError, BrokerBlockedError, PublishUnconfirmedError)

Describe = Callable[[], dict[str, object]]
"""The fields that the log shows of a task."""


class RefusedError(Exception):
    """The broker has refused it often enough; the reason is the ``__cause__``."""


class Repeater:
    """Repeats the settlements of one queue. Thread-safe.

    Args:
        queue: its name, for the log.
        give_up: set when the worker must end now; what is not done is then left to the broker.
        repeated: called each time that something is tried again.
        logs_outages: the client says itself when its connection is lost.
    """

    def __init__(
        self, queue: str, give_up: threading.Event, repeated: Callable[[], None], *, logs_outages: bool = False
    ) -> None:
        self._queue = queue
        self._repeated = repeated
        self._give_up = give_up
        self._logs_outages = logs_outages
        self._outage = Outage()

    def repeat(self, action: Callable[[], None], describe: Describe, *, may_refuse: bool = False) -> bool:
        """Repeat an action until it is done; False when the broker will deliver the message again instead.

        Args:
            action: what the broker must be made to do.
            describe: what the log shows of the task.
            may_refuse: there is another way, so that it is repeated only for some seconds when the broker refuses it.

        Raises:
            RefusedError: the broker refuses it.
        """
        try:
            action()
        except Exception as exc:  # noqa: BLE001 - a backend's bug must not end the worker
            return self.insist(exc, action, describe, may_refuse=may_refuse)
        return True

    def insist(
        self, exc: Exception, action: Callable[[], None], describe: Describe, *, may_refuse: bool = False
    ) -> bool:
        """Go on as ``repeat`` does after a first try of the caller's own, which raised this."""
        fields = describe()
        pause, who = GrowingPause(0.1, 5.0), object()
        refusals = 0
        self._outage.lost(who)
        try:
            while True:
                if isinstance(exc, DeliveryLostError | NotConnectedError):
                    _log.warning("%s will be delivered again: %s", in_words(fields), exc, extra=fields)
                    return False
                refusals = 0 if isinstance(exc, _PASSING) else refusals + 1
                if may_refuse and (refusals >= _TRIES or isinstance(exc, MessageTooLargeError)):
                    raise RefusedError from exc
                # A permanent error is repeated too: somebody may put right the queue or the permission that it
                # complains of. And a bug: what is left alone here would be neither settled nor delivered again.
                self._complain(exc, fields, quietly=may_refuse and refusals > 0)
                seconds = pause.next()
                foreign.waits(seconds)
                if self._give_up.wait(seconds):
                    return False
                self._repeated()
                try:
                    action()
                except Exception as again:  # noqa: BLE001 - as above
                    exc = again
                else:
                    return True
        finally:
            self._say_that_it_is_over(self._outage.back(who))

    def _complain(self, exc: Exception, fields: dict[str, object], *, quietly: bool) -> None:
        """Once for all tasks that wait for the same, and then each minute; the client may do so itself."""
        transient, known = isinstance(exc, TransientError), isinstance(exc, QBridgeError)
        said_by_client = self._logs_outages and isinstance(exc, BrokerUnavailableError)
        loud = not quietly and not said_by_client and self._outage.is_news(exc)
        _log.log(
            (logging.WARNING if transient else logging.ERROR) if loud else logging.DEBUG,
            "%s cannot be settled%s: %s; it is tried again until it works",
            in_words(fields), " yet" if transient else "", exc if known else repr(exc),
            exc_info=None if known else exc, extra=fields,
        )  # fmt: skip

    def _say_that_it_is_over(self, seconds: float | None) -> None:
        if seconds is not None and self._outage.was_reported:
            _log.info("no task of %s waits to be settled any more, after %.1f s", self._queue, seconds)
