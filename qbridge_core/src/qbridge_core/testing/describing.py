"""What people ask of queues: what is in them besides counts, who consumes them, which there are."""

from __future__ import annotations

import time
from typing import Final

import pytest

from qbridge_core import NotConnectedError, QueueClient, UnroutableError, UnsupportedError
from qbridge_core.backend import suspects_queue
from qbridge_core.testing.base import Backend, MakeClient

_DETAILS: Final = frozenset({"dead", "consumers", "oldest_age", "in_rate", "out_rate", "unsettled"})
_RATES: Final = ("in_rate", "out_rate")
_OLD: Final = 0.3
_TOLERANCE: Final = 0.25  # seconds: clocks of files and of other machines are coarser


class DescribingTests(Backend):
    """``describe`` and ``queues``: the capabilities ``details`` and ``queues``."""

    def test_a_description_tells_what_is_claimed(self, client: QueueClient, queue: str) -> None:
        """It has the counts, each field that is claimed, and no other one; ``stats`` has the counts alone."""
        claimed = client.capabilities.details
        assert claimed <= _DETAILS, "details names fields of QueueStats"
        client.publish(queue, b"x")
        client.describe(queue)  # rates begin with the first
        self.assert_counts(client, queue, ready=1)
        description = client.describe(queue)
        told = {name for name in _DETAILS if getattr(description, name) is not None}
        assert told == claimed, "claim what is told, and nothing else"
        assert description.ready == 1
        assert {getattr(client.stats(queue), name) for name in _DETAILS} == {None}, "stats is asked often: it counts"

    def test_the_description_of_a_missing_queue_is_empty(self, client: QueueClient, queue_name: str) -> None:
        """It has no messages, no consumers and no known dead-letter queue, and is not created."""
        description = client.describe(queue_name)
        assert (description.ready, description.in_flight, description.delayed) == (0, 0, 0)
        assert description.dead is None
        assert not description.consumers
        assert not description.oldest_age
        with pytest.raises(UnroutableError):
            client.publish(queue_name, b"describing a queue has created it")

    def test_letters_are_counted(self, client: QueueClient, queue: str, queue_name: str) -> None:
        """``dead`` counts the letters in the dead-letter queue that was declared, or in that of the usual name."""
        self._require(client, "dead")
        other = f"{queue_name}-other"
        client.declare(other)
        assert client.describe(queue).dead == client.describe(other).dead == 0
        self.bury(client, queue, b"1", b"2")
        self.bury(client, other, b"3")
        self.eventually(lambda: client.describe(queue).dead == 2, self.counting_time(client), "letters are not counted")
        self.eventually(lambda: client.describe(other).dead == 1, self.counting_time(client), "letters are not counted")

    def test_the_oldest_ready_message_has_an_age(self, client: QueueClient, queue: str) -> None:
        """``oldest_age`` is that of the first message which waits, in seconds; of what is in flight nobody asks."""
        self._require(client, "oldest_age")
        assert client.describe(queue).oldest_age == 0.0
        before = time.monotonic()
        client.publish(queue, b"old")
        self.eventually(lambda: self._age(client, queue) >= _OLD, message="the age does not grow")
        assert self._age(client, queue) <= time.monotonic() - before + _TOLERANCE, "that is no age in seconds"
        client.publish(queue, b"new")
        assert self._age(client, queue) >= _OLD, "the oldest message counts"
        before = time.monotonic()
        old = self.receive_one(client, queue)
        assert self._age(client, queue) <= time.monotonic() - before + _TOLERANCE, "what is in flight does not wait"
        client.ack(old)
        client.ack(self.receive_one(client, queue))
        assert client.flush()
        assert client.describe(queue).oldest_age == 0.0

    def test_consumers_are_counted(self, make_client: MakeClient, client: QueueClient, queue: str) -> None:
        """Who subscribes and receives is one of ``consumers`` until it disconnects; who publishes or looks is none."""
        self._require(client, "consumers")
        client.publish(queue, b"x")
        assert client.describe(queue).consumers == 0
        workers = [make_client(), make_client()]
        for worker in workers:
            worker.subscribe(queue, 1)
            worker.receive(queue, 1, 0.1)
        self.eventually(lambda: client.describe(queue).consumers == 2, message="two clients consume it")
        workers[0].disconnect()
        self.eventually(lambda: client.describe(queue).consumers == 1, message="one of them has ended")
        workers[1].disconnect()
        self.eventually(lambda: client.describe(queue).consumers == 0, message="both have ended")

    def test_what_all_clients_hold_is_counted(self, make_client: MakeClient, client: QueueClient, queue: str) -> None:
        """``unsettled`` is what this client has in flight together with what others have."""
        self._require(client, "unsettled")
        other = make_client()
        for body in (b"1", b"2", b"3"):
            client.publish(queue, body)
        assert client.describe(queue).unsettled == 0
        mine, theirs = self.receive_one(client, queue), self.receive_one(other, queue)
        wait = self.counting_time(client)
        self.eventually(lambda: client.describe(queue).unsettled == 2, wait, "two clients hold one each")
        other.ack(theirs)
        assert other.flush()
        self.eventually(lambda: client.describe(queue).unsettled == 1, wait, "one is settled")
        client.ack(mine)

    def test_rates_are_told(self, client: QueueClient, queue: str) -> None:
        """``in_rate`` and ``out_rate`` are what came and went since the description before, in a second."""
        self._require(client, *_RATES)
        client.publish(queue, b"1")
        client.describe(queue)
        before = time.monotonic()
        for body in (b"2", b"3", b"4"):
            client.publish(queue, body)
        client.ack(self.receive_one(client, queue))
        assert client.flush()
        self.eventually(lambda: time.monotonic() - before > _OLD)
        description = client.describe(queue)
        least = 1 / (time.monotonic() - before + _TOLERANCE)
        assert description.in_rate is not None
        assert description.out_rate is not None
        assert 3 * least < description.in_rate < 3 / _OLD
        assert least < description.out_rate < 1 / _OLD
        self.eventually(lambda: client.describe(queue).in_rate == 0.0, message="nothing comes any more")

    def test_queues_are_listed_as_far_as_that_is_claimed(self, client: QueueClient, queue: str, dead: str) -> None:
        """Those of the client, with their dead-letter queues, without what QBridge keeps beside them; or it refuses."""
        if not client.capabilities.queues:
            with pytest.raises(UnsupportedError):
                client.queues()
            return
        others = {f"{queue}-other": None, f"{queue}-third": f"{queue}-third.dead", f"{queue}-third.dead": None}
        for name in others:
            client.declare(name)
        client.declare(suspects_queue(queue))
        if client.capabilities.delay:
            client.publish(queue, b"x", delay=3600)
        listed = {name: dead for name, dead in client.queues().items() if name.startswith(queue)}
        assert listed == {queue: dead, dead: None, **others}
        assert list(client.queues()) == sorted(client.queues())

    def test_g18_nobody_is_told_anything_without_a_connection(self, client: QueueClient, queue: str) -> None:
        """After ``disconnect`` both calls raise NotConnectedError."""
        client.disconnect()
        with pytest.raises(NotConnectedError):
            client.describe(queue)
        if client.capabilities.queues:
            with pytest.raises(NotConnectedError):
                client.queues()

    def _age(self, client: QueueClient, queue: str) -> float:
        age = client.describe(queue).oldest_age
        assert age is not None, "claimed, and not told"
        return age

    def _require(self, client: QueueClient, *names: str) -> None:
        if not client.capabilities.details.issuperset(names):
            pytest.skip(f"{' and '.join(names)} not claimed in details")
