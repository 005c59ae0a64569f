"""Publishing without waiting: ``publish_soon``, whose future says what ``publish`` would have said."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Any, cast

import pytest

from qbridge_core import (
    BrokerUnavailableError,
    ConfigurationError,
    Message,
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
_NOT_SENT = NotConnectedError, BrokerUnavailableError


class SoonTests(Backend):
    """``publish_soon``."""

    def test_g1_what_is_published_soon_is_there_when_its_future_ends(self, client: QueueClient, queue: str) -> None:
        """Each of many is there once, with what belongs to it; they keep their order where the backend says so."""
        messages = [Message(b"%d" % number, {"n": str(number)}, f"m-{number}") for number in range(_MANY)]
        call = Call(lambda: client.publish_soon(queue, messages[:-20]))
        assert call.ended(self.wait), "publish_soon waits"
        futures = [*cast(list[Future[None]], call.result()), *self._one_by_one(client, queue, messages[-20:])]
        assert [future.result(self.wait) for future in futures] == [None] * _MANY
        self.assert_counts(client, queue, ready=_MANY)
        received = self.receive_all(client, queue, _MANY)
        bodies = [delivery.body for delivery in received]
        expected = [message.body for message in messages]
        if client.capabilities.ordered and type(client).publish_soon is not QueueClient.publish_soon:
            assert bodies == expected
        assert sorted(bodies) == sorted(expected)
        for delivery in received:
            number = delivery.body.decode()
            assert (dict(delivery.headers), delivery.message_id) == ({"n": number}, f"m-{number}")

    @staticmethod
    def _one_by_one(client: QueueClient, queue: str, messages: Sequence[Message]) -> list[Future[None]]:
        return [future for message in messages for future in client.publish_soon(queue, [message])]

    def test_g1_a_thread_that_waits_at_times_keeps_its_order(self, client: QueueClient, queue: str) -> None:
        """What is published soon comes before what the same thread publishes next, whatever others publish."""
        pairs, over = 40, threading.Event()

        def publish_more() -> None:
            while not over.is_set():
                client.publish(f"{queue}-other", b"x")

        client.declare(f"{queue}-other")
        others = [threading.Thread(target=publish_more, daemon=True) for _ in range(4)]
        for other in others:
            other.start()
        try:
            for number in range(pairs):
                (future,) = client.publish_soon(queue, [Message(b"%d" % (2 * number))])
                client.publish(queue, b"%d" % (2 * number + 1))
                assert future.result(self.wait) is None
        finally:
            over.set()
            for other in others:
                other.join(self.wait)
        received = [int(delivery.body) for delivery in self.receive_all(client, queue, 2 * pairs)]
        if client.capabilities.ordered and type(client).publish_soon is not QueueClient.publish_soon:
            assert received == list(range(2 * pairs))
        assert sorted(received) == list(range(2 * pairs))

    def test_g18_publishing_soon_has_its_errors_in_the_futures(self, client: QueueClient, queue: str) -> None:
        """A caller has one place to look at, and one wrong message keeps no other from being sent."""
        good = Message(b"good")
        wrong: dict[type[QBridgeError], list[Callable[[], list[Future[None]]]]] = {
            UnroutableError: [lambda: client.publish_soon(f"{queue}-missing", [good])],
            ConfigurationError: [
                lambda: client.publish_soon("", [good]),
                lambda: client.publish_soon(queue, [good], timeout="soon"),  # type: ignore[arg-type]
            ],
        }
        if not client.capabilities.delay:
            wrong[UnsupportedError] = [lambda: client.publish_soon(queue, [good], delay=1.0)]
        for kind, calls in wrong.items():
            for call in calls:
                (future,) = call()
                assert isinstance(future.exception(self.wait), kind)
        first, second = client.publish_soon(f"{queue}-missing", [good, good])
        assert first.exception(self.wait) is not second.exception(self.wait), "who raises an error adds to it"
        reserved, text, payload = Message(b"", {"x-qbridge-attempts": "9"}), Message("x"), {"payload": 1}  # type: ignore[arg-type]
        mixed: Any = [reserved, good, text, payload]
        errors = [_outcome(future, self.wait) for future in client.publish_soon(queue, mixed)]
        assert [type(error) for error in errors] == [PayloadError, type(None), ConfigurationError, ConfigurationError]
        assert self.receive_one(client, queue).body == b"good"
        for nothing in (b"body", "text", good, None, iter([good])):
            with pytest.raises(ConfigurationError, match="list of Message"):
                client.publish_soon(queue, nothing)  # type: ignore[arg-type]
        assert client.publish_soon(queue, []) == []

    def test_what_is_published_soon_cannot_be_cancelled(self, client: QueueClient, queue: str) -> None:
        """The message goes its way; a future that says otherwise would have it sent twice."""
        futures = client.publish_soon(queue, [Message(b"%d" % number) for number in range(50)])
        assert not any(future.cancel() for future in futures)
        for future in futures:
            future.result(self.wait)
        self.assert_counts(client, queue, ready=50)

    def test_what_is_published_soon_can_be_delayed(self, client: QueueClient, queue: str) -> None:
        """It waits at the broker, as what ``publish`` has delayed."""
        if not client.capabilities.delay:
            pytest.skip("this backend cannot delay")
        (future,) = client.publish_soon(queue, [Message(b"later")], delay=1.0)
        future.result(self.wait)
        self.assert_counts(client, queue, ready=0, delayed=1)
        assert self.receive_one(client, queue).body == b"later"

    def test_g1_disconnecting_ends_what_is_under_way(self, make_client: MakeClient, queue: str) -> None:
        """Each future ends: the message is there, or an error says that it is not, or that nobody knows."""
        client, other = make_client(), make_client()
        bodies = [b"%d" % number for number in range(_MANY)]
        futures = client.publish_soon(queue, [Message(body) for body in bodies])
        self.disconnect_in_time(client)
        outcomes = {body: _outcome(future, self.wait) for body, future in zip(bodies, futures, strict=True)}
        (late,) = client.publish_soon(queue, [Message(b"late")])
        assert isinstance(_outcome(late, self.wait), NotConnectedError)
        sure = {body for body, error in outcomes.items() if error is None}
        never = {body for body, error in outcomes.items() if isinstance(error, _NOT_SENT)}
        there: set[bytes] = set()
        while batch := other.receive(queue, _MANY, _SHORT):
            there.update(delivery.body for delivery in batch)
        assert sure <= there, "a future says that a message is there, and it is not"
        assert not there & never, "a future says that a message is not there, and it is"

    @pytest.mark.parametrize("kind", ["freeze", "cut"], ids=["silent", "away"])
    def test_g1_publishing_soon_never_waits(
        self, kind: str, link: Link, make_linked_client: Callable[..., QueueClient], queue: str
    ) -> None:
        """Without a broker the call returns at once, for it may be made by an event loop; the futures end in time."""
        client = make_linked_client(leases=False)
        client.declare(queue)
        client.publish_soon(queue, [Message(b"before")])[0].result(self.wait)
        getattr(link, kind)()
        began = time.monotonic()
        messages = [Message(b"x")] * 50
        futures: list[Future[None]] = []
        posting = Call(lambda: futures.extend(client.publish_soon(queue, messages, timeout=_SHORT)))
        assert posting.ended(_AT_ONCE), "publish_soon waits for the broker"
        posting.result()
        for future in futures:
            error = _outcome(future, self.outage_timeout)
            assert isinstance(error, TransientError), f"without a broker it ends with {error!r}"
        assert time.monotonic() - began < self.outage_timeout, "what is under way does not end in time"
        link.restore()

        def again() -> None:
            client.publish_soon(queue, [Message(b"again")])[0].result(self.wait)

        self.eventually(lambda: succeeds(again), self.outage_timeout, "nothing can be published after an outage")


def _outcome(future: Future[None], seconds: float) -> BaseException | None:
    try:
        return future.exception(seconds)
    except TimeoutError:
        pytest.fail(f"a future has not ended after {seconds:g} s")
