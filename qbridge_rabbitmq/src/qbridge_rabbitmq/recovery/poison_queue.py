"""Hands out the suspects, which run apart, and finds out which of them may have killed their worker.

A message of a side queue is given to one worker. When it comes back, that worker is dead or has lost its connection,
and the broker does not tell which. So whoever runs a suspect holds a lock: an exclusive queue with the message's mark
in its name. It exists as long as the connection that declared it, and the client declares it again when it is connected
again. A message that came back and whose lock stays away for longer than a reconnection takes was held by a worker that
died. (So one that was fetched and may not be run yet stays here: given back it would look like that.) Then a copy goes
to the side queue that counts the death. When the message ran alone, the first one also counts the death for which it
became a suspect, because now it is known whose fault that was; when it may have run beside others (header
``x-qbridge-beside``), it is one more suspicion and no crash.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Final

from qbridge_core.backend import (
    BESIDE,
    CRASHES,
    HISTORY,
    SUSPICIONS,
    Delivery,
    charged_history,
    meta_int,
    monotonic,
)
from qbridge_rabbitmq.amqp import copies, headers
from qbridge_rabbitmq.connection.connections import Connections
from qbridge_rabbitmq.publish.publisher import Publication
from qbridge_rabbitmq.publish.sender import Sender
from qbridge_rabbitmq.queues.locks import Locks
from qbridge_rabbitmq.recovery.lost_deliveries import LostDeliveries
from qbridge_rabbitmq.state.identity import likeness
from qbridge_rabbitmq.state.in_flight import Arrival

_MAX_NAME: Final = 255
_MOST_DOUBTFUL: Final = 1_000


class PoisonQueue:
    """The suspects of one client. ``receive`` is called by one thread at a time for a queue.

    Args:
        connections: the client's.
        locks: those that it has at the broker.
        sender: publishes the copies that count deaths.
        lost: what was in flight when a channel ended.
        fetch: takes one message of a queue, for which it waits so many seconds; none when the time is over.
        hand_out: makes deliveries of what has arrived.
        keep: has a message of a queue received again.
        grace: seconds after which a lock that is missing will not come back.
    """

    def __init__(
        self,
        connections: Connections,
        locks: Locks,
        sender: Sender,
        lost: LostDeliveries,
        fetch: Callable[[str, float], list[Arrival]],
        hand_out: Callable[[str, list[Arrival]], list[Delivery]],
        keep: Callable[[str, Arrival], None],
        grace: float,
    ) -> None:
        self._connections = connections
        self._locks = locks
        self._sender = sender
        self._lost = lost
        self._fetch = fetch
        self._hand_out = hand_out
        self._keep = keep
        self._grace = grace
        self._held: dict[str, dict[str, Delivery]] = {}  # by their queue and their lock
        self._holding = threading.Lock()
        self._missing: dict[str, tuple[int, float]] = {}  # in which connection, and since when, a lock was missing

    def receive(self, queue: str, timeout: float) -> list[Delivery]:
        """The next suspect that may run; nothing when there is none, or its worker may yet come back.

        Its lock lasts until it is settled.
        """
        arrival = self._take(queue, timeout)
        deliveries = self._hand_out(queue, [arrival]) if arrival is not None else []
        with self._holding:
            for delivery in deliveries:  # a queue without suspects leaves nothing here
                name = lock_name(queue, headers.read(delivery.tag.properties).mark)
                self._held.setdefault(queue, {})[name] = delivery
        return deliveries

    def _take(self, queue: str, timeout: float) -> Arrival | None:
        """The next suspect that may run, locked."""
        self._release(queue)
        doubtful: dict[str, Arrival] = {}
        try:
            while arrivals := self._fetch(queue, 0.0 if doubtful else timeout):
                (arrival,) = arrivals
                mark = headers.read(arrival.properties).mark
                try:
                    if mark in doubtful:
                        self._put_back(queue, arrival)
                        break
                    if self._may_run(queue, arrival, mark, doubtful):
                        return arrival
                except BaseException:
                    self._put_back(queue, arrival)
                    raise
            return None
        finally:
            for arrival in doubtful.values():
                self._put_back(queue, arrival)
            self._connections.io.wake()

    def _put_back(self, queue: str, arrival: Arrival) -> None:
        if _may_have_run(arrival):
            arrival.channel.give_back(arrival.number)
        elif arrival.channel.lost:
            self._lost.note_unstarted([likeness(queue, arrival.trace)])
        else:
            self._keep(queue, arrival)

    def _may_run(self, queue: str, arrival: Arrival, mark: str, doubtful: dict[str, Arrival]) -> bool:
        if not mark:
            self._replace(queue, arrival, deaths=0)  # without a mark it could not be locked
            return False
        name = lock_name(queue, mark)
        if not _may_have_run(arrival):
            if self._locks.take(name):
                return True
            doubtful[mark] = arrival
        elif self._has_killed(name):
            self._replace(queue, arrival, deaths=1)
        else:
            doubtful[mark] = arrival
        return False

    def _has_killed(self, name: str) -> bool:
        if not self._locks.is_free(name):
            self._missing.pop(name, None)
            return False
        now, connection = monotonic(), self._connections.times_connected
        since = self._missing.get(name)
        if since is None or since[0] != connection:  # after a loss of ours the others too need time to come back
            if len(self._missing) >= _MOST_DOUBTFUL:
                self._missing.clear()
            self._missing[name] = connection, now
            return False
        if now - since[1] < self._grace:
            return False
        self._missing.pop(name, None)  # whoever receives from another queue may have cleared it
        return True

    def _replace(self, queue: str, arrival: Arrival, deaths: int) -> None:
        """Put a copy, which the broker has not delivered yet, in the place of a message."""
        content = headers.read(arrival.properties)
        ours = copies.carried_on(content.meta)
        if deaths and BESIDE in content.meta:
            ours[SUSPICIONS] = meta_int(content.meta, SUSPICIONS) + deaths
        elif deaths:
            # Once a suspect has killed a worker alone, the death that made it a suspect was its doing as well.
            ours[CRASHES] = (meta_int(content.meta, CRASHES) or 1) + deaths
            ours[HISTORY] = charged_history(content.meta, meta_int(ours, CRASHES))
        properties = copies.copy(arrival.properties, ours, most=self._sender.room)
        self._sender.send([Publication("", queue, properties, arrival.body)])
        self._lost.replace(queue, arrival)
        self._connections.io.wake()

    def _release(self, queue: str) -> None:
        """Give back the locks of what is settled; whoever receives from other queues does so for theirs."""
        while (name := self._take_settled(queue)) is not None:
            self._locks.release(name)

    def _take_settled(self, queue: str) -> str | None:
        with self._holding:
            held = self._held.get(queue, {})
            name = next((name for name, delivery in held.items() if _is_settled(delivery.tag)), None)
            if name is not None:
                del held[name]
            return name


def _is_settled(arrival: Arrival) -> bool:
    # One whose connection was lost comes back; until then nobody else must take it for a killer.
    return not (arrival.channel.lost or arrival.channel.is_open(arrival.number))


def _may_have_run(arrival: Arrival) -> bool:
    return arrival.redelivered and not arrival.unstarted


def lock_name(queue: str, mark: str) -> str:
    """The name of the exclusive queue that locks a suspect."""
    name = f"{queue}.run.{mark}"
    return name if len(name.encode()) <= _MAX_NAME else f"qbridge.run.{mark}"
