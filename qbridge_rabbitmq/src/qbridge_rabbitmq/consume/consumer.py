"""The consumer of one queue: its channel, what it holds there, and what waits to be taken."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, Final

from pika import exceptions, spec
from pika.channel import Channel

from qbridge_core.backend import TransientError, logger, monotonic
from qbridge_rabbitmq.amqp import errors
from qbridge_rabbitmq.amqp.connection import AmqpConnection
from qbridge_rabbitmq.connection.io_thread import IOThread
from qbridge_rabbitmq.consume.buffer import Buffer
from qbridge_rabbitmq.consume.consumer_tags import ConsumerTags
from qbridge_rabbitmq.consume.getting import GetRequest, Gets
from qbridge_rabbitmq.consume.prefetch import MOST, PrefetchControl
from qbridge_rabbitmq.consume.queue_check import QueueCheck, Restore
from qbridge_rabbitmq.consume.redeliveries import Redeliveries
from qbridge_rabbitmq.consume.silence import Silence
from qbridge_rabbitmq.consume.states import NEXT, USABLE, State
from qbridge_rabbitmq.recovery.lost_deliveries import LostDeliveries
from qbridge_rabbitmq.state.in_flight import Arrival, DeliveryChannel
from qbridge_rabbitmq.state.round_trips import RoundTrips

_log: Final = logger("qbridge.rabbitmq")
# RabbitMQ 3.10 confuses its consumers when a quorum queue is declared anew within milliseconds of its deletion: it
# neither cancels them nor passes on what it delivers to them.
DELETION_PAUSE: Final = 1.0
# A quorum queue goes on sending until it has written down that a consumer ends, and delivers that again, as if a worker
# had died of it. So a consumer ends when nothing can be on its way to it, if that comes about within this time.
_NARROWING: Final = 0.25
_NARROWING_POLL: Final = 0.005
_SAY_AGAIN: Final = 60.0


class Consumer:
    """One queue's way into this client; :mod:`qbridge_rabbitmq.consume.states` says what states it has.

    Args:
        queue: its name.
        io: the I/O thread.
        restore: see :data:`~qbridge_rabbitmq.consume.queue_check.Restore`.
        lost: recognizes what was in flight when a channel ended; without it nothing is.
        holding: where it puts itself when something has come that is to be settled.

    ``buffer``, ``epoch``, ``missing``, ``is_drained`` and ``in_flight`` may be used by any thread; the methods run in
    the I/O thread.

    Attributes:
        state: what there is of it.
        channel: what its channel has delivered, while there is one.
        buffer: what the consumer brought, or came too late for who had asked for it, and nobody has taken.
        epoch: counts what must wake a blocked receive.
        missing: why there is no consumer: the queue does not exist, or the broker lets nobody consume here.
        prefetch: how many messages somebody wants to hold; 0 when nobody consumes.
        most: how many messages a prefetch that follows the speed may hold.
        works: whether a worker takes its tasks here.
        used_at: when somebody asked for messages last, or ended the consumer (monotonic time).
        is_drained: the queue was empty when the broker was asked, and what has come to it since would be here.
        ending: held by the thread that unsubscribes until what was left is back: another one that does so too must not
            return before, for its caller may disconnect then, and what is on its way would be there twice.
    """

    def __init__(
        self,
        queue: str,
        io: IOThread,
        restore: Restore,
        lost: LostDeliveries | None = None,
        holding: dict[Consumer, None] | None = None,
    ) -> None:
        self.queue = queue
        self.state = State.DISCONNECTED
        self.channel: DeliveryChannel | None = None
        self.buffer = Buffer()
        self.epoch = 0
        self.missing: BaseException | None = None
        self.prefetch = 0
        self.most = MOST
        self.works = False
        self.is_drained = False
        self.used_at = monotonic()
        self.ending = threading.Lock()
        self._io = io
        self._check = QueueCheck(queue, io, restore, self._on_checked)
        self._redeliveries = Redeliveries(queue, io, lost)
        self._gets = Gets(queue, self._redeliveries, self.buffer.put, self._pursue, self._hold)
        self._round_trips = RoundTrips(io)
        self._held = PrefetchControl(self._redeliveries.rule)
        self._holding = {} if holding is None else holding
        self._connection: AmqpConnection | None = None
        self._tags: ConsumerTags | None = None
        self._ended: list[Callable[[], None]] = []  # to be called when the consumer, or its channel, has ended
        self._silence = Silence()
        self._is_released = False
        self._said = ""
        self._said_at = 0.0

    # ------------------------------------------------------------------ in any thread

    @property
    def in_flight(self) -> int:
        """Deliveries here that the broker waits for, whether somebody has taken them or not."""
        channel = self.channel
        return channel.in_flight if channel is not None else 0

    @property
    def serves(self) -> bool:
        """Whether what was asked for is there: a consumer that the broker has confirmed, or nothing."""
        return not self.prefetch or self.missing is not None or bool(self._ended) or self._steady is not None

    @property
    def is_full(self) -> bool:
        """Whether the broker brings nothing more, whatever its queue has, before something here is settled."""
        tags, channel = self._tags, self.channel
        return tags is not None and channel is not None and len(channel.unsettled) >= tags.held

    @property
    def is_getting(self) -> bool:
        """Whether the broker was asked for a message and has not answered."""
        return self._gets.under_way

    def interrupt(self) -> None:
        """Wake a blocked receive."""
        self.epoch += 1
        self.buffer.wake()

    # ------------------------------------------------------------------ what is wanted

    def subscribe(self, prefetch: int, fixed: bool = True) -> None:
        """Start a consumer, now or when the connection is there; unless fixed the prefetch follows the speed."""
        self.prefetch = prefetch
        self.works = True
        self.is_drained = False
        self._held.follow(None if fixed else prefetch, self.most)
        self._pursue()

    def unsubscribe(self, done: Callable[[], None]) -> None:
        """End the consumer; ``done`` is called at the end, and what nobody has taken is left in the buffer."""
        self.prefetch = 0
        self.used_at = monotonic()
        self._held.follow(None)
        self.missing = None
        if self._tags is None or self.channel is None:
            self.buffer.leave()
            done()
            return
        self._ended.append(done)
        if self.state in {State.STARTING, State.CONSUMING} and self.channel.amqp.is_open:
            self._enter(State.CANCELLING)
            self._cancel_when_full(self._tags, self.channel, monotonic() + _NARROWING)

    def close(self, done: Callable[[], None]) -> None:
        """Close the channel: the broker takes back what is unsettled."""
        self.prefetch = 0
        self._is_released = False
        if self.channel is None:
            done()
            return
        self._ended.append(done)
        self._close_channel(self.channel)

    def get(self, request: GetRequest) -> None:
        """Take messages one by one, without a consumer."""
        self.is_drained = False
        self.used_at = monotonic()
        self._gets.add(request)
        self._pursue()

    def barrier(self, done: Callable[[], None]) -> None:
        """Call ``done`` when the broker has seen all that was sent, and we all that it had sent before."""
        if self.channel is None:
            done()
            return
        self._round_trips.add(done, self.channel if self.state in USABLE else None)

    # ------------------------------------------------------------------ the connection

    def up(self, connection: AmqpConnection) -> None:
        """The connection is there, and the known queues have been declared."""
        self._connection = connection
        self._check.succeeded()
        self._check.call_off()
        if self.state is State.DISCONNECTED:
            self._enter(State.IDLE)
        self._pursue()

    def down(self, reason: BaseException) -> None:
        """The connection is lost. The channel's end has been handled, unless all was lost in an unforeseen way."""
        self._connection = None
        if self.channel is not None:
            self._on_close(self.channel.amqp, reason)
        elif self.state is not State.DISCONNECTED:
            self._enter(State.DISCONNECTED)

    def _enter(self, state: State) -> None:
        """Go on to another state.

        Raises:
            RuntimeError: it cannot follow. What there is may be half done, and the I/O thread makes it anew.
        """
        if state not in NEXT[self.state]:
            raise RuntimeError(f"the consumer of {self.queue!r} cannot go from {self.state.name} to {state.name}")
        self.state = state

    def _pursue(self) -> None:
        """Take the next step towards what is wanted: a channel, a consumer, the messages of a get."""
        connection, channel = self._connection, self.channel
        if connection is None or not connection.is_open:
            self._gets.fail(ConnectionError("the connection to the broker is down"))
        elif self.state is State.IDLE:
            if self.prefetch or self._gets:
                self._open_channel(connection)
        elif self.state in USABLE and channel is not None and channel.amqp.is_open:
            if self.state is State.OPEN and self.prefetch and not self._check.under_way:
                self._start(channel)
            self._gets.send(channel)

    # ------------------------------------------------------------------ the channel

    def _open_channel(self, connection: AmqpConnection) -> None:
        amqp = connection.channel(on_open_callback=self._on_open)
        amqp.add_on_close_callback(self._on_close)
        amqp.add_on_cancel_callback(self._on_cancelled_by_broker)
        self.channel = DeliveryChannel(connection, amqp, self.queue)
        self._enter(State.OPENING)

    def _on_open(self, amqp: Channel) -> None:
        channel = self.channel
        if channel is None or channel.amqp is not amqp or self.state is not State.OPENING:
            return
        self._enter(State.OPEN)
        self._redeliveries.rule.resumed(monotonic())
        amqp.add_callback(self._on_empty, [spec.Basic.GetEmpty], one_shot=False)
        self._pursue()
        self._round_trips.opened(channel)

    def _on_empty(self, frame: Any) -> None:
        """The broker was asked for a message and has none."""
        self.is_drained = not self.is_full
        self._gets.answered_empty(frame)

    def _close_channel(self, channel: DeliveryChannel) -> None:
        """Ask the broker to end it, unless it was asked already, or the connection ends with all its channels."""
        if self.state is not State.CLOSING and not (channel.amqp.is_closing or channel.amqp.is_closed):
            self._enter(State.CLOSING)
            channel.amqp.close()

    def _on_close(self, amqp: Channel, reason: BaseException) -> None:
        """The channel has ended, and the consumer with it: because it was asked to, was refused, or was lost."""
        channel, tags = self.channel, self._tags
        if channel is None or channel.amqp is not amqp:
            return
        is_connected = self._connection is not None and amqp.connection.is_open
        refused = tags is not None and not tags.ready
        self._enter(State.IDLE if is_connected else State.DISCONNECTED)
        self.channel = self._tags = None
        self._leave(channel)
        if tags is not None:
            tags.end()
        released, self._is_released = self._is_released, False
        if not (released and is_connected and self._gets):  # what was asked for since then has another channel
            self._gets.fail(reason)
        self._tell_ended()
        self._round_trips.pass_all()
        self.buffer.wake()
        if not is_connected:
            self._redeliveries.rule.connection_lost()
        elif isinstance(reason, exceptions.ChannelClosedByClient):
            self._io.later(0.0, self._pursue)
        elif self.prefetch:
            self._consumer_refused(reason, refused)

    def _leave(self, channel: DeliveryChannel) -> None:
        """Note what was in flight on a channel that has ended, and what nobody has taken."""
        self.is_drained = False
        self.buffer.release()
        unread = self.buffer.drain()
        self._redeliveries.note_end(channel, unread)

    def _consumer_refused(self, reason: BaseException, refused: bool) -> None:
        """The broker has closed the channel: it may do so again at once, for as long as something is wrong.

        What ends a consumer that was at work (an acknowledgement that came too late, for one) does not keep the next
        one from the queue.
        """
        problem = errors.from_channel(reason, f"the consumer of {self.queue!r} ended", "read")
        now = monotonic()
        if str(problem) != self._said or now - self._said_at >= _SAY_AGAIN:
            self._said, self._said_at = str(problem), now
            _log.warning("%s", problem)
        if refused and not isinstance(problem, TransientError) and not errors.is_missing(reason):
            self._note_missing(reason)
        self._check.begin_again()

    # ------------------------------------------------------------------ the consumer on it

    @property
    def _steady(self) -> ConsumerTags | None:
        """What consumes, while the broker has confirmed all of it and nobody ends it."""
        tags, channel = self._tags, self.channel
        if self.state is not State.CONSUMING or tags is None or channel is None:
            return None
        return tags if tags.ready and channel.amqp.is_open else None

    def _start(self, channel: DeliveryChannel) -> None:
        gather, unsettled, examine = self.buffer.gather, channel.unsettled, self._redeliveries.examine
        after_reading, silence = channel.connection.after_reading, self._silence

        def deliver(number: int, redelivered: bool, properties: bytes, body: bytes) -> None:
            silence.broken = True
            self.is_drained = False
            if not unsettled:
                self._hold()
            unsettled[number] = None
            arrival = examine(Arrival(channel, number, redelivered, properties, body))
            if arrival is not None:
                gather(arrival, after_reading)

        self._enter(State.STARTING)
        tags = self._tags = ConsumerTags(
            channel.connection, channel.amqp, self.queue, deliver, self.prefetch, lambda: self._on_consuming(tags)
        )

    def _hold(self) -> None:
        """Something has come that is to be settled."""
        self._holding[self] = None

    def _on_consuming(self, tags: ConsumerTags) -> None:
        self._silence.broken = True
        self._check.succeeded()
        self.missing = None
        if tags is self._tags and self.state is State.STARTING:
            self._enter(State.CONSUMING)

    def _cancel_when_full(self, tags: ConsumerTags, channel: DeliveryChannel, latest: float) -> None:
        """End what consumes when nothing can be on its way to it, if that comes about soon."""
        if tags is not self._tags or self.state is not State.CANCELLING or not channel.amqp.is_open:
            return
        is_idle = not (self._silence.broken and (channel.unsettled or channel.was_used))
        if is_idle or tags.is_narrow or len(channel.unsettled) >= tags.held or monotonic() >= latest:
            self._cancel(tags, channel)
            return
        if tags.ready:
            tags.narrow()
        self._io.later(_NARROWING_POLL, lambda: self._cancel_when_full(tags, channel, latest))

    def _cancel(self, tags: ConsumerTags, channel: DeliveryChannel) -> None:
        commands = channel.commands

        def cancelled() -> None:
            channel.note_applied(commands)
            self._on_cancelled(tags)

        tags.cancel(cancelled)

    def _on_cancelled(self, tags: ConsumerTags) -> None:
        """It has ended as it was asked to. (The answer may come twice, after the broker's own cancel too.)"""
        if tags is not self._tags or self.state is not State.CANCELLING:
            return
        self._drop_tags(tags)
        self._io.wake()  # what was settled meanwhile is sent
        self.buffer.leave()
        self._tell_ended()
        self._pursue()

    def _on_cancelled_by_broker(self, frame: Any) -> None:
        """The queue was deleted, or its node is gone."""
        tags = self._tags
        if tags is None or not tags.removed(frame.method.consumer_tag):
            return
        if self.state is State.CANCELLING:
            self._on_cancelled(tags)
        elif self.state in {State.STARTING, State.CONSUMING}:
            _log.warning("the broker cancelled the consumer of %r; trying to consume again", self.queue)
            self._drop_tags(tags)
            self._check.begin(DELETION_PAUSE)

    def _drop_tags(self, tags: ConsumerTags) -> None:
        tags.end()
        self._tags = None
        self._enter(State.OPEN)

    def _tell_ended(self) -> None:
        ended, self._ended = self._ended, []
        for done in ended:
            done()

    def _on_checked(self, error: BaseException | None) -> None:
        if not self.prefetch or self._connection is None or not self._connection.is_open:
            return  # ``subscribe`` and ``up`` go on
        if error is None:
            self._pursue()
            return
        if errors.is_missing(error):
            self._note_missing(error)
        self._check.begin_again()

    def _note_missing(self, reason: BaseException) -> None:
        self.missing = reason
        self.buffer.wake()

    # ------------------------------------------------------------------ now and then

    def adapt(self) -> bool:
        """Hold more or less, as the speed demands. True to have ``drained`` told the count of the queue."""
        tags, channel = self._steady, self.channel
        return tags is not None and channel is not None and self._held.adapt(channel, tags, self.buffer.size)

    def hurry(self) -> None:
        """After each flush: hold more as soon as it is plain that tasks are quick."""
        tags, channel = self._steady, self.channel
        if tags is not None and channel is not None:
            self._held.hurry(channel, tags, self.buffer.size)

    def drained(self, ready: int) -> None:
        """The queue holds so many messages."""
        if (tags := self._steady) is not None and not ready:
            self._held.drained(tags)

    def confirm_acks(self) -> None:
        """Find out whether the broker has seen the acknowledgements."""
        if self.channel is not None and self.state in USABLE:
            self._round_trips.confirm_acks(self.channel)

    def release(self, before: float) -> None:
        """Close the channel where nobody has asked for anything since then, and nothing depends on it."""
        channel = self.channel
        if channel is None or self.state is not State.OPEN or self.prefetch or self.used_at >= before:
            return
        if self._gets or self._gets.under_way or self._round_trips.are_under_way:
            return
        if not (channel.unsettled or channel.has_unproven or channel.is_ahead):
            self._is_released = True
            self._close_channel(channel)

    def idle_tag(self) -> str:
        """The tag of the consumer, if it has brought nothing since the last call; "" otherwise."""
        lasts, tags = self._silence.lasts(), self._steady
        return tags.first if lasts and tags is not None else ""

    def examined(self, tag: str, count: int, error: BaseException | None) -> None:
        """The broker was asked how many consumers the queue of an idle one has."""
        tags, channel = self._steady, self.channel
        if channel is None or tags is None or tags.first != tag:
            return
        is_long = self._silence.is_long()
        if errors.is_missing(error) or (error is None and count == 0):
            _log.warning("the broker has lost the consumer of %r; consuming again", self.queue)
            tags.drop()
            self._drop_tags(tags)
            self._check.begin(0.0)
        elif is_long and not channel.unsettled:
            # A broker may have lost a consumer that it counts (see DELETION_PAUSE). A new channel heals that, and for
            # one that has had nothing to do for long it costs nothing.
            self._silence.end()
            self._close_channel(channel)
