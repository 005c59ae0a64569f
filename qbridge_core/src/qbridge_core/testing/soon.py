"""Publishing without waiting: ``publish_soon``, whose future says what ``publish`` would have said."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

import pytest

from qbridge_core import (
    BrokerUnavailableError,
    ConfigurationError,
    NotConnectedError,
    PayloadError,
    QBridgeError,
    QueueClient,
    TransientError,
    UnroutableError,
    UnsupportedError,
)
from qbridge_core.testing.base import Backend, Call, MakeClient, succeeds
from qbridge_core.testing.link import Link

_SHORT = 1.5
_AT_ONCE = 1.0
_MANY = 300


class SoonTests(Backend):
    """``publish_soon``."""

    def test_g1_what_is_published_soon_is_there_when_its_future_ends(self, client: QueueClient, queue: str) -> None:
        """Each of many is there once, with what belongs to it; they keep their order where the backend says so."""
        futures = [
            client.publish_soon(queue, b"%d" % number, headers={"n": str(number)}, message_id=f"m-{number}")
            for number in range(_MANY)
        ]
        for future in futures:
            assert future.result(self.wait) is None
        self.assert_counts(client, queue, ready=_MANY)
        received = self.receive_all(client, queue, _MANY)
        bodies = [delivery.body for delivery in received]
        expected = [b"%d" % number for number in range(_MANY)]
        if client.capabilities.ordered and type(client).publish_soon is not QueueClient.publish_soon:
            assert bodies == expected
        assert sorted(bodies) == sorted(expected)
        for delivery in received:
            number = delivery.body.decode()
            assert (dict(delivery.headers), delivery.message_id) == ({"n": number}, f"m-{number}")

    def test_g18_publishing_soon_has_its_errors_in_the_future(self, client: QueueClient, queue: str) -> None:
        """The call itself raises nothing: a caller has one place to look at."""
        wrong: dict[type[QBridgeError], list[Callable[[], Future[None]]]] = {
            UnroutableError: [lambda: client.publish_soon(f"{queue}-missing", b"x")],
            PayloadError: [
                lambda: client.publish_soon(queue, b"x", headers={"x-qbridge-attempts": "9"}),
                lambda: client.publish_soon(queue, b"x", message_id=""),
            ],
            ConfigurationError: [
                lambda: client.publish_soon("", b"x"),
                lambda: client.publish_soon(queue, "x"),  # type: ignore[arg-type]
                lambda: client.publish_soon(queue, b"x", timeout="soon"),  # type: ignore[arg-type]
            ],
        }
        if not client.capabilities.delay:
            wrong[UnsupportedError] = [lambda: client.publish_soon(queue, b"x", delay=1.0)]
        for kind, calls in wrong.items():
            for call in calls:
                assert isinstance(call().exception(self.wait), kind)
        self.assert_counts(client, queue, ready=0)

    def test_what_is_published_soon_cannot_be_cancelled(self, client: QueueClient, queue: str) -> None:
        """The message goes its way; a future that says otherwise would have it sent twice."""
        futures = [client.publish_soon(queue, b"%d" % number) for number in range(50)]
        assert not any(future.cancel() for future in futures)
        for future in futures:
            future.result(self.wait)
        self.assert_counts(client, queue, ready=50)

    def test_what_is_published_soon_can_be_delayed(self, client: QueueClient, queue: str) -> None:
        """It waits at the broker, as what ``publish`` has delayed."""
        if not client.capabilities.delay:
            pytest.skip("this backend cannot delay")
        client.publish_soon(queue, b"later", delay=1.0).result(self.wait)
        self.assert_counts(client, queue, ready=0, delayed=1)
        assert self.receive_one(client, queue).body == b"later"

    def test_g1_disconnecting_ends_what_is_under_way(self, make_client: MakeClient, queue: str) -> None:
        """Each future ends: the message is there, or an error says that it is not, or that nobody knows."""
        client, other = make_client(), make_client()
        futures = [client.publish_soon(queue, b"%d" % number) for number in range(_MANY)]
        self.disconnect_in_time(client)
        outcomes = [_outcome(future, self.wait) for future in futures]
        assert isinstance(client.publish_soon(queue, b"late").exception(self.wait), NotConnectedError)
        sure = {b"%d" % number for number, error in enumerate(outcomes) if error is None}
        never = {
            b"%d" % number
            for number, error in enumerate(outcomes)
            if isinstance(error, NotConnectedError | BrokerUnavailableError)
        }
        there: set[bytes] = set()
        if client.capabilities.shared or other.stats(queue).ready:
            while batch := other.receive(queue, _MANY, _SHORT):
                there.update(delivery.body for delivery in batch)
            assert sure <= there, "a future says that a message is there, and it is not"
        assert not there & never, "a future says that a message is not there, and it is"

    @pytest.mark.parametrize("kind", ["freeze", "cut"], ids=["silent", "away"])
    def test_g1_publishing_soon_never_waits(
        self, kind: str, link: Link, make_linked_client: Callable[..., QueueClient], queue: str
    ) -> None:
        """Without a broker the call returns at once, for it may be made by an event loop; the future ends in time."""
        client = make_linked_client(leases=False)
        client.declare(queue)
        client.publish_soon(queue, b"before").result(self.wait)
        getattr(link, kind)()
        began = time.monotonic()
        futures: list[Future[None]] = []
        posting = Call(lambda: futures.extend(client.publish_soon(queue, b"x", timeout=_SHORT) for _ in range(50)))
        assert posting.ended(_AT_ONCE), "publish_soon waits for the broker"
        posting.result()
        for future in futures:
            error = _outcome(future, self.outage_timeout)
            assert isinstance(error, TransientError), f"without a broker it ends with {error!r}"
        assert time.monotonic() - began < self.outage_timeout, "what is under way does not end in time"
        link.restore()
        again: Any = lambda: client.publish_soon(queue, b"again").result(self.wait) is None  # noqa: E731
        self.eventually(lambda: succeeds(again), self.outage_timeout, "nothing can be published after an outage")


def _outcome(future: Future[None], seconds: float) -> BaseException | None:
    try:
        return future.exception(seconds)
    except TimeoutError:
        pytest.fail(f"a future has not ended after {seconds:g} s")
