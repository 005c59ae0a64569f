"""Dead letters: complete, explained, listable, replayable."""

from __future__ import annotations

from typing import Any

import pytest

from qbridge_core import ConfigurationError, QueueClient, Reason, UnroutableError, UnsupportedError
from qbridge_core.testing.base import Backend, a_failure, is_empty, receive_all, receive_one


class DeadLetterTests(Backend):
    """``reject(requeue=False)``, ``dead_letters``, ``replay``."""

    def bury(self, client: QueueClient, queue: str, *bodies: bytes) -> None:
        """Publish messages and dead-letter them."""
        for body in bodies:
            client.publish(queue, body, headers={"h": "ü"}, message_id=f"m-{body!r}")
        for delivery in receive_all(client, queue, len(bodies)):
            client.reject(delivery, requeue=False, failure=a_failure(queue, attempts=4))

    def test_g12_a_rejected_message_is_in_the_dead_letter_queue(
        self, client: QueueClient, queue: str, dead: str
    ) -> None:
        """The message leaves its queue and is a normal message of the dead-letter queue, byte for byte."""
        self.bury(client, queue, b"\x00\xffnot json")
        assert client.flush()
        assert is_empty(client, queue)
        letter = receive_one(client, dead)
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
        client.reject(receive_one(client, queue), requeue=False, failure=a_failure(queue, reason=reason))
        assert client.dead_letters(dead)[0].reason is reason

    def test_a_rejection_without_a_failure_is_explained_too(self, client: QueueClient, queue: str, dead: str) -> None:
        """A plain ``reject(requeue=False)`` has reason ``rejected``, its source queue and the attempts so far."""
        client.publish(queue, b"x")
        client.reject(receive_one(client, queue), requeue=True, failure=a_failure(queue, attempts=2))
        client.reject(receive_one(client, queue), requeue=False)
        if not client.capabilities.browse:
            pytest.skip("no listing claimed")
        (letter,) = client.dead_letters(dead)
        assert (letter.reason, letter.source_queue, letter.attempts) == (Reason.REJECTED, queue, 2)

    def test_g12_without_a_dead_letter_queue_nothing_is_lost(self, client: QueueClient, queue_name: str) -> None:
        """A queue that was declared alone dead-letters into ``<queue>.dead``."""
        client.declare(queue_name)
        client.publish(queue_name, b"x")
        client.reject(receive_one(client, queue_name), requeue=False)
        assert receive_one(client, f"{queue_name}.dead").body == b"x"

    def test_g13_listing_neither_consumes_nor_reorders(self, client: QueueClient, queue: str, dead: str) -> None:
        """The listing shows the oldest first, as often as one likes, and the letters stay."""
        if not client.capabilities.browse:
            pytest.skip("no listing claimed")
        bodies = [b"%d" % n for n in range(7)]
        self.bury(client, queue, *bodies)
        for _ in range(3):
            assert [letter.body for letter in client.dead_letters(dead)] == bodies
            assert [letter.body for letter in client.dead_letters(dead, limit=3)] == bodies[:3]
        assert client.stats(dead).ready == 7
        assert [delivery.body for delivery in receive_all(client, dead, 7)] == bodies

    def test_listing_an_empty_or_missing_queue_gives_nothing(self, client: QueueClient, queue: str, dead: str) -> None:
        """No dead letters is no error."""
        if not client.capabilities.browse:
            pytest.skip("no listing claimed")
        assert client.dead_letters(dead) == []
        assert client.dead_letters(f"{queue}-missing") == []

    def test_g18_a_limit_that_makes_no_sense_is_refused(self, client: QueueClient, queue: str, dead: str) -> None:
        """A listing takes a whole number of letters; none is a number too."""
        if not client.capabilities.browse:
            pytest.skip("no listing claimed")
        self.bury(client, queue, b"1")
        no_limits: list[Any] = [-1, 1.5, "1", None]
        for limit in no_limits:
            with pytest.raises(ConfigurationError, match="limit"):
                client.dead_letters(dead, limit)
        assert client.dead_letters(dead, 0) == []

    def test_g13_replay_sends_letters_back_with_counters_reset(
        self, client: QueueClient, queue: str, dead: str
    ) -> None:
        """``replay`` returns how many went back; they are the producer's messages again, without a history."""
        self.bury(client, queue, b"1", b"2", b"3")
        assert client.replay(dead) == 3
        back = receive_all(client, queue, 3)
        assert {delivery.body for delivery in back} == {b"1", b"2", b"3"}
        assert {delivery.attempts for delivery in back} == {0}
        assert {delivery.first_failed_at for delivery in back} == {None}
        assert {tuple(delivery.headers.items()) for delivery in back} == {(("h", "ü"),)}
        assert is_empty(client, dead)

    def test_replay_keeps_to_its_limit_and_target(self, client: QueueClient, queue: str, dead: str) -> None:
        """At most ``limit`` letters go, oldest first, to the queue that ``target`` names."""
        self.bury(client, queue, b"1", b"2", b"3")
        target = f"{queue}-target"
        client.declare(target)
        assert client.replay(dead, limit=2, target=target) == 2
        assert [delivery.body for delivery in receive_all(client, target, 2)] == [b"1", b"2"]
        assert (client.stats(dead).ready, client.stats(queue).ready) == (1, 0)

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
        assert client.replay(dead, limit=0) == 0
        assert client.replay(dead) == 1
        assert receive_one(client, queue).body == b"1"

    def test_a_letter_without_a_way_back_stays(self, client: QueueClient, dead: str) -> None:
        """A letter that does not say where it came from is an error, and stays in the dead-letter queue."""
        client.declare(dead)
        client.publish(dead, b"x")
        with pytest.raises(UnroutableError):
            client.replay(dead)
        assert receive_one(client, dead).body == b"x"

    def test_replay_of_nothing_is_zero(self, client: QueueClient, queue: str, dead: str) -> None:
        """An empty dead-letter queue replays nothing."""
        assert queue
        assert client.replay(dead) == 0
