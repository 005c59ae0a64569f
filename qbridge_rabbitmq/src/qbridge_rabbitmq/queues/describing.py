"""What there is to tell of queues beyond their counts: as AMQP tells it, and where it may be asked, the management API.

AMQP does not show a ready message without taking it, which marks it as
delivered, so nobody looks how old one is. The API knows the timestamp of the first message in a classic queue, where
its producer has set one; and rates, which it measures every few seconds (rabbitmq.com/docs/management).
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any, Final

from pika import exceptions

from qbridge_core.backend import (
    BrokerUnavailableError,
    QueueStats,
    default_dead_letter_queue,
    list_queues,
    logger,
    monotonic,
)
from qbridge_rabbitmq.amqp import errors, headers
from qbridge_rabbitmq.queues import delays
from qbridge_rabbitmq.queues.comparison import passive_queue
from qbridge_rabbitmq.queues.declarations import Declarations
from qbridge_rabbitmq.queues.management import Management, ManagementError
from qbridge_rabbitmq.queues.requests import Requests, Steps

_log: Final = logger("qbridge.rabbitmq")
_MAX_NAME: Final = 255  # bytes of a short string (AMQP 0-9-1)
_PAUSE: Final = 10.0
ALWAYS: Final = frozenset({"dead", "consumers"})
WITH_MANAGEMENT: Final = ALWAYS | {"in_rate", "out_rate", "unsettled"}
"""The fields of ``QueueStats`` that are filled in."""


class Describing:
    """Looks at the queues of one client. Thread-safe.

    Args:
        declarations: what the client has declared.
        api: the management API, where it may be asked.
    """

    def __init__(self, declarations: Declarations, api: Management | None) -> None:
        self._declarations = declarations
        self._api = api
        self._missing: dict[str, float] = {}  # until when a dead-letter queue is not looked for again
        self._ask_at = 0.0

    def stats(self, requests: Requests, queue: str, counts: QueueStats, route: str | None = None) -> QueueStats:
        """Add the letters to the counts of a queue.

        Args:
            requests: ask the broker.
            queue: the queue.
            counts: what is known of it.
            route: where its letters go, for one that was not declared with a dead-letter queue.
        """
        declared = self._declarations.declared()
        named = declared.get(queue) or route
        dead = named or default_dead_letter_queue(queue)
        # Where the default name is too long for a queue there is none.
        letters = requests.call(f"queue {queue!r}", self._letters(dead)) if len(dead.encode()) <= _MAX_NAME else None
        if letters is None and (named or queue in declared):
            letters = 0
        return replace(counts, dead=letters)

    def describe(self, requests: Requests, queue: str, counts: QueueStats) -> QueueStats:
        """Add to the counts of a queue what else there is to tell."""
        told = self._told(queue)
        traffic = told.get("message_stats") or {}
        return replace(
            self.stats(requests, queue, counts, _route(told)),
            oldest_age=_age(told, counts.ready),
            in_rate=_rate(traffic, "publish_details") if told else None,
            out_rate=_rate(traffic, "ack_details") if told else None,
            unsettled=int(told.get("messages_unacknowledged") or 0) if told else None,
        )

    def queues(self) -> dict[str, str | None]:
        """The queues that this client has declared; all of the virtual host where the API may be asked.

        Raises:
            BrokerUnavailableError: it does not answer.
        """
        declared = self._declarations.declared()
        dead_letter_queues = {queue: dead for queue, dead in declared.items() if dead}
        names = {*declared, *dead_letter_queues.values()}
        if self._api is not None:
            try:
                rows = self._api.queues()
            except ManagementError as exc:
                raise BrokerUnavailableError(
                    f"the queues cannot be listed: the management API of RabbitMQ at {self._api}: {exc}"
                ) from exc
            names.update(_names(rows))
            dead_letter_queues = {row["name"]: route for row in rows if (route := _route(row))} | dead_letter_queues
        return list_queues(names, dead_letter_queues)

    def _letters(self, dead: str) -> Steps[int | None]:
        """The letters in a dead-letter queue; ``None`` when that is missing."""
        # Asking for a missing queue is an error line in the broker's log: not each time that a dashboard is drawn.
        if monotonic() < self._missing.get(dead, 0.0) and not self._declarations.is_unlimited(dead):
            return None
        try:
            answer = yield passive_queue(dead)
        except exceptions.ChannelClosedByBroker as exc:
            if not errors.is_missing(exc):
                raise
            self._missing[dead] = monotonic() + _PAUSE
            return None
        return int(answer.method.message_count)

    def _told(self, queue: str) -> Mapping[str, Any]:
        """What the API says of a queue; after it has failed it is not asked for a while, and the log says so once."""
        if self._api is None or monotonic() < self._ask_at:
            return {}
        try:
            told = self._api.queue(queue)
        except ManagementError as exc:
            is_news, self._ask_at = not self._ask_at, monotonic() + _PAUSE
            if is_news:
                _log.warning("RabbitMQ's management API at %s tells nothing of queues: %s", self._api, exc)
            return {}
        self._ask_at = 0.0
        return told


def _names(rows: Iterable[Mapping[str, Any]]) -> set[str]:
    """Those that are queues to QBridge: no streams, no locks, no delays."""
    return {
        row["name"]
        for row in rows
        if row.get("type") != "stream" and not row.get("exclusive") and not delays.is_internal(row["name"])
    }


def _route(row: Mapping[str, Any]) -> str | None:
    """Where the broker itself sends what it takes out of a queue."""
    arguments = row.get("arguments") or {}
    if arguments.get("x-dead-letter-exchange") != "":
        return None
    route = arguments.get("x-dead-letter-routing-key")
    return route if isinstance(route, str) and not delays.is_internal(row["name"]) else None


def _age(told: Mapping[str, Any], ready: int) -> float | None:
    if not told:
        return None
    if not ready:
        return 0.0
    sent = told.get("head_message_timestamp")
    if not isinstance(sent, int | float):
        return None
    return max(0.0, time.time() - (sent if sent <= headers.LAST_SECOND else sent / 1000))


def _rate(traffic: Mapping[str, Any], name: str) -> float:
    return float((traffic.get(name) or {}).get("rate") or 0.0)
