"""The consumer of a queue through every order of events: connections, channels, replies that come late or never."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable
from typing import Any, cast

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from qbridge_core import Delivery
from qbridge_rabbitmq.consume.consumer import Consumer
from qbridge_rabbitmq.consume.deliveries import Deliveries
from qbridge_rabbitmq.consume.getting import GetRequest
from qbridge_rabbitmq.queues.pending_delays import PendingDelays
from qbridge_rabbitmq.recovery.lost_deliveries import LostDeliveries
from qbridge_rabbitmq.settle.acknowledgements import Acknowledgements
from support.amqp_model import IO, LATE, LOST, MISSING, Broker, Channel, Connection
from support.properties import MORE

QUEUE = "q"


def _is_set(event: threading.Event) -> bool:
    return event.is_set()


class ConsumerMachine(RuleBasedStateMachine):
    """Drives a consumer, and knows what must become of each message."""

    def __init__(self) -> None:
        super().__init__()
        self.broker = Broker()
        self.io = IO()
        self.lost = LostDeliveries()
        self.acknowledgements = Acknowledgements(cast(Any, self.io), self.lost)
        self.deliveries = Deliveries(self.lost, PendingDelays(), self.acknowledgements.acknowledge)
        self.restores: list[Callable[[BaseException | None], None]] = []
        self.consumer = Consumer(QUEUE, cast(Any, self.io), lambda _, done: self.restores.append(done), self.lost)
        self.connection: Connection | None = None
        self.published = 0
        self.handed: set[int] = set()
        self.held: list[Delivery] = []
        self.gets: list[GetRequest] = []
        self.awaited: list[threading.Event] = []

    @initialize(messages=st.integers(0, 4), prefetch=st.integers(0, 3), taken=st.integers(0, 2))
    def begin(self, messages: int, prefetch: int, taken: int) -> None:
        """Most of what can go wrong goes wrong with a consumer at work."""
        self.publish(messages)
        if prefetch:
            self.up()
            self.consumer.subscribe(prefetch)
            self.answer(most=9)
            self.deliver(taken)

    # ------------------------------------------------------------------ connections and channels

    @precondition(lambda self: self.connection is None)
    @rule()
    def up(self) -> None:
        """There is a connection."""
        self.connection = Connection(self.broker)
        self.consumer.up(cast(Any, self.connection))

    @precondition(lambda self: self.connection is not None)
    @rule(told=st.booleans())
    def down(self, told: bool) -> None:
        """It is lost, with all replies that were on their way; the channel may not be told."""
        connection, self.connection = self.connection, None
        assert connection is not None
        connection.is_open = False
        for channel in connection.live:
            channel.lose(told=told)
        self.consumer.down(LOST)
        restores, self.restores = self.restores, []
        for done in restores:
            done(LOST)

    @precondition(lambda self: any(channel.waits for channel in self.live))
    @rule(most=st.sampled_from([1, 1, 2, 9]))
    def answer(self, most: int) -> None:
        """The broker answers what was asked first."""
        for _ in range(most):
            waiting = [channel for channel in self.live if channel.waits]
            if not waiting:
                break
            waiting[0].answer()

    @precondition(lambda self: any(channel.is_open for channel in self.live))
    @rule(how=st.sampled_from(["closed", "deleted", "moved", "forgotten"]))
    def end_by_broker(self, how: str) -> None:
        """An acknowledgement came too late; the queue is gone, or its leader; the broker forgets, and says nothing."""
        self.broker.exists = self.broker.exists and how != "deleted"
        for channel in self.live:
            if how == "forgotten":
                channel.consumers.clear()
            elif how != "closed":
                channel.cancel_by_broker()
            elif channel.is_open:
                channel.close_by_broker(LATE)

    @precondition(lambda self: self.restores or self.io.timers)
    @rule(works=st.booleans(), position=st.integers(0, 3))
    def wait(self, works: bool, position: int) -> None:
        """A pause is over; or the queue was looked for, and is there or is not."""
        if self.restores:
            self.broker.exists = self.broker.exists or works
            self.restores.pop(0)(None if self.broker.exists else MISSING)
        else:
            self.io.timers.pop(position % len(self.io.timers))()

    @rule(looks=st.sampled_from([1, 12]))
    def look_after(self, looks: int) -> None:
        """Now and then it is found out what the broker has seen, and whether it still has the consumer."""
        self.consumer.confirm_acks()
        for _ in range(looks):
            if tag := self.consumer.idle_tag():
                self.consumer.examined(tag, sum(len(channel.consumers) for channel in self.live), None)

    @rule()
    def give_up_what_is_unused(self) -> None:
        """Time has passed in which nobody has asked for anything."""
        self.consumer.release(math.inf)

    # ------------------------------------------------------------------ what is wanted

    @rule(what=st.sampled_from(["subscribe", "unsubscribe", "close", "round trip"]), prefetch=st.integers(1, 3))
    def want(self, what: str, prefetch: int) -> None:
        """Consume, or no more, or end the channel, or wait until the broker has seen everything."""
        if what == "subscribe":
            self.consumer.subscribe(prefetch)
            return
        done = threading.Event()
        self.awaited.append(done)
        call = {"unsubscribe": self.consumer.unsubscribe, "close": self.consumer.close}
        call.get(what, self.consumer.barrier)(done.set)

    @precondition(lambda self: self.consumer._steady is not None)
    @rule(more=st.integers(0, 3), answers=st.integers(0, 2))
    def hold(self, more: int, answers: int) -> None:
        """The speed of the tasks has changed."""
        tags = self.consumer._steady
        assert tags is not None
        tags.hold(2 + more)
        self.answer(answers)

    @rule(limit=st.integers(1, 3), waits=st.sampled_from(["for all", "for some", "for nothing"]))
    def get(self, limit: int, waits: str) -> None:
        """Ask for messages one by one, and perhaps do not wait for all of them, or for any."""
        request = GetRequest(limit)
        self.gets.append(request)
        self.consumer.get(request)
        if waits != "for all":
            self.answer(most=1 if waits == "for some" else 0)
            self._take_from(request)

    # ------------------------------------------------------------------ messages

    def publish(self, count: int) -> None:
        """More messages are in the queue."""
        for _ in range(count):
            self.broker.publish(self.published)
            self.published += 1

    @rule(taken=st.integers(0, 3), published=st.integers(0, 1))
    def deliver(self, taken: int, published: int = 0) -> None:
        """The broker sends what it may, and the application takes some of it."""
        self.publish(published)
        for channel in self.live:
            channel.deliver()
        self._hand_out(self.consumer.buffer.take(taken, 0.0) if taken else [])
        for request in [request for request in self.gets if request.is_over]:
            self._take_from(request)

    @precondition(lambda self: self.held)
    @rule(position=st.integers(0, 3), flushed=st.booleans())
    def ack(self, position: int, flushed: bool) -> None:
        """The application has finished one."""
        delivery = self.held.pop(position % len(self.held))
        self.broker.wishes.add(int(delivery.body))
        self.acknowledgements.acknowledge(delivery)
        if flushed:
            self.flush()

    @rule()
    def flush(self) -> None:
        """Acknowledgements are sent, and what nobody has taken is given back."""
        for arrival in self.consumer.buffer.take_left():
            arrival.channel.give_back(arrival.number)
        if self.consumer.channel is not None:
            self.consumer.channel.flush()

    # ------------------------------------------------------------------ what must hold

    @invariant()
    def there_is_one_channel_at_most(self) -> None:
        """No channel is left behind with messages that nobody sees."""
        ours = self.consumer.channel
        for channel in self.live:
            assert channel.state == "closing" or (ours is not None and ours.amqp is channel)

    @invariant()
    def somebody_is_at_it(self) -> None:
        """What is wanted is there, or a reply or the end of a pause will bring it on."""
        under_way = self.restores or self.io.timers or any(channel.waits for channel in self.live)
        assert self.connection is None or under_way or self._is_there()

    def teardown(self) -> None:
        """In the end all is well: what was wanted comes by itself, every message is worked off, and nobody waits."""
        if self.connection is None:
            self.up()
        if not self.consumer.prefetch:
            self._settle_down()  # an end that is under way must not end what is wanted now
            self.consumer.subscribe(2)
        for _ in range(20 + 4 * self.published):
            self._settle_down()
            if self._is_there() and len(self.broker.gone) == self.published:
                break
        assert self.consumer.serves, "the consumer did not come back"
        assert self.broker.gone == set(range(self.published)), "a message is lost, or stuck"
        assert all(map(_is_set, self.awaited)), "somebody waits for ever"
        assert all(request.is_over for request in self.gets), "somebody waits for ever for a message"

    def _is_there(self) -> bool:
        return (
            self.consumer.serves and all(map(_is_set, self.awaited)) and all(request.is_over for request in self.gets)
        )

    def _settle_down(self) -> None:
        timers, self.io.timers, self.io.chores = self.io.timers + self.io.chores, [], []
        for call in timers:
            call()
        while self.restores:
            self.wait(works=True, position=0)
        while any(channel.waits for channel in self.live):
            self.answer(9)
        self.look_after(1)
        self.deliver(taken=9)
        while self.held:
            self.ack(0, flushed=False)
        self.flush()

    @property
    def live(self) -> list[Channel]:
        """Channels that are not closed."""
        return self.connection.live if self.connection is not None else []

    def _take_from(self, request: GetRequest) -> None:
        self.gets.remove(request)
        request.finish()
        self._hand_out(request.items)

    def _hand_out(self, arrivals: list[Any]) -> None:
        for delivery in self.deliveries.hand_out(QUEUE, arrivals):
            number = int(delivery.body)
            assert number not in self.handed, "a message was handed out twice"
            self.handed.add(number)
            self.held.append(delivery)


# In a long run much comes together; what goes wrong in it may be healed again, as by a lost connection, before its end.
TestShortRuns = ConsumerMachine.TestCase
TestShortRuns.settings = settings(max_examples=300 * MORE, stateful_step_count=12)


class _LongMachine(ConsumerMachine):
    """The same for long."""


TestLongRuns = _LongMachine.TestCase
TestLongRuns.settings = settings(max_examples=200 * MORE, stateful_step_count=30)
