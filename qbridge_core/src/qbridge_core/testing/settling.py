"""Settling: exactly one outcome for a delivery, and the count of attempts travels with the message."""

from __future__ import annotations

import time
from contextlib import suppress
from functools import partial

import pytest

from qbridge_core import (
    ConfigurationError,
    Delivery,
    DeliveryLostError,
    Failure,
    Message,
    QueueClient,
    UnsupportedError,
)
from qbridge_core.message import SUSPICIONS, SuspectFailure, meta_text
from qbridge_core.testing.base import Backend, Call, MakeClient, a_failure

_SOON = 1.0
"""Seconds; of a few tries one must be quicker, however busy the machine is."""
_INSTANT = 0.1
_TRIES = 3


class SettlingTests(Backend):
    """``ack``, ``reject(requeue=True)``, ``flush``."""

    def test_g4_an_acknowledged_message_is_gone(self, make_client: MakeClient, client: QueueClient, queue: str) -> None:
        """After ``ack`` and ``flush`` the broker holds nothing, and nobody gets the message again."""
        client.send(queue, 1)
        client.ack(self.receive_one(client, queue))
        flushing = Call(lambda: client.flush(300.0))
        assert flushing.ended(self.wait), "flush waits though all has been sent"
        assert flushing.result()
        self.assert_empty(client, queue)
        client.disconnect()
        assert make_client().receive(queue, 1, 0.2) == []

    def test_acks_out_of_order_settle_their_own_messages(
        self, make_client: MakeClient, client: QueueClient, queue: str
    ) -> None:
        """Acknowledging some deliveries in any order never settles another one."""
        client.send_many(queue, range(9))
        deliveries = self.receive_all(client, queue, 9)
        for position in (8, 2, 5, 0):
            client.ack(deliveries[position])
        client.disconnect()
        left = {delivery.body for delivery in self.receive_all(make_client(), queue, 5)}
        assert left == {deliveries[position].body for position in (1, 3, 4, 6, 7)}

    def test_an_ack_may_come_from_any_thread(self, client: QueueClient, queue: str) -> None:
        """Deliveries are acknowledged by other threads than the one that received them; the broker knows it soon."""
        client.send_many(queue, range(40))
        calls = [Call(partial(client.ack, delivery)) for delivery in self.receive_all(client, queue, 40)]
        for call in calls:
            assert call.ended(self.wait), "ack hangs"
            call.result()
        seconds = [call.seconds for call in calls]
        assert not client.capabilities.instant_ack or min(seconds) < _INSTANT, "ack waits, and is said never to"
        self.assert_empty(client, queue, soon=True)
        seconds = []
        while client.capabilities.exact_stats and len(seconds) < _TRIES and min(seconds, default=_SOON) >= _SOON:
            client.publish(queue, b"x")
            client.ack(self.receive_one(client, queue))
            began = time.monotonic()
            self.assert_empty(client, queue, soon=True)
            seconds.append(time.monotonic() - began)
        assert min(seconds, default=0.0) < _SOON, f"an ack is sent {min(seconds):.1f} s later"

    def test_the_first_settlement_counts(self, client: QueueClient, queue: str, dead: str) -> None:
        """A second settlement of the same delivery does nothing, whatever it is."""
        client.send_many(queue, range(4))
        acked, rejected, retried, returned = self.receive_all(client, queue, 4)
        client.ack(acked)
        client.ack(acked)
        client.reject(acked, requeue=True)
        client.reject(acked, requeue=False)
        client.reject(acked, requeue=True, failure=a_failure(queue))
        client.reject(rejected, requeue=False)
        client.reject(rejected, requeue=False)
        client.reject(rejected, requeue=True)
        client.reject(rejected, requeue=True, failure=a_failure(queue))
        client.ack(rejected)
        for back, failure in ((retried, a_failure(queue)), (returned, None)):
            client.reject(back, requeue=True, failure=failure)
            client.ack(back)
            client.reject(back, requeue=False)
            client.reject(back, requeue=True)
            client.reject(back, requeue=True, failure=a_failure(queue))
        assert client.flush()
        self.assert_counts(client, queue, soon=True, ready=2, in_flight=0, delayed=0)
        self.assert_counts(client, dead, ready=1)

    @pytest.mark.parametrize("way", ["dead letter", "retry", "hand-back"])
    def test_g2_deliveries_are_rejected_from_many_threads_and_once(
        self, client: QueueClient, queue: str, dead: str, way: str
    ) -> None:
        """Each thread settles its own delivery; two that settle the same one have one outcome."""
        client.publish_many(queue, [Message(b"%d" % number) for number in range(20)])
        deliveries = self.receive_all(client, queue, 20)

        def reject(delivery: Delivery) -> None:
            with suppress(DeliveryLostError):  # the other thread was quicker
                client.reject(
                    delivery, requeue=way != "dead letter", failure=None if way == "hand-back" else a_failure(queue)
                )

        calls = [Call(partial(reject, delivery)) for delivery in deliveries for _ in range(2)]
        for call in calls:
            assert call.ended(self.wait), "reject hangs"
            call.result()
        assert client.flush()
        target, other = (dead, queue) if way == "dead letter" else (queue, dead)
        self.assert_empty(client, other)
        assert {delivery.body for delivery in self.receive_all(client, target, 20)} == {b"%d" % n for n in range(20)}
        assert client.receive(target, 1, 0.0) == [], "a delivery that two threads settled is there twice"

    def test_g8_handing_back_is_free(self, make_client: MakeClient, client: QueueClient, queue: str) -> None:
        """``reject(requeue=True)`` makes the message ready again at once, and counts nothing."""
        client.publish(queue, b"x", headers={"h": "1"}, message_id="m")
        client.reject(self.receive_one(client, queue), requeue=True)
        again = self.receive_one(make_client(), queue)
        assert (again.body, dict(again.headers), again.message_id) == (b"x", {"h": "1"}, "m")
        assert (again.attempts, again.crashes) == (0, 0)

    def test_g8_several_are_handed_back_together(
        self, make_client: MakeClient, client: QueueClient, queue: str
    ) -> None:
        """``hand_back`` makes each of several messages ready again, counts nothing, and leaves settled ones alone."""
        client.publish_many(queue, [Message(b"%d" % number) for number in range(9)])
        deliveries = self.receive_all(client, queue, 9)
        client.ack(deliveries[4])
        client.declare(f"{queue}-2")
        client.publish(f"{queue}-2", b"there")
        client.hand_back(iter([*deliveries, self.receive_one(client, f"{queue}-2")]))
        client.hand_back([])
        other = make_client()
        again = self.receive_all(other, queue, 8)
        assert {delivery.body for delivery in again} == {b"%d" % number for number in range(9)} - {deliveries[4].body}
        assert not any(delivery.attempts or delivery.crashes for delivery in again)
        assert other.receive(queue, 1, 0.0) == [], "what was handed back is there twice"
        assert self.receive_one(other, f"{queue}-2").body == b"there"

    def test_g5_attempts_travel_with_the_message(
        self, make_client: MakeClient, client: QueueClient, queue: str
    ) -> None:
        """A retry counts one attempt, any client sees the count, and body and headers stay the producer's."""
        client.publish(queue, b'{"payload": 1}', headers={"h": "ü"}, message_id="m")
        failure = SuspectFailure.of(a_failure(queue, attempts=1, crashes=1), 1)
        client.reject(self.receive_one(client, queue), requeue=True, failure=failure)
        second = self.receive_one(client, queue)
        assert (second.attempts, second.first_failed_at) == (1, 1_700_000_000.25)
        client.reject(second, requeue=True, failure=a_failure(queue, attempts=2))
        client.disconnect()
        third = self.receive_one(make_client(), queue)
        assert (third.attempts, third.crashes) == (2, 0), "the last failure says what is counted"
        assert SUSPICIONS not in third.meta, "what the last failure does not say is not true any more"
        assert (third.body, dict(third.headers), third.message_id) == (b'{"payload": 1}', {"h": "ü"}, "m")

    def test_g5_handing_back_a_retried_message_keeps_its_count(self, client: QueueClient, queue: str) -> None:
        """A hand-back neither adds to the count of attempts nor forgets it."""
        client.publish(queue, b"x")
        client.reject(self.receive_one(client, queue), requeue=True, failure=a_failure(queue, attempts=1))
        client.reject(self.receive_one(client, queue), requeue=True)
        assert self.receive_one(client, queue).attempts == 1

    def test_a_retry_can_go_to_another_queue(self, client: QueueClient, queue: str) -> None:
        """``reject(queue)`` moves the message with its counts into a queue that is created when missing."""
        client.publish(queue, b"x", headers={"h": "1"}, message_id="m")
        failure = a_failure(queue, attempts=2)
        client.reject(self.receive_one(client, queue), requeue=True, failure=failure, queue=f"{queue}-other")
        assert client.flush()
        self.assert_empty(client, queue)
        moved = self.receive_one(client, f"{queue}-other")
        assert (moved.body, dict(moved.headers), moved.message_id, moved.attempts) == (b"x", {"h": "1"}, "m", 2)
        if client.capabilities.delay:
            client.reject(moved, requeue=True, delay=0.3, failure=failure, queue=queue)
            self.assert_counts(client, queue, ready=0)
            assert client.receive(f"{queue}-other", 1, 0.0) == []
            assert self.receive_one(client, queue).attempts == 2

    def test_g4_a_retry_leaves_one_message(self, client: QueueClient, queue: str) -> None:
        """After a retry the broker holds the message once."""
        client.publish(queue, b"x")
        client.reject(self.receive_one(client, queue), requeue=True, failure=a_failure(queue))
        assert client.flush()
        self.assert_counts(client, queue, in_flight=0, soon=True)
        self.assert_counts(client, queue, ready=1)

    def test_g8_handing_back_for_later_is_free_too(self, client: QueueClient, queue: str) -> None:
        """``reject(requeue=True, delay)`` without a failure postpones the message and counts nothing."""
        if not client.capabilities.delay:
            pytest.skip("no delays claimed")
        client.publish(queue, b"x", headers={"h": "1"}, message_id="m")
        failure = SuspectFailure.of(a_failure(queue, attempts=1, crashes=1), 1, beside=True)
        client.reject(self.receive_one(client, queue), requeue=True, failure=failure)
        client.reject(self.receive_one(client, queue), requeue=True, delay=0.5)
        self.assert_counts(client, queue, delayed=1)
        again = self.receive_one(client, queue)
        assert (again.body, dict(again.headers), again.message_id) == (b"x", {"h": "1"}, "m")
        assert (again.attempts, again.first_failed_at) == (1, 1_700_000_000.25)
        assert _written(again, failure) == {name: str(value) for name, value in failure.retry_headers().items()}

    def test_g7_the_shortest_delay_is_one_too(self, client: QueueClient, queue: str) -> None:
        """A delay that no broker can measure, as arithmetic makes them, neither fails nor loses anything."""
        if not client.capabilities.delay:
            pytest.skip("no delays claimed")
        client.publish(queue, b"x", delay=1e-9)
        client.reject(self.receive_one(client, queue), requeue=True, delay=1e-9, failure=a_failure(queue))
        again = self.receive_one(client, queue)
        assert (again.body, again.attempts) == (b"x", 1)

    def test_g7_a_retry_can_be_delayed(self, client: QueueClient, queue: str) -> None:
        """``reject(delay)`` holds the retry back at the broker and keeps its count; claimed or refused."""
        client.publish(queue, b"x")
        delivery = self.receive_one(client, queue)
        if not client.capabilities.delay:
            with pytest.raises(UnsupportedError):
                client.reject(delivery, requeue=True, delay=0.3, failure=a_failure(queue))
            with pytest.raises(UnsupportedError):
                client.reject(delivery, requeue=True, delay=0.3)
            self.assert_counts(client, queue, ready=0, in_flight=1)
            return
        client.reject(delivery, requeue=True, delay=1.0, failure=a_failure(queue))
        assert client.flush()
        self.assert_counts(client, queue, delayed=1)
        assert self.receive_one(client, queue).attempts == 1

    def test_g8_a_hand_back_keeps_what_was_counted(
        self, make_client: MakeClient, client: QueueClient, queue: str
    ) -> None:
        """Attempts, crashes and whatever else the failure wrote are as before, and the message is in its queue."""
        client.publish(queue, b"x")
        failure = SuspectFailure.of(a_failure(queue, attempts=2, crashes=1), 1, beside=True)
        client.reject(self.receive_one(client, queue), requeue=True, failure=failure)
        for _ in range(5):
            delivery = self.receive_one(client, queue)
            assert (delivery.attempts, delivery.first_failed_at) == (2, failure.first_failed_at)
            assert delivery.crashes == (1 if client.capabilities.crashes else delivery.crashes)
            assert _written(delivery, failure) == {name: str(value) for name, value in failure.retry_headers().items()}
            client.reject(delivery, requeue=True)
        self.assert_counts(make_client(), queue, ready=1)

    def test_a_hand_back_loses_nothing_whatever_it_is_given(self, client: QueueClient, queue: str) -> None:
        """``queue`` is for another attempt; without a failure it is refused or means nothing."""
        client.publish(queue, b"x")
        for delay in (0.0, 0.1) if client.capabilities.delay else (0.0,):
            delivery = self.receive_one(client, queue)
            try:
                client.reject(delivery, requeue=True, delay=delay, queue=f"{queue}-other")
            except ConfigurationError:
                client.reject(delivery, requeue=True)
        again = self.receive_one(client, queue)
        assert (again.body, again.attempts, again.crashes) == (b"x", 0, 0)

    def test_g12_a_dead_letter_goes_to_its_queue_at_once_whatever_it_is_given(
        self, client: QueueClient, queue: str, dead: str
    ) -> None:
        """``queue`` and ``delay`` are for another attempt; with ``requeue=False`` they are refused or mean nothing."""
        delays = [0.0, -1.0, 30.0] if client.capabilities.delay else [0.0]
        for delay in delays:
            client.publish(queue, b"x")
            delivery = self.receive_one(client, queue)
            try:
                client.reject(delivery, requeue=False, queue=f"{queue}-other", delay=delay)
            except ConfigurationError:
                client.reject(delivery, requeue=False)
        assert [letter.body for letter in self.receive_all(client, dead, len(delays))] == [b"x"] * len(delays)

    def test_settling_touches_one_message_only(self, client: QueueClient, queue: str, dead: str) -> None:
        """Of messages that are alike each is settled by itself, and the others stay as they are."""
        for _ in range(5):
            client.publish(queue, b"same", message_id="same")
        acked, rejected, retried, handed_back, held = self.receive_all(client, queue, 5)
        client.ack(acked)
        client.reject(rejected, requeue=False)
        client.reject(retried, requeue=True, failure=a_failure(queue))
        client.reject(handed_back, requeue=True)
        assert client.flush()
        self.assert_counts(client, queue, in_flight=1, soon=True)
        # What was handed back may be on its way to its place.
        self.assert_counts(client, queue, ready=2, soon=True)
        self.assert_counts(client, dead, ready=1, soon=True)
        assert sorted(delivery.attempts for delivery in self.receive_all(client, queue, 2)) == [0, 1]
        client.ack(held)


def _written(delivery: Delivery, failure: Failure) -> dict[str, str]:
    """What a delivery says of its failure, as far as a retry is to say it."""
    return {name: meta_text(delivery.meta, name) for name in failure.retry_headers()}
