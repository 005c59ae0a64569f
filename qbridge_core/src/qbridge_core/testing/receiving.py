"""Receiving: each message to one consumer, promptly, and back when nobody settled it."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from typing import Any

import pytest

from qbridge_core import ConfigurationError, Delivery, QueueClient, UnroutableError
from qbridge_core.testing.base import WAIT, Backend, MakeClient, eventually, receive_all, receive_one

_DYING_CONSUMER = """
import json, sys, time
from qbridge_core import connect
client = connect(sys.argv[1], **json.loads(sys.argv[3]))
print(len(client.receive(sys.argv[2], 1, 30.0)), flush=True)
time.sleep(3600)
"""

_NO_COUNTS: list[Any] = [0, -1, 1.5, "1", None, True]


class ReceivingTests(Backend):
    """``receive``, ``subscribe``, ``unsubscribe``, ``stats``, and deliveries whose consumer goes away."""

    def test_an_empty_queue_gives_nothing(self, client: QueueClient, queue: str) -> None:
        """``receive`` returns an empty list when its time is over."""
        assert client.receive(queue, 10, 0.0) == []
        assert client.receive(queue, 10, 0.1) == []

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
        assert client.stats(queue).ready == 1

    def test_g18_a_prefetch_that_makes_no_sense_is_refused(self, client: QueueClient, queue: str) -> None:
        """It is an error that names the value, and the connection goes on."""
        for prefetch in _NO_COUNTS:
            with pytest.raises(ConfigurationError, match="prefetch"):
                client.subscribe(queue, prefetch)
        client.send(queue, 1)
        assert receive_one(client, queue).body

    def test_a_deadline_that_has_passed_is_no_error(self, client: QueueClient, queue: str) -> None:
        """A negative timeout asks for what is ready, like zero."""
        assert client.receive(queue, 1, -5.0) == []

    def test_receive_returns_at_most_what_was_asked_for(self, client: QueueClient, queue: str) -> None:
        """No more than ``max_messages`` are taken; the others stay ready."""
        client.send_many(queue, range(5))
        assert len(client.receive(queue, 2, WAIT)) == 2
        stats = client.stats(queue)
        assert (stats.ready, stats.in_flight, stats.delayed) == (3, 2, 0)

    def test_a_waiting_receive_gets_a_new_message(
        self, make_client: MakeClient, client: QueueClient, queue: str
    ) -> None:
        """A message wakes a ``receive`` that is waiting for it, long before its timeout."""
        received: list[Delivery] = []
        thread = threading.Thread(target=lambda: received.extend(client.receive(queue, 1, 300.0)), daemon=True)
        thread.start()
        make_client().send(queue, 1)
        thread.join(WAIT)
        assert len(received) == 1

    def test_no_message_goes_to_two_consumers(self, make_client: MakeClient, client: QueueClient, queue: str) -> None:
        """Two consumers share a queue: each message goes to one of them."""
        other = make_client()
        client.send_many(queue, range(20))
        bodies = [d.body for n in range(20) for d in ((client, other)[n % 2]).receive(queue, 1, WAIT)]
        assert len(bodies) == len(set(bodies)) == 20

    def test_a_subscribed_client_receives_everything(self, client: QueueClient, queue: str) -> None:
        """With ``subscribe`` messages keep coming, more than the prefetch in all."""
        client.subscribe(queue, 4)
        client.send_many(queue, range(50))
        seen = 0
        deadline = time.monotonic() + WAIT
        while seen < 50 and time.monotonic() < deadline:
            for delivery in client.receive(queue, 4, 1.0):
                client.ack(delivery)
                seen += 1
        assert seen == 50
        eventually(lambda: client.stats(queue).in_flight == 0)

    def test_unsubscribe_wakes_a_waiting_receive(self, client: QueueClient, queue: str) -> None:
        """A blocked ``receive`` returns an empty list when another thread unsubscribes."""
        client.subscribe(queue, 4)
        results: list[list[Delivery]] = []
        started = threading.Event()

        def wait() -> None:
            started.set()
            results.append(client.receive(queue, 1, 300.0))

        thread = threading.Thread(target=wait, daemon=True)
        thread.start()
        started.wait()

        def woken() -> bool:
            client.unsubscribe(queue)  # again and again: the receive may not have begun at the first
            return bool(results)

        eventually(woken, message="receive still blocks after unsubscribe")
        assert results == [[]]

    def test_unsubscribe_gives_back_what_was_not_returned(
        self, make_client: MakeClient, client: QueueClient, queue: str
    ) -> None:
        """What a consumer had read ahead is available to others, uncounted; what it returned stays its own."""
        client.send_many(queue, range(10))
        client.subscribe(queue, 8)
        mine = receive_one(client, queue)
        client.unsubscribe(queue)
        others = receive_all(make_client(), queue, 9)
        assert mine.body not in {delivery.body for delivery in others}
        assert {delivery.attempts for delivery in others} == {0}
        assert {delivery.crashes for delivery in others} == {0}
        client.ack(mine)
        assert client.flush()

    def test_g2_an_unsettled_delivery_comes_back_after_disconnect(
        self, make_client: MakeClient, client: QueueClient, queue: str
    ) -> None:
        """What a client had not settled when it disconnected is delivered again, and no attempt is counted."""
        client.send(queue, "x")
        first = receive_one(client, queue)
        client.disconnect()
        second = receive_one(make_client(), queue)
        assert second.body == first.body
        assert second.attempts == 0

    def test_g2_an_unsettled_delivery_comes_back_after_its_process_was_killed(
        self, make_client: MakeClient, client: QueueClient, queue: str, broker_url: str
    ) -> None:
        """A SIGKILL of the consumer loses nothing: the message is delivered to another one, no attempt counted."""
        if not client.capabilities.shared:
            pytest.skip("the broker lives in one process and dies with its consumers")
        client.send(queue, "x")
        command = [sys.executable, "-c", _DYING_CONSUMER, broker_url, queue, json.dumps(dict(self.options))]
        with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            assert process.stdout.readline().strip() == b"1"
            process.kill()
            process.wait()
        delivery = receive_one(make_client(), queue, self.redelivery_timeout)
        assert delivery.attempts == 0

    def test_stats_of_a_missing_queue_are_zero(self, client: QueueClient, queue_name: str) -> None:
        """A queue that does not exist holds nothing."""
        stats = client.stats(queue_name)
        assert (stats.ready, stats.in_flight, stats.delayed) == (0, 0, 0)

    def test_declare_is_idempotent_and_keeps_messages(self, client: QueueClient, queue: str, dead: str) -> None:
        """Declaring again changes nothing."""
        client.send(queue, 1)
        client.declare(queue, dead)
        client.declare(queue)
        assert client.stats(queue).ready == 1

    def test_purge_deletes_what_is_ready_only(self, client: QueueClient, queue: str) -> None:
        """``purge`` returns how many it deleted; a delivery in flight stays and can be settled."""
        client.send_many(queue, range(5))
        delivery = receive_one(client, queue)
        assert client.purge(queue) == 4
        stats = client.stats(queue)
        assert (stats.ready, stats.in_flight) == (0, 1)
        client.reject(delivery, requeue=True)
        assert receive_one(client, queue).body == delivery.body
