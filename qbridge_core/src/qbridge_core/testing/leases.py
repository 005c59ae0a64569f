"""Who holds a delivery: a living client keeps it, however long it takes; a dead one loses it, and that is counted."""

from __future__ import annotations

import time
from contextlib import ExitStack

import pytest

from qbridge_core import Delivery, QueueClient
from qbridge_core.testing.base import Backend, MakeClient, a_failure
from qbridge_core.testing.children import Child, hold, leave, look

_AT_ONCE = 2.0
"""Seconds; of a few tries one must be quicker, however busy the machine is."""
_TRIES = 3


class LeaseTests(Backend):
    """Leases, killed consumers, and the capabilities ``shared`` and ``crashes``."""

    def test_g2_an_unsettled_delivery_comes_back_after_its_process_was_killed(
        self, make_client: MakeClient, client: QueueClient, queue: str, broker_url: str
    ) -> None:
        """The dead process's messages are delivered again, uncounted as attempts; a living client keeps its own.

        Without the claim ``redelivers`` it is lost.
        """
        if not client.capabilities.shared:
            pytest.skip("the broker lives in one process and dies with its consumers")
        client.publish(queue, b"long")
        mine = self.receive_one(client, queue)
        for body in (b"x", b"y"):
            client.publish(queue, body, headers={"h": "1"}, message_id="m")
        for delivery in self.receive_all(client, queue, 2):
            client.reject(delivery, requeue=True, failure=a_failure(queue, attempts=2))
        client.unsubscribe(queue)  # what a client reads ahead is no child's
        other = make_client()
        claimed = client.capabilities.crashes
        assert client.capabilities.redelivers or not claimed, "crashes is claimed, and what they lose is not seen again"
        with ExitStack() as ended:
            count = 2 if claimed else 1
            children = [ended.enter_context(Child(self, broker_url, hold, queue, 2)) for _ in range(count)]
            for deaths, child in enumerate(children, 1):
                child.tell()
                assert child.line() == "2", "another process does not get the messages"
                child.kill()
                if not client.capabilities.redelivers:
                    lost = other.receive(queue, 1, 2.5 * (self.lease_seconds or 1.0)) == []
                    assert lost, "what a dead process held is delivered again: claim redelivers"
                    return
                back = self.receive_all(other, queue, 2, self.redelivery_timeout)
                assert {again.body for again in back} == {b"x", b"y"}
                for again in back:
                    assert (dict(again.headers), again.message_id) == ({"h": "1"}, "m")
                    assert (again.attempts, again.redelivered) == (2, True)
                    assert claimed or (again.crashes, again.suspected) == (0, False), "deaths are seen: claim crashes"
                    assert not claimed or again.suspected or again.crashes == deaths, "a death is not counted"
                    if deaths < len(children):
                        later = client.capabilities.delay and again.body == b"y"
                        other.reject(again, requeue=True, delay=0.01 if later else 0.0)
                other.unsubscribe(queue)
        # The dead client took its messages after this one did: where leases end, this one's would have ended by now.
        other.ack(back[0])
        self._count_once(other, back[1], 2)
        client.ack(mine)
        assert client.flush()
        assert other.receive(queue, 1, 0.2) == []

    def test_g8_a_hand_back_keeps_a_suspicion(
        self, make_client: MakeClient, client: QueueClient, queue: str, broker_url: str
    ) -> None:
        """What a killed process held stays counted or suspected when a worker has given it back, read ahead or not."""
        if not client.capabilities.crashes:
            pytest.skip("crashes is not claimed")
        client.publish(queue, b"x")
        with Child(self, broker_url, hold, queue) as child:
            child.tell()
            assert child.line() == "1", "another process does not get the message"
            child.kill()
            worker = make_client()
            worker.subscribe(queue, 1)
            delivery = self.receive_one(worker, queue, self.redelivery_timeout)
            known = delivery.crashes, delivery.suspected
            worker.reject(delivery, requeue=True)
            worker.unsubscribe(queue)
            assert worker.flush()
        again = self.receive_one(make_client(), queue, self.redelivery_timeout)
        assert known != (0, False), "a death is not counted"
        assert (again.crashes, again.suspected) == known, "a death is forgotten with a hand-back"

    def _count_once(self, client: QueueClient, delivery: Delivery, crashes: int) -> None:
        """What a failure writes beside a message has been counted in it: the broker does not count it again."""
        failure = a_failure(delivery.queue, attempts=1, crashes=crashes)
        client.reject(delivery, requeue=True, failure=failure)
        again = self.receive_one(client, delivery.queue)
        if client.capabilities.crashes:
            assert (again.crashes, again.suspected) == (crashes, False), "a crash is counted twice"
        client.ack(again)
        assert client.flush()

    def test_g11_a_delivery_that_is_held_longer_than_a_lease_stays(
        self, make_client: MakeClient, client: QueueClient, queue: str, dead: str
    ) -> None:
        """While its client lives nobody else gets it, whatever else happens; then it can be settled either way."""
        lease = self.lease_seconds
        if lease is None:
            pytest.skip("no lease is set")
        client.disconnect()
        client.connect()  # renewing has to begin again
        client.send_many(queue, range(30))
        done, rejected, handed_back, *more = self.receive_all(client, queue, 30)
        other = make_client()
        assert other.receive(queue, 1, lease * 2.5) == []
        client.ack(done)
        client.reject(rejected, requeue=False, failure=a_failure(queue))
        client.reject(handed_back, requeue=True)
        for delivery in more:
            client.ack(delivery)
        again = self.receive_one(other, queue)
        assert (again.body, again.attempts, again.crashes) == (handed_back.body, 0, 0)
        assert not again.suspected
        self.assert_counts(other, dead, ready=1)

    def test_g8_disconnecting_gives_back_at_once_and_counts_nothing(
        self, make_client: MakeClient, broker_url: str, client: QueueClient, queue: str
    ) -> None:
        """However long a lease is, what a client leaves behind is there for others when it has left."""
        seconds: list[float] = []
        while len(seconds) < _TRIES and min(seconds, default=_AT_ONCE) >= _AT_ONCE:
            leaving = self.with_options(self.patient_options).create_client(broker_url)
            try:
                leaving.declare(queue)
                client.publish(queue, b"x")
                client.publish(queue, b"counted")
                counted = self.receive_all(leaving, queue, 2)[1]
                leaving.reject(counted, requeue=True, failure=a_failure(queue, attempts=2))
                self.receive_one(leaving, queue)
            finally:
                leaving.disconnect()
            left = time.monotonic()
            again = {delivery.body: delivery for delivery in self.receive_all(client, queue, 2, min(5.0, self.wait))}
            seconds.append(time.monotonic() - left)
            assert {body: delivery.attempts for body, delivery in again.items()} == {b"x": 0, b"counted": 2}
            assert {delivery.crashes for delivery in again.values()} == {0}
            for delivery in again.values():
                client.ack(delivery)
        assert min(seconds) < _AT_ONCE, f"what a client has left comes {min(seconds):.1f} s later"

    def test_what_is_claimed_of_sharing_holds(self, client: QueueClient, queue: str, broker_url: str) -> None:
        """Without the claim ``shared`` another process sees other queues or none; with it, see the killed process.

        A broker inside one process ends with it, so that nobody can claim to see its death, or what was kept.
        """
        if client.capabilities.shared:
            pytest.skip("shared is claimed")
        assert not client.capabilities.crashes, "crashes is claimed, and no other process would see one"
        if client.capabilities.durable:
            self._outlive_a_process(broker_url, f"{queue}-kept")
        client.publish(queue, b"x")
        client.publish(queue, b"y")
        with Child(self, broker_url, look, queue) as child:
            child.tell()
            seen = child.line()
        assert seen != "2", "another process sees the messages: claim shared"

    def _outlive_a_process(self, broker_url: str, queue: str) -> None:
        for action, line in ((leave, "left"), (look, "1")):
            with Child(self, broker_url, action, queue) as child:
                child.tell()
                assert child.line() == line, "durable is claimed, and a message ends with the process of its producer"
