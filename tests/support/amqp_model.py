"""A broker that is a few lists, behind channels that look like pika's: it answers when a test says so.

What is sent on a channel waits in a line until the broker deals with it. The broker checks what a real one would end a
channel or a connection for: a delivery tag that is unknown there, anything on a channel that is closing; and what would
be lost in silence: a delivery that nobody takes.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, Final

from pika import exceptions, spec

from qbridge_rabbitmq.amqp import headers, tables
from qbridge_rabbitmq.amqp.connection import RawProperties

LOST: Final = exceptions.StreamLostError("cut")
MISSING: Final = exceptions.ChannelClosedByBroker(404, "NOT_FOUND - no queue 'q' in vhost '/'")
LATE: Final = exceptions.ChannelClosedByBroker(406, "PRECONDITION_FAILED - delivery acknowledgement timed out")
_LONG: Final = 10.0


class IO:
    """The I/O thread, in which nothing happens by itself."""

    def __init__(self) -> None:
        self.timers: list[Callable[[], None]] = []
        self.chores: list[Callable[[], None]] = []

    def later(self, seconds: float, call: Callable[[], None]) -> None:
        """As in ``IOThread``; nobody waits for what has so much time."""
        (self.timers if seconds < _LONG else self.chores).append(call)

    def post(self, call: Callable[[], None]) -> None:
        """As in ``IOThread``, whose thread is that of the caller here."""
        call()

    def wake(self) -> None:
        """As in ``IOThread``."""

    wake_soon = wake


class Broker:
    """One queue, and what went wrong on the way."""

    def __init__(self) -> None:
        self.exists = True
        self.ready: deque[int] = deque()
        self.delivered: set[int] = set()
        self.gone: set[int] = set()
        self.wishes: set[int] = set()  # what the application wants to be acknowledged

    def publish(self, number: int) -> None:
        """One more message."""
        self.ready.append(number)

    def requeue(self, numbers: list[int]) -> None:
        """They come again, before all others."""
        self.ready.extendleft(reversed(numbers))

    def take(self) -> tuple[int, bool]:
        """The next message, and whether it was delivered before."""
        number = self.ready.popleft()
        redelivered = number in self.delivered
        self.delivered.add(number)
        return number, redelivered

    def remove(self, number: int) -> None:
        """It was acknowledged."""
        assert number in self.wishes, "nobody wanted that"
        assert number not in self.gone
        self.gone.add(number)


class Channel:
    """A channel as pika shows it. What is sent waits in a line until the broker deals with it, and answers."""

    def __init__(self, connection: Connection, number: int, on_open: Callable[[Any], None]) -> None:
        self.connection = connection
        self.channel_number = number
        self.state = "opening"
        self.unsettled: dict[int, tuple[int, str]] = {}
        self.consumers: dict[str, int] = {}
        self._consumers: dict[str, Any] = {}
        self._cancelled: set[str] = set()
        self._tag = 0
        self._qos = 0
        self._getting: Any = None
        self._line: deque[Callable[[], None]] = deque()
        self._on_close: Any = None
        self._on_cancel: Any = None
        self._on_empty: Any = None
        self._on_flow: Any = None

        def opened() -> None:
            if self.state == "opening":
                self.state = "open"
                on_open(self)

        self._line.append(opened)

    @property
    def is_open(self) -> bool:
        """As in pika."""
        return self.state == "open"

    @property
    def is_closing(self) -> bool:
        """As in pika."""
        return self.state == "closing"

    @property
    def is_closed(self) -> bool:
        """As in pika."""
        return self.state == "closed"

    @property
    def waits(self) -> bool:
        """Whether the broker has something to deal with."""
        return bool(self._line)

    def answer(self) -> None:
        """The broker deals with what was sent first, and the answer comes."""
        self._line.popleft()()

    # ------------------------------------------------------------------ what is called of pika's

    def add_on_close_callback(self, call: Any) -> None:
        """As in pika."""
        self._on_close = call

    def add_on_cancel_callback(self, call: Any) -> None:
        """As in pika."""
        self._on_cancel = call

    def add_callback(self, call: Any, replies: list[Any], one_shot: bool = True) -> None:
        """As in pika."""
        assert replies == [spec.Basic.GetEmpty]
        self._on_empty = call

    def basic_qos(self, prefetch_count: int, callback: Any) -> None:
        """As in pika."""
        self._require_open()

        def limit() -> None:
            self._qos = prefetch_count
            callback(None)

        self._line.append(limit)

    def basic_consume(self, queue: str, call: Any, consumer_tag: str, arguments: Any, callback: Any) -> None:
        """As in pika. Its priority tells which of several gets a message, and changes nothing else."""
        self._require_open()
        self._consumers[consumer_tag] = call

        def start() -> None:
            if not self.connection.broker.exists:
                self.close_by_broker(MISSING)
                return
            self.consumers[consumer_tag] = self._qos
            callback(_frame(consumer_tag))

        self._line.append(start)

    def basic_cancel(self, consumer_tag: str) -> None:
        """As in pika, without an answer."""
        self._require_open()
        if consumer_tag in self._cancelled or consumer_tag not in self._consumers:
            return
        self._cancelled.add(consumer_tag)
        del self._consumers[consumer_tag]

        def end() -> None:
            self.consumers.pop(consumer_tag, None)

        self._line.append(end)

    def _rpc(self, method: Any, callback: Any, replies: Any) -> None:
        self._require_open()
        assert isinstance(method, spec.Basic.Cancel)
        tag = str(method.consumer_tag)

        def end() -> None:
            self.consumers.pop(tag, None)
            if callback is not None:
                callback(_frame(tag))

        self._line.append(end)

    def basic_get(self, queue: str, callback: Any) -> None:
        """As in pika."""
        self._require_open()
        assert self._getting is None
        self._getting = callback

        def get() -> None:
            broker = self.connection.broker
            if not broker.exists:
                self.close_by_broker(MISSING)
                return
            self._getting = None
            if not broker.ready:
                self._on_empty(None)
                return
            number, redelivered = broker.take()
            tag = self._deliver(number, "")
            if self.is_closing:
                return  # pika passes nothing on
            method = SimpleNamespace(delivery_tag=tag, redelivered=redelivered)
            callback(self, method, RawProperties(properties(number)), b"%d" % number)

        self._line.append(get)

    def basic_nack(self, delivery_tag: int, multiple: bool, requeue: bool) -> None:
        """As in pika."""
        self._require_open()
        self._line.append(lambda: self.connection.broker.requeue([self._settle(delivery_tag)]))

    def ack(self, tag: int, multiple: bool) -> None:
        """A frame that was written past pika."""
        self._require_open()

        def settle() -> None:
            tags = [one for one in sorted(self.unsettled) if one <= tag] if multiple else [tag]
            for one in tags:
                self.connection.broker.remove(self._settle(one))

        self._line.append(settle)

    def flow(self, active: bool, callback: Any) -> None:
        """As in pika, which forgets the callback of one that is begun during the callback of another."""
        self._require_open()
        self._on_flow = callback

        def answer() -> None:
            if self._on_flow is not None:
                self._on_flow(active)
                self._on_flow = None

        self._line.append(answer)

    def close(self) -> None:
        """As in pika."""
        if self.state not in {"opening", "open"}:
            raise exceptions.ChannelWrongStateError(self.state)
        for tag in list(self._consumers):
            if self.is_open:
                self.basic_cancel(tag)
        self.state = "closing"
        self._line.append(lambda: self._end(exceptions.ChannelClosedByClient(0, "Normal shutdown")))

    # ------------------------------------------------------------------ what the broker does

    def close_by_broker(self, reason: Exception) -> None:
        """It refuses something."""
        self._end(reason)

    def cancel_by_broker(self) -> None:
        """The queue was deleted, or moved: its consumers end."""
        for tag in list(self.consumers):
            if self.consumers.pop(tag, None) is not None and tag not in self._cancelled:
                self._consumers.pop(tag, None)
                self._on_cancel(_frame(tag))

    def deliver(self) -> None:
        """Send what the consumers may have."""
        broker = self.connection.broker
        for tag, prefetch in list(self.consumers.items()):
            while broker.ready and sum(owner == tag for _, owner in self.unsettled.values()) < prefetch:
                number, redelivered = broker.take()
                delivery_tag = self._deliver(number, tag)
                self._pass_on(tag, delivery_tag, number, redelivered)
                if tag not in self.consumers:
                    break
        while self.connection.after_reading:
            self.connection.after_reading.pop()()

    def _pass_on(self, consumer_tag: str, delivery_tag: int, number: int, redelivered: bool) -> None:
        """Past pika, or as pika does it: what has a body of several frames, and what comes for a consumer that ends."""
        sink = self.connection.sinks.get(consumer_tag.encode()) if number % 2 else None
        if sink is not None:
            sink(delivery_tag, redelivered, properties(number), b"%d" % number)
        elif self.is_closing:
            pass
        elif consumer_tag in self._cancelled:
            self.connection.broker.requeue([self._settle(delivery_tag)])
            self.consumers.pop(consumer_tag)
        else:
            assert consumer_tag in self._consumers, "a delivery that nobody takes"
            method = SimpleNamespace(delivery_tag=delivery_tag, redelivered=redelivered)
            self._consumers[consumer_tag](self, method, RawProperties(properties(number)), b"%d" % number)

    def lose(self, *, told: bool) -> None:
        """The connection is gone; ``told`` when the channel hears of it."""
        self._end(LOST, told=told)

    def _deliver(self, number: int, owner: str) -> int:
        self._tag += 1
        self.unsettled[self._tag] = number, owner
        return self._tag

    def _settle(self, tag: int) -> int:
        assert tag in self.unsettled, f"delivery tag {tag} is unknown on this channel"
        return self.unsettled.pop(tag)[0]

    def _end(self, reason: Exception, *, told: bool = True) -> None:
        self.state = "closed"
        self._line.clear()
        self.consumers.clear()
        self.connection.broker.requeue([number for number, _ in self.unsettled.values()])
        self.unsettled.clear()
        if told:
            self._on_close(self, reason)

    def _require_open(self) -> None:
        if not self.is_open:
            raise exceptions.ChannelWrongStateError(self.state)


class Connection:
    """A connection as the consumer sees it."""

    def __init__(self, broker: Broker) -> None:
        self.broker = broker
        self.is_open = True
        self.sinks: dict[bytes, Any] = {}
        self.after_reading: list[Callable[[], None]] = []
        self.channels: list[Channel] = []

    def channel(self, on_open_callback: Any) -> Channel:
        """As in pika."""
        assert self.is_open
        self.channels.append(Channel(self, len(self.channels) + 1, on_open_callback))
        return self.channels[-1]

    def send_acks(self, channel: int, numbers: list[tuple[int, bool]]) -> None:
        """As in ``AmqpConnection``."""
        for tag, multiple in numbers:
            self.channels[channel - 1].ack(tag, multiple)

    @property
    def live(self) -> list[Channel]:
        """Channels that are not closed."""
        return [channel for channel in self.channels if channel.state != "closed"]


def properties(number: int) -> bytes:
    """Those of a message of ours, always the same for the same message."""
    fields = {headers.DELIVERY_MODE: headers.PERSISTENT, headers.MESSAGE_ID: tables.short(b"%d" % number)}
    return headers.join(fields | {headers.HEADERS: tables.table(tables.entry(headers.MARK, f"{number:016}"))})


def _frame(consumer_tag: str) -> Any:
    return SimpleNamespace(method=SimpleNamespace(consumer_tag=consumer_tag))
