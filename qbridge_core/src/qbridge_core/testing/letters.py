"""Dead letters that one can take in hand: named, listed page by page, sent back, edited, deleted."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import pytest

from qbridge_core import (
    ConfigurationError,
    DeadLetter,
    LettersGoneError,
    Message,
    MessageTooLargeError,
    PayloadError,
    QueueClient,
    UnroutableError,
    UnsupportedError,
)
from qbridge_core.backend import REPLAYS, TASK_ID, meta_int, meta_text
from qbridge_core.testing.base import TIMES, Backend, MakeClient, a_failure, is_empty


class LetterTests(Backend):
    """``after``, ``letters``, ``delete_letters``: the capability ``letters``."""

    def test_letters_are_named_as_far_as_that_is_claimed(self, client: QueueClient, queue: str, dead: str) -> None:
        """What is not claimed is refused, and touches no letter; what is claimed is listed with ids."""
        for body in (b"1", b"2"):
            client.publish(queue, body, message_id="same")
            client.reject(self.receive_one(client, queue), requeue=False)
        listed = client.dead_letters(dead) if client.capabilities.browse else []
        if client.capabilities.letters:
            assert client.capabilities.browse, "letters cannot be named where they cannot be listed"
            assert len({letter.id for letter in listed}) == 2
            assert all(letter.id for letter in listed)
            return
        assert {letter.id for letter in listed} <= {""}, "letters have ids: claim letters"
        for refused in (
            lambda: client.dead_letters(dead, 10, after="1"),
            lambda: client.replay(dead, letters=["1"]),
            lambda: client.replay(dead, letters=["1"], body=b"{}"),
            lambda: client.delete_letters(dead, letters=["1"]),
        ):
            with pytest.raises(UnsupportedError):
                refused()
        self.assert_counts(client, dead, ready=2)

    def test_g13_letters_are_listed_page_by_page(
        self, make_client: MakeClient, client: QueueClient, queue: str, dead: str
    ) -> None:
        """Each page begins behind the last letter of the one before; the ids are the same for everybody."""
        self._require_letters(client)
        self.bury(client, queue, *(b"%d" % number for number in range(7)))
        everything = client.dead_letters(dead)
        pages: list[DeadLetter] = []
        after: DeadLetter | str | None = None
        while page := client.dead_letters(dead, 3, after=after):
            assert len(page) <= 3
            assert len(pages) < 7, "the pages do not end"
            pages += page
            after = page[-1] if after is None else page[-1].id
        assert pages == everything
        assert make_client().dead_letters(dead) == everything
        assert client.dead_letters(dead, after=everything[-1]) == []
        assert client.stats(dead).ready == 7

    def test_a_listing_behind_a_letter_that_is_gone(self, client: QueueClient, queue: str, dead: str) -> None:
        """It goes on from where the letter was, or says that nobody can tell; it leaves out none in silence."""
        self._require_letters(client)
        self.bury(client, queue, b"1", b"2", b"3")
        second = client.dead_letters(dead)[1]
        assert client.delete_letters(dead, letters=[second]) == 1
        with suppress(LettersGoneError):
            assert [letter.body for letter in client.dead_letters(dead, after=second)] == [b"3"]
        with pytest.raises(LettersGoneError):
            client.dead_letters(dead, after="no id of a letter")

    def test_g13_chosen_letters_are_sent_back(self, client: QueueClient, queue: str, dead: str) -> None:
        """Those that are named go, in the order of the queue and begun anew; the others stay, in theirs."""
        self._require_letters(client)
        self.bury(client, queue, *(b"%d" % number for number in range(6)))
        letters = client.dead_letters(dead)
        assert client.replay(dead, letters=[letters[4], letters[1].id]) == 2
        back = self.receive_all(client, queue, 2)
        assert [delivery.body for delivery in back] == [letters[1].body, letters[4].body]
        assert {(one.attempts, one.crashes, one.first_failed_at, one.redelivered) for one in back} == {
            (0, 0, None, False)
        }
        assert [dict(one.headers) for one in back] == [{"h": "ü"}] * 2
        assert [one.message_id for one in back] == [f"m-{one.body!r}" for one in back]
        stay = [letter for position, letter in enumerate(letters) if position not in (1, 4)]
        assert client.dead_letters(dead) == stay
        target = f"{queue}-target"
        client.declare(target)
        assert client.replay(dead, letters=stay, target=target) == 4
        assert [one.body for one in self.receive_all(client, target, 4)] == [letter.body for letter in stay]
        assert is_empty(client, dead)
        self.bury(client, queue, b"stays")
        assert client.replay(dead, letters=[]) == 0
        assert client.stats(dead).ready == 1

    def test_replays_are_counted(self, client: QueueClient, queue: str, dead: str) -> None:
        """A message says how often it was sent back, in each retry and letter that it becomes."""
        self._require_letters(client)
        self.bury(client, queue, b"x")
        for count in (1, 2):
            (letter,) = client.dead_letters(dead)
            assert letter.replays == count - 1
            assert client.replay(dead, letters=[letter] if count == 1 else None) == 1
            delivery = self.receive_one(client, queue)
            assert meta_int(delivery.meta, REPLAYS) == count
            assert set(delivery.meta) - TIMES == {REPLAYS}
            for delay in (0.0, 0.01) if client.capabilities.delay else (0.0,):
                client.reject(delivery, delay=delay)  # a hand-back counts nothing and forgets nothing
                delivery = self.receive_one(client, queue)
                assert meta_int(delivery.meta, REPLAYS) == count
            failure = a_failure(queue, attempts=1, replays=count)
            client.reject(delivery, failure=failure)
            delivery = self.receive_one(client, queue)
            assert (delivery.attempts, meta_int(delivery.meta, REPLAYS)) == (1, count)
            client.reject(delivery, requeue=False)
        assert client.dead_letters(dead)[0].replays == 2

    def test_g13_chosen_letters_are_deleted(
        self, make_client: MakeClient, client: QueueClient, queue: str, dead: str
    ) -> None:
        """Those that are named, by whomever, are gone; the others keep their order."""
        self._require_letters(client)
        self.bury(client, queue, *(b"%d" % number for number in range(5)))
        letters = client.dead_letters(dead)
        named: list[DeadLetter | str] = [letters[3].id, letters[0]]
        assert make_client().delete_letters(dead, letters=iter(named)) == 2
        assert client.dead_letters(dead) == [letters[1], letters[2], letters[4]]
        assert client.delete_letters(dead, letters=[]) == 0
        assert client.dead_letters(dead) == [letters[1], letters[2], letters[4]]
        assert is_empty(client, queue)
        with pytest.raises(LettersGoneError) as caught:
            client.delete_letters(dead, letters=[letters[1], letters[1].id])
        assert (caught.value.ids, caught.value.done) == ((letters[1].id,), 1)

    def test_a_letter_is_sent_back_edited(self, client: QueueClient, queue: str, dead: str) -> None:
        """It is another message, with the id of its task; what was not changed is the producer's."""
        self._require_letters(client)
        self.bury(client, queue, b"1", b"2", b"3", b"4")
        first, second, third, fourth = client.dead_letters(dead)
        assert client.replay(dead, letters=[fourth], body=b"", headers={}, target=queue) == 1
        empty = self.receive_one(client, queue)
        assert (empty.body, dict(empty.headers)) == (b"", {})
        with pytest.raises(MessageTooLargeError):
            client.replay(dead, letters=[first], body=bytes(client.max_message_bytes + 1))
        assert client.replay(dead, letters=[second], body=b"\x00\xffnew") == 1
        assert client.replay(dead, letters=[third], headers={"other": "ß"}) == 1
        assert client.dead_letters(dead) == [first]
        bodies, headers = self.receive_all(client, queue, 2)
        assert (bodies.body, dict(bodies.headers)) == (b"\x00\xffnew", {"h": "ü"})
        assert (headers.body, dict(headers.headers)) == (b"3", {"other": "ß"})
        for delivery, letter in ((bodies, second), (headers, third)):
            assert delivery.message_id not in (None, f"m-{letter.body!r}")
            assert meta_text(delivery.meta, TASK_ID) == letter.task_id == "task-1"
            assert meta_int(delivery.meta, REPLAYS) == 1
            assert (delivery.attempts, delivery.first_failed_at) == (0, None)
        assert bodies.message_id != headers.message_id

    def test_letters_that_are_gone_do_not_keep_the_others(
        self, make_client: MakeClient, client: QueueClient, queue: str, dead: str
    ) -> None:
        """What is named and not there is an error, after the rest is done; what a consumer holds is not there."""
        self._require_letters(client)
        self.bury(client, queue, *(b"%d" % number for number in range(5)))
        letters = client.dead_letters(dead)
        holder = make_client()
        held = self.receive_one(holder, dead)
        assert held.body == b"0"
        assert client.delete_letters(dead, letters=[letters[1]]) == 1
        with pytest.raises(LettersGoneError) as replayed:
            client.replay(dead, letters=[letters[1], letters[2], letters[2].id, "no id of a letter", letters[0]])
        assert replayed.value.ids == (letters[1].id, letters[2].id, "no id of a letter", letters[0].id)
        assert replayed.value.done == 1
        with pytest.raises(LettersGoneError) as deleted:
            client.delete_letters(dead, letters=[letters[3], letters[0]])
        assert (deleted.value.ids, deleted.value.done) == ((letters[0].id,), 1)
        assert self.receive_one(client, queue).body == b"2"
        holder.reject(held)
        self.eventually(lambda: client.stats(dead).ready == 2)
        assert {letter.body for letter in client.dead_letters(dead)} == {b"0", b"4"}

    def test_equal_letters_are_as_many_as_are_named(self, client: QueueClient, queue: str, dead: str) -> None:
        """Letters of other programs that nobody can tell apart go one by one, or all when all are named."""
        self._require_letters(client)
        client.publish_many(dead, [Message(b"same")] * 4)
        letters = client.dead_letters(dead)
        assert client.replay(dead, target=queue, letters=letters[:1]) == 1
        assert client.delete_letters(dead, letters=letters[1:2]) == 1
        assert client.replay(dead, target=queue, letters=letters[2:]) == 2
        assert len(self.receive_all(client, queue, 3)) == 3
        assert is_empty(client, dead)

    def test_a_chosen_letter_that_cannot_go_stays_in_its_place(
        self, client: QueueClient, queue: str, dead: str
    ) -> None:
        """A letter without a way back is an error; it and those behind it keep their order."""
        self._require_letters(client)
        self.bury(client, queue, b"0")
        client.publish(dead, b"1")
        self.bury(client, queue, b"2", b"3")
        letters = client.dead_letters(dead)
        for _ in range(2):
            with pytest.raises(UnroutableError):
                client.replay(dead, letters=letters[1:])
            assert client.dead_letters(dead) == letters
        with pytest.raises(UnroutableError):
            client.replay(dead, letters=letters[2:], target=f"{queue}-missing")
        with pytest.raises(UnroutableError):
            client.replay(dead, letters=letters[2:3], target=f"{queue}-missing", body=b"new")
        assert client.dead_letters(dead) == letters

    def test_g18_a_choice_that_makes_no_sense_is_refused(self, client: QueueClient, queue: str, dead: str) -> None:
        """Wrong arguments are named, and touch no letter."""
        self._require_letters(client)
        self.bury(client, queue, b"1", b"2")
        letters = client.dead_letters(dead)
        wrong: Sequence[dict[str, Any]] = (
            {"letters": letters[0]},
            {"letters": letters[0].id},
            {"letters": [None]},
            {"letters": [""]},
            {"letters": 7},
            {"letters": letters, "limit": 1},
            {"letters": letters, "body": b"{}"},
            {"letters": letters[:1], "body": "{}"},
            {"letters": letters[:1], "target": dead},
            {"body": b"{}"},
            {"headers": {"h": "1"}},
        )
        for arguments in wrong:
            with pytest.raises(ConfigurationError):
                client.replay(dead, **arguments)
        with pytest.raises(PayloadError):
            client.replay(dead, letters=letters[:1], headers={"x-qbridge-attempts": "0"})
        no_letters: list[Any] = [None, letters[0], "id", [7]]
        for given in no_letters:
            with pytest.raises(ConfigurationError):
                client.delete_letters(dead, letters=given)
        with pytest.raises(ConfigurationError):
            client.dead_letters(dead, after=7)  # type: ignore[arg-type]
        assert client.dead_letters(dead) == letters

    def test_nothing_is_chosen_from_a_missing_queue(self, client: QueueClient, queue: str) -> None:
        """A queue that does not exist has no letters, and is not created."""
        self._require_letters(client)
        missing = f"{queue}-missing"
        with pytest.raises(LettersGoneError):
            client.replay(missing, letters=["1-1"])
        with pytest.raises(LettersGoneError):
            client.delete_letters(missing, letters=["1-1"])
        with pytest.raises(UnroutableError):
            client.publish(missing, b"x")

    def _require_letters(self, client: QueueClient) -> None:
        if not client.capabilities.letters:
            pytest.skip("no choice of letters claimed")
