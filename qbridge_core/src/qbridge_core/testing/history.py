"""What a message tells of itself: when it was sent, from when on it may run, and what became of it before."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from typing import NamedTuple

import pytest

from qbridge_core import Attempt, AttemptOutcome, DeadLetter, Delivery, Message, QueueClient
from qbridge_core.testing.base import Backend, a_failure

_DELAY = 0.2
_BEGAN = datetime(2026, 1, 31, 12, 0, 0, 0, UTC)
_CLOCKS = 300.0
"""Seconds by which the clocks of a broker and of its clients may differ."""
_ROUNDING = 1.1
"""Seconds that a broker may round a delay up, or a time down."""

_IN_ORDER = "retried", "postponed", "late", "moved", "sent back", "chosen", "edited"

History = tuple[Attempt, ...]


class Stop(NamedTuple):
    """What a message tells somewhere on its way, and what it should tell of its attempts."""

    name: str
    sent_at: datetime | None
    due_at: datetime | None
    history: History
    expected: History


def _stop(name: str, message: Delivery | DeadLetter, expected: History) -> Stop:
    due_at = message.due_at if isinstance(message, Delivery) else None
    return Stop(name, message.sent_at, due_at, message.history, expected)


class HistoryTests(Backend):
    """``sent_at``, ``due_at`` and ``history``: the capabilities ``sent_at`` and ``history``."""

    def test_g13_a_message_tells_of_its_past_on_all_its_ways(self, client: QueueClient, queue: str, dead: str) -> None:
        """Handed back, retried, postponed, moved, dead-lettered, sent back: what is claimed to be told is told, or not.

        Where all is told on all ways it has to be claimed.
        """
        client.publish(queue, b"1", headers={"h": "1"}, message_id="m")
        stops = list(self._journey(client, queue, dead))
        sent = stops[0].sent_at
        others = [stop.name for stop in stops if stop.sent_at != sent or sent is None]
        assert (not others) == client.capabilities.sent_at, f"when it was sent is not told, or another time: {others}"
        lacking = [stop.name for stop in stops if stop.history != stop.expected]
        assert (not lacking) == client.capabilities.history, f"not all attempts are told of: {lacking}"
        due = {stop.name: stop.due_at for stop in stops}
        assert due["sent"] is due["handed back"] is None, "what was sent without a delay has nothing to wait for"
        again = [name for name in ("retried", "moved", "sent back", "chosen", "edited") if name in due]
        known = [name for name in again if due[name] is not None]
        assert bool(known) == client.capabilities.sent_at, f"told when these could run: {known}"
        if client.capabilities.sent_at:
            times = [due[name] for name in _IN_ORDER if name in due]
            assert times == sorted(times, key=lambda when: when or datetime.max.replace(tzinfo=UTC))
            assert known == again
            assert due["moved and handed back"] == due["moved"], "a hand-back does not change when it could run"

    def test_it_is_known_when_a_message_was_sent_and_when_it_is_due(self, client: QueueClient, queue: str) -> None:
        """By itself, among many, and delayed: the time is one in UTC, and about now; a delay ends as long after it."""
        if not client.capabilities.sent_at:
            pytest.skip("no times of sending claimed")
        before = datetime.now(UTC)
        client.publish(queue, b"one")
        client.publish_many(queue, [Message(b"many", {"h": "1"}, "m")])
        client.send(queue, 1)
        delayed = client.capabilities.delay
        if delayed:
            client.publish(queue, b"late", headers={"h": "1"}, message_id="m", delay=_DELAY)
        for delivery in self.receive_all(client, queue, 4 if delayed else 3):
            assert delivery.sent_at is not None
            assert delivery.sent_at.utcoffset() == before.utcoffset()
            assert abs((delivery.sent_at - before).total_seconds()) < _CLOCKS
            if delivery.body != b"late":
                assert delivery.due_at is None
                continue
            assert delivery.due_at is not None
            waited = (delivery.due_at - delivery.sent_at).total_seconds()
            assert _DELAY - 0.01 <= waited <= _DELAY + _ROUNDING

    def _journey(self, client: QueueClient, queue: str, dead: str) -> Iterator[Stop]:
        """Take a message of a queue all the ways that there are; yield it wherever it arrives."""
        delivery = self.receive_one(client, queue)
        yield _stop("sent", delivery, ())
        client.reject(delivery, requeue=True)
        delivery = self.receive_one(client, queue)
        yield _stop("handed back", delivery, ())
        told = _attempts(1)
        client.reject(delivery, requeue=True, failure=replace(a_failure(queue, 1), history=told))
        delivery = self.receive_one(client, queue)
        yield _stop("retried", delivery, told)
        if client.capabilities.delay:
            told = _attempts(2)
            delivery.record(told[-1])
            client.reject(delivery, requeue=True, delay=_DELAY)
            delivery = self.receive_one(client, queue)
            yield _stop("postponed", delivery, told)
            told = _attempts(3)
            client.reject(delivery, requeue=True, delay=_DELAY, failure=replace(a_failure(queue, 2), history=told))
            delivery = self.receive_one(client, queue)
            yield _stop("late", delivery, told)
        elsewhere = f"{queue}-elsewhere"
        told = _attempts(4)
        client.reject(delivery, requeue=True, failure=replace(a_failure(queue, 3), history=told), queue=elsewhere)
        delivery = self.receive_one(client, elsewhere)
        yield _stop("moved", delivery, told)
        client.reject(delivery, requeue=True)
        delivery = self.receive_one(client, elsewhere)
        yield _stop("moved and handed back", delivery, told)
        told = _attempts(10)
        client.reject(delivery, requeue=True, failure=replace(a_failure(queue, 4), history=told), queue=queue)
        yield from self._as_a_letter(client, queue, dead, told)

    def _as_a_letter(self, client: QueueClient, queue: str, dead: str, told: History) -> Iterator[Stop]:
        client.reject(
            self.receive_one(client, queue), failure=replace(a_failure(queue, 5), history=told), requeue=False
        )
        yield from self._listed(client, dead, told)
        self.await_counts(client, dead, ready=1)
        assert client.replay(dead) == 1
        delivery = self.receive_one(client, queue)
        yield _stop("sent back", delivery, told)
        client.reject(delivery, requeue=False)
        yield from self._listed(client, dead, told)
        if client.capabilities.letters:
            for name, body in (("chosen", None), ("edited", b"2")):
                assert client.replay(dead, letters=client.dead_letters(dead), body=body) == 1
                delivery = self.receive_one(client, queue)
                yield _stop(name, delivery, told)
                client.reject(delivery, requeue=False)
        delivery = self.receive_one(client, dead)
        yield _stop("in the dead-letter queue", delivery, told)
        client.ack(delivery)

    def _listed(self, client: QueueClient, dead: str, told: History) -> Iterator[Stop]:
        if client.capabilities.browse:
            (letter,) = client.dead_letters(dead)
            yield _stop("listed", letter, told)


def _attempts(count: int) -> History:
    """So many attempts, no two of which are alike; the second is one that postponed itself."""
    return tuple(
        Attempt(
            AttemptOutcome.SNOOZED if number == 1 else AttemptOutcome.FAILED,
            _BEGAN.replace(microsecond=number * 1_000),
            0.125 * number,
            "host:1",
            "shop.Error: ü",
            f"shop/mail.py:{number} send",
            replays=number // 5,
        )
        for number in range(count)
    )
