"""Everything that a client receives from one queue: its channel, its consumer, and what waits to be taken."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any, Final

from pika import exceptions, spec
from pika.channel import Channel

from qbridge_core.backend import TransientError, logger, monotonic
from qbridge_rabbitmq.amqp import errors
from qbridge_rabbitmq.amqp.connection import AmqpConnection, raw_properties
from qbridge_rabbitmq.connection.io_thread import IOThread
from qbridge_rabbitmq.consume.buffer import Buffer
from qbridge_rabbitmq.consume.consumer_tags import ConsumerTags
from qbridge_rabbitmq.consume.getting import GetRequest
from qbridge_rabbitmq.consume.prefetch import MOST, AdaptivePrefetch
from qbridge_rabbitmq.recovery.lost_deliveries import LostDeliveries
from qbridge_rabbitmq.recovery.poison import PoisonRule
from qbridge_rabbitmq.state.identity import Key, exact, key_of, likeness
from qbridge_rabbitmq.state.in_flight import Arrival, DeliveryChannel
from qbridge_rabbitmq.state.round_trips import RoundTrips

_log: Final = logger("qbridge.rabbitmq")
_FIRST_PAUSE: Final = 0.2
_LONGEST_PAUSE: Final = 3.0
# RabbitMQ 3.10 confuses its consumers when a quorum queue is declared anew within milliseconds of its deletion: it
# neither cancels them nor passes on what it delivers to them.
DELETION_PAUSE: Final = 1.0
_RENEW_AFTER: Final = 10
_SAY_AGAIN: Final = 60.0
Restore = Callable[[str, Callable[[BaseException | None], None]], None]
"""Creates a queue again if it is one of ours, else looks whether it is there; calls back with what is wrong."""


class Consumer:
    """One queue's way into this client.

    Args:
        queue: its name.
        io: the I/O thread.
        restore: see there.
        lost: recognizes what was in flight when a channel ended; without it nothing is.

    ``buffer``, ``epoch``, ``missing`` and ``in_flight`` may be used by any thread; the methods run in the I/O thread.

    Attributes:
        buffer: what the consumer brought, or came too late for who had asked for it, and nobody has taken.
        epoch: counts what must wake a blocked receive.
        missing: why there is no consumer: the queue does not exist, or the broker lets nobody consume here.
        most: how many messages a prefetch that follows the speed may hold.
        works: whether a worker takes its tasks here.
    """

    def __init__(self, queue: str, io: IOThread, restore: Restore, lost: LostDeliveries | None = None) -> None:
        self.queue = queue
        self.buffer = Buffer()
        self.epoch = 0
        self.missing: BaseException | None = None
        self.channel: DeliveryChannel | None = None
        self.prefetch = 0
        self._adaptive: AdaptivePrefetch | None = None
        self._io = io
        self._restore = restore
        self._lost = lost
        self.works = False
        self.most = MOST
        self._poison_rule = PoisonRule()
        self._left: list[Arrival] = []
        self._connection: AmqpConnection | None = None
        self._ready = False
        self._tags: ConsumerTags | None = None
        self._paused = False  # the queue may be missing: no consumer before that is known
        self._cancelled: list[Callable[[], None]] = []
        self._gets: deque[GetRequest] = deque()
        self._getting = False
        self._failures = 0
        self._arrived = False
        self._idle = 0
        self._round_trips = RoundTrips(io)
        self._said = ""
        self._said_at = 0.0

    @property
    def in_flight(self) -> int:
        """Deliveries here that the broker waits for, whether somebody has taken them or not."""
        channel = self.channel
        return channel.in_flight if channel is not None else 0

    @property
    def serves(self) -> bool:
        """Whether what was asked for is there: a consumer that the broker has confirmed, or nothing."""
        return not self.prefetch or self.missing is not None or bool(self._cancelled) or self._consumes

    @property
    def _consumes(self) -> bool:
        tags, channel = self._tags, self.channel
        return tags is not None and tags.ready and channel is not None and channel.amqp.is_open

    @property
    def _steady(self) -> ConsumerTags | None:
        """The consumer tags, while they consume and nobody ends them."""
        return self._tags if self._consumes and not self._cancelled else None

    @property
    def is_getting(self) -> bool:
        """In any thread: whether the broker was asked for a message and has not answered."""
        return self._getting

    def interrupt(self) -> None:
        """In any thread: wake a blocked receive."""
        self.epoch += 1
        self.buffer.wake()

    # ------------------------------------------------------------------ connection

    def up(self, connection: AmqpConnection) -> None:
        """The connection is there, and the known queues have been declared."""
        self._connection = connection
        self._failures = 0
        self._paused = False
        self._pursue()

    def down(self, reason: BaseException) -> None:
        """The connection is lost. The channel's end has been handled, unless all was lost in an unforeseen way."""
        self._connection = None
        if self.channel is not None:
            self._on_close(self.channel.amqp, reason)

    def _pursue(self) -> None:
        """Take the next step towards what is wanted: a channel, a consumer, the messages of a get."""
        if self._connection is None or not self._connection.is_open:
            self._fail_gets(ConnectionError("the connection to the broker is down"))
        elif self.channel is None:
            if self.prefetch or self._gets:
                self._open_channel(self._connection)
        elif self._ready:
            if self.prefetch and self._tags is None and not self._cancelled and not self._paused:
                self._consume(self.channel)
            if not self._getting:
                self._drop_forsaken()
                if self._gets:
                    self._get(self.channel)

    def _open_channel(self, connection: AmqpConnection) -> None:
        channel = connection.channel(on_open_callback=self._on_open)
        channel.add_on_close_callback(self._on_close)
        channel.add_on_cancel_callback(self._on_cancelled_by_broker)
        connection.after_reading.append(self.buffer.release)
        self.channel = DeliveryChannel(connection, channel, self.queue)

    def _on_open(self, channel: Channel) -> None:
        self._poison_rule.resumed(monotonic())
        channel.add_callback(self._on_get_empty, [spec.Basic.GetEmpty], one_shot=False)
        self._ready = True
        self._pursue()
        if self.channel is not None:
            self._round_trips.opened(self.channel)

    def _on_close(self, amqp: Channel, reason: BaseException) -> None:
        channel = self.channel
        if channel is not None and channel.amqp is not amqp:
            return
        self.channel = None
        self._leave(channel)
        self._ready = self._getting = False
        refused = self._tags is not None and not self._tags.ready
        if self._tags is not None:
            self._tags.end()
        self._tags = None
        self._fail_gets(reason)
        self._run_cancelled()
        self._round_trips.pass_all()
        self.buffer.wake()
        if self._connection is None or not amqp.connection.is_open:
            self._poison_rule.connection_lost()
            return
        if isinstance(reason, exceptions.ChannelClosedByClient):
            self._io.later(0.0, self._pursue)
        elif self.prefetch:
            self._consumer_ended(reason, refused)

    def _leave(self, channel: DeliveryChannel | None) -> None:
        """Note what was in flight on a channel that has ended, and what nobody has taken."""
        self.buffer.release()
        unread = self.buffer.drain()
        if channel is None:
            return
        channel.connection.after_reading.remove(self.buffer.release)
        if self._lost is None:
            channel.lose()
            return
        self._lost.adopt(channel)
        self._lost.note_unstarted(map(self._likeness, unread))
        for arrival in unread:
            if arrival.handback is not None:
                self._lost.note_handback(self._exact(arrival), arrival.handback)

    def _consumer_ended(self, reason: BaseException, refused: bool) -> None:
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
            self.missing = reason
            self.buffer.wake()
        self._try_again()

    # ------------------------------------------------------------------ consuming

    def subscribe(self, prefetch: int, fixed: bool = True) -> None:
        """Start a consumer, now or when the connection is there; unless fixed the prefetch follows the speed."""
        self.prefetch = prefetch
        self.works = True
        self._adaptive = None if fixed else AdaptivePrefetch(prefetch, self.most)
        self._pursue()

    def adapt(self) -> bool:
        """Now and then: hold more or less, as the speed demands. True to have ``drained`` told the count of the queue.

        What is on its way to a consumer that is retired comes back to the queue as delivered. So holding less waits
        until all that may be held is here, or the queue has nothing to send. (When a broker that is too busy sends
        nothing, the tasks only seem to be slow.)
        """
        adaptive, channel, tags = self._adaptive, self.channel, self._steady
        if adaptive is None or channel is None or tags is None:
            return False
        adaptive.look(channel.settled, monotonic(), self.buffer.size)
        if adaptive.prefetch > tags.held:
            tags.hold(adaptive.prefetch)
        elif adaptive.prefetch < tags.held:
            if len(channel.unsettled) < tags.held:
                return True
            self._hold_less(adaptive, tags)
        return False

    def hurry(self) -> None:
        """After each flush: hold more as soon as it is plain that tasks are quick."""
        adaptive, channel, tags = self._adaptive, self.channel, self._steady
        if adaptive is None or channel is None or tags is None:
            return
        adaptive.hurry(channel.settled, monotonic(), self.buffer.size)
        if adaptive.prefetch > tags.held:
            tags.hold(adaptive.prefetch)

    def drained(self, ready: int) -> None:
        """The queue holds so many messages."""
        adaptive, tags = self._adaptive, self._steady
        if adaptive is not None and tags is not None and not ready and adaptive.prefetch < tags.held:
            self._hold_less(adaptive, tags)

    def _hold_less(self, adaptive: AdaptivePrefetch, tags: ConsumerTags) -> None:
        self._poison_rule.spare(monotonic())
        tags.hold(adaptive.prefetch)

    def unsubscribe(self, done: Callable[[], None]) -> None:
        """End the consumer; ``done`` is called at the end, and ``take_left`` then returns what nobody has taken."""
        self.prefetch = 0
        self._adaptive = None
        self.missing = None
        if self._tags is None:
            self._leave_buffer()
            done()
            return
        self._cancelled.append(done)
        if len(self._cancelled) == 1:
            self._tags.cancel(self._on_cancel_ok)

    def _consume(self, channel: DeliveryChannel) -> None:
        gather, unsettled, examine = self.buffer.gather, channel.unsettled, self._examine

        def deliver(number: int, redelivered: bool, properties: bytes, body: bytes) -> None:
            self._arrived = True
            unsettled[number] = None
            arrival = examine(Arrival(channel, number, redelivered, properties, body))
            if arrival is not None:
                gather(arrival)

        self._tags = ConsumerTags(
            channel.connection, channel.amqp, self.queue, deliver, self.prefetch, self._on_consuming
        )

    def _examine(self, arrival: Arrival) -> Arrival | None:
        """What there is to hand out; None when it was in flight here and has been dealt with."""
        if arrival.redelivered:
            return self._investigate(arrival)
        lost = self._lost
        if lost is not None and not lost.is_empty:
            if self._replaces_a_lost_one(lost, arrival):
                return None
            if lost.has_handbacks and (key := self._likeness(arrival))[2]:  # a copy that could not say everything
                arrival = arrival._replace(handback=lost.take_handback(key))
        if self._poison_rule.roused:
            self._poison_rule.calm(monotonic())
        return arrival

    def _investigate(self, arrival: Arrival) -> Arrival | None:
        """The same for a redelivered message."""
        lost = self._lost
        if lost is None:
            return arrival
        if not lost.is_empty:
            key = key_of(self.queue, arrival.trace)
            if key is not None and lost.recognize(key, arrival):
                self._io.wake()
                return None
            if lost.has_handbacks and (handback := lost.take_handback(self._exact(arrival))) is not None:
                return arrival._replace(suspected=handback.suspected, unstarted=True, handback=handback)
            if lost.was_unstarted(self._likeness(arrival)):
                return arrival._replace(unstarted=True)
        suspected = self._poison_rule.blames(arrival.properties, monotonic())
        return arrival._replace(suspected=True) if suspected else arrival

    def _replaces_a_lost_one(self, lost: LostDeliveries, arrival: Arrival) -> bool:
        """Whether its twin was in flight here, and may be gone from the broker: then it takes the place of that one."""
        key = key_of(self.queue, arrival.trace)
        if key is None or not lost.duplicates.is_out(key[2]) or not lost.recognize(key, arrival):
            return False
        self._io.wake()
        return True

    def _likeness(self, arrival: Arrival) -> Key:
        return likeness(self.queue, arrival.trace)

    def _exact(self, arrival: Arrival) -> Key:
        return exact(self.queue, arrival.properties, arrival.body)

    def _on_consuming(self) -> None:
        self._arrived = True
        self._failures = 0
        self.missing = None

    def _on_cancel_ok(self, frame: Any) -> None:
        del frame
        self._tags = None
        self._leave_buffer()
        self._run_cancelled()
        self._pursue()

    def _on_cancelled_by_broker(self, frame: Any) -> None:
        """The queue was deleted, or its node is gone."""
        if self._tags is None or not self._tags.removed(frame.method.consumer_tag):
            return
        if self._cancelled:
            self._on_cancel_ok(frame)
        elif self.prefetch:
            _log.warning("the broker cancelled the consumer of %r; trying to consume again", self.queue)
            self._tags = None
            self._paused = True
            self._io.later(DELETION_PAUSE, self._restore_queue)

    def idle_tag(self) -> str:
        """The consumer, if it has brought nothing since the last call; "" otherwise."""
        arrived, self._arrived = self._arrived, False
        if arrived:
            self._idle = 0
        tags = self._steady
        return "" if arrived or tags is None else tags.first

    def examined(self, consumer: str, count: int, error: BaseException | None) -> None:
        """The broker was asked how many consumers the queue of an idle one has."""
        tags, channel = self._steady, self.channel
        if channel is None or tags is None or tags.first != consumer:
            return
        self._idle += 1
        if errors.is_missing(error) or (error is None and count == 0):
            _log.warning("the broker has lost the consumer of %r; consuming again", self.queue)
            tags.drop()
            self._tags = None
            self._paused = True
            self._restore_queue()
        elif self._idle >= _RENEW_AFTER and not channel.unsettled:
            # A broker may have lost a consumer that it counts (see DELETION_PAUSE). A new channel heals that, and for
            # one that has had nothing to do for long it costs nothing.
            self._idle = 0
            channel.amqp.close()

    def _try_again(self) -> None:
        """After a pause, look whether the queue is there and consume again."""
        pause = min(_FIRST_PAUSE * 2**self._failures, _LONGEST_PAUSE)
        self._failures = min(self._failures + 1, 10)
        self._paused = True
        self._io.later(pause, self._restore_queue)

    def _restore_queue(self) -> None:
        self._restore(self.queue, self._on_restored)

    def _on_restored(self, error: BaseException | None) -> None:
        # Consuming from a queue that is missing would end the channel and with it all that is unsettled on it.
        if not self.prefetch or self._connection is None or not self._connection.is_open:
            self._paused = False
        elif error is None:
            self._paused = False
            self._pursue()
        else:
            self._keep_looking(error)

    def _keep_looking(self, error: BaseException) -> None:
        if errors.is_missing(error):
            self.missing = error
            self.buffer.wake()
        self._try_again()

    def _leave_buffer(self) -> None:
        self.buffer.release()
        self._left += self.buffer.drain()
        self.buffer.wake()  # one that was meant to wake a receive may have been among them

    def take_unread(self) -> list[Arrival]:
        """In any thread: what has come and nobody has taken."""
        return self.buffer.drain()

    def take_left(self) -> list[Arrival]:
        """In any thread: what nobody has taken before the consumer ended; the caller gives it back."""
        left, self._left = self._left, []
        return left

    def _run_cancelled(self) -> None:
        cancelled, self._cancelled = self._cancelled, []
        for done in cancelled:
            done()

    # ------------------------------------------------------------------ getting

    def get(self, request: GetRequest) -> None:
        """Take messages one by one, without a consumer."""
        self._gets.append(request)
        self._pursue()

    def _get(self, channel: DeliveryChannel) -> None:
        self._getting = True
        channel.amqp.basic_get(self.queue, self._on_get_ok)

    def _on_get_ok(self, amqp: Channel, method: Any, properties: spec.BasicProperties, body: bytes) -> None:
        del amqp
        channel = self.channel
        if channel is None:
            return
        raw = raw_properties(properties)
        channel.unsettled[method.delivery_tag] = None
        arrival = Arrival(channel, method.delivery_tag, method.redelivered, raw, body)
        examined = self._examine(arrival)
        if examined is not None:
            self._pass_on(examined)
        self._drop_forsaken()
        if self._gets and self._gets[0].wants_more:
            self._get(channel)
        else:
            self._finish_get()

    def _pass_on(self, arrival: Arrival) -> None:
        """Give a message to the first who still waits; else keep it for the next.

        Giving it back to the broker would count as a delivery: a queue with a delivery limit drops what came back too
        often, and a suspect that came back has killed its worker.
        """
        for request in self._gets:
            if request.add(arrival):
                return
        self.buffer.put(arrival)

    def _drop_forsaken(self) -> None:
        while self._gets and self._gets[0].is_over:
            self._gets.popleft()

    def _on_get_empty(self, frame: Any) -> None:
        del frame
        self._finish_get()

    def _finish_get(self) -> None:
        self._getting = False
        if self._gets:
            self._gets.popleft().finish()
        self._pursue()

    def _fail_gets(self, reason: BaseException) -> None:
        self._getting = False
        gets, self._gets = self._gets, deque()
        for request in gets:
            lost = request.fail(reason)
            if lost and self._lost is not None:
                self._lost.note_unstarted(map(self._likeness, lost))

    # ------------------------------------------------------------------ round trips

    def barrier(self, done: Callable[[], None]) -> None:
        """Call ``done`` when the broker has seen all that was sent, and we all that it had sent before."""
        if self.channel is None:
            done()
            return
        self._round_trips.add(done, self.channel if self._ready else None)

    def confirm_acks(self) -> None:
        """Now and then: find out whether the broker has seen the acknowledgements."""
        if self.channel is not None:
            self._round_trips.confirm_acks(self.channel)

    def close(self, done: Callable[[], None]) -> None:
        """Close the channel: the broker takes back what is unsettled."""
        if self.channel is None or not self.channel.amqp.is_open:
            done()
            return
        self.prefetch = 0
        self._cancelled.append(done)
        self.channel.amqp.close()
