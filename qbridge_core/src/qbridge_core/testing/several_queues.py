"""Receiving from several queues at once."""

from __future__ import annotations

import functools
import json
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from typing import Any, cast

import pytest

from qbridge_core import ConfigurationError, Delivery, NotConnectedError, QueueClient, UnroutableError
from qbridge_core.testing.base import Backend, Call, MakeClient

_NO_MAPPINGS: list[Any] = [None, "queue", ["queue"], {"queue": 0}, {"queue": "1"}, {"": 1}]
_COUNT = 4
_TIMEOUT = 0.75
_PROMPT = 0.9
"""Seconds; of a few tries one must be quicker, however busy the machine is."""
_TRIES = 5


class SeveralQueuesTests(Backend):
    """``receive_any``, of queues that are subscribed, as those of workers are, and of others."""

    @pytest.fixture(params=[True, False], ids=["subscribed", "asked"])
    def queues(self, client: QueueClient, queue: str, dead: str, request: pytest.FixtureRequest) -> list[str]:
        """Several declared, empty queues."""
        queues = [queue, *(f"{queue}-{number}" for number in range(1, _COUNT))]
        for each in queues:
            client.declare(each, dead)
            if request.param:
                client.subscribe(each, 2)
        return queues

    def collect(self, client: QueueClient, wanted: dict[str, int], count: int) -> Counter[str]:
        """Receive and acknowledge so many messages of these queues; which queues they came from."""
        came: Counter[str] = Counter()

        def more() -> bool:
            for delivery in client.receive_any(wanted, 0.5):
                client.ack(delivery)
                came[delivery.queue] += 1
            return came.total() >= count

        self.eventually(more, message=f"not all of {count} messages came")
        return came

    def test_what_comes_to_any_of_several_queues_is_received(self, client: QueueClient, queues: list[str]) -> None:
        """All of it, whichever queues it is in, and how often they get something."""
        for _ in range(2):
            for queue in queues:
                client.send_many(queue, range(5))
            assert self.collect(client, dict.fromkeys(queues, 2), 5 * _COUNT) == dict.fromkeys(queues, 5)
        assert client.flush()
        for queue in queues:
            self.assert_counts(client, queue, in_flight=0, soon=True)

    def test_of_each_queue_at_most_as_many_as_wanted_are_received(self, client: QueueClient, queues: list[str]) -> None:
        """A queue with many messages does not fill the place of others, and one that is not named is left alone."""
        for queue in queues:
            client.send_many(queue, range(3))
        wanted = {queues[0]: 1, queues[1]: 2}
        first = client.receive_any(wanted, self.wait)
        came = Counter(delivery.queue for delivery in first)
        assert came
        assert came[queues[0]] <= 1
        assert came[queues[1]] <= 2
        assert set(came) <= {queues[0], queues[1]}
        received: list[Delivery] = []
        while first:
            for delivery in first:
                client.ack(delivery)
            received += first
            first = client.receive_any(wanted, self.wait) if len(received) < 6 else []
        for queue in wanted:
            payloads = [json.loads(delivery.body)["payload"] for delivery in received if delivery.queue == queue]
            assert (payloads if client.capabilities.ordered else sorted(payloads)) == [0, 1, 2]

    def test_a_message_ends_the_wait_for_several_queues(
        self, make_client: MakeClient, client: QueueClient, queues: list[str]
    ) -> None:
        """Whichever queue it comes to, long before the timeout."""
        sender = make_client()
        seconds: list[float] = []
        for queue in reversed(queues):
            call = Call(lambda: client.receive_any(dict.fromkeys(queues, 5), 300.0))
            sender.send(queue, 1)
            sent = time.monotonic()
            assert call.ended(self.wait), f"the wait does not end though {queue} has a message"
            seconds.append(time.monotonic() - sent)
            (delivery,) = cast(list[Delivery], call.result())
            assert delivery.queue == queue
            client.ack(delivery)
        assert min(seconds) < _PROMPT, f"receive_any returns a new message after {min(seconds):.1f} s"
        if client.capabilities.delay:
            client.publish(queues[-1], b"delayed", delay=0.1)
            due = Call(lambda: client.receive_any(dict.fromkeys(queues, 5), 300.0))
            assert due.ended(self.wait), "the wait does not end though a message is due"
            assert [delivery.body for delivery in cast(list[Delivery], due.result())] == [b"delayed"]

    def test_several_empty_queues_are_waited_for_as_long_as_was_told(
        self, client: QueueClient, queues: list[str]
    ) -> None:
        """Neither shorter, or the caller would ask in a busy loop, nor much longer."""
        wanted = dict.fromkeys(queues, 1)
        call = Call(lambda: client.receive_any(wanted, _TIMEOUT))
        assert call.ended(self.wait), "receive_any waits longer than its timeout"
        assert call.result() == []
        assert call.seconds >= 0.8 * _TIMEOUT, "receive_any does not wait for its timeout"
        seconds: list[float] = []
        while len(seconds) < _TRIES and min(seconds, default=_PROMPT) >= _PROMPT:
            call = Call(lambda: client.receive_any(wanted, 0.0))
            assert call.ended(self.wait), "receive_any waits though its timeout is zero"
            assert call.result() == []
            seconds.append(call.seconds)
        assert min(seconds) < _PROMPT, f"with a timeout of zero receive_any takes {min(seconds):.1f} s"

    def test_the_wait_for_several_queues_can_be_ended(self, client: QueueClient, queues: list[str]) -> None:
        """By another thread, also when that is a moment too early; the next wait is a whole one."""
        waking = Call(client.wake_receive_any)
        assert waking.ended(self.wait), "wake_receive_any waits"
        wanted = dict.fromkeys(queues, 1)
        early = Call(lambda: client.receive_any(wanted, 300.0))
        assert early.ended(self.wait), "receive_any does not know that it was woken before"
        assert early.result() == []
        waiting = Call(lambda: client.receive_any(wanted, 300.0))
        assert not waiting.ended(0.3), "one wake has ended two waits"
        client.wake_receive_any()
        assert waiting.ended(self.wait), "receive_any still waits after wake_receive_any"
        assert waiting.result() == []

    def test_several_threads_wait_for_queues_at_once(
        self, make_client: MakeClient, client: QueueClient, queues: list[str]
    ) -> None:
        """Each for queues of its own: what comes for one of them ends no other wait, and a wake ends all."""
        sender = make_client()
        halves = queues[::2], queues[1::2]
        for _ in range(2):
            calls = [Call(functools.partial(client.receive_any, dict.fromkeys(half, 1), 300.0)) for half in halves]
            sender.send(halves[1][-1], 1)
            assert calls[1].ended(self.wait), "one of several threads that wait for queues does not get its message"
            (delivery,) = cast(list[Delivery], calls[1].result())
            client.ack(delivery)
            assert not calls[0].ended(0.2), "a wait ends with a message of a queue that another thread waits for"
            sender.send(halves[0][0], 1)
            assert calls[0].ended(self.wait), "one of several threads that wait for queues does not get its message"
            client.ack(*cast(list[Delivery], calls[0].result()))
        calls = [Call(functools.partial(client.receive_any, dict.fromkeys(half, 1), 300.0)) for half in halves]
        assert not any(call.ended(0.3) for call in calls)
        client.wake_receive_any()
        assert all(call.ended(self.wait) for call in calls), "wake_receive_any does not end all waits"

    def test_g18_several_queues_that_make_no_sense_are_refused(self, client: QueueClient, queue: str) -> None:
        """It is an error that says what was expected, and nothing is taken."""
        client.send(queue, 1)
        for wanted in _NO_MAPPINGS:
            with pytest.raises(ConfigurationError):
                client.receive_any(wanted, 0.1)
        self.assert_counts(client, queue, ready=1)

    def test_a_missing_one_of_several_queues_is_an_error(self, client: QueueClient, queues: list[str]) -> None:
        """It is named, instead of being waited for without an end; what the others have is received or left there."""
        missing = f"{queues[0]}-missing"
        call = Call(lambda: client.receive_any({queues[0]: 1, missing: 1}, 300.0))
        assert call.ended(self.wait), "receive_any waits for a queue that does not exist"
        with pytest.raises(UnroutableError, match=missing):
            call.result()
        client.send(queues[0], 1)
        with suppress(UnroutableError):
            came = self.eventually(lambda: client.receive_any({queues[0]: 1, missing: 1}, 0.1))
            assert [delivery.queue for delivery in came] == [queues[0]]
            client.reject(came[0], requeue=True)
        assert client.receive_any({queues[0]: 1}, self.wait), "a message is lost though nobody has got it"

    def test_disconnecting_ends_the_wait_for_several_queues(self, client: QueueClient, queues: list[str]) -> None:
        """It says that the client is not connected, as each call does from then on."""
        receive: Callable[[], object] = lambda: client.receive_any(dict.fromkeys(queues, 1), 300.0)  # noqa: E731
        call = Call(receive)
        assert not call.ended(0.2)
        client.disconnect()
        assert call.ended(self.wait), "receive_any still waits after disconnect"
        assert call.error is None or isinstance(call.error, NotConnectedError)
        with pytest.raises(NotConnectedError):
            receive()
