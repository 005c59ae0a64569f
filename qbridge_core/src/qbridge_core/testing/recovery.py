"""A connection that is lost and comes back: the client finds it again by itself, each time."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from typing import Final, cast

import pytest

from qbridge_core import (
    BrokerUnavailableError,
    Delivery,
    DeliveryLostError,
    NotConnectedError,
    TransientError,
)
from qbridge_core.testing.base import Backend, Call, MakeClient, succeeds
from qbridge_core.testing.link import Link

_STORY: Final = (logging.WARNING, logging.INFO)
"""The levels at which an outage is told: its beginning, its end."""


class RecoveryTests(Backend):
    """What a client is like after an outage."""

    def test_g14_a_client_finds_its_connection_again(
        self, link: Link, make_client: MakeClient, make_linked_client: MakeClient, queue: str, dead: str
    ) -> None:
        """After a cut a subscribed client receives, publishes and settles as before, without being told."""
        client, direct = make_linked_client(), make_client()
        client.declare(queue, dead)
        client.subscribe(queue, 2)
        client.publish(queue, b"before")
        client.ack(self.receive_one(client, queue))
        assert client.flush()
        client.publish(queue, b"before")
        before = self.receive_one(client, queue)
        waiting = Call(lambda: client.receive(queue, 1, self.outage_timeout + self.wait))
        assert not waiting.ended(0.1)
        link.drop()
        direct.publish(queue, b"after")
        assert waiting.ended(self.outage_timeout), "nothing comes after a cut"
        seen = {delivery.body: delivery for delivery in cast(list[Delivery], waiting.result())}
        if b"before" not in seen:  # else it was lost, and comes again
            with suppress(DeliveryLostError):
                self.eventually(lambda: succeeds(lambda: client.reject(before, requeue=True)), self.outage_timeout)
        for delivery in self.receive_all(client, queue, 2 - len(seen), self.redelivery_timeout):
            seen[delivery.body] = delivery
        again = seen[b"before"]
        assert (again.attempts, again.crashes) == (0, 0), "a lost connection is no death"
        client.ack(again)
        rejecting = seen[b"after"]
        self.eventually(lambda: succeeds(lambda: client.reject(rejecting, requeue=False)), self.outage_timeout)
        self.eventually(lambda: succeeds(lambda: client.publish(queue, b"own")), self.outage_timeout)
        held = self.receive_one(client, queue)
        assert held.body == b"own"
        assert self.receive_one(direct, dead).body == b"after"
        client.ack(held)
        assert client.flush()
        client.disconnect()
        self.assert_empty(direct, queue)
        self.eventually(lambda: link.connections == 0, message="connections stay open after disconnect")

    def test_g15_a_client_survives_outages_again_and_again(
        self,
        link: Link,
        make_client: MakeClient,
        make_linked_client: MakeClient,
        queue: str,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        """Not the first one only, and renews its leases after them; a ``connect`` that fails leaves it as it was.

        Who claims ``logs_outages`` says when one begins and when it is over; who does not never says both, since
        workers do.
        """
        caplog.set_level(logging.INFO)
        client, lease = make_linked_client(), self.lease_seconds
        caplog.clear()
        for _ in range(3):
            link.cut()
            over = time.monotonic() + (lease or 0.0) / 2  # so that a renewal fails
            for _ in range(5):
                with pytest.raises(TransientError):
                    client.stats(queue)
            self.eventually(lambda over=over: time.monotonic() >= over)  # type: ignore[misc]
            if client.logs_outages:
                with suppress(TransientError):
                    client.receive(queue, 1, 0.2)  # as a worker does
                begins = partial(_logged, caplog, _STORY[:1])
                self.eventually(begins, self.outage_timeout, "the beginning of an outage is not logged")
            link.restore()
            self.eventually(lambda: succeeds(lambda: client.stats(queue)), self.outage_timeout, "it does not come back")
            received = partial(succeeds, partial(client.receive, queue, 1, 0.2))
            self.eventually(received, self.outage_timeout, "nothing can be received again")
        if client.logs_outages:
            self.eventually(partial(_logged, caplog, _STORY), message="the end of an outage is not logged")
        else:
            assert not _logged(caplog, _STORY), (
                "outages are logged from their beginning to their end: claim logs_outages"
            )
        if lease is not None:
            client.publish(queue, b"held")
            held = self.receive_one(client, queue)
            assert make_client().receive(queue, 1, lease * 2.5) == [], "after an outage leases are not renewed"
            client.ack(held)
        client.disconnect()
        link.cut()
        with pytest.raises(BrokerUnavailableError):
            client.connect()
        assert not client.connected
        with pytest.raises(NotConnectedError):
            client.stats(queue)
        link.restore()
        client.connect()
        client.publish(queue, b"x")
        assert self.receive_one(client, queue).body == b"x"


def _logged(caplog: pytest.LogCaptureFixture, levels: Sequence[int]) -> bool:
    """Whether there are records of these levels, one after the other."""
    logged = iter([record.levelno for record in list(caplog.records)])
    return all(level in logged for level in levels)
