"""Dead letters: complete, explained, listable, replayable."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from qbridge_core import ConfigurationError, Message, QueueClient, Reason, UnroutableError, UnsupportedError
from qbridge_core.backend import REPLAYS
from qbridge_core.message import SOURCE_QUEUE, meta_text
from qbridge_core.testing.base import TIMES, Backend, Call, MakeClient, a_failure


class DeadLetterTests(Backend):
    """``reject(requeue=False)``, ``dead_letters``, ``replay``."""

    def test_g12_a_rejected_message_is_in_the_dead_letter_queue(
        self, client: QueueClient, queue: str, dead: str
    ) -> None:
        """The message leaves its queue and is a normal message of the dead-letter queue, byte for byte."""
        self.bury(client, queue, b"\x00\xffnot json")
        assert client.flush()
        self.assert_empty(client, queue)
        letter = self.receive_one(client, dead)
        assert (letter.body, dict(letter.headers)) == (b"\x00\xffnot json", {"h": "ü"})

    def test_g13_a_dead_letter_explains_itself(self, client: QueueClient, queue: str, dead: str) -> None:
        """Every field of the failure can be read back; without the capability the listing is refused."""
        self.bury(client, queue, b"x")
        if not client.capabilities.browse:
            with pytest.raises(UnsupportedError):
                client.dead_letters(dead)
            return
        (letter,) = client.dead_letters(dead)
        failure = a_failure(queue, attempts=4)
        for name in type(failure).__dataclass_fields__:
            assert getattr(letter, name) == getattr(failure, name), name
        assert (letter.body, dict(letter.headers)) == (b"x", {"h": "ü"})

    @pytest.mark.parametrize("reason", list(Reason))
    def test_g13_every_reason_is_kept(self, client: QueueClient, queue: str, dead: str, reason: Reason) -> None:
        """The reason reads the same on every backend."""
        if not client.capabilities.browse:
            pytest.skip("no listing claimed")
        client.publish(queue, b"x")
        client.reject(self.receive_one(client, queue), requeue=False, failure=a_failure(queue, reason=reason))
        assert client.dead_letters(dead)[0].reason is reason

    def test_a_rejection_without_a_failure_is_explained_too(self, client: QueueClient, queue: str, dead: str) -> None:
        """A plain ``reject(requeue=False)`` has reason ``rejected``, its source queue and the attempts so far."""
        client.publish(queue, b"x")
        client.reject(self.receive_one(client, queue), requeue=True, failure=a_failure(queue, attempts=2))
        client.reject(self.receive_one(client, queue), requeue=False)
        if not client.capabilities.browse:
            pytest.skip("no listing claimed")
        (letter,) = client.dead_letters(dead)
        assert (letter.reason, letter.source_queue, letter.attempts) == (Reason.REJECTED, queue, 2)
        assert letter.first_failed_at == 1_700_000_000.25, "when it failed first is known from the delivery"
        assert letter.last_failed_at is not None
        assert letter.last_failed_at > letter.first_failed_at
        assert letter.worker

    def test_g12_without_a_dead_letter_queue_nothing_is_lost(self, client: QueueClient, queue_name: str) -> None:
        """A queue that was declared alone dead-letters into ``<queue>.dead``."""
        client.declare(queue_name)
        client.publish(queue_name, b"x")
        client.reject(self.receive_one(client, queue_name), requeue=False)
        assert self.receive_one(client, f"{queue_name}.dead").body == b"x"

    def test_g13_listing_neither_consumes_nor_reorders(self, client: QueueClient, queue: str, dead: str) -> None:
        """The listing shows the oldest first, as often as one likes, and the letters stay."""
        if not client.capabilities.browse:
            pytest.skip("no listing claimed")
        bodies = [b"\x00\xff%d" % n for n in range(7)]
        self.bury(client, queue, *bodies)
        for _ in range(3):
            listed = [letter.body for letter in client.dead_letters(dead)]
            assert self.in_order(client, listed) == bodies
            assert [letter.body for letter in client.dead_letters(dead, limit=3)] == listed[:3]
        self.assert_counts(client, dead, ready=7)
        assert self.in_order(client, (delivery.body for delivery in self.receive_all(client, dead, 7))) == bodies

    def test_listing_an_empty_or_missing_queue_gives_nothing(self, client: QueueClient, queue: str, dead: str) -> None:
        """No dead letters is no error."""
        if not client.capabilities.browse:
            pytest.skip("no listing claimed")
        assert client.dead_letters(dead) == []
        assert client.dead_letters(f"{queue}-missing") == []
        with pytest.raises(UnroutableError):
            client.publish(f"{queue}-missing", b"listing a queue has created it")

    def test_g18_a_limit_that_makes_no_sense_is_refused(self, client: QueueClient, queue: str, dead: str) -> None:
        """A listing takes a whole number of letters; none is a number too."""
        if not client.capabilities.browse:
            pytest.skip("no listing claimed")
        self.bury(client, queue, b"1")
        no_limits: list[Any] = [-1, 1.5, "1", None, True]
        for limit in no_limits:
            with pytest.raises(ConfigurationError, match="limit"):
                client.dead_letters(dead, limit)
        assert client.dead_letters(dead, 0) == []

    def test_g13_replay_sends_letters_back_with_counters_reset(
        self, client: QueueClient, queue: str, dead: str
    ) -> None:
        """``replay`` returns how many went back; they are the producer's messages again, without a history."""
        self.bury(client, queue, b"1", b"2", b"3")
        self.await_counts(client, dead, ready=3)
        assert client.replay(dead) == 3
        back = self.receive_all(client, queue, 3)
        assert {delivery.body for delivery in back} == {b"1", b"2", b"3"}
        assert {delivery.attempts for delivery in back} == {0}
        assert {delivery.first_failed_at for delivery in back} == {None}
        assert {delivery.redelivered for delivery in back} == {False}
        assert {tuple(delivery.headers.items()) for delivery in back} == {(("h", "ü"),)}
        self.assert_empty(client, dead)

    def test_replay_keeps_to_its_limit_and_target(self, client: QueueClient, queue: str, dead: str) -> None:
        """At most ``limit`` letters go, oldest first, to the queue that ``target`` names."""
        self.bury(client, queue, b"1", b"2", b"3")
        target = f"{queue}-target"
        client.declare(target)
        self.await_counts(client, dead, ready=3)
        assert client.replay(dead, limit=2, target=target) == 2
        replayed = [delivery.body for delivery in self.receive_all(client, target, 2)]
        assert replayed == [b"1", b"2"] or (not client.capabilities.ordered and {*replayed} < {b"1", b"2", b"3"})
        self.assert_counts(client, dead, ready=1)
        self.assert_counts(client, queue, ready=0)

    def test_a_replay_that_makes_no_sense_is_refused(self, client: QueueClient, queue: str, dead: str) -> None:
        """Into the dead-letter queue itself a letter would lose what it says; and a limit is a whole number."""
        self.bury(client, queue, b"1")
        with pytest.raises(ConfigurationError, match="itself"):
            client.replay(dead, target=dead)
        with pytest.raises(ConfigurationError, match="limit"):
            client.replay(dead, limit="all")  # type: ignore[arg-type]
        with pytest.raises(ConfigurationError, match="queue name"):
            client.replay(dead, target="")
        with pytest.raises(ConfigurationError, match="limit"):
            client.replay(dead, limit=-1)
        self.await_counts(client, dead, ready=1)
        assert client.replay(dead, limit=0) == 0
        assert client.replay(dead) == 1
        assert self.receive_one(client, queue).body == b"1"

    def test_a_letter_without_a_way_back_stays(self, client: QueueClient, dead: str) -> None:
        """A letter that does not say where it came from, or is to go where no queue is, stays where it is."""
        client.declare(dead)
        client.publish(dead, b"x")
        self.await_counts(client, dead, ready=1)
        missing = f"{dead}-missing"
        for target in (None, missing):
            with pytest.raises(UnroutableError):
                client.replay(dead, target=target)
        with pytest.raises(UnroutableError):
            client.receive(missing)  # a replay has not created it
        assert self.receive_one(client, dead).body == b"x"

    def test_replay_of_nothing_is_zero(self, client: QueueClient, queue: str, dead: str) -> None:
        """A dead-letter queue that is empty or missing replays nothing, and is not created."""
        assert client.replay(dead) == 0
        assert client.replay(f"{queue}-missing") == 0
        with pytest.raises(UnroutableError):
            client.publish(f"{queue}-missing", b"x")

    def test_g13_all_letters_are_replayed(self, client: QueueClient, queue: str, dead: str) -> None:
        """However many there are, in their order."""
        client.publish_many(dead, [Message(b"%d" % number) for number in range(205)])
        self.await_counts(client, dead, ready=205)
        assert client.replay(dead, target=queue) == 205
        replayed = [delivery.body for delivery in self.receive_all(client, queue, 205)]
        assert self.in_order(client, replayed) == self.in_order(client, (b"%d" % number for number in range(205)))
        self.assert_empty(client, dead)

    def test_g13_letters_that_somebody_holds_are_left_alone(
        self, make_client: MakeClient, client: QueueClient, queue: str, dead: str
    ) -> None:
        """A letter in flight is counted as that, neither replayed nor purged, and can be settled by its holder."""
        self.bury(client, queue, b"1", b"2", b"3")
        holder = make_client()
        held = self.receive_one(holder, dead)
        assert held.body == b"1" or not client.capabilities.ordered
        self.assert_counts(client, dead, ready=2)
        self.assert_counts(holder, dead, in_flight=1)
        assert client.replay(dead, limit=1) == 1, "letters that somebody holds use up the limit"
        self.await_counts(client, dead, ready=1)
        assert client.replay(dead) == 1
        replayed = [delivery.body for delivery in self.receive_all(client, queue, 2)]
        assert self.in_order(client, replayed) == sorted({b"1", b"2", b"3"} - {held.body})
        self.bury(client, queue, b"4")
        assert client.purge(dead) == 1
        holder.ack(held)
        assert holder.flush()
        self.assert_empty(client, dead)

    def test_g13_what_replay_cannot_send_back_stays_in_its_place(
        self, client: QueueClient, queue: str, dead: str
    ) -> None:
        """A letter whose queue is gone is an error; it and those behind it keep their order."""
        target = f"{queue}-target"
        client.declare(target)
        for number in range(6):
            client.publish(queue, b"%d" % number, message_id=f"m-{number}")
        for number, delivery in enumerate(self.receive_all(client, queue, 6)):
            source = f"{queue}-gone" if number == 2 else queue
            client.reject(delivery, requeue=False, failure=a_failure(source, attempts=4))
        self.await_counts(client, dead, ready=6)
        with pytest.raises(UnroutableError):
            client.replay(dead)
        if not client.capabilities.ordered:  # nobody knows which came before the one that cannot go
            client.replay(dead, target=queue)
            assert {delivery.body for delivery in self.receive_all(client, queue, 6)} == {b"%d" % n for n in range(6)}
            return
        assert [delivery.body for delivery in self.receive_all(client, queue, 2)] == [b"0", b"1"]
        if client.capabilities.browse:
            assert [letter.body for letter in client.dead_letters(dead)] == [b"2", b"3", b"4", b"5"]
        with pytest.raises(UnroutableError):
            client.replay(dead)
        self.assert_counts(client, dead, ready=4)
        assert client.replay(dead, target=target) == 4
        assert [delivery.body for delivery in self.receive_all(client, target, 4)] == [b"2", b"3", b"4", b"5"]

    def test_replay_takes_no_more_than_were_there(
        self, make_client: MakeClient, client: QueueClient, queue: str, dead: str
    ) -> None:
        """Letters that fail again at once do not go round and round."""
        self.bury(client, queue, *(b"%d" % number for number in range(5)))
        self.await_counts(client, dead, ready=5)
        worker = make_client()
        worker.declare(queue, dead)
        ended = threading.Event()

        def fail_again() -> None:
            while not ended.is_set():
                for delivery in worker.receive(queue, 5, 0.05):
                    worker.reject(delivery, requeue=False, failure=a_failure(queue))

        failing, replaying = Call(fail_again), Call(lambda: client.replay(dead))
        try:
            assert replaying.ended(self.wait), "replay goes on and on"
            assert replaying.result() == 5
            self.assert_counts(client, dead, ready=5, soon=True)
        finally:
            ended.set()
            assert failing.ended(self.wait)
            failing.result()

    def test_a_letter_keeps_its_id_and_forgets_its_crashes(self, client: QueueClient, queue: str, dead: str) -> None:
        """The message id travels into the letter and back; a replayed message has counts of nothing but of replays."""
        client.publish(queue, b"x", message_id="m", headers={"h": "1"})
        failure = a_failure(queue, attempts=4, reason=Reason.CRASHED, crashes=3)
        client.reject(self.receive_one(client, queue), requeue=False, failure=failure)
        if client.capabilities.browse:
            assert [(one.reason, one.crashes) for one in client.dead_letters(dead)] == [(Reason.CRASHED, 3)]
        letter = self.receive_one(client, dead)
        assert letter.message_id == "m"
        assert meta_text(letter.meta, SOURCE_QUEUE) == queue
        client.reject(letter, requeue=True)
        self.assert_counts(client, dead, ready=1, soon=True)
        assert client.replay(dead) == 1
        again = self.receive_one(client, queue)
        assert (again.message_id, again.attempts, again.crashes, again.suspected) == ("m", 0, 0, False)
        assert set(again.meta) - TIMES <= {REPLAYS}

    def test_listing_stops_at_a_hundred_unless_told(self, client: QueueClient, dead: str) -> None:
        """The default limit is a bound; a higher one lists more, also what was published there by somebody."""
        if not client.capabilities.browse:
            pytest.skip("no listing claimed")
        client.declare(dead)
        client.publish_many(dead, [Message(b"%d" % number) for number in range(103)])
        letters = client.dead_letters(dead)
        assert len(letters) == 100
        assert {(one.reason, one.attempts, one.first_failed_at, one.last_failed_at) for one in letters} == {
            (Reason.REJECTED, 0, None, None)
        }
        assert {(one.source_queue, one.traceback) for one in letters} == {("", "")}
        listed = [letter.body for letter in client.dead_letters(dead, 200)]
        assert self.in_order(client, listed) == self.in_order(client, (b"%d" % number for number in range(103)))
