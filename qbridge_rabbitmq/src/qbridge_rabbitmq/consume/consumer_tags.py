"""The consumers of one queue on one channel: a first one, and others beside it while more is to be held."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable
from typing import Any, Final

from pika import spec
from pika.channel import Channel

from qbridge_rabbitmq.amqp.connection import (
    AmqpConnection,
    end_consumer,
    forget_consumers,
    raw_properties,
    retire_consumer,
)
from qbridge_rabbitmq.amqp.frames import Sink

_numbers: Final = itertools.count(1)
# Of what may be held: for as long as it takes to end the others it must not be full, and soon after that it must.
_SHARE: Final = 0.2
_LEAST: Final = 6
_FIRST: Final = {"x-priority": 1}


class ConsumerTags:
    """Consumes. All methods run in the I/O thread.

    The prefetch of a consumer cannot be changed, and a quorum queue delivers again what is on its way to one that is
    cancelled. So more is held by a further consumer, and cancelling is left for times when little is on its way: it is
    sure that nothing is where all are full, or where another one goes before them and is not.

    Args:
        connection: the channel's.
        channel: an open channel that has no other consumers.
        queue: where from.
        deliver: called with each message.
        prefetch: how many unsettled messages the first consumer may hold.
        confirmed: called when the broker has confirmed a consumer.

    Attributes:
        first: the tag of the first consumer.
        held: how many unsettled messages all of them may hold.
    """

    def __init__(
        self,
        connection: AmqpConnection,
        channel: Channel,
        queue: str,
        deliver: Sink,
        prefetch: int,
        confirmed: Callable[[], None],
    ) -> None:
        self._sinks = connection.sinks
        self._tags: set[str] = set()
        self._channel = channel
        self._queue = queue
        self._deliver = deliver
        self._confirmed = confirmed
        self._first_prefetch = self.held = prefetch
        self._beside: list[str] = []
        self._awaited = 0
        self._ending = False
        self._last = ""
        self._room = 0  # of the last one
        self._is_alone = False
        self.first = self._add(prefetch, deliver)

    @property
    def ready(self) -> bool:
        """Whether the broker has confirmed all of them."""
        return not self._awaited

    def hold(self, prefetch: int) -> None:
        """Hold this many unsettled messages in all. Only when ``ready``."""
        if prefetch < self.held:
            self._retire_others()
        if prefetch > self.held:
            self._beside.append(self._add(prefetch - self.held, self._deliver))
            self.held = prefetch

    @property
    def is_narrow(self) -> bool:
        """Whether there is only one that holds little, and it is full."""
        return self._is_alone and self._room <= 0

    def narrow(self) -> None:
        """The next step towards the end of all but one, which goes first and holds little. Only when ``ready``."""
        if not self._last:
            self._room = max(_LEAST, round(_SHARE * self.held))
            self.held += self._room
            self._last = self._add(self._room, self._deliver_last, _FIRST)
            self._beside.append(self._last)
        elif self._room > 0 and self.first != self._last:
            former, self.first = self.first, self._last
            self._beside.remove(self._last)
            self._retire_beside()
            end_consumer(self._channel, former, self._leave_alone)

    def _deliver_last(self, number: int, redelivered: bool, properties: bytes, body: bytes) -> None:
        self._room -= 1
        self._deliver(number, redelivered, properties, body)

    def _leave_alone(self, frame: Any) -> None:
        del frame
        self._is_alone = True

    def cancel(self, done: Callable[[], None]) -> None:
        """End them all; ``done`` is called when nothing more comes, and what has come by then was delivered."""
        self._ending = True
        self._retire_others()
        consumer_tags = self._tags

        def ended(frame: Any) -> None:
            del frame
            forget_consumers(self._channel, consumer_tags)
            self.end()
            done()

        end_consumer(self._channel, self.first, ended)

    def drop(self) -> None:
        """End them without an answer, when the broker does not know them any more."""
        self._ending = True
        self._retire_others()
        self._forget({self.first})
        self._channel.basic_cancel(self.first)

    def end(self) -> None:
        """They have ended, by themselves or with their channel."""
        self._ending = True
        self._forget(self._tags)

    def removed(self, consumer_tag: str) -> bool:
        """The broker has cancelled one; whether it was the first."""
        if consumer_tag in self._beside:
            self._beside.remove(consumer_tag)
        return consumer_tag == self.first

    def _add(self, prefetch: int, deliver: Sink, arguments: dict[str, int] | None = None) -> str:
        # In the order of time: when their channel dies a quorum queue takes back what they held in that of the tags. A
        # message that was asked for has its number as such, without a zero before it: it comes last.
        consumer_tag = f"{next(_numbers):010}-qbridge"
        self._awaited += 1
        self._channel.basic_qos(prefetch_count=prefetch, callback=_ignore)
        self._channel.basic_consume(
            self._queue,
            functools.partial(_take, deliver),
            consumer_tag=consumer_tag,
            arguments=arguments,
            callback=self._on_consume_ok,
        )
        self._tags.add(consumer_tag)
        self._sinks[consumer_tag.encode()] = deliver
        return consumer_tag

    def _forget(self, consumer_tags: set[str]) -> None:
        for consumer_tag in consumer_tags:
            self._sinks.pop(consumer_tag.encode(), None)
        self._tags = self._tags - consumer_tags

    def _on_consume_ok(self, frame: Any) -> None:
        del frame
        self._awaited -= 1
        # One that was retired before it was confirmed brings something yet. Taken by nobody that would be unknown here,
        # and acknowledged together with what comes later.
        if not self._awaited and not self._ending:
            retired = self._tags - {self.first, *self._beside}
            forget_consumers(self._channel, retired)
            self._forget(retired)
        self._confirmed()

    def _retire_others(self) -> None:
        self._retire_beside()
        self.held = self._first_prefetch

    def _retire_beside(self) -> None:
        for consumer_tag in self._beside:
            retire_consumer(self._channel, consumer_tag)
        self._beside.clear()


def _take(deliver: Sink, channel: Channel, method: Any, properties: spec.BasicProperties, body: bytes) -> None:
    """What pika has read itself: bodies of several frames."""
    del channel
    deliver(method.delivery_tag, method.redelivered, raw_properties(properties), body)


def _ignore(frame: Any) -> None:
    del frame
