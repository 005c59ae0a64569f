"""Publishing: what was sent arrives as it was sent, or the sender learns that it did not."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from typing import Any

import pytest

from qbridge_core import (
    ConfigurationError,
    Message,
    PayloadError,
    QueueClient,
    UnroutableError,
    UnsupportedError,
    hookimpl,
    use_plugins,
)
from qbridge_core.testing.base import Backend

EVERY_BYTE = b" \r\n" + bytes(range(256)) * 3 + b"\r\n "


class PublishingTests(Backend):
    """``publish``, ``publish_many``, ``send``, ``send_many``."""

    @pytest.mark.parametrize(
        "body", [b"", b'{ "a":1.0 }', EVERY_BYTE, b"x" * 300_000], ids=["empty", "json", "bytes", "large"]
    )
    def test_g5_the_body_arrives_byte_for_byte(self, client: QueueClient, queue: str, body: bytes) -> None:
        """A body of any bytes and length arrives unchanged."""
        client.publish(queue, body)
        assert self.receive_one(client, queue).body == body

    def test_headers_and_message_id_arrive(self, client: QueueClient, queue: str) -> None:
        """The producer's headers and message id reach the consumer, and nothing is added to them."""
        headers = {"tenant": "a", "trace-id": "00-ü", "body": "not the body", "empty": ""}
        client.publish(queue, b"{}", headers=headers, message_id="m-1")
        delivery = self.receive_one(client, queue)
        assert dict(delivery.headers) == headers
        assert delivery.message_id == "m-1"

    def test_a_fresh_message_has_no_history(self, client: QueueClient, queue: str) -> None:
        """A message that was just published has burnt nothing."""
        client.publish(queue, b"{}")
        delivery = self.receive_one(client, queue)
        assert (delivery.attempts, delivery.crashes, delivery.first_failed_at) == (0, 0, None)
        assert not delivery.redelivered
        assert delivery.queue == queue
        assert delivery.message_id is None

    def test_headers_that_cannot_be_kept_are_refused(self, client: QueueClient, queue: str) -> None:
        """Reserved names and values that are not strings are errors, not silently changed."""
        refused: list[Any] = [
            {"x-qbridge-attempts": "9"}, {"X-QBridge-Reason": "failed"}, {"n": 1}, {"n": None}, {"": "x"},
            {"n": "\ud800"}, {"\ud800": "x"}, {"é" * 128: "x"}, {7: "x"}, ["n"],
        ]  # fmt: skip
        for headers in refused:
            with pytest.raises(PayloadError):
                client.publish(queue, b"{}", headers=headers)
        self.assert_counts(client, queue, ready=0)

    def test_g18_arguments_in_the_wrong_order_are_named(self, client: QueueClient, queue: str) -> None:
        """A payload, a body or messages where the queue belongs are an error that says the order."""
        secret: Any = {"card": "4111"}
        letters: Any = [Message(b"4111")]
        calls: list[Callable[[], object]] = [
            lambda: client.send(secret, queue),
            lambda: client.send_many([secret], queue),  # type: ignore[arg-type]
            lambda: client.publish(b"4111", queue),  # type: ignore[arg-type]
            lambda: client.publish_many(letters, queue),  # type: ignore[arg-type]
        ]
        for call in calls:
            with pytest.raises(ConfigurationError, match="queue comes first") as raised:
                call()
            assert "4111" not in str(raised.value)

    @pytest.mark.parametrize("name", ["", "two\nlines", "\ud800", "n" * 256, 7], ids=ascii)
    def test_a_name_that_no_queue_can_have_is_refused(self, client: QueueClient, queue: str, name: str) -> None:
        """Every call says at once what is wrong with the name, instead of looking for a broker that is not gone."""
        calls: list[Callable[[], object]] = [
            lambda: client.declare(name),
            lambda: client.declare(queue, name),
            lambda: client.publish(name, b"{}"),
            lambda: client.receive(name),
            lambda: client.subscribe(name, 1),
            lambda: client.stats(name),
            lambda: client.purge(name),
            lambda: client.publish_many(name, [Message(b"{}")]),
            lambda: client.replay(name),
        ]
        if client.capabilities.browse:
            calls.append(lambda: client.dead_letters(name))
        if client.capabilities.letters:
            calls.append(lambda: client.delete_letters(name, letters=[]))
        for call in calls:
            with pytest.raises(ConfigurationError, match="queue name"):
                call()

    def test_g18_a_queue_is_not_its_own_dead_letter_queue(self, client: QueueClient, queue_name: str) -> None:
        """A dead letter would run again, and again; nothing is created."""
        with pytest.raises(ConfigurationError, match="its own dead-letter queue"):
            client.declare(queue_name, queue_name)
        with pytest.raises(UnroutableError):
            client.publish(queue_name, b"{}")

    def test_g18_a_timeout_that_is_no_number_is_refused(self, client: QueueClient, queue: str) -> None:
        """It is an error that names the value, before anything is published or waited for."""
        calls: list[Callable[[Any], object]] = [
            lambda timeout: client.publish(queue, b"{}", timeout=timeout),
            lambda timeout: client.publish_many(queue, [Message(b"{}")], timeout=timeout),
            lambda timeout: client.send(queue, 1, publish_timeout=timeout),
            lambda timeout: client.send_many(queue, [1], publish_timeout=timeout),
            lambda timeout: client.receive(queue, 1, timeout),
            lambda timeout: client.receive_any({queue: 1}, timeout),
            client.flush,
        ]
        for position, call in enumerate(calls):
            for no_number in (float("nan"), float("inf"), "1", None):
                if no_number is None and position < 4:
                    continue  # the client's own setting
                with pytest.raises(ConfigurationError, match="timeout"):
                    call(no_number)
        self.assert_counts(client, queue, ready=0)

    def test_g18_what_is_no_sequence_of_messages_is_refused(self, client: QueueClient, queue: str) -> None:
        """Payloads are no messages, and one string or mapping is no list of payloads."""
        payloads: Any = [{"payload": 1}]
        with pytest.raises(ConfigurationError, match="send_many"):
            client.publish_many(queue, payloads)
        for one in ("text", b"bytes", {"key": 1}):
            with pytest.raises(PayloadError, match="send_many"):
                client.send_many(queue, one)
        self.assert_counts(client, queue, ready=0)

    @pytest.mark.parametrize("message_id", ["", "\ud800", "é" * 128, 7], ids=ascii)
    def test_a_message_id_that_cannot_be_kept_is_refused(
        self, client: QueueClient, queue: str, message_id: str
    ) -> None:
        """An id that is no string, or does not fit into AMQP's short strings, is an error on every broker."""
        with pytest.raises(PayloadError, match="message_id"):
            client.publish(queue, b"{}", message_id=message_id)
        self.assert_counts(client, queue, ready=0)

    @pytest.mark.parametrize(
        "delay", [-1, float("nan"), float("inf"), 10**400, "1"], ids=["-1", "nan", "inf", "int", "text"]
    )
    def test_a_delay_that_no_broker_can_hold_is_refused(self, client: QueueClient, queue: str, delay: float) -> None:
        """It is an error that names the value, before anything is published or settled."""
        if not self.supports_delay(client):
            pytest.skip("no delays claimed")
        with pytest.raises(ConfigurationError, match="delay"):
            client.publish(queue, b"{}", delay=delay)
        self.assert_counts(client, queue, ready=0)
        client.publish(queue, b"{}")
        delivery = self.receive_one(client, queue)
        with pytest.raises(ConfigurationError, match="delay"):
            client.reject(delivery, requeue=True, delay=delay)
        self.assert_counts(client, queue, ready=0, in_flight=1)
        client.ack(delivery)

    def test_g1_publishing_to_a_missing_queue_is_an_error(self, client: QueueClient, queue_name: str) -> None:
        """A message for a queue that does not exist raises UnroutableError, and creates nothing."""
        with pytest.raises(UnroutableError):
            client.publish(queue_name, b"{}")
        with pytest.raises(UnroutableError):
            client.publish_many(queue_name, [Message(b"1"), Message(b"2")])
        self.assert_counts(client, queue_name, ready=0)

    def test_messages_arrive_in_order(self, client: QueueClient, queue: str) -> None:
        """Messages of one publisher are delivered in the order of publishing, where that is claimed; none is lost."""
        client.publish_many(queue, [Message(b"%d" % n) for n in range(50)])
        client.publish(queue, b"50")
        received = [delivery.body for delivery in self.receive_all(client, queue, 51)]
        assert self.in_order(client, received) == self.in_order(client, (b"%d" % number for number in range(51)))

    def test_g1_all_messages_of_publish_many_are_there_on_return(self, client: QueueClient, queue: str) -> None:
        """``publish_many`` returns when the broker holds every message, and ``purge`` deletes every one."""
        client.publish_many(queue, [Message(b"%d" % n) for n in range(1_200)])
        self.assert_counts(client, queue, ready=1_200)
        assert client.purge(queue) == 1_200
        self.assert_counts(client, queue, ready=0)

    def test_publishing_from_many_threads(self, client: QueueClient, queue: str) -> None:
        """``publish`` may be called from many threads at once."""

        def publish(number: int) -> None:
            for n in range(10):
                client.publish(queue, b"%d-%d" % (number, n))

        threads = [threading.Thread(target=publish, args=(number,)) for number in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        bodies = {delivery.body for delivery in self.receive_all(client, queue, 80)}
        assert bodies == {b"%d-%d" % (number, n) for number in range(8) for n in range(10)}

    def test_hooks_are_told_of_each_message_once(self, client: QueueClient, queue: str) -> None:
        """However it is published: plugins count as many as there are, whichever method a backend has of its own."""
        told: list[int] = []

        class Plugin:
            @hookimpl
            def qbridge_published(self, count: int) -> None:
                told.append(count)

        use_plugins(client, [Plugin()])
        client.publish(queue, b"1")
        client.publish_many(queue, [Message(b"2"), Message(b"3")])
        client.publish_soon(queue, [Message(b"4")])[0].result(self.wait)
        assert len(self.receive_all(client, queue, 4)) == sum(told) == 4

    def test_send_writes_the_envelope(self, client: QueueClient, queue: str) -> None:
        """``send`` publishes ``{"payload", "task_id", "retry"}`` as JSON and returns the task id."""
        payload = {"data": "ü", "id": 123, "list": [1, None, True]}
        assert client.send(queue, payload, task_id="mine", headers={"tenant": "a"}) == "mine"
        delivery = self.receive_one(client, queue)
        assert json.loads(delivery.body) == {"payload": payload, "task_id": "mine", "retry": 0}
        assert dict(delivery.headers) == {"tenant": "a"}

    def test_send_makes_up_task_ids_and_unique_message_ids(self, client: QueueClient, queue: str) -> None:
        """Without a task id each task gets a new one; the message id differs even where task ids repeat."""
        assert client.send(queue, 1) != client.send(queue, 1)
        client.send(queue, 1, task_id="same")
        client.send(queue, 2, task_id="same")
        message_ids = {delivery.message_id for delivery in self.receive_all(client, queue, 4)}
        assert len(message_ids) == 4
        assert None not in message_ids

    def test_send_many_sends_all_or_nothing_wrong(self, client: QueueClient, queue: str) -> None:
        """``send_many`` returns the task ids in order; one bad payload stops it before anything is sent."""
        with pytest.raises(PayloadError):
            client.send_many(queue, [1, object()])
        self.assert_counts(client, queue, ready=0)
        ids = client.send_many(queue, ["a", "ü", "c"])
        received = [json.loads(d.body) for d in self.receive_all(client, queue, 3)]
        arrived = [(task["task_id"], task["payload"]) for task in received]
        assert self.in_order(client, arrived) == self.in_order(client, zip(ids, "aüc", strict=True))

    @pytest.mark.parametrize("payload", [object(), float("nan"), {1, 2}, b"bytes"])
    def test_a_payload_that_is_not_json_is_refused(self, client: QueueClient, queue: str, payload: object) -> None:
        """What JSON cannot say is an error at the sender, not a dead letter at the worker."""
        with pytest.raises(PayloadError, match="JSON"):
            client.send(queue, payload)

    def test_g4_a_delayed_message_is_held_by_the_broker(self, client: QueueClient, queue: str) -> None:
        """A delayed message is counted as delayed, not delivered early, then delivered; claimed or refused."""
        if not self.supports_delay(client):
            with pytest.raises(UnsupportedError):
                client.publish(queue, b"{}", delay=0.3)
            return
        client.send(queue, "much later", delay=30.0)
        client.publish(queue, b"later", delay=0.5)
        client.publish(queue, b"now")
        assert self.receive_one(client, queue).body == b"now"
        self.assert_counts(client, queue, delayed=2)
        later = self.receive_one(client, queue)
        assert (later.body, later.redelivered) == (b"later", False)
        self.assert_counts(client, queue, delayed=1)

    def test_g7_a_long_delay_does_not_hold_up_a_short_one(self, client: QueueClient, queue: str) -> None:
        """Messages come in the order in which their delays end, not in the order of publishing."""
        if not self.supports_delay(client):
            pytest.skip("no delays claimed")
        client.publish(queue, b"long", delay=30.0)
        client.publish(queue, b"short", delay=0.3)
        assert self.receive_one(client, queue).body == b"short"
        self.assert_counts(client, queue, delayed=1)

    @staticmethod
    def supports_delay(client: QueueClient) -> bool:
        """Whether the client claims delays."""
        return client.capabilities.delay
