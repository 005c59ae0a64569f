"""What people ask of queues: what is in them besides counts, who consumes them, which there are."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Final

import pytest

from qbridge_core import Message, NotConnectedError, QueueClient, QueueStats, UnroutableError, UnsupportedError
from qbridge_core.backend import suspects_queue
from qbridge_core.testing.base import Backend, MakeClient, a_failure

_AT_HAND: Final = frozenset({"dead", "consumers", "oldest_age"})
_DETAILS: Final = _AT_HAND | {"in_rate", "out_rate", "unsettled"}
_RATES: Final = ("in_rate", "out_rate")
_OLD: Final = 0.3
_TOLERANCE: Final = 0.25  # seconds: clocks of files and of other machines are coarser


class DescribingTests(Backend):
    """``stats``, ``count``, ``describe`` and ``queues``: the capabilities ``details`` and ``queues``."""

    def test_a_description_tells_what_is_claimed(self, client: QueueClient, queue: str) -> None:
        """It has the counts, each field that is claimed, and no other one."""
        claimed = client.capabilities.details
        assert claimed <= _DETAILS, "details names fields of QueueStats"
        client.publish(queue, b"x")
        client.describe(queue)  # rates begin with the first
        self.assert_counts(client, queue, ready=1)
        description = client.describe(queue)
        assert _told(description) == claimed, "claim what is told, and nothing else"
        assert description.ready == 1

    def test_stats_tell_what_is_claimed(self, client: QueueClient, queue: str) -> None:
        """Of ``dead``, ``consumers`` and ``oldest_age`` those that are claimed, and nothing else."""
        client.publish(queue, b"x")
        self.assert_counts(client, queue, ready=1)
        told = _told(client.stats(queue))
        assert told == client.capabilities.details & _AT_HAND, "stats tells what is claimed of these three"

    def test_counting_alone_counts_the_same(self, make_client: MakeClient, client: QueueClient, queue: str) -> None:
        """``count`` has the numbers of ``stats``; a queue that does not exist has none, and is not created."""
        other = make_client()
        client.publish_many(queue, [Message(b"x")] * 3)
        if client.capabilities.delay:
            client.publish(queue, b"later", delay=30.0)
        held = self.receive_one(client, queue)
        client.unsubscribe(queue)
        now = QueueStats(2, 1, 1 if client.capabilities.delay else 0)
        wait = self.counting_time(client)
        self.eventually(lambda: client.count(queue) == client.stats(queue) == now, wait, "count is wrong")
        client.ack(held)
        assert client.flush()
        then = replace(now, in_flight=0)
        self.eventually(lambda: client.count(queue) == other.count(queue) == then, wait, "count is wrong")
        assert client.count(queue).paused == client.stats(queue).paused == client.describe(queue).paused

    @pytest.mark.parametrize("look", ["stats", "count", "describe"])
    def test_of_a_missing_queue_nothing_is_told(self, client: QueueClient, queue_name: str, look: str) -> None:
        """It has no messages, no consumers and no known dead-letter queue, and is not created."""
        seen: QueueStats = getattr(client, look)(queue_name)
        assert (seen.ready, seen.in_flight, seen.delayed) == (0, 0, 0)
        assert seen.dead is None
        assert not seen.consumers
        assert not seen.oldest_age
        with pytest.raises(UnroutableError):
            client.publish(queue_name, b"looking at a queue has created it")

    def test_letters_are_counted(self, client: QueueClient, queue: str, queue_name: str, dead: str) -> None:
        """``dead`` counts the letters in the dead-letter queue that was declared, or in that of the usual name."""
        self._require(client, "dead")
        other = f"{queue_name}-other"
        client.declare(other)
        assert _both(client, queue, "dead") == _both(client, other, "dead") == [0, 0]
        self.bury(client, queue, b"1", b"2")
        self.bury(client, other, b"3")
        wait = self.counting_time(client)
        self.eventually(lambda: _both(client, queue, "dead") == [2, 2], wait, "letters are not counted")
        self.eventually(lambda: _both(client, other, "dead") == [1, 1], wait, "letters are not counted")
        held = self.receive_one(client, dead)
        client.unsubscribe(dead)
        self.eventually(lambda: _both(client, queue, "dead") == [1, 1], wait, "a letter that is held is not ready")
        client.ack(held)

    def test_the_oldest_ready_message_has_an_age(self, client: QueueClient, queue: str) -> None:
        """``oldest_age`` is that of the first message which waits, in seconds; of what is in flight nobody asks."""
        self._require(client, "oldest_age")
        assert _both(client, queue, "oldest_age") == [0.0, 0.0]
        before = time.monotonic()
        client.publish(queue, b"old")
        self.eventually(lambda: min(self._ages(client, queue)) >= _OLD, message="the age does not grow")
        assert max(self._ages(client, queue)) <= time.monotonic() - before + _TOLERANCE, "that is no age in seconds"
        client.publish(queue, b"new")
        assert min(self._ages(client, queue)) >= _OLD, "the oldest message counts"
        before = time.monotonic()
        old = self.receive_one(client, queue)
        assert max(self._ages(client, queue)) <= time.monotonic() - before + _TOLERANCE, "what is held does not wait"
        client.ack(self.receive_one(client, queue))
        before = time.monotonic()
        client.reject(old, requeue=True, failure=a_failure(queue))
        self.assert_counts(client, queue, ready=1, soon=True)
        assert max(self._ages(client, queue)) <= time.monotonic() - before + _TOLERANCE, "a retry waits since it came"
        client.ack(self.receive_one(client, queue))
        assert client.flush()
        assert _both(client, queue, "oldest_age") == [0.0, 0.0]
        if client.capabilities.delay:
            client.publish(queue, b"late", delay=2 * _OLD)
            before = time.monotonic() + 2 * _OLD
            self.assert_counts(client, queue, ready=1, soon=True)
            assert max(self._ages(client, queue)) <= time.monotonic() - before + _TOLERANCE, "it waits since it is due"

    def test_consumers_are_counted(self, make_client: MakeClient, client: QueueClient, queue: str) -> None:
        """Who subscribes and receives is one of ``consumers`` until it ends that; who publishes or looks is none."""
        self._require(client, "consumers")
        client.publish(queue, b"x")
        assert _both(client, queue, "consumers") == [0, 0]
        workers = [make_client(), make_client()]
        for worker in workers:
            worker.subscribe(queue, 1)
            worker.receive(queue, 1, 0.1)
        self.eventually(lambda: _both(client, queue, "consumers") == [2, 2], message="two clients consume it")
        workers[0].disconnect()
        self.eventually(lambda: _both(client, queue, "consumers") == [1, 1], message="one of them has ended")
        workers[1].unsubscribe(queue)
        self.eventually(lambda: _both(client, queue, "consumers") == [0, 0], message="both have ended")

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
        """``in_rate`` and ``out_rate`` are what came, or came again, and went since the description before."""
        self._require(client, *_RATES)
        client.publish(queue, b"1")
        client.describe(queue)
        before = time.monotonic()
        for body in (b"2", b"3", b"4"):
            client.publish(queue, body)
        client.ack(self.receive_one(client, queue))
        client.reject(self.receive_one(client, queue), requeue=True, failure=a_failure(queue))
        assert client.flush()
        self.eventually(lambda: time.monotonic() - before > _OLD)
        description = client.describe(queue)
        least = 1 / (time.monotonic() - before + _TOLERANCE)
        assert description.in_rate is not None
        assert description.out_rate is not None
        assert 4 * least < description.in_rate < 4 / _OLD
        assert 2 * least < description.out_rate < 2 / _OLD
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
        if client.capabilities.pause:
            client.pause(queue)
        listed = {name: dead for name, dead in client.queues().items() if name.startswith(queue)}
        assert listed == {queue: dead, dead: None, **others}
        all_names = list(client.queues())  # once: others may declare queues on this broker meanwhile
        assert all_names == sorted(all_names)
        if client.capabilities.pause:
            client.resume(queue)

    def test_g18_nobody_is_told_anything_without_a_connection(self, client: QueueClient, queue: str) -> None:
        """After ``disconnect`` all calls raise NotConnectedError."""
        client.disconnect()
        for look in (client.count, client.describe):
            with pytest.raises(NotConnectedError):
                look(queue)
        if client.capabilities.queues:
            with pytest.raises(NotConnectedError):
                client.queues()

    def _ages(self, client: QueueClient, queue: str) -> list[float]:
        ages = [age for age in _both(client, queue, "oldest_age") if age is not None]
        assert len(ages) == 2, "claimed, and not told"
        return ages

    def _require(self, client: QueueClient, *names: str) -> None:
        if not client.capabilities.details.issuperset(names):
            pytest.skip(f"{' and '.join(names)} not claimed in details")


def _told(stats: QueueStats) -> set[str]:
    """The fields beyond the counts that are filled in."""
    return {name for name in _DETAILS if getattr(stats, name) is not None}


def _both(client: QueueClient, queue: str, name: str) -> list[float | None]:
    """A field as ``stats`` tells it, and as ``describe`` does."""
    return [getattr(client.stats(queue), name), getattr(client.describe(queue), name)]
