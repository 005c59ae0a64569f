"""Looks at the messages of a queue without consuming them.

AMQP 0-9-1 has no way to look. So the messages are taken without an acknowledgement on a channel of their own and
given back by closing it. A quorum queue appends what comes back to the messages that came back earlier, which it
delivers before all others: to keep the order, all of those have to be taken, beyond what was asked for.
"""

from __future__ import annotations

import logging
import threading
import time
from typing import Final

from qbridge_core import BrokerUnavailableError, TransientError
from qbridge_rabbitmq import errors, headers
from qbridge_rabbitmq.lane import GetRequest, Lane
from qbridge_rabbitmq.life import Arrival
from qbridge_rabbitmq.publisher import Outgoing
from qbridge_rabbitmq.session import Session
from qbridge_rabbitmq.topology import Topology

_log: Final = logging.getLogger("qbridge.rabbitmq")
_TIMEOUT: Final = 30.0
_SETTLE_TIMEOUT: Final = 2.0
# A quorum queue of RabbitMQ 4 drops a message that came back 20 times, unless it was declared without that limit.
_MANY_RETURNS: Final = 10
# On a classic queue after a crash of the broker all messages look as if they had come back.
_MOST_EXTRA: Final = 2_000


def look(session: Session, topology: Topology, queue: str, limit: int) -> list[Arrival]:
    """Up to ``limit`` messages from the front of a queue; none when it does not exist.

    Raises:
        BrokerUnavailableError: no connection, or it was lost meanwhile.
    """
    what = f"queue {queue!r}"
    ready = session.request(what, topology.count(queue))
    if not ready:
        return []
    lane = session.new_lane(queue)
    request = GetRequest(limit, _MOST_EXTRA)
    session.io.post(lambda: lane.get(request))
    if not request.wait(_TIMEOUT):
        raise BrokerUnavailableError(f"{what}: no answer within {_TIMEOUT:g} s")
    if request.error is not None:
        if errors.is_missing(request.error):
            return []
        raise errors.from_channel(request.error, what) from request.error
    arrivals = request.items
    if not topology.is_unlimited(queue):
        _renew(session, queue, arrivals)
    _give_back(session, topology, lane, arrivals)
    _wait_for_return(session, topology, queue, min(ready, len(arrivals)))
    return arrivals[:limit]


def _give_back(session: Session, topology: Topology, lane: Lane, arrivals: list[Arrival]) -> None:
    closed = threading.Event()

    def close() -> None:
        if lane.life is not None:
            lane.life.flush()
        if topology.server_version >= (4, 3):
            # From here on a closed channel counts as a failed delivery, and a negative acknowledgement does not.
            for arrival in arrivals:
                arrival.life.nack(arrival.number)
        lane.close(closed.set)

    session.io.post(close)
    closed.wait(_SETTLE_TIMEOUT)


def _wait_for_return(session: Session, topology: Topology, queue: str, expected: int) -> None:
    """The queue takes the messages back a moment after the channel was closed; a second look must find them."""
    deadline = time.monotonic() + _SETTLE_TIMEOUT
    while session.request(f"queue {queue!r}", topology.count(queue)) < expected:
        if time.monotonic() > deadline:
            break  # somebody else consumes them
        time.sleep(0.005)


def _renew(session: Session, queue: str, arrivals: list[Arrival]) -> None:
    """Replace messages that came back many times by copies, which the broker counts anew."""
    for arrival in arrivals:
        if headers.delivery_count(arrival.properties) >= _MANY_RETURNS:
            try:
                session.send([Outgoing("", queue, headers.copy_as_is(arrival.properties), arrival.body)])
            except TransientError as exc:
                _log.warning("a message of %r is close to its delivery limit: %s", queue, exc)
                return
            arrival.life.ack(arrival.number)
