"""How the command line finds letters, has them edited, and paces them, without a broker that others see."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import islice
from typing import Any

import pytest

from qbridge_core import DeadLetter, LettersGoneError, Message, UnroutableError, connect
from qbridge_core.cli.commands.dlq import replay
from qbridge_core.cli.commands.dlq.acting import Deed
from qbridge_core.cli.commands.dlq.options import Desk
from qbridge_core.cli.exits import Failed, WrongUsage
from qbridge_core.cli.letters import pages
from qbridge_core.cli.letters.edits import editable, edited_body
from qbridge_core.cli.letters.pace import turns
from qbridge_core.cli.letters.pages import letters_of
from qbridge_core.cli.letters.queues import dead_letter_queue, nothing_there
from qbridge_core.testing.base import a_failure
from qbridge_memory import MemoryClient
from support.dead_letters import a_letter

# ---------------------------------------------------------------------- pages


def a_client(letters: int) -> MemoryClient:
    """A connected client with letters in ``q.dead``."""
    client = connect("memory://")
    assert isinstance(client, MemoryClient)
    client.connect()
    client.declare("q", "q.dead")
    client.send_many("q", range(letters))
    for delivery in client.receive("q", letters) if letters else ():
        client.reject(delivery, requeue=False, failure=a_failure("q", attempts=1))
    return client


class SharesIds(MemoryClient):
    """As RabbitMQ: equal letters share an id, and a listing begins behind the first that has it."""

    def dead_letters(self, queue: str, limit: int = 100, *, after: Any = None) -> list[DeadLetter]:
        """As it says above."""
        letters = [replace(each, id=each.body.decode()) for each in super().dead_letters(queue, 10**6)]
        if after is None:
            return letters[:limit]
        ids = [letter.id for letter in letters]
        if after not in ids:
            raise LettersGoneError([after])
        return letters[ids.index(after) + 1 :][:limit]


def test_all_letters_are_gone_through(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each one once, in their order, however many pages it takes, and no more than were wanted."""
    monkeypatch.setattr(pages, "_LARGEST_PAGE", 30)
    with a_client(100) as client:
        everything = client.dead_letters("q.dead", 1_000)
        assert list(letters_of(client, "q.dead")) == everything
        assert list(letters_of(client, "q.dead", 33)) == everything[:33]
        assert list(letters_of(client, "missing")) == []


def test_equal_letters_are_gone_through(monkeypatch: pytest.MonkeyPatch) -> None:
    """Letters that share an id are each seen once: no page begins where another one did."""
    monkeypatch.setattr(pages, "_FIRST_PAGE", 3)
    monkeypatch.setattr(pages, "_LARGEST_PAGE", 4)
    with SharesIds("memory://") as client:
        client.declare("q.dead")
        bodies = [b"a", b"b", b"same", b"same", b"same", b"same", b"same", b"c", b"same", b"a", b"a", b"same", b"d"]
        client.publish_many("q.dead", [Message(body) for body in bodies])
        assert [letter.body for letter in letters_of(client, "q.dead")] == bodies


def test_letters_that_go_meanwhile_do_not_end_a_listing(monkeypatch: pytest.MonkeyPatch) -> None:
    """It goes on behind the last letter that stays; where none of a page does, it says so."""
    monkeypatch.setattr(pages, "_FIRST_PAGE", 3)
    with SharesIds("memory://") as client:
        client.declare("q.dead")
        client.publish_many("q.dead", [Message(b"%d" % number) for number in range(10)])
        seen = []
        for letter in letters_of(client, "q.dead"):
            if letter.body == b"2":
                broker: Any = client._broker
                waiting = broker._queues["q.dead"].ready
                del waiting[1], waiting[1]
            seen.append(letter.body)
        assert seen == [b"%d" % number for number in range(10)]
        letters = letters_of(client, "q.dead")
        list(islice(letters, 3))
        client.purge("q.dead")
        with pytest.raises(Failed, match="do it again"):
            list(letters)


def test_pages_are_smaller_where_bodies_are_large() -> None:
    """A page has no more than some megabytes, as far as those before it tell."""
    asked = []

    class Counting(MemoryClient):
        def dead_letters(self, queue: str, limit: int = 100, *, after: Any = None) -> list[DeadLetter]:
            asked.append(limit)
            return super().dead_letters(queue, limit, after=after)

    with Counting("memory://") as client:
        client.declare("q.dead")
        client.publish_many("q.dead", [Message(bytes(2**20))] * 50)
        assert sum(1 for _ in letters_of(client, "q.dead")) == 50
    assert asked == [20, 16, 16, 16]


# ---------------------------------------------------------------------- queues


