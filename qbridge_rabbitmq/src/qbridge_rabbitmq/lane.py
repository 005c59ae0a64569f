"""Everything that a client receives from one queue: its channel, its consumer, and what waits to be taken."""

from __future__ import annotations

import itertools
import logging
import queue as queues
import threading
from collections import deque
from collections.abc import Callable
from typing import Any, Final

from pika import exceptions, spec
from pika.channel import Channel

from qbridge_rabbitmq import errors
from qbridge_rabbitmq.life import Arrival, Life
from qbridge_rabbitmq.loop import IOThread
from qbridge_rabbitmq.wire import Connection, raw_properties

_log: Final = logging.getLogger("qbridge.rabbitmq")
_FIRST_PAUSE: Final = 0.2
_LONGEST_PAUSE: Final = 3.0
# RabbitMQ 3.10 confuses its consumers when a quorum queue is declared anew within milliseconds of its deletion: it
# neither cancels them nor passes on what it delivers to them.
DELETION_PAUSE: Final = 1.0
_RENEW_AFTER: Final = 20
_consumers = itertools.count(1)
Restore = Callable[[str, Callable[[BaseException | None], None]], None]
"""Creates a queue again if it is one of ours, else looks whether it is there; calls back with what is wrong."""


class GetRequest:
    """A caller's wish for up to ``limit`` messages that are ready now.

    Attributes:
        error: why the broker refused, when it did.
        items: the messages.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self.items: list[Arrival] = []
        self.error: BaseException | None = None
        self._lock = threading.Lock()
        self._given_up = False
        self._done = threading.Event()

    def wait(self, timeout: float) -> bool:
        """In the caller's thread: True when it is done; when False the messages go back by themselves."""
        if self._done.wait(timeout):
            return True
        with self._lock:
            self._given_up = not self._done.is_set()
            return not self._given_up

    def add(self, arrival: Arrival) -> bool:
        """In the I/O thread: one more message; whether the request wants another one."""
        self.items.append(arrival)
        return len(self.items) < self._limit

    def finish(self, error: BaseException | None = None) -> None:
        """In the I/O thread: the request is over."""
        with self._lock:
            self.error = error
            if not self._given_up:
                self._done.set()
                return
        for item in self.items:
            item.life.nack(item.number)


