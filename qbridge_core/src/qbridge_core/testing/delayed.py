"""Delayed messages taken in hand: deleted all together, listed, released and deleted one by one."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import cast

import pytest

from qbridge_core import (
    ConfigurationError,
    DelayedMessage,
    Delivery,
    LettersGoneError,
    QueueClient,
    UnroutableError,
    UnsupportedError,
)
from qbridge_core.testing.base import Backend, Call, MakeClient, a_failure

_HOUR = 3600.0
_GONE = "1-" + 40 * "0"
"""Looks like an id, and is that of no message, on the brokers that are known."""


class DelayedMessageTests(Backend):
    """``purge`` with ``delayed``, ``delayed``, ``release_delayed``, ``delete_delayed``."""

    @pytest.fixture
    def longest(self, client: QueueClient) -> float:
        """An hour, or the longest delay; a test is skipped where no delays are claimed."""
        if not client.capabilities.delay:
            pytest.skip("no delays claimed")
        return min(_HOUR, client.capabilities.max_delay)

    @pytest.fixture
    def browses(self, client: QueueClient) -> None:
        """Skip a test where delayed messages cannot be listed."""
        if not client.capabilities.browse_delayed:
            pytest.skip("delayed messages cannot be listed")

    def test_what_is_delayed_can_be_purged(
        self, make_client: MakeClient, client: QueueClient, queue: str, longest: float
    ) -> None:
        """Sent later or waiting to be retried, by whichever client: it is deleted and counted; what is ready stays."""
        other = make_client()
        client.publish(queue, b"retried")
        client.publish(queue, b"back")
        retried, back = self.receive_all(client, queue, 2)
        client.reject(retried, requeue=True, delay=longest, failure=a_failure(queue))
        client.reject(back, requeue=True, delay=longest / 2)
        for delay in (longest, 0.77 * longest):
            other.publish(queue, b"later", delay=delay)
        other.publish(queue, b"now")
        self.assert_counts(client, queue, ready=1, delayed=4)
        if not client.capabilities.purge_delayed:
            with pytest.raises(UnsupportedError):
                client.purge(queue, delayed=True)
            self.assert_counts(client, queue, ready=1, delayed=4)
            return
        assert client.purge(queue, delayed=True) == 4
        self.assert_counts(client, queue, ready=1, delayed=0)
        self.assert_counts(other, queue, ready=1, delayed=0)
        assert other.purge(queue, delayed=True) == 0
        assert self.receive_one(other, queue).body == b"now"
        other.publish(queue, b"again", delay=0.1)
        assert self.receive_one(other, queue).body == b"again", "delays do not work after a purge"

    def test_purging_what_is_delayed_of_a_missing_queue_deletes_nothing(
        self, client: QueueClient, queue_name: str
    ) -> None:
        """It has none, and is not created."""
        if not client.capabilities.purge_delayed:
            pytest.skip("what is delayed cannot be purged")
        assert client.purge(queue_name, delayed=True) == 0
        self.assert_empty(client, queue_name)

    def test_what_cannot_be_listed_is_not_released(self, client: QueueClient, queue: str, longest: float) -> None:
        """Without ``browse_delayed`` nothing is listed, released or deleted, and nothing happens to what waits."""
        if client.capabilities.browse_delayed:
            pytest.skip("delayed messages can be listed")
        client.publish(queue, b"x", delay=longest)
        with pytest.raises(UnsupportedError):
            client.delayed(queue)
        with pytest.raises(UnsupportedError):
            client.release_delayed(queue)
        with pytest.raises(UnsupportedError):
            client.release_delayed(queue, messages=["1"])
        with pytest.raises(UnsupportedError):
            client.delete_delayed(queue, messages=["1"])
        self.assert_counts(client, queue, ready=0, delayed=1)

    @pytest.mark.usefixtures("browses")
    def test_delayed_messages_are_listed_as_they_are_due(
        self, make_client: MakeClient, client: QueueClient, queue: str, longest: float
    ) -> None:
        """The next one first, each with all that is known of it, page by page, and the same to every client."""
        client.publish(queue, b"retried", headers={"h": "\u00fc"}, message_id="m-1")
        retried = self.receive_one(client, queue)
        began = datetime.now(UTC)
        client.send(queue, {"n": 3}, task_id="t-3", delay=longest)
        client.reject(retried, requeue=True, delay=longest / 2, failure=a_failure(queue, attempts=2))
        client.publish(queue, b"{", delay=longest / 4)
        found = client.delayed(queue)
        assert [message.body for message in found[:2]] == [b"{", b"retried"]
        assert [message.payload for message in found] == [None, None, {"n": 3}]
        assert [message.task_id for message in found] == ["", "task-1", "t-3"]
        assert [message.attempts for message in found] == [0, 2, 0]
        assert (dict(found[1].headers), found[1].message_id) == ({"h": "\u00fc"}, "m-1")
        assert found[1].first_failed_at == pytest.approx(1_700_000_000.25)
        waits = [(message.due_at - began).total_seconds() for message in found if message.due_at is not None]
        assert waits == pytest.approx([part * longest for part in (0.25, 0.5, 1.0)], abs=longest / 8)
        assert len({message.id for message in found}) == 3
        other = make_client()
        pages: list[DelayedMessage] = []
        while page := other.delayed(queue, 1, after=pages[-1] if pages else None):
            pages += page
        assert [message.id for message in pages] == [message.id for message in found]
        assert [message.id for message in other.delayed(queue, after=found[0].id)] == [found[1].id, found[2].id]
        assert client.delayed(queue, 0) == []
        assert all(message.due_at.utcoffset() == began.utcoffset() for message in found if message.due_at)
        if client.capabilities.sent_at:
            assert all(message.sent_at is not None for message in found), "when it was sent is not told"
        self.assert_counts(client, queue, ready=0, delayed=3, message="listing changes the queue")

    @pytest.mark.usefixtures("browses")
    def test_chosen_delayed_messages_are_released_or_deleted(
        self, make_client: MakeClient, client: QueueClient, queue: str, longest: float
    ) -> None:
        """Released ones come now, as they were due, with their counts; the others wait on; what is gone is named."""
        client.publish(queue, b"retried", headers={"h": "1"}, message_id="m")
        retried = self.receive_one(client, queue)
        client.reject(retried, requeue=True, delay=longest / 2, failure=a_failure(queue, attempts=2))
        for body, delay in ((b"first", longest / 4), (b"deleted", longest / 3), (b"stays", longest)):
            client.publish(queue, body, delay=delay)
        first, deleted, again, stays = client.delayed(queue)
        other = make_client()
        assert other.release_delayed(queue, messages=[again, first.id]) == 2
        came = self.receive_all(client, queue, 2)
        assert [delivery.body for delivery in came] == self.in_order(client, [b"first", b"retried"])
        due = [delivery.due_at for delivery in came if delivery.due_at is not None]
        assert all(at < again.due_at for at in due if again.due_at), "it could run from then on"
        assert len(due) == (2 if client.capabilities.sent_at else len(due))
        (told,) = [delivery for delivery in came if delivery.body == b"retried"]
        assert (told.attempts, dict(told.headers), told.message_id) == (2, {"h": "1"}, "m")
        assert client.delete_delayed(queue, messages=[deleted]) == 1
        waiting = Call(lambda: other.receive(queue, 1, 300.0))
        assert not waiting.ended(0.1)
        with pytest.raises(LettersGoneError) as caught:
            client.release_delayed(queue, messages=[deleted, stays.id, again])
        assert (sorted(caught.value.ids), caught.value.done) == (sorted([deleted.id, again.id]), 1)
        assert waiting.ended(self.wait), "a receive waits though a message is released"
        (released,) = cast(list[Delivery], waiting.result())
        assert released.body == b"stays"
        with pytest.raises(LettersGoneError) as caught:
            client.delete_delayed(queue, messages=[_GONE])
        assert (caught.value.ids, caught.value.done) == ((_GONE,), 0)
        self.assert_counts(client, queue, ready=0, delayed=0)

    @pytest.mark.usefixtures("browses")
    def test_everything_that_is_delayed_can_be_released(
        self, client: QueueClient, queue: str, queue_name: str, longest: float
    ) -> None:
        """Hundreds come at once, in the order in which they were due, and those of other queues stay."""
        other = f"{queue_name}-other"
        client.declare(other)
        client.publish(other, b"x", delay=longest)
        bodies = [b"%d" % number for number in range(250)]
        for number, body in enumerate(bodies):
            client.publish(queue, body, delay=longest / 2 + number)
        assert len(client.delayed(queue)) == 100
        assert len(client.delayed(queue, 300)) == 250
        client.publish(queue, b"ready")
        assert client.release_delayed(queue) == 250
        came = [delivery.body for delivery in self.receive_all(client, queue, 251)]
        assert came == [b"ready", *bodies], "what is released goes to the end of its queue"
        assert client.release_delayed(queue) == 0
        self.assert_counts(client, other, ready=0, delayed=1)

    @pytest.mark.usefixtures("browses")
    def test_a_place_in_the_listing_outlasts_its_message(self, client: QueueClient, queue: str, longest: float) -> None:
        """``after`` works behind a message that was due, or deleted, since it was listed."""
        for part in (4, 3, 2, 1):
            client.publish(queue, b"%d" % part, delay=longest / part)
        found = client.delayed(queue)
        client.delete_delayed(queue, messages=[found[1]])
        assert [message.body for message in client.delayed(queue, after=found[1])] == [b"2", b"1"]
        assert client.purge(queue, delayed=True) == 3
        assert client.delayed(queue, after=found[1]) == []

    @pytest.mark.usefixtures("browses")
    def test_g18_delayed_messages_are_named_by_themselves_or_by_ids(
        self, client: QueueClient, queue: str, queue_name: str, longest: float
    ) -> None:
        """Anything else is an error that touches nothing; a queue that does not exist has none."""
        client.publish(queue, b"x", delay=longest)
        for wrong in ("1", 7, [7], [""], [None]):
            with pytest.raises(ConfigurationError):
                client.release_delayed(queue, messages=wrong)  # type: ignore[arg-type]
            with pytest.raises(ConfigurationError):
                client.delete_delayed(queue, messages=wrong)  # type: ignore[arg-type]
        for after in (7, ""):
            with pytest.raises(ConfigurationError):
                client.delayed(queue, after=after)  # type: ignore[arg-type]
        with pytest.raises(ConfigurationError):
            client.delayed(queue, -1)
        with pytest.raises(LettersGoneError):
            client.delayed(queue, after="no id")
        assert client.release_delayed(queue, messages=[]) == 0
        assert client.delete_delayed(queue, messages=[]) == 0
        assert client.delayed(f"{queue_name}-missing") == []
        with pytest.raises(UnroutableError):
            client.publish(f"{queue_name}-missing", b"looking at a queue has created it")
        self.assert_counts(client, queue, ready=0, delayed=1)
