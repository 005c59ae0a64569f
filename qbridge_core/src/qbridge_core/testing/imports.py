"""Dead letters that are put into a queue as they lie in another one, here or at another broker."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from qbridge_core import (
    Attempt,
    AttemptOutcome,
    ConfigurationError,
    DeadLetter,
    PayloadError,
    QueueClient,
    Reason,
    UnroutableError,
    UnsupportedError,
)
from qbridge_core.backend import REPLAYS, meta_int
from qbridge_core.testing.base import Backend, MakeClient, is_empty


class ImportTests(Backend):
    """``import_letters``: the capability ``imports``."""

    def test_letters_are_imported_as_far_as_that_is_claimed(self, client: QueueClient, queue: str, dead: str) -> None:
        """What is not claimed is refused, and puts nothing into the queue; what is claimed does."""
        if client.capabilities.imports:
            assert client.import_letters(dead, [_letter(queue)]) == 1
            self.assert_counts(client, dead, ready=1)
            return
        with pytest.raises(UnsupportedError):
            client.import_letters(dead, [_letter(queue)])
        self.assert_empty(client, dead)

    def test_g13_an_imported_letter_is_the_original(
        self, make_client: MakeClient, client: QueueClient, queue: str, dead: str
    ) -> None:
        """It says what the original says, goes back where that came from, and counts that as the original would."""
        self._require_imports(client)
        history = (Attempt(AttemptOutcome.FAILED, worker="host:1"),) if client.capabilities.history else ()
        letters = [
            replace(_letter(queue), history=history),
            replace(_letter(queue), body=b"\x00\xff", reason=Reason.TIMED_OUT, replays=0),
        ]
        assert client.import_letters(dead, letters) == 2
        self.await_counts(client, dead, ready=2)
        if client.capabilities.browse:
            listed = [replace(letter, id="") for letter in make_client().dead_letters(dead)]
            assert sorted(listed, key=_body) == sorted(letters, key=_body)
            if client.capabilities.ordered:
                assert listed == letters
        assert client.replay(dead) == 2
        back = sorted(self.receive_all(client, queue, 2), key=_body)
        for delivery, letter in zip(back, sorted(letters, key=_body), strict=True):
            assert (delivery.body, dict(delivery.headers)) == (letter.body, letter.headers)
            assert delivery.message_id == letter.message_id
            assert (delivery.attempts, delivery.crashes, delivery.redelivered) == (0, 0, False)
            if client.capabilities.letters:
                assert meta_int(delivery.meta, REPLAYS) == letter.replays + 1
        self.assert_empty(client, dead)

    def test_letters_that_are_listed_can_be_imported(self, client: QueueClient, queue: str, dead: str) -> None:
        """What one queue lists, another one lists after an import; nothing is moved."""
        self._require_imports(client)
        if not client.capabilities.browse:
            pytest.skip("no listing claimed")
        client.declare(other := f"{queue}-other")
        self.bury(client, queue, b"1", b"2")
        client.publish(dead, b"nobody says why")
        letters = client.dead_letters(dead)
        assert client.import_letters(other, iter(letters)) == 3
        assert client.dead_letters(dead) == letters
        imported = [replace(letter, id="") for letter in client.dead_letters(other)]
        assert sorted(imported, key=_body) == sorted((replace(letter, id="") for letter in letters), key=_body)
        assert client.import_letters(other, []) == 0
        assert client.import_letters(other, letters[:1]) == 1, "who imports twice has two"
        bodies = [letter.body for letter in client.dead_letters(other)]
        assert self.in_order(client, bodies) == self.in_order(
            client, [letter.body for letter in [*letters, letters[0]]]
        )

    def test_a_letter_that_says_nothing_says_nothing_after_an_import(
        self, client: QueueClient, queue: str, dead: str
    ) -> None:
        """Nobody knows where it came from, so it goes only where it is told to."""
        self._require_imports(client)
        assert client.import_letters(dead, [DeadLetter.from_headers(b"x", {}, {})]) == 1
        self.await_counts(client, dead, ready=1)
        with pytest.raises(UnroutableError):
            client.replay(dead)
        self.assert_counts(client, dead, soon=True, ready=1)
        assert client.replay(dead, target=queue) == 1
        assert self.receive_one(client, queue).body == b"x"

    def test_g18_what_cannot_be_imported_is_refused(self, client: QueueClient, queue: str, dead: str) -> None:
        """Nothing is there when one of the letters makes no sense, or when there is no such queue."""
        self._require_imports(client)
        good = _letter(queue)
        wrong: list[Any] = [good, "id", [good, "id"], [good, None], 7]
        for letters in wrong:
            with pytest.raises(ConfigurationError):
                client.import_letters(dead, letters)
        for bad in (replace(good, headers={"x-qbridge-attempts": "0"}), replace(good, headers={"\ud800": "x"})):
            with pytest.raises(PayloadError):
                client.import_letters(dead, [good, bad])
        with pytest.raises(UnroutableError):
            client.import_letters(f"{queue}-missing", [good])
        assert is_empty(client, dead)

    def _require_imports(self, client: QueueClient) -> None:
        if not client.capabilities.imports:
            pytest.skip("no import of letters claimed")


def _letter(queue: str) -> DeadLetter:
    """A letter with a value in each field."""
    return DeadLetter(
        body='{"payload": "ü"}'.encode(),
        headers={"h": "ü", "Other-Header": "a b"},
        reason=Reason.FAILED,
        exception_type="shop.Broken",
        exception_message="it broke: ü",
        traceback="Traceback (most recent call last):\nshop.Broken: it broke",
        attempts=4,
        crashes=1,
        first_failed_at=1_700_000_000.25,
        last_failed_at=1_700_000_060.5,
        source_queue=queue,
        task_id="task-ü",
        worker="host:1",
        replays=2,
        message_id="message-ü",
    )


def _body(message: Any) -> bytes:
    body: bytes = message.body
    return body
