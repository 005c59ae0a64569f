"""Messages that are asked for one by one, without a consumer (``basic.get``)."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from typing import Any, Final

from pika import spec
from pika.channel import Channel

from qbridge_core.backend import PREFETCH_BYTES
from qbridge_rabbitmq.amqp.connection import raw_properties
from qbridge_rabbitmq.consume.redeliveries import Redeliveries
from qbridge_rabbitmq.state.in_flight import Arrival, DeliveryChannel

_LAST_WAIT: Final = 1.0


class GetRequest:
    """A caller's wish for up to ``limit`` messages that are ready now, as far as they are not too large together.

    Attributes:
        error: why the broker refused, when it did.
        items: the messages.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._size = 0
        self.items: list[Arrival] = []
        self.error: BaseException | None = None
        self._lock = threading.Lock()
        self._enough = False
        self._over = False
        self._done = threading.Event()

    def wait(self, timeout: float, is_coming: Callable[[], bool]) -> bool:
        """In the caller's thread: True when there is an answer, which may be fewer messages than there are.

        On a slow link a page takes long, since each message is asked for, and a large message takes long by itself.
        What has come by then is taken, and the one that is on its way is awaited for as long as ``is_coming``, which is
        asked now and then. One that is later still is for the next request (see ``Gets``).
        """
        if self._done.wait(timeout):
            return True
        self._enough = True
        while not self._done.wait(_LAST_WAIT) and is_coming():
            pass
        with self._lock:
            self._over = True
            return self._done.is_set() or bool(self.items)

    def is_answered(self, timeout: float) -> bool:
        """In the caller's thread: whether there is an answer by then; a later one is for the next request."""
        if self._done.wait(max(0.0, timeout)):
            return True
        with self._lock:
            self._over = True
            return self._done.is_set() or bool(self.items)

    @property
    def is_over(self) -> bool:
        """Whether nobody waits for it any more."""
        return self._over

    @property
    def wants_more(self) -> bool:
        """In the I/O thread: whether the broker should be asked for another message."""
        return (
            not self._over and not self._enough and len(self.items) < self._limit and self._size < PREFETCH_BYTES
        )  # fmt: skip

    def add(self, arrival: Arrival) -> bool:
        """In the I/O thread: one more message. False when it came too late."""
        with self._lock:
            if self._over:
                return False
            self.items.append(arrival)
            self._size += len(arrival.body)
            return True

    def finish(self) -> None:
        """In the I/O thread: the request is over."""
        with self._lock:
            self._over = True
            self._done.set()

    def fail(self, error: BaseException) -> list[Arrival]:
        """In the I/O thread: the channel has ended, and these were lost with it before anybody had them."""
        with self._lock:
            if self._over:
                return []
            lost, self.items = self.items, []
            self.error = error
            self._over = True
            self._done.set()
            return lost


class Gets:
    """The requests for single messages of one queue, one after the other. For the I/O thread.

    Args:
        queue: its name.
        redeliveries: looks at what comes.
        keep: takes what comes too late for whoever has asked for it.
        done: called after each request; it calls ``send`` again when there is a channel.
        came: called for each message, which is to be settled.

    Attributes:
        under_way: in any thread: whether the broker was asked for a message and has not answered.
    """

    def __init__(
        self,
        queue: str,
        redeliveries: Redeliveries,
        keep: Callable[[Arrival], None],
        done: Callable[[], None],
        came: Callable[[], None],
    ) -> None:
        self.under_way = False
        self._queue = queue
        self._redeliveries = redeliveries
        self._keep = keep
        self._done = done
        self._came = came
        self._waiting: deque[GetRequest] = deque()
        self._channel: DeliveryChannel | None = None
        self._commands = 0

    def __bool__(self) -> bool:
        return bool(self._waiting)

    def add(self, request: GetRequest) -> None:
        """One more; ``send`` begins with it when it is its turn."""
        self._waiting.append(request)

    def send(self, channel: DeliveryChannel) -> None:
        """Ask the broker for the next message, if somebody waits for one and it has not been asked yet."""
        if self.under_way:
            return
        self._drop_forsaken()
        if self._waiting:
            self._get(channel)

    def answered_empty(self, frame: Any) -> None:
        """The queue is empty."""
        del frame
        if self._channel is not None:
            self._channel.note_applied(self._commands)
        self._finish()

    def fail(self, reason: BaseException) -> None:
        """The channel has ended, or there is no connection."""
        self.under_way = False
        self._channel = None
        requests, self._waiting = self._waiting, deque()
        for request in requests:
            self._redeliveries.note_unstarted(request.fail(reason))

    def _get(self, channel: DeliveryChannel) -> None:
        self.under_way = True
        self._channel = channel
        self._commands = channel.commands
        channel.amqp.basic_get(self._queue, self._answered)

    def _answered(self, amqp: Channel, method: Any, properties: spec.BasicProperties, body: bytes) -> None:
        channel = self._channel
        if channel is None or channel.amqp is not amqp:
            return
        channel.note_applied(self._commands)
        channel.sources += 1
        self._came()
        channel.unsettled[method.delivery_tag] = None
        arrival = Arrival(channel, method.delivery_tag, method.redelivered, raw_properties(properties), body)
        examined = self._redeliveries.examine(arrival)
        if examined is not None:
            self._pass_on(examined)
        self._drop_forsaken()
        if self._waiting and self._waiting[0].wants_more and amqp.is_open:
            self._get(channel)
        else:
            self._finish()

    def _pass_on(self, arrival: Arrival) -> None:
        """Give a message to the first who still waits; else keep it for the next.

        Giving it back to the broker would count as a delivery: a queue with a delivery limit drops what came back too
        often, and a suspect that came back has killed its worker.
        """
        for request in self._waiting:
            if request.add(arrival):
                return
        self._keep(arrival)

    def _drop_forsaken(self) -> None:
        while self._waiting and self._waiting[0].is_over:
            self._waiting.popleft()

    def _finish(self) -> None:
        self.under_way = False
        if self._waiting:
            self._waiting.popleft().finish()
        self._done()
