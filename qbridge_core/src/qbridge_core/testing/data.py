"""What is kept: names, headers, ids and bodies of every kind, and messages as large as the broker takes."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, MutableMapping

import pytest

from qbridge_core import (
    Attempt,
    AttemptOutcome,
    Delivery,
    Failure,
    Message,
    MessageTooLargeError,
    PayloadError,
    QBridgeError,
    QueueClient,
    Reason,
)
from qbridge_core.testing.base import Backend, a_failure

ODD_NAMES = (
    "with spaces",
    "a/b?c=d&e#f%20",
    "ünï.★",
    "{x}:*[y]'\"\\;--",
    "x" * 200,
    "nel\x85ls\u2028ps\u2029",
    "c1\x80\x9f\u200e\ufeff",
)
NEARLY_ALIKE = (
    "x", "X", "x ", "x.y", "x-y", "x_y", "x/y", "x:y", "x\\y", "x y", "xy", "x*", "x?y", "x%", "x%25", "{x}", "'x'",
    '"x"', "\u00e9", "e\u0301", "é" * 100, "é" * 100 + "x", "\U0001f600", "\U0001f601", "ł", "ń",
)  # fmt: skip
"""Names that are others for a broker that folds, cuts, escapes or decodes them."""
ODD_HEADERS = {
    "two words": "x",
    "ÜBER": "upper case stays",
    "über": "and is not lower case",
    "content-type": "text/plain; charset=utf-8",
    "message_id": "not the id",
    "body": "not the body",
    "queue": "nor the queue",
    "delay": "60000",
    "x-delay": "60000",
    "timestamp": "never",
    "a:b=c&d": "punctuation",
    "lines": "one\r\ntwo: 2\n\nthree",
    "unicode lines": "one\x85two\u2028three\u2029four\x0b\x0c\x1c\x1d\x1e",
    "\x00\x01\n\r\t\x7f\x85\u2028": "control characters in a name",
    "control": "\x00\x01\t\x7f",
    "quotes": "\"'\\{}[]",
    "ünï★": "★😀",
    "empty": "",
    "long": "v" * 5_000,
    " spaces ": "  at both ends\t",
    "e\u0301": "e\u0301\u00e9",
    "\u00e9": "composed",
    "qbridge-attempts": "x-qbridge",
    "xqbridge": "9",
    "number": "01",
    "truth": "true",
    "none": "null",
    "n" * 255: "a long name",
}
ODD_IDS = (
    "With Space/and:{colon}",
    "with space/and:{colon}",
    " e\u0301 ",
    "ünï★",
    "i" * 255,
    "1-0",
    "\x00\n\r\t\x7f\x85\u2028\u2029\ufeff",
)


class DataTests(Backend):
    """Nothing that was accepted is changed on its way."""

    def test_odd_names_are_names_of_queues_of_their_own(self, client: QueueClient, queue_name: str) -> None:
        """Each name that is allowed makes a queue, with its letters, that is no other queue."""
        names = [f"{queue_name[-8:]}-{odd}" for odd in ODD_NAMES]
        for number, name in enumerate(names):
            client.declare(name, f"{name}-d")
            client.publish(name, b"%d" % number)
        for number, name in reversed([*enumerate(names)]):
            delivery = self.receive_one(client, name)
            assert (delivery.body, delivery.queue) == (b"%d" % number, name)
            client.reject(delivery, requeue=False)
            client.flush()  # where a copy was confirmed, the original may be acknowledged a little later
            self.assert_empty(client, name)
            letter = self.receive_one(client, f"{name}-d")
            assert letter.body == b"%d" % number
            client.ack(letter)
            client.publish(name, b"again")
            assert client.purge(name) == 1

    def test_names_that_are_nearly_alike_are_names_of_several_queues(
        self, client: QueueClient, queue_name: str
    ) -> None:
        """Upper case, a space, another accent or the last of many letters make another queue."""
        names = [f"{queue_name[-8:]}-{part}" for part in NEARLY_ALIKE]
        for number, name in enumerate(names):
            client.declare(name)
            client.publish(name, b"%d" % number)
        for number, name in reversed([*enumerate(names)]):  # else one queue of two names gives each its own
            delivery = self.receive_one(client, name)
            assert (delivery.body, delivery.queue) == (b"%d" % number, name)
            client.ack(delivery)

    def test_g13_odd_headers_and_ids_are_kept_all_the_way(self, client: QueueClient, queue: str, dead: str) -> None:
        """Names and values of headers, and ids, are the producer's in a retry, in a letter and after a replay."""
        for number, message_id in enumerate(ODD_IDS):
            client.publish(queue, b"\x00\xff%d" % number, headers=ODD_HEADERS, message_id=message_id)
        for attempts, where in enumerate((queue, queue, dead, queue)):
            # By their bodies: what is handed back may go to the front or to the end.
            deliveries = sorted(self.receive_all(client, where, len(ODD_IDS)), key=lambda delivery: delivery.body)
            assert [delivery.body for delivery in deliveries] == [b"\x00\xff%d" % n for n in range(len(ODD_IDS))]
            for delivery, message_id in zip(deliveries, ODD_IDS, strict=True):
                assert dict(delivery.headers) == ODD_HEADERS
                assert delivery.message_id == message_id
            if attempts == 2:
                for delivery in deliveries:
                    client.reject(delivery, requeue=True)
                self.assert_counts(client, dead, ready=len(ODD_IDS), soon=True)
                assert client.replay(dead) == len(ODD_IDS)
                continue
            for delivery in deliveries:
                if attempts == 0:
                    client.reject(delivery, requeue=True, failure=a_failure(queue))
                elif attempts == 1:
                    client.reject(delivery, requeue=False, failure=a_failure(queue))
                else:
                    client.ack(delivery)
            if attempts == 1 and client.capabilities.browse:
                assert [dict(letter.headers) for letter in client.dead_letters(dead)] == [ODD_HEADERS] * len(ODD_IDS)

    def test_many_headers_are_kept(self, client: QueueClient, queue: str, dead: str) -> None:
        """A few hundred of them, in any order, through a retry and into a letter."""
        headers = {f"name-{number}": f"value {number}" for number in range(300)}
        client.publish(queue, b"", headers=headers)
        client.reject(self.receive_one(client, queue), requeue=True, failure=a_failure(queue))
        client.reject(self.receive_one(client, queue), requeue=False)
        letter = self.receive_one(client, dead)
        assert (letter.body, dict(letter.headers)) == (b"", headers)

    def test_a_message_id_is_no_key(self, client: QueueClient, queue: str, dead: str) -> None:
        """Two messages with one id are two, now, later, and as letters: dropping the second would lose it."""
        client.publish(queue, b"1", message_id="same")
        client.publish(queue, b"2", message_id="same")
        client.publish_many(queue, [Message(b"3", message_id="same"), Message(b"4", message_id="same")])
        received = self.receive_all(client, queue, 4)
        assert self.in_order(client, (one.body for one in received)) == [b"1", b"2", b"3", b"4"]
        for delivery in received[:2]:
            client.ack(delivery)
        for delivery in received[2:]:
            client.reject(delivery, requeue=False)
        assert len(self.receive_all(client, dead, 2)) == 2
        client.publish(queue, b"5", message_id="same")
        delays = (0.2, 0.2) if client.capabilities.delay else ()
        for delay in delays:
            client.publish(queue, b"later", message_id="same", delay=delay)
        bodies = [delivery.body for delivery in self.receive_all(client, queue, 1 + len(delays))]
        assert sorted(bodies) == [b"5", *(b"later" for _ in delays)]

    def test_what_was_published_is_a_copy(self, client: QueueClient, queue: str) -> None:
        """A producer may go on to change the headers that it gave, and a consumer those that it got."""
        headers = {"h": "before"}
        client.publish(queue, b"x", headers=headers)
        client.publish_many(queue, [Message(b"x", headers)])
        headers["h"] = "after"
        for _ in range(2):
            delivery = self.receive_one(client, queue)
            assert dict(delivery.headers) == {"h": "before"}
            if isinstance(delivery.headers, MutableMapping):
                delivery.headers["h"] = "after"
            client.reject(delivery, requeue=True, failure=a_failure(queue))
        assert [dict(delivery.headers) for delivery in self.receive_all(client, queue, 2)] == [{"h": "before"}] * 2

    def test_publish_many_takes_any_iterable_and_refuses_a_bad_message(self, client: QueueClient, queue: str) -> None:
        """None, one from a generator, and some that cannot be kept, of which the first is named."""
        client.publish_many(queue, [])
        client.publish_many(queue, (Message(b"%d" % n, {"n": str(n)}, f"id-{n}") for n in range(3)))
        received = self.receive_all(client, queue, 3)
        arrived = [(d.body, dict(d.headers), d.message_id) for d in received]
        assert self.in_order(client, arrived) == [(b"%d" % n, {"n": str(n)}, f"id-{n}") for n in range(3)]
        too_large = Message(bytes(client.max_message_bytes + 1))
        with pytest.raises(PayloadError):
            client.publish_many(queue, [Message(b"x", {"x-qbridge-reason": "failed"}), too_large])
        self.assert_counts(client, queue, ready=0)

    def test_an_error_of_the_callers_own_passes_as_it_is(self, client: QueueClient, queue: str) -> None:
        """What an iterable raises that a caller gave is neither swallowed nor made an error of QBridge's."""

        def messages() -> Iterator[Message]:
            yield Message(b"before")
            raise _OwnError

        with pytest.raises(_OwnError):
            client.publish_many(queue, messages())
        client.purge(queue)
        client.publish(queue, b"after")
        delivery = self.receive_one(client, queue)
        assert delivery.body == b"after"

        def deliveries() -> Iterator[Delivery]:
            yield delivery
            raise _OwnError

        with pytest.raises(_OwnError):
            client.hand_back(deliveries())

    def test_g19_the_largest_body_can_be_settled_in_every_way(self, client: QueueClient, queue: str, dead: str) -> None:
        """What ``publish`` takes at its limit has room for the longest explanation; what has not is refused."""
        size = _largest(lambda count: client.publish(queue, b"x" * count), self.largest_message)
        self._settle_largest(client, queue, dead, b"x" * size, {})

    def test_g19_a_body_over_the_limit_is_refused(self, client: QueueClient, queue: str, dead: str) -> None:
        """One byte over ``max_message_bytes`` is an error for its sender, alone and among others; nothing is cut.

        A body of just that size, if it is taken, can be dead-lettered.
        """
        body = bytes(client.max_message_bytes + 1)
        with pytest.raises(MessageTooLargeError):
            client.publish(queue, body)
        with pytest.raises(MessageTooLargeError):
            client.publish_many(queue, [Message(body)])
        self.assert_counts(client, queue, ready=0)
        try:
            client.publish(queue, body[1:])
        except MessageTooLargeError:
            return  # the broker's own limit is lower
        client.reject(self.receive_one(client, queue), requeue=False, failure=the_longest_failure(queue))
        letter = self.receive_one(client, dead)
        assert letter.body == body[1:]
        client.ack(letter)

    def test_g17_bodies_are_not_logged(
        self, client: QueueClient, queue: str, dead: str, caplog: pytest.LogCaptureFixture
    ) -> None:
        """What a producer sends is its own: no log shows it, but for one at DEBUG, nor the ``repr`` of a delivery."""
        caplog.set_level(logging.INFO)
        client.publish(queue, b"confidential")
        client.reject(self.receive_one(client, queue), requeue=True, failure=a_failure(queue))
        delivery = self.receive_one(client, queue)
        assert "confidential" not in repr(delivery)
        client.reject(delivery, requeue=False, failure=a_failure(queue))
        self.await_counts(client, dead, ready=1)
        assert client.replay(dead) == 1
        client.ack(self.receive_one(client, queue))
        assert client.flush()
        assert "confidential" not in caplog.text

    def test_g19_the_largest_header_can_be_settled_in_every_way(
        self, client: QueueClient, queue: str, dead: str
    ) -> None:
        """The same for headers, which some brokers put into a frame of their own."""
        size = _largest(lambda count: client.publish(queue, b"x", headers={"h": "x" * count}), 2**18)
        self._settle_largest(client, queue, dead, b"x", {"h": "x" * size})

    def _settle_largest(self, client: QueueClient, queue: str, dead: str, body: bytes, headers: dict[str, str]) -> None:
        client.purge(queue)
        client.publish(queue, body, headers=headers)
        client.reject(self.receive_one(client, queue), requeue=True, failure=the_longest_failure(queue))
        delivery = self.receive_one(client, queue)
        assert delivery.attempts == the_longest_failure(queue).attempts
        if client.capabilities.delay:
            client.reject(delivery, requeue=True, delay=0.1, failure=the_longest_failure(queue))
            delivery = self.receive_one(client, queue)
        client.reject(delivery, requeue=False, failure=the_longest_failure(queue))
        if client.capabilities.browse:
            (letter,) = client.dead_letters(dead)
            failure = the_longest_failure(queue)
            assert letter.body == body
            assert letter.exception_message == failure.exception_message
            assert letter.traceback == failure.traceback
        self.await_counts(client, dead, ready=1)
        assert client.replay(dead) == 1
        again = self.receive_one(client, queue)
        assert (again.body, dict(again.headers)) == (body, headers)
        client.ack(again)


class _OwnError(Exception):
    """None of QBridge's."""


def the_longest_failure(queue: str) -> Failure:
    """As much as a failure can say, in characters of four bytes."""
    return Failure(
        reason=Reason.TIMED_OUT,
        attempts=2**31,
        crashes=2**31,
        exception_type="E" * 1_000,
        exception_message="😀" * 10_000,
        traceback="😀" * 100_000,
        first_failed_at=1_700_000_000.25,
        last_failed_at=1_700_000_060.5,
        source_queue=queue,
        task_id="t" * 255,
        worker=f"{'h' * 200}:1",
        history=(Attempt(AttemptOutcome.TIMED_OUT, None, 1.0, "h" * 99, "E" * 99, "😀" * 99),) * 10,
    )


def _largest(publish: Callable[[int], None], most: int) -> int:
    """The largest size up to ``most`` that is taken, found in steps that get smaller."""
    taken, refused = 1, most + 1
    size = most
    while True:
        try:
            publish(size)
        except (MessageTooLargeError, PayloadError):
            refused = size
        except QBridgeError as exc:
            pytest.fail(f"a message of {size} bytes is refused with {exc!r}, not as too large")
        else:
            taken = size
        if refused - taken <= 64:
            return taken
        size = (taken + refused) // 2
