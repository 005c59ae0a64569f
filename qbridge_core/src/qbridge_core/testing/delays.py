"""Delays: neither early nor much late, held by the broker, and bounded by what is claimed."""

from __future__ import annotations

import math
import time

import pytest

from qbridge_core import ConfigurationError, QueueClient, UnroutableError
from qbridge_core.testing.base import Backend, MakeClient, a_failure

_DELAY = 1.0
# Brokers count in milliseconds, so a delay may end a fraction of one early on this process's clock.
_EARLY = 0.95


class DelayTests(Backend):
    """``delay`` of ``publish`` and ``reject``."""

    @pytest.fixture
    def delays(self, client: QueueClient) -> None:
        """Skip a test where no delays are claimed."""
        if not client.capabilities.delay:
            pytest.skip("no delays claimed")

    @pytest.mark.usefixtures("delays")
    def test_g7_a_delay_ends_on_time_without_the_client_that_asked_for_it(
        self, make_client: MakeClient, client: QueueClient, queue: str
    ) -> None:
        """Published, retried and handed back, each by a client that leaves at once: not early, not lost, not late."""
        client.publish(queue, b"retried")
        client.publish(queue, b"back")
        retried, back = self.receive_all(client, queue, 2)
        began = time.monotonic()
        client.publish(queue, b"published", delay=_DELAY)
        client.reject(retried, requeue=True, delay=_DELAY, failure=a_failure(queue))
        client.reject(back, requeue=True, delay=_DELAY)
        client.disconnect()
        asked = time.monotonic()
        other = make_client()
        received: dict[bytes, tuple[float, int]] = {}
        while len(received) < 3 and time.monotonic() < asked + _DELAY + self.wait:
            for delivery in other.receive(queue, 3, 0.2):
                received[delivery.body] = (time.monotonic(), delivery.attempts)
                other.ack(delivery)
        assert {body: attempts for body, (_, attempts) in received.items()} == {
            b"published": 0,
            b"retried": 1,
            b"back": 0,
        }
        times = [at for at, _ in received.values()]
        assert min(times) - began >= _DELAY * _EARLY, "a delayed message came early"
        assert max(times) - asked <= _DELAY + self.wait / 2, "a delayed message came much too late"

    @pytest.mark.usefixtures("delays")
    def test_purge_leaves_what_is_delayed(self, client: QueueClient, queue: str) -> None:
        """``purge`` deletes what is ready; a delayed message comes when its time has come."""
        client.publish(queue, b"later", delay=_DELAY)
        client.publish(queue, b"now")
        assert client.purge(queue) == 1
        assert client.stats(queue).delayed == 1
        assert self.receive_one(client, queue).body == b"later"

    @pytest.mark.usefixtures("delays")
    def test_g18_a_delay_over_the_longest_is_refused(self, client: QueueClient, queue: str) -> None:
        """It is an error, not a shorter delay; the delivery is still unsettled."""
        longest = client.capabilities.max_delay
        if math.isinf(longest):
            pytest.skip("any delay can be held")
        client.publish(queue, b"x")
        delivery = self.receive_one(client, queue)
        with pytest.raises(ConfigurationError, match="delay"):
            client.publish(queue, b"x", delay=longest + 1)
        with pytest.raises(ConfigurationError, match="delay"):
            client.reject(delivery, requeue=True, delay=longest + 1)
        client.reject(delivery, requeue=True, delay=min(longest, 30.0))
        stats = client.stats(queue)
        assert (stats.ready, stats.in_flight, stats.delayed) == (0, 0, 1)

    @pytest.mark.usefixtures("delays")
    def test_g1_a_delay_for_a_missing_queue_is_an_error(self, client: QueueClient, queue_name: str) -> None:
        """Nobody would ever get the message."""
        with pytest.raises(UnroutableError):
            client.publish(queue_name, b"x", delay=_DELAY)
