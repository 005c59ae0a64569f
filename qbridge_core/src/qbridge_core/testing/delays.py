"""Delays: neither early nor much late, held by the broker, and bounded by what is claimed."""

from __future__ import annotations

import math
import time

import pytest

from qbridge_core import ConfigurationError, Message, QueueClient, UnroutableError
from qbridge_core.testing.base import Backend, MakeClient, a_failure

_DELAY = 1.0
# Brokers count in milliseconds, so a delay may end a fraction of one early on this process's clock.
_EARLY = 0.95
_LATE = 0.8
"""Seconds; of a few tries one must be less late, however busy the machine is."""
_TRIES = 3
_TEN_YEARS = 3.2e8


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
        other = make_client()
        late: list[float] = []
        while len(late) < _TRIES and min(late, default=_LATE) >= _LATE:
            client.connect()
            late.append(self._come_back(client, other, queue))
        assert min(late) < _LATE, f"delayed messages come {min(late):.1f} s late, each time"

    def _come_back(self, client: QueueClient, other: QueueClient, queue: str) -> float:
        """Delay three messages and disconnect; return how many seconds late the last of them comes."""
        client.publish(queue, b"retried", headers={"h": "1"}, message_id="m")
        client.publish(queue, b"back", headers={"h": "1"}, message_id="m")
        retried, back = self.receive_all(client, queue, 2)
        began = time.monotonic()
        client.publish(queue, b"published", headers={"h": "1"}, message_id="m", delay=_DELAY)
        client.reject(retried, requeue=True, delay=_DELAY, failure=a_failure(queue))
        client.reject(back, requeue=True, delay=_DELAY)
        client.disconnect()
        asked = time.monotonic()
        received: dict[bytes, tuple[float, int]] = {}
        while len(received) < 3:
            left = asked + _DELAY + self.wait - time.monotonic()
            assert left > 0, f"of three delayed messages only these come: {list(received)}"
            deliveries = other.receive(queue, 3, left)
            assert deliveries or time.monotonic() >= asked + _DELAY + self.wait, "receive ends before its timeout"
            for delivery in deliveries:
                received[delivery.body] = (time.monotonic(), delivery.attempts)
                assert (dict(delivery.headers), delivery.message_id) == ({"h": "1"}, "m")
                if delivery.sent_at and delivery.due_at:
                    held_back = (delivery.due_at - delivery.sent_at).total_seconds()
                    assert held_back >= _DELAY * _EARLY, "due_at is not when the delay ends"
                other.ack(delivery)
        assert {body: attempts for body, (_, attempts) in received.items()} == {
            b"published": 0,
            b"retried": 1,
            b"back": 0,
        }
        times = [at for at, _ in received.values()]
        assert min(times) - began >= _DELAY * _EARLY, "a delayed message came early"
        return max(times) - asked - _DELAY

    @pytest.mark.usefixtures("delays")
    def test_purge_leaves_what_is_delayed(self, client: QueueClient, queue: str) -> None:
        """``purge`` deletes what is ready; a delayed message comes when its time has come."""
        client.publish(queue, b"retried")
        client.reject(self.receive_one(client, queue), requeue=True, delay=_DELAY, failure=a_failure(queue))
        client.publish(queue, b"later", delay=_DELAY)
        client.publish(queue, b"now")
        assert client.purge(queue) == 1
        self.assert_counts(client, queue, delayed=2)
        assert {delivery.body for delivery in self.receive_all(client, queue, 2)} == {b"retried", b"later"}

    @pytest.mark.usefixtures("delays")
    def test_g18_a_delay_over_the_longest_is_refused(self, client: QueueClient, queue: str) -> None:
        """It is an error, not a shorter delay, and settles nothing; the longest, or ten years, can be held."""
        longest = client.capabilities.max_delay
        client.publish(queue, b"x")
        delivery = self.receive_one(client, queue)
        if not math.isinf(longest):
            with pytest.raises(ConfigurationError, match="delay"):
                client.publish(queue, b"x", delay=longest + 1)
            with pytest.raises(ConfigurationError, match="delay"):
                client.reject(delivery, requeue=True, delay=longest + 1)
            (soon,) = client.publish_soon(queue, [Message(b"x")], delay=longest + 1)
            assert isinstance(soon.exception(self.wait), ConfigurationError)
        held = min(longest, _TEN_YEARS)
        client.publish(queue, b"y", delay=held)
        client.reject(delivery, requeue=True, delay=held)
        self.assert_counts(client, queue, ready=0, in_flight=0, delayed=2)

    @pytest.mark.usefixtures("delays")
    def test_what_is_due_is_counted_as_ready(self, client: QueueClient, queue: str) -> None:
        """Without anybody who receives it: who looks at the numbers, or purges, sees what a worker would get."""
        client.publish(queue, b"x", delay=0.1)
        self.assert_counts(client, queue, ready=1, soon=True)
        self.assert_counts(client, queue, delayed=0)
        assert client.purge(queue) == 1
        client.publish(queue, b"x", delay=0.1)
        self.eventually(lambda: client.purge(queue) == 1, message="what is due is not purged")

    @pytest.mark.usefixtures("delays")
    def test_g1_a_delay_for_a_missing_queue_is_an_error(self, client: QueueClient, queue_name: str) -> None:
        """Nobody would ever get the message."""
        with pytest.raises(UnroutableError):
            client.publish(queue_name, b"x", delay=_DELAY)