def test_the_dead_letter_queue_is_found_by_either_name() -> None:
    """By the queue's name, by its own, and by a name that says what it is where it holds dead letters."""
    with a_client(1) as client:
        assert dead_letter_queue(client, "q") == dead_letter_queue(client, "q.dead") == "q.dead"
        assert dead_letter_queue(client, "q", "elsewhere") == "elsewhere"
        assert dead_letter_queue(client, "failed_tasks") == "failed_tasks"
        client.declare("failed_tasks")
        client.import_letters("failed_tasks", [a_letter("q")])
        assert dead_letter_queue(client, "failed_tasks") == "failed_tasks"
        client.declare("failed_tasks.dead")
        client.import_letters("failed_tasks.dead", [a_letter("q")])
        assert dead_letter_queue(client, "failed_tasks") == "failed_tasks.dead"


def test_tasks_are_not_taken_for_letters() -> None:
    """A queue of tasks that is called like a dead-letter queue is refused; what has never failed is work."""
    with a_client(0) as client:
        client.declare("dead-accounts")
        client.send("dead-accounts", 1)
        with pytest.raises(WrongUsage, match="--dead dead-accounts"):
            dead_letter_queue(client, "dead-accounts")
        assert dead_letter_queue(client, "accounts") == "accounts.dead"


def test_a_queue_that_was_not_meant_is_told() -> None:
    """Who names a queue without a dead-letter queue of the usual name learns how to name another one."""
    with connect("memory://not-meant") as worker, connect("memory://not-meant") as client:
        worker.declare("mails", "mails.dead")
        worker.declare("graveyard")
        assert nothing_there(client, "mails", "mails.dead") == "no letters in mails.dead"
        assert "--dead" in nothing_there(client, "graveyard", "graveyard.dead")
        assert nothing_there(client, "graveyard", "graveyard") == "no letters in graveyard"


# ---------------------------------------------------------------------- pace


@pytest.mark.parametrize(("rate", "size"), [(0.5, 1), (1, 1), (2.5, 2), (250, 250)])
def test_letters_are_paced(rate: float, size: int) -> None:
    """As many as the rate allows, a second's at a time; what a slow queue missed is not made up for."""
    now = [100.0]
    slept = []

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        now[0] += seconds

    going = turns(rate, lambda: now[0], sleep)
    assert list(islice(going, 5)) == [size] * 5
    assert sum(slept) == pytest.approx(4 * size / rate)
    now[0] += 1_000
    slept.clear()
    assert list(islice(going, 3)) == [size] * 3
    assert sum(slept) == pytest.approx(2 * size / rate)


# ---------------------------------------------------------------------- edits


def test_an_edited_payload_takes_the_place_of_the_old_one() -> None:
    """What else the body has stays as it is: the id of the task, and what another program has put there."""
    body = '{"payload": {"to": "ü"}, "task_id": 7, "other": [1]}'.encode()
    text = editable(body)
    assert text == '{\n  "to": "ü"\n}\n'
    assert json.loads(edited_body(body, text.encode())) == json.loads(body)
    assert json.loads(edited_body(body, b" [1]\n")) == {"payload": [1], "task_id": 7, "other": [1]}


def test_what_utf_8_cannot_express_can_be_edited() -> None:
    """It is shown escaped; as it is it would not go back."""
    body = b'{"payload": "\\ud800"}'
    assert editable(body) == '"\\ud800"\n'
    with pytest.raises(ValueError, match="surrogates"):
        edited_body(body, editable(body).encode())


def test_what_is_no_task_can_become_one() -> None:
    """Its whole text is edited then."""
    assert editable(b"no JSON \xff") == "no JSON \\xff"
    assert edited_body(b"no JSON", b' {"payload": 1}\n') == b'{"payload": 1}'


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (b"{", "no JSON"),
        (b"NaN", "NaN"),
        (b"[" * 600 + b"]" * 600, "nested"),
        (b"\xff", "no JSON"),
        (b"[" * 99_999, "no JSON"),
    ],
)
def test_an_edit_that_is_no_task_is_refused(text: bytes, said: str) -> None:
    """A worker would call it malformed, so it does not go back."""
    with pytest.raises(ValueError, match=said):
        edited_body(b'{"payload": 1}', text)
    for wrong in (text, b"1", b"{}"):
        with pytest.raises(ValueError, match="no task"):
            edited_body(b"no JSON", wrong)


# ---------------------------------------------------------------------- the log


def test_a_replay_that_ends_early_says_how_many_letters_went() -> None:
    """Those before the one that could not go are counted for the log of who did it."""
    with a_client(2) as client:
        client.import_letters("q.dead", [a_letter(""), a_letter("q")])
        deed = Deed()
        with pytest.raises(UnroutableError):
            replay._replay_all(Desk(client, "q", "q.dead"), None, None, 4, deed)
        assert deed.done == 2