class Lane:
    """One queue's way into this client.

    ``buffer``, ``epoch``, ``missing`` and ``in_flight`` may be used by any thread; the methods run in the I/O thread.

    Attributes:
        buffer: what the consumer brought and nobody has taken; ``None`` items only wake the taker.
        epoch: counts what must wake a blocked receive.
        missing: why there is no consumer: the queue does not exist.
    """

    def __init__(self, queue: str, io: IOThread, restore: Restore) -> None:
        self.queue = queue
        self.buffer: queues.SimpleQueue[Arrival | None] = queues.SimpleQueue()
        self.epoch = 0
        self.missing: BaseException | None = None
        self.life: Life | None = None
        self.prefetch = 0
        self._io = io
        self._restore = restore
        self._connection: Connection | None = None
        self._ready = False
        self._consumer = ""
        self._cancelled: list[Callable[[], None]] = []
        self._gets: deque[GetRequest] = deque()
        self._getting = False
        self._failures = 0
        self._confirmed = ""  # the consumer that the broker has confirmed
        self._arrived = False
        self._idle = 0
        self._barriers: list[Callable[[], None]] = []
        self._barrier_sent: list[Callable[[], None]] = []

    @property
    def in_flight(self) -> int:
        """Deliveries here that the broker waits for, whether somebody has taken them or not."""
        life = self.life
        return life.in_flight if life is not None else 0

    def interrupt(self) -> None:
        """In any thread: wake a blocked receive."""
        self.epoch += 1
        self.buffer.put(None)

    # ------------------------------------------------------------------ connection

    def up(self, connection: Connection) -> None:
        """The connection is there, and the known queues have been declared."""
        self._connection = connection
        self._failures = 0
        self._pursue()

    def down(self) -> None:
        """The connection is lost; the channel's end has been handled."""
        self._connection = None

    def _pursue(self) -> None:
        """Take the next step towards what is wanted: a channel, a consumer, the messages of a get."""
        if self._connection is None or not self._connection.is_open:
            self._fail_gets(ConnectionError("the connection to the broker is down"))
        elif self.life is None:
            if self.prefetch or self._gets:
                self._open_channel(self._connection)
        elif self._ready:
            if self.prefetch and not self._consumer and not self._cancelled:
                self._consume(self.life)
            if self._gets and not self._getting:
                self._get(self.life)

    def _open_channel(self, connection: Connection) -> None:
        channel = connection.channel(on_open_callback=self._on_open)
        channel.add_on_close_callback(self._on_close)
        channel.add_on_cancel_callback(self._on_cancelled_by_broker)
        self.life = Life(connection, channel)

    def _on_open(self, channel: Channel) -> None:
        channel.add_callback(self._on_get_empty, [spec.Basic.GetEmpty], one_shot=False)
        self._ready = True
        self._pursue()

    def _on_close(self, channel: Channel, reason: BaseException) -> None:
        life, self.life = self.life, None
        if life is not None:
            life.lost = True
            life.unsettled.clear()
        self._ready = self._getting = False
        self._consumer = ""
        self._fail_gets(reason)
        self._run_cancelled()
        self._pass_barriers()
        self.buffer.put(None)
        if not channel.connection.is_open:
            return
        if isinstance(reason, exceptions.ChannelClosedByClient):
            self._io.later(0.0, self._pursue)
        elif self.prefetch:
            _log.warning("the consumer of %r ended: %s", self.queue, errors.reply_text(reason))
            self._try_again()

    # ------------------------------------------------------------------ consuming

    def subscribe(self, prefetch: int) -> None:
        """Start a consumer, now or when the connection is there."""
        self.prefetch = prefetch
        self._pursue()

    def unsubscribe(self, done: Callable[[], None]) -> None:
        """End the consumer and give back what nobody has taken; ``done`` is called at the end."""
        self.prefetch = 0
        self.missing = None
        if not self._consumer or self.life is None:
            self._give_back_buffer()
            done()
            return
        self._cancelled.append(done)
        if len(self._cancelled) == 1:
            self.life.channel.basic_cancel(self._consumer, callback=self._on_cancel_ok)

    def _consume(self, life: Life) -> None:
        consumer = self._consumer = f"qbridge-{next(_consumers)}"
        put, unsettled = self.buffer.put, life.unsettled

        def deliver(channel: Channel, method: Any, properties: spec.BasicProperties, body: bytes) -> None:
            del channel
            self._arrived = True
            number = method.delivery_tag
            unsettled[number] = None
            put(Arrival(life, number, method.redelivered, raw_properties(properties), body))

        life.channel.basic_qos(prefetch_count=self.prefetch, callback=_ignore)
        life.channel.basic_consume(self.queue, deliver, consumer_tag=consumer, callback=self._on_consume_ok)

    def _on_consume_ok(self, frame: Any) -> None:
        self._confirmed = frame.method.consumer_tag
        self._arrived = True
        self._failures = 0
        self.missing = None

    def _on_cancel_ok(self, frame: Any) -> None:
        del frame
        self._consumer = ""
        self._give_back_buffer()
        self._run_cancelled()
        self._pursue()

    def _on_cancelled_by_broker(self, frame: Any) -> None:
        """The queue was deleted, or its node is gone."""
        if frame.method.consumer_tag != self._consumer:
            return
        self._consumer = ""
        if self._cancelled:
            self._on_cancel_ok(frame)
        elif self.prefetch:
            _log.warning("the broker cancelled the consumer of %r; trying to consume again", self.queue)
            self._io.later(DELETION_PAUSE, self._restore_queue)

    def idle_consumer(self) -> str:
        """The consumer, if it has brought nothing since the last call; "" otherwise."""
        arrived, self._arrived = self._arrived, False
        if arrived:
            self._idle = 0
        return "" if arrived or self._cancelled or self._confirmed != self._consumer else self._consumer

    def examined(self, consumer: str, count: int, error: BaseException | None) -> None:
        """The broker was asked how many consumers the queue of an idle consumer has."""
        if consumer != self._consumer or self._cancelled or self.life is None or not self.life.channel.is_open:
            return
        self._idle += 1
        if errors.is_missing(error) or (error is None and count == 0):
            _log.warning("the broker has lost the consumer of %r; consuming again", self.queue)
            self._consumer = ""
            self.life.channel.basic_cancel(consumer)
            self._restore_queue()
        elif self._idle >= _RENEW_AFTER and not self.life.unsettled:
            # A broker may have lost a consumer that it counts (see DELETION_PAUSE). A new channel heals that, and for
            # one that has had nothing to do for long it costs nothing.
            self._idle = 0
            self.life.channel.close()

    def _try_again(self) -> None:
        """After a pause, look whether the queue is there and consume again."""
        pause = min(_FIRST_PAUSE * 2**self._failures, _LONGEST_PAUSE)
        self._failures = min(self._failures + 1, 10)
        self._io.later(pause, self._restore_queue)

    def _restore_queue(self) -> None:
        self._restore(self.queue, self._on_restored)

    def _on_restored(self, error: BaseException | None) -> None:
        # Consuming from a queue that is missing would end the channel and with it all that is unsettled on it.
        if not self.prefetch or self._connection is None or not self._connection.is_open:
            return
        if error is None:
            self._pursue()
            return
        if errors.is_missing(error):
            self.missing = error
            self.buffer.put(None)
        self._try_again()

    def _give_back_buffer(self) -> None:
        while True:
            try:
                item = self.buffer.get_nowait()
            except queues.Empty:
                break
            if item is not None:
                item.life.nack(item.number)
        self.buffer.put(None)  # one that was meant to wake a receive may have been among them

    def _run_cancelled(self) -> None:
        cancelled, self._cancelled = self._cancelled, []
        for done in cancelled:
            done()

    # ------------------------------------------------------------------ getting

    def get(self, request: GetRequest) -> None:
        """Take messages one by one, without a consumer."""
        self._gets.append(request)
        self._pursue()

    def _get(self, life: Life) -> None:
        self._getting = True
        life.channel.basic_get(self.queue, self._on_get_ok)

    def _on_get_ok(self, channel: Channel, method: Any, properties: spec.BasicProperties, body: bytes) -> None:
        del channel
        life = self.life
        if life is None:
            return
        raw = raw_properties(properties)
        life.unsettled[method.delivery_tag] = None
        if self._gets[0].add(Arrival(life, method.delivery_tag, method.redelivered, raw, body)):
            self._get(life)
        else:
            self._finish_get()

    def _on_get_empty(self, frame: Any) -> None:
        del frame
        self._finish_get()

    def _finish_get(self) -> None:
        self._getting = False
        self._gets.popleft().finish()
        self._pursue()

    def _fail_gets(self, reason: BaseException) -> None:
        self._getting = False
        gets, self._gets = self._gets, deque()
        for request in gets:
            request.items.clear()  # they are lost with the channel
            request.finish(reason)

    # ------------------------------------------------------------------ round trips

    def barrier(self, done: Callable[[], None]) -> None:
        """Call ``done`` when the broker has seen all that was sent, and we all that it had sent before."""
        if self.life is None or not self._ready:
            done()
            return
        self._barriers.append(done)
        if not self._barrier_sent:
            self._send_barrier()

    def close(self, done: Callable[[], None]) -> None:
        """Close the channel: the broker takes back what is unsettled."""
        if self.life is None or not self.life.channel.is_open:
            done()
            return
        self.prefetch = 0
        self._cancelled.append(done)
        self.life.channel.close()

    def _send_barrier(self) -> None:
        self._barrier_sent, self._barriers = self._barriers, []
        if self.life is not None and self._barrier_sent:
            # The cheapest method that changes nothing and has an answer.
            self.life.channel.flow(active=True, callback=self._on_barrier)

    def _on_barrier(self, active: bool) -> None:
        del active
        passed, self._barrier_sent = self._barrier_sent, []
        for done in passed:
            done()
        self._send_barrier()

    def _pass_barriers(self) -> None:
        passed = self._barrier_sent + self._barriers
        self._barrier_sent, self._barriers = [], []
        for done in passed:
            done()


def _ignore(frame: Any) -> None:
    del frame


def take(buffer: queues.SimpleQueue[Arrival | None], limit: int, timeout: float) -> list[Arrival]:
    """Wait for an item and take up to ``limit`` arrivals; none when the time is over or something woke the taker."""
    items: list[Arrival] = []
    try:
        item = buffer.get(timeout=timeout) if timeout > 0 else buffer.get_nowait()
        while True:
            if item is not None and not item.life.lost:
                items.append(item)
                if len(items) >= limit:
                    break
            elif timeout > 0 and not items:
                break
            item = buffer.get_nowait()
    except queues.Empty:
        pass
    return items
