"""Receiving: each message to one consumer, promptly, and back when nobody settled it."""

from __future__ import annotations

import time
from functools import partial
from typing import Any, cast

import pytest

from qbridge_core import ConfigurationError, Delivery, Message, QueueClient, UnroutableError
from qbridge_core.testing.base import TIMES, Backend, Call, MakeClient, a_failure

_NO_COUNTS: list[Any] = [0, -1, 1.5, "1", None, True]
_PROMPT = 0.5
"""Seconds; of a few tries one must be quicker, however busy the machine is."""
_SOON = 1.0
_TIMEOUT = 0.75
_TOO_LATE = 1.45
_TRIES = 5


class ReceivingTests(Backend):
    """``receive``, ``subscribe``, ``unsubscribe``, ``stats``, and deliveries whose consumer goes away."""

    def test_an_empty_queue_gives_nothing(self, client: QueueClient, queue: str) -> None:
        """``receive`` returns an empty list when its time is over."""
        assert client.receive(queue, 10, 0.1) == []
        seconds: list[float] = []
        while len(seconds) < _TRIES and min(seconds, default=_PROMPT) >= _PROMPT:
            call = Call(lambda: client.receive(queue, 10, 0.0))
            assert call.ended(self.wait), "receive waits though its timeout is zero"
            assert call.result() == []
            seconds.append(call.seconds)
        assert min(seconds) < _PROMPT, f"with a timeout of zero an empty queue takes {min(seconds):.1f} s"

    def test_a_missing_queue_is_an_error(self, client: QueueClient, queue_name: str) -> None:
        """Receiving from a queue that does not exist says so instead of waiting for ever."""
        with pytest.raises(UnroutableError):
            client.receive(queue_name, 1, 0.1)

    def test_g18_a_number_of_messages_that_makes_no_sense_is_refused(self, client: QueueClient, queue: str) -> None:
        """At least one message is asked for; anything else is an error that names the value, and takes nothing."""
        client.send(queue, 1)
        for count in _NO_COUNTS:
            with pytest.raises(ConfigurationError, match="max_messages"):
                client.receive(queue, count, 0.1)
        self.assert_counts(client, queue, ready=1)

    def test_g18_a_prefetch_that_makes_no_sense_is_refused(self, client: QueueClient, queue: str) -> None:
        """It is an error that names the value, and the connection goes on."""
        for prefetch in _NO_COUNTS:
            with pytest.raises(ConfigurationError, match="prefetch"):
                client.subscribe(queue, prefetch)
        client.send(queue, 1)
        assert self.receive_one(client, queue).body

    def test_a_deadline_that_has_passed_is_no_error(self, client: QueueClient, queue: str) -> None:
        """A negative timeout asks for what is ready, like zero."""
        assert client.receive(queue, 1, -5.0) == []

    def test_receive_returns_at_most_what_was_asked_for(self, client: QueueClient, queue: str) -> None:
        """No more than ``max_messages`` are taken; the others stay ready."""
        client.send_many(queue, range(5))
        assert len(client.receive(queue, 2, self.wait)) == 2
        self.assert_counts(client, queue, ready=3, in_flight=2, delayed=0)

    def test_a_waiting_receive_gets_a_new_message(
        self, make_client: MakeClient, client: QueueClient, queue: str
    ) -> None:
        """A message wakes a ``receive`` that is waiting for it, long before its timeout."""
        sender = make_client()
        seconds: list[float] = []
        while len(seconds) < _TRIES and min(seconds, default=_PROMPT) >= _PROMPT:
            call = Call(lambda: client.receive(queue, 1, 300.0))
            assert not call.ended(0.1), "receive does not wait for a message"
            sent = time.monotonic()
            sender.send(queue, 1)
            assert call.ended(self.wait), "receive does not see a new message"
            seconds.append(time.monotonic() - sent)
            (delivery,) = cast(list[Delivery], call.result())
            client.ack(delivery)
        assert min(seconds) < _PROMPT, f"a waiting receive sees a new message after {min(seconds):.1f} s"

    def test_no_message_goes_to_two_consumers(self, make_client: MakeClient, client: QueueClient, queue: str) -> None:
        """Two consumers share a queue: each message goes to one of them."""
        other = make_client()
        client.send_many(queue, range(20))
        bodies = [d.body for n in range(20) for d in ((client, other)[n % 2]).receive(queue, 1, self.wait)]
        assert len(bodies) == len(set(bodies)) == 20

    def test_each_of_two_waiting_consumers_gets_one_of_two_messages(
        self, make_client: MakeClient, client: QueueClient, queue: str
    ) -> None:
        """Both are woken by what is published together, and neither waits beside a message that is ready."""
        sender = make_client()
        calls = [Call(partial(each.receive, queue, 1, 300.0)) for each in (client, make_client())]
        assert not any(call.ended(0.1) for call in calls)
        sender.publish_many(queue, [Message(b"1"), Message(b"2")])
        assert all(call.ended(self.wait) for call in calls), "a receive waits though a message is ready"
        assert {d.body for call in calls for d in cast(list[Delivery], call.result())} == {b"1", b"2"}

    @pytest.mark.parametrize("way", ["hand-back", "retry", "disconnect"])
    def test_a_waiting_receive_gets_what_comes_back(
        self, make_client: MakeClient, client: QueueClient, queue: str, way: str
    ) -> None:
        """Handed back, retried, or left by a client that disconnects: a message ends the wait of another consumer."""
        other = make_client()
        client.publish(queue, b"x")
        delivery = self.receive_one(client, queue)
        call = Call(lambda: other.receive(queue, 1, 300.0))
        assert not call.ended(0.1)
        if way == "disconnect":
            client.disconnect()
        else:
            client.reject(delivery, requeue=True, failure=a_failure(queue) if way == "retry" else None)
        assert call.ended(self.wait), f"a receive waits though a message is ready after a {way}"
        (again,) = cast(list[Delivery], call.result())
        other.ack(again)

    def test_a_subscribed_client_receives_everything(self, client: QueueClient, queue: str) -> None:
        """With ``subscribe`` messages keep coming, more than the prefetch in all."""
        client.subscribe(queue, 4)
        client.send_many(queue, range(50))
        seen = 0
        deadline = time.monotonic() + self.wait
        while seen < 50 and time.monotonic() < deadline:
            for delivery in client.receive(queue, 4, 1.0):
                client.ack(delivery)
                seen += 1
        assert seen == 50
        self.assert_counts(client, queue, in_flight=0, soon=True)

    def test_unsubscribe_wakes_a_waiting_receive(self, client: QueueClient, queue: str) -> None:
        """A blocked ``receive`` returns an empty list when another thread unsubscribes."""
        for _ in range(_TRIES):
            client.subscribe(queue, 4)
            call = Call(lambda: client.receive(queue, 1, 300.0))
            assert not call.ended(0.1), "receive does not wait for a message"
            client.unsubscribe(queue)
            prompt = call.ended(_SOON)
            if not prompt and not call.ended(self.wait):
                client.unsubscribe(queue)  # the receive may not have begun at the first
                assert call.ended(self.wait), "receive still blocks after unsubscribe"
            assert call.result() == []
            if prompt:
                return
        pytest.fail(f"after unsubscribe receive blocks for more than {_SOON} s")

    def test_unsubscribe_gives_back_what_was_not_returned(
        self, make_client: MakeClient, client: QueueClient, queue: str
    ) -> None:
        """What a consumer had read ahead is available to others, uncounted; what it returned stays its own."""
        client.send_many(queue, range(10))
        client.subscribe(queue, 8)
        mine = self.receive_one(client, queue)
        other = make_client()
        if not client.reads_ahead:
            ahead = self.receive_all(other, queue, 9)  # nothing is kept from others
            other.hand_back(ahead)
        client.unsubscribe(queue)
        others = self.receive_all(other, queue, 9)
        assert mine.body not in {delivery.body for delivery in others}
        assert {delivery.attempts for delivery in others} == {0}
        assert {delivery.crashes for delivery in others} == {0}
        client.ack(mine)
        assert client.flush()

    def test_a_subscribed_client_reads_ahead_within_its_prefetch(
        self, make_client: MakeClient, client: QueueClient, queue: str
    ) -> None:
        """What it holds beyond that is there for others; a later ``subscribe`` begins again, with its own prefetch."""
        client.subscribe(queue, 12)
        client.subscribe(queue, 3)
        client.send_many(queue, range(20))
        mine = self.receive_one(client, queue)
        other = make_client()
        others = self.receive_all(other, queue, 16)
        for _ in range(2):
            client.unsubscribe(queue)
            client.subscribe(queue, 2)
        client.subscribe(queue, 4)
        for delivery in (mine, *self.receive_all(client, queue, 3)):
            client.ack(delivery)
        for delivery in others:
            other.ack(delivery)
        client.unsubscribe(queue)
        client.send(queue, "last")
        client.ack(self.receive_one(client, queue))

    def test_what_was_read_ahead_is_forgotten_with_the_connection(
        self, make_client: MakeClient, client: QueueClient, queue: str
    ) -> None:
        """It went back when the client disconnected, and is not returned once more when it has connected again."""
        client.subscribe(queue, 5)
        client.publish_many(queue, [Message(b"%d" % number) for number in range(5)])
        self.receive_one(client, queue)
        client.disconnect()
        others = self.receive_all(make_client(), queue, 5)
        assert len({delivery.body for delivery in others}) == 5
        client.connect()
        client.subscribe(queue, 5)
        assert client.receive(queue, 5, 0.2) == []

    def test_g2_an_unsettled_delivery_comes_back_after_disconnect(
        self, make_client: MakeClient, client: QueueClient, queue: str
    ) -> None:
        """What a client had not settled when it disconnected is delivered again, as it was and uncounted, all of it.

        What another client holds is not.
        """
        queues = [queue, f"{queue}-2"]
        client.declare(queues[1])
        other = make_client()
        client.publish(queue, b"held by another")
        held = self.receive_one(other, queue)
        for each in queues:
            for message_id in ("m-1", "m-2"):
                client.publish(each, b"x", headers={"h": "1"}, message_id=message_id)
            self.receive_all(client, each, 2)
        client.disconnect()
        for each in queues:
            again = self.receive_all(other, each, 2)
            assert other.receive(each, 1, 0.0) == []
            assert {delivery.message_id for delivery in again} == {"m-1", "m-2"}
            assert {(delivery.body, delivery.headers["h"], delivery.attempts) for delivery in again} == {(b"x", "1", 0)}
        other.ack(held)

    def test_counts_show_what_was_done(
        self, make_client: MakeClient, client: QueueClient, queue: str, dead: str
    ) -> None:
        """What was published and settled shows in ``stats``: at once where ``exact_stats`` is claimed, or in time."""
        other = make_client()
        for ready in (2, 5):
            client.publish_many(queue, [Message(b"x")] * min(ready, 3))
            self.assert_counts(client, queue, ready=ready, in_flight=0, delayed=0)
            self.assert_counts(other, queue, ready=ready)
        held = self.receive_all(client, queue, 3)
        client.unsubscribe(queue)
        self.assert_counts(client, queue, ready=2, in_flight=3)
        client.ack(held[0])
        client.reject(held[1], requeue=True)
        client.reject(held[2], requeue=False)
        assert client.flush()
        self.assert_counts(client, queue, ready=3, in_flight=0)
        self.assert_counts(other, dead, ready=1)
        assert other.purge(queue) == 3
        self.assert_empty(client, queue)

    def test_stats_of_a_missing_queue_are_zero(self, client: QueueClient, queue_name: str) -> None:
        """A queue that does not exist holds nothing."""
        self.assert_empty(client, queue_name)
        with pytest.raises(UnroutableError):
            client.publish(queue_name, b"looking at a queue has created it")

    def test_declare_is_idempotent_and_keeps_messages(self, client: QueueClient, queue: str, dead: str) -> None:
        """Declaring again changes nothing: what is ready, held, delayed and dead-lettered stays."""
        self.bury(client, queue, b"letter")
        client.send(queue, 1)
        self.receive_one(client, queue)
        client.send(queue, 2)
        delayed = 1 if client.capabilities.delay else 0
        if delayed:
            client.publish(queue, b"later", delay=30.0)
        client.declare(queue, dead)
        client.declare(queue)
        self.assert_counts(client, queue, ready=1, in_flight=1, delayed=delayed)
        self.assert_counts(client, dead, ready=1)

    def test_purge_deletes_what_is_ready_only(self, client: QueueClient, queue: str, dead: str) -> None:
        """``purge`` returns how many it deleted; a delivery in flight stays and can be settled, letters stay too."""
        self.bury(client, queue, b"letter")
        client.send_many(queue, range(5))
        delivery = self.receive_one(client, queue)
        assert client.purge(queue) == 4
        self.assert_counts(client, queue, ready=0, in_flight=1)
        client.reject(delivery, requeue=True)
        again = self.receive_one(client, queue)
        assert again.body == delivery.body
        client.ack(again)
        assert client.flush()
        assert client.purge(queue) == 0
        client.publish(queue, b"the queue itself stays")
        assert self.receive_one(client, queue).body == b"the queue itself stays"
        self.assert_counts(client, dead, ready=1)

    def test_receive_returns_with_the_first_message(self, client: QueueClient, queue: str) -> None:
        """It does not wait until it has as many as were asked for, nor for a while."""
        seconds: list[float] = []
        while len(seconds) < _TRIES and min(seconds, default=_PROMPT) >= _PROMPT:
            client.send(queue, 1)
            call = Call(lambda: client.receive(queue, 10, 300.0))
            assert call.ended(self.wait), "receive waits for more messages though one is there"
            seconds.append(call.seconds)
            for delivery in cast(list[Delivery], call.result()):
                client.ack(delivery)
        assert min(seconds) < _PROMPT, f"receive waits {min(seconds):.1f} s for more messages though one is there"

    def test_receive_waits_as_long_as_it_was_told(self, client: QueueClient, queue: str) -> None:
        """Neither much shorter, or its caller would ask in a busy loop, nor much longer."""
        seconds: list[float] = []
        while len(seconds) < _TRIES and min(seconds, default=_TOO_LATE) >= _TOO_LATE:
            call = Call(lambda: client.receive(queue, 1, _TIMEOUT))
            assert call.ended(self.wait), "receive waits longer than its timeout"
            assert call.seconds >= 0.8 * _TIMEOUT, "receive does not wait for its timeout"
            seconds.append(call.seconds)
        assert min(seconds) < _TOO_LATE, f"with a timeout of {_TIMEOUT} s receive takes {min(seconds):.1f} s"

    def test_what_is_ready_is_received_without_waiting(self, client: QueueClient, queue: str) -> None:
        """A timeout of zero returns what ``publish`` has confirmed, all that was asked for of it."""
        client.publish_many(queue, [Message(b"%d" % number) for number in range(20)])
        received: list[Delivery] = []
        while batch := client.receive(queue, 20, 0.0):
            received += batch
        assert len(received) == 20

    def test_what_is_ready_is_received_beyond_the_prefetch(self, client: QueueClient, queue: str) -> None:
        """A timeout of zero tells of it, though the consumer holds as much as it may; so nothing seems to be empty."""
        client.subscribe(queue, 1)
        client.publish_many(queue, [Message(b"%d" % number) for number in range(10)])
        held = self.receive_one(client, queue)
        rest: list[Delivery] = []

        def all_came() -> bool:
            rest.extend(client.receive(queue, 20, 0.0))
            return len(rest) == 9

        self.eventually(all_came, message="what is ready behind a prefetch that is used up is not received")
        for delivery in [held, *rest]:
            client.ack(delivery)

    def test_what_a_delivery_says_of_its_message(self, client: QueueClient, queue: str) -> None:
        """It is new at first, also when it was counted before, and redelivered when it was handed out before."""
        client.publish(queue, b"x")
        self.assert_counts(client, queue, ready=1)
        delivery = self.receive_one(client, queue)
        assert (delivery.redelivered, delivery.suspected, set(delivery.meta) - TIMES) == (False, False, set())
        assert delivery.noted is None
        client.disconnect()
        client.connect()
        again = self.receive_one(client, queue)
        assert again.redelivered
        assert again.attempts == 0
        assert client.capabilities.crashes or (again.crashes, again.suspected) == (0, False)
        assert type(again.body) is bytes
        client.reject(again, requeue=True)
        assert self.receive_one(client, queue).redelivered

    def test_purging_a_missing_or_empty_queue_deletes_nothing(self, client: QueueClient, queue: str) -> None:
        """There is nothing to delete, and nothing is created."""
        assert client.purge(queue) == 0
        assert client.purge(f"{queue}-missing") == 0
        with pytest.raises(UnroutableError):
            client.publish(f"{queue}-missing", b"x")
