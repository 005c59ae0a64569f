"""Backends that were written before dead letters could be named go on working."""
# ruff: noqa: D102 - what each method is for is in the contract

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from qbridge_core import Capabilities, DeadLetter, Failure, QueueClient, Reason, UnsupportedError
from qbridge_memory import MemoryClient


class OldClient(MemoryClient):
    """Overrides what it had to, with the arguments that there were."""

    capabilities = Capabilities(delay=True, browse=True)

    def dead_letters(self, queue: str, limit: int = 100) -> list[DeadLetter]:  # type: ignore[override]
        return super().dead_letters(queue, limit)

    def replay(  # type: ignore[override]
        self, dead_letter_queue: str, *, target: str | None = None, limit: int | None = None
    ) -> int:
        return QueueClient.replay(self, dead_letter_queue, target=target, limit=limit)

    def purge(self, queue: str) -> int:  # type: ignore[override]
        return super().purge(queue)

    def delete_letters(self, dead_letter_queue: str, *, letters: Any) -> int:
        return QueueClient.delete_letters(self, dead_letter_queue, letters=letters)


def logged(method: Callable[..., Any]) -> Callable[..., Any]:
    """A decorator as backends have them."""

    @functools.wraps(method)
    def call(*args: Any, **kwargs: Any) -> Any:
        return method(*args, **kwargs)

    return call


class DecoratedClient(OldClient):
    """The same with decorated methods."""

    dead_letters = logged(OldClient.dead_letters)
    replay = logged(OldClient.replay)
    purge = logged(OldClient.purge)


class NewerClient(MemoryClient):
    """Passes on whatever it is given."""

    def replay(self, *args: Any, **kwargs: Any) -> int:
        return super().replay(*args, **kwargs)


@pytest.fixture(params=[OldClient, DecoratedClient])
def client(request: pytest.FixtureRequest) -> Iterator[MemoryClient]:
    """A connected client of an older backend, with two dead letters."""
    with request.param() as client:
        bury(client)
        yield client


def bury(client: QueueClient) -> None:
    """Dead-letter two messages."""
    client.declare("q", "q.dead")
    for body in (b"1", b"2"):
        client.publish("q", body)
        (delivery,) = client.receive("q")
        client.reject(delivery, requeue=False, failure=Failure(Reason.FAILED, source_queue="q"))


def test_an_older_backend_does_what_it_did(client: MemoryClient) -> None:
    """The calls that there were work by position and by name, and what says nothing new is one of them."""
    assert [letter.body for letter in client.dead_letters("q.dead", 1)] == [b"1"]
    assert [letter.body for letter in client.dead_letters(queue="q.dead", limit=2, after=None)] == [b"1", b"2"]
    assert client.replay("q.dead", limit=1, letters=None, body=None, headers=None) == 1
    assert client.replay(dead_letter_queue="q.dead", target="q") == 1
    assert (client.purge("q", delayed=False), client.purge("q")) == (2, 0)


def test_an_older_backend_refuses_what_is_new(client: MemoryClient) -> None:
    """A new argument is named in an UnsupportedError, and touches no letter."""
    with pytest.raises(UnsupportedError, match="after"):
        client.dead_letters("q.dead", 10, after="1")
    with pytest.raises(UnsupportedError, match="letters"):
        client.replay("q.dead", letters=["1"])
    with pytest.raises(UnsupportedError, match="letters"):
        client.replay("q.dead", letters=[])
    with pytest.raises(UnsupportedError, match="letters"):
        client.delete_letters("q.dead", letters=["1"])
    with pytest.raises(UnsupportedError, match="delayed"):
        client.purge("q.dead", delayed=True)
    assert client.stats("q.dead").ready == 2


def test_a_backend_that_passes_on_what_it_is_given_is_left_alone() -> None:
    """Arguments that a method takes without naming them reach it."""
    with NewerClient() as client:
        bury(client)
        (first, _) = client.dead_letters("q.dead")
        assert client.replay("q.dead", letters=[first]) == 1
