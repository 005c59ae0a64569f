"""What exists between ``connect`` and ``disconnect``: the I/O thread, two connections, and all that lives on them.

Publishing has a connection of its own: when memory or disk run low the broker stops reading from connections that
publish, and acknowledgements behind a blocked publish would never arrive (rabbitmq.com/docs/connection-blocked).
"""

from __future__ import annotations

import functools
import os
import re
import threading
import weakref
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from typing import Any, Final, TypeVar

from qbridge_core.backend import BrokerUnavailableError, NotConnectedError, QBridgeError, UnroutableError, monotonic
from qbridge_rabbitmq.amqp import errors
from qbridge_rabbitmq.amqp.connection import AmqpConnection
from qbridge_rabbitmq.connection.diagnosis import explain
from qbridge_rabbitmq.connection.hosts import Hosts
from qbridge_rabbitmq.connection.io_thread import IOThread
from qbridge_rabbitmq.connection.options import Endpoint
from qbridge_rabbitmq.connection.outage import Outage
from qbridge_rabbitmq.connection.reconnecting import ReconnectingConnection
from qbridge_rabbitmq.consume.consumer import Consumer
from qbridge_rabbitmq.consume.getting import GetRequest
from qbridge_rabbitmq.consume.prefetch import TICK
from qbridge_rabbitmq.publish.publisher import Batch, Publication, Publisher
from qbridge_rabbitmq.queues.declarations import Declarations
from qbridge_rabbitmq.queues.policies import Policies
from qbridge_rabbitmq.queues.requests import Requests, Steps
from qbridge_rabbitmq.recovery.lost_deliveries import LostDeliveries
from qbridge_rabbitmq.state.in_flight import Arrival

T = TypeVar("T")
# Together with what a worker waits for before, a stop takes at most three seconds more than its grace period.
_CLOSE_TIMEOUT: Final = 1.0
_LONGEST_CLOSE: Final = 5.0
_JOIN_TIMEOUT: Final = 0.3
# Nothing is on its way yet, and connect has taken its time already.
_CLOSE_TIMEOUT_UNOPENED: Final = 0.2
_FIRST_PAUSE: Final = 0.01
_LONGEST_PAUSE: Final = 0.1
_PATIENCE: Final = 2.0
_WATCH_EVERY: Final = 3.0
_SLICE: Final = 0.1


_connected: Final[weakref.WeakSet[ConnectedBroker]] = weakref.WeakSet()


def _leave_to_the_parent() -> None:
    """A forked child has copies of its parent's descriptors, and nothing that uses them.

    With a copy open, a connection would live on when its parent is dead, and the broker would wait for it. Closing a
    copy sends nothing, and takes nothing out of the parent's epoll set (epoll(7), questions and answers).
    """
    for broker in list(_connected):
        broker.let_go()
    _connected.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_leave_to_the_parent)


class ConnectedBroker:
    """One connected span of a client. Methods without a remark are for any thread but the I/O thread.

    Attributes:
        connections: how often the consuming connection was made.
        locks: what has to be locked again on a new connection.
    """

    def __init__(self, endpoint: Endpoint, declarations: Declarations, policies: Policies | None = None) -> None:
        self.closing = False
        self.connections = 0
        self.locks: set[str] = set()
        self.pid: Final = os.getpid()
        self.requests = Requests()
        self.publisher = Publisher()
        self.lost_deliveries = LostDeliveries()
        self.io = IOThread(self._flush_consumers, self._begin_anew)
        self._outage = Outage()
        self._endpoint = endpoint
        self._options = endpoint.options
        self._declarations = declarations
        self._policies = policies
        self._consumers: dict[str, Consumer] = {}
        self._consumers_lock = threading.Lock()
        hosts = Hosts(endpoint.addresses)
        parts = self.io, endpoint, hosts, self._outage
        self._consuming = ReconnectingConnection(*parts, "consume", self._on_consuming_up, self._on_consuming_down)
        self._publishing = ReconnectingConnection(*parts, "publish", self._on_publishing_up, self._on_publishing_down)
        self._opened: Future[None] = Future()
        self._failed_at = endpoint.addresses[0]
        _connected.add(self)
        self._examine_at = 0.0
        self._served_at = 0.0

    # ------------------------------------------------------------------ connect and disconnect

    def open(self) -> None:
        """Connect.

        Raises:
            BrokerUnavailableError: the broker cannot be reached.
            AuthenticationError: it refused the credentials or the virtual host.
        """
        self.io.start()
        self.io.post(self._consuming.open)
        self.io.post(self._publishing.open)
        self.io.post(self._watch)
        self.io.post(self._adapt)
        try:
            self._opened.result(self._options.connect_timeout)
        except TimeoutError as exc:
            self.close(_CLOSE_TIMEOUT_UNOPENED)
            raise BrokerUnavailableError(
                f"no connection to {self._endpoint} within {self._options.connect_timeout:g} s: the server does not "
                "answer"
            ) from exc
        except Exception as exc:
            self.close(_CLOSE_TIMEOUT_UNOPENED)
            problem = explain(exc, self._endpoint, self._failed_at)
            raise type(problem)(f"no connection to {self._endpoint}: {problem}") from exc

    def close(self, patience: float = _CLOSE_TIMEOUT) -> None:
        """Send what is left, close, and end the thread; a broker that is silent for ``patience`` has no more time."""
        self.closing = True
        for consumer in self._all_consumers():
            consumer.interrupt()
        self.io.post(lambda: self._begin_close(patience))
        self.io.join(_LONGEST_CLOSE + _JOIN_TIMEOUT)
        self.lost_deliveries.close()

    def _begin_close(self, patience: float) -> None:
        self._flush_consumers()
        still_open = [self._consuming, self._publishing]

        def closed(link: ReconnectingConnection) -> None:
            if link in still_open:
                still_open.remove(link)
                if not still_open:
                    self.io.stop()

        self._await_close(patience, monotonic() + _LONGEST_CLOSE)
        for link in list(still_open):
            link.close(lambda link=link: closed(link))  # type: ignore[misc]

    def _await_close(self, patience: float, longest: float) -> None:
        """Drop the sockets when nothing moves any more: a broker that answers gets all that is left."""
        before = self._moved()

        def look() -> None:
            if self._moved() != before and monotonic() < longest:
                self._await_close(patience, longest)
                return
            self.io.later(_JOIN_TIMEOUT / 2, self.io.stop)
            self._consuming.abandon()
            self._publishing.abandon()

        self.io.later(patience, look)

    def _moved(self) -> tuple[object, ...]:
        return tuple((link.received, link.unsent) for link in (self._consuming, self._publishing))

    def _begin_anew(self, error: Exception) -> None:
        """Something went wrong that nobody foresaw: what there is may be half done, so it is made anew."""
        try:
            self._consuming.reset(error)
        finally:
            self._publishing.reset(error)

    def let_go(self) -> None:
        """Close the descriptors and send nothing: in a forked child, or when the thread has ended."""
        for part in (self._consuming, self._publishing, self.io):
            with suppress(Exception):  # the thread may have been in the middle of anything
                part.let_go()

    # ------------------------------------------------------------------ connections come and go (I/O thread)

    def _on_consuming_up(self, connection: AmqpConnection) -> None:
        self._declarations.connected(_version(connection))
        if self._policies is not None:
            self._policies.check()  # it may be another server
        self.connections += 1
        self.requests.up(connection)
        self._submit(self._declarations.resume(list(self.locks)), lambda _: self._consumers_up(connection))
        self._check_opened()

    def _consumers_up(self, connection: AmqpConnection) -> None:
        if connection is self._consuming.connection:
            for consumer in self._all_consumers():
                consumer.up(connection)

    def _on_consuming_down(self, reason: BaseException) -> None:
        self.requests.down(reason)
        for consumer in self._all_consumers():
            consumer.down(reason)
        self._fail_opening(self._consuming, reason)

    def _on_publishing_up(self, connection: AmqpConnection) -> None:
        self.publisher.up(connection)
        self._check_opened()

    def _on_publishing_down(self, reason: BaseException) -> None:
        self.publisher.down(reason)
        self._fail_opening(self._publishing, reason)

    def _check_opened(self) -> None:
        if self._consuming.connection and self._publishing.connection and not self._opened.done():
            self._opened.set_result(None)

    def _fail_opening(self, link: ReconnectingConnection, reason: BaseException) -> None:
        if not self._opened.done() and (link.exhausted or errors.is_refusal(reason)):
            self._failed_at = link.address
            self._opened.set_exception(reason)

    def _flush_consumers(self) -> bool:
        """Send what was settled; whether there was anything."""
        settled = False
        for consumer in self._all_consumers():
            if consumer.channel is not None and consumer.channel.flush():
                settled = True
                consumer.hurry()
        return settled

    # ------------------------------------------------------------------ requests

    def request(self, what: str, steps: Steps[T], needs: str = "") -> T:
        """Have the broker do something, which ``needs`` some permissions, and wait for its answer.

        Raises:
            QBridgeError: it refused, did not answer in time, or is not connected.
        """
        future: Future[T] = Future()
        self.io.post(lambda: self.requests.submit(steps, future))
        try:
            return future.result(self._options.request_timeout)
        except QBridgeError:
            raise
        except TimeoutError as exc:
            self.io.post(lambda: self.requests.give_up(future))
            self.require_open()
            raise BrokerUnavailableError(f"{what}: no answer within {self._options.request_timeout:g} s") from exc
        except Exception as exc:
            self.require_open()
            raise errors.from_channel(exc, what, needs) from exc

    def send(self, messages: list[Publication], timeout: float | None = None) -> None:
        """Publish messages and wait for their confirmations.

        Raises:
            QBridgeError: the first message that failed.
        """
        self.wait_for(self.begin_to_send(messages), timeout)

    def send_each(self, messages: list[Publication], timeout: float | None = None) -> dict[int, QBridgeError]:
        """Publish messages and wait for their confirmations; the errors of those that failed, by their position.

        Raises:
            QBridgeError: not all of them had an outcome in time.
        """
        batch = self.begin_to_send(messages)
        self._await(batch, timeout)
        return batch.errors

    def begin_to_send(self, messages: list[Publication]) -> Batch:
        """Publish messages; ``wait_for`` then waits for their confirmations."""
        batch = Batch(messages)
        self.io.post(lambda: self.publisher.submit(batch))
        return batch

    def wait_for(self, batch: Batch, timeout: float | None = None) -> None:
        """Wait for the confirmations of a batch; once.

        Raises:
            QBridgeError: the first message that failed.
        """
        self._await(batch, timeout)
        try:
            batch.raise_error()
        except BrokerUnavailableError:
            self.require_open()
            raise

    def _await(self, batch: Batch, timeout: float | None) -> None:
        seconds = self._options.publish_timeout if timeout is None else timeout
        if not batch.wait(seconds):
            self.require_open()
            if seconds >= self._options.publish_timeout:
                self.io.post(lambda: self._leave_silent(batch))
            raise self.publisher.unconfirmed(batch, seconds)

    def flush(self, timeout: float) -> bool:
        """Send all settlements and wait until the broker has seen them; False when it did not."""
        deadline = monotonic() + timeout
        return self._consuming.connection is not None and all(
            self.barrier(consumer, deadline - monotonic())
            for consumer in self._all_consumers()
            if consumer.channel is not None
        )

    def barrier(self, consumer: Consumer, timeout: float) -> bool:
        """Wait for a round trip on the consumer's channel, after its settlements."""
        passed = threading.Event()

        def send() -> None:
            if consumer.channel is not None:
                consumer.channel.flush()
            consumer.barrier(passed.set)

        self.io.post(send)
        return passed.wait(max(0.0, timeout))

    def round_trip(self, consumer: Consumer) -> None:
        """Wait until all that the broker had sent on the consumer's channel is here, for as long as anything comes.

        Raises:
            BrokerUnavailableError: the connection was lost, or the broker has become silent.
        """
        passed, progress = threading.Event(), _Progress(self._consuming)
        self.io.post(lambda: consumer.barrier(passed.set))
        patience = self._options.request_timeout
        deadline = monotonic() + patience
        while not passed.wait(_SLICE):
            self.require_connection()
            if progress.moved():
                deadline = monotonic() + patience
            elif monotonic() > deadline:
                raise BrokerUnavailableError(f"queue {consumer.queue!r}: nothing came for {patience:g} s")

    @property
    def _because(self) -> str:
        problem = self._consuming.problem if self._consuming.connection is None else None
        return f": {problem}" if problem is not None else ""

    def require_open(self) -> None:
        """Raise NotConnectedError when ``disconnect`` was called."""
        if self.closing:
            raise NotConnectedError("the client was disconnected")

    def require_connection(self) -> None:
        """Raise when the consuming connection is down.

        Raises:
            NotConnectedError: ``disconnect`` was called.
            BrokerUnavailableError: the connection was lost.
        """
        self.require_open()
        if self._consuming.connection is None:
            raise BrokerUnavailableError(f"no connection to {self._endpoint}{self._because}")

    # ------------------------------------------------------------------ receiving

    def consumer(self, queue: str) -> Consumer:
        """The consumer of a queue, made when it is first needed."""
        with self._consumers_lock:
            consumer = self._consumers.get(queue)
            if consumer is None:
                consumer = self._consumers[queue] = self.new_consumer(queue, self.lost_deliveries)
        return consumer

    def existing_consumer(self, queue: str) -> Consumer | None:
        """The consumer of a queue that something was received from, if it was."""
        return self._consumers.get(queue)

    def take_unread(self, wanted: Callable[[str], bool]) -> dict[str, list[Arrival]]:
        """What has come from the wanted queues and nobody has taken; nothing that is lost already."""
        unread = {
            consumer.queue: consumer.take_unread() for consumer in self._all_consumers() if wanted(consumer.queue)
        }
        return {
            queue: left for queue, items in unread.items() if (left := [one for one in items if not one.channel.lost])
        }

    def new_consumer(self, queue: str, lost_deliveries: LostDeliveries | None = None) -> Consumer:
        """A consumer with a channel of its own that nobody else uses."""
        consumer = Consumer(queue, self.io, self._restore, lost_deliveries)
        self.io.post(lambda: self._join(consumer))
        return consumer

    def receive(self, queue: str, limit: int, timeout: float, accept: Callable[[list[Arrival]], list[T]]) -> list[T]:
        """Take up to ``limit`` messages; see ``QueueClient.receive``.

        Args:
            queue: where from.
            limit: how many.
            timeout: seconds to wait for the first.
            accept: what the caller gets for those that have come. When that is nothing, because the broker has them
                again or a copy took their place, the wait goes on.
        """
        consumer = self.consumer(queue)
        epoch = consumer.epoch
        deadline = monotonic() + timeout
        reached = self._consuming.connection is not None and consumer.prefetch > 0
        pause = _FIRST_PAUSE
        while True:
            left = max(0.0, deadline - monotonic())
            if consumer.prefetch:
                self._flush_before_waiting(consumer)
                items = consumer.buffer.take(limit, left)
                reached = reached or self._consuming.connection is not None
            else:
                items, answered = self._poll(consumer, epoch, limit, left, min(pause, left))
                reached = reached or answered
                pause = min(pause * 2, _LONGEST_PAUSE)
            if items and (accepted := accept(items)):
                return accepted
            self.require_open()
            if consumer.epoch != epoch:
                return []
            if items:  # what took their place may be there, also for a caller who does not want to wait
                reached = True
                continue
            if consumer.missing is not None:
                raise _no_consumer(queue, consumer.missing) from consumer.missing
            if monotonic() >= deadline:
                if not reached:
                    raise BrokerUnavailableError(f"no answer from {self._endpoint}{self._because}")
                return []

    def _flush_before_waiting(self, consumer: Consumer) -> None:
        """Have the broker send more at once, when nothing is left to take."""
        channel = consumer.channel
        if channel is not None and channel.has_finished and consumer.buffer.is_empty:
            self.io.wake()

    def _poll(
        self, consumer: Consumer, epoch: int, limit: int, left: float, pause: float
    ) -> tuple[list[Arrival], bool]:
        """Ask for what is ready, else wait for a moment; the messages, and whether the broker answered.

        While bytes come, the answer is among them or behind them. It is awaited longer than the caller wants to wait
        for a new message: what is on its way is ready, and nobody else can have it.
        """
        items = consumer.buffer.take(limit, 0.0)
        if items:
            return items, True
        request, progress = GetRequest(limit), _Progress(self._consuming)
        self.io.post(lambda: consumer.get(request))
        patience = max(left, _PATIENCE)
        longest = monotonic() + max(patience, self._options.request_timeout)

        def is_coming() -> bool:
            return progress.moved() and consumer.epoch == epoch and monotonic() < longest

        if not request.wait(patience, is_coming):
            return [], progress.has_moved
        if request.items:
            return request.items, True
        answered = request.error is None
        if request.error is not None and not self._recover(consumer.queue, request.error):
            answered = False
        return (consumer.buffer.take(limit, pause) if pause else []), answered

    def _recover(self, queue: str, error: BaseException) -> bool:
        """Create a queue of ours that is missing; True when the next get may succeed.

        Raises:
            PermanentError: it will not.
        """
        self.require_open()
        if errors.is_missing(error) and self._declarations.knows(queue):
            try:
                self.request(f"queue {queue!r}", self._declarations.restore(queue))
            except BrokerUnavailableError:
                return False
            return True
        problem = errors.from_channel(error, f"queue {queue!r}", "read")
        if not isinstance(problem, BrokerUnavailableError):
            raise problem from error
        return False

    def _restore(self, queue: str, done: Callable[[BaseException | None], None]) -> None:
        """In the I/O thread: see that the queue exists."""
        self._submit(self._declarations.restore(queue), lambda future: done(future.exception()))

    def _watch(self) -> None:
        """In the I/O thread, now and then: look after silent connections, and consumers that bring nothing."""
        self.io.later(min(_WATCH_EVERY, self._options.heartbeat / 4), self._watch)
        self._consuming.check()
        self._publishing.check()
        self._outage.remind()
        if self._policies is not None:
            self._policies.check_if_due()
        self._leave_useless()
        if monotonic() < self._examine_at:
            return
        self._examine_at = monotonic() + _WATCH_EVERY
        self.lost_deliveries.expire()
        if self._consuming.connection is None or self.closing:
            return
        for consumer in self._all_consumers():
            consumer.confirm_acks()
            if tag := consumer.idle_tag():
                self._examine(consumer, tag)

    def _leave_useless(self) -> None:
        """Go to another server when no consumer is served here, as by one that is cut off from its cluster.

        As long as one is served all stay: the tasks that run here would be given to other workers.
        """
        now = monotonic()
        consumers = [consumer for consumer in self._all_consumers() if consumer.prefetch]
        if self._consuming.connection is None or not consumers or any(consumer.serves for consumer in consumers):
            self._served_at = now
        elif now - self._served_at > self._options.request_timeout:
            self._served_at = now
            self._consuming.move("the server does not start a consumer")

    def _leave_silent(self, batch: Batch) -> None:
        if self.publisher.is_silent(batch):
            self._publishing.move("the server confirms nothing")

    def _adapt(self) -> None:
        self.io.later(TICK, self._adapt)
        for consumer in self._all_consumers():
            if consumer.adapt():
                self._submit(self._declarations.count(consumer.queue), functools.partial(_report_count, consumer))

    def _examine(self, consumer: Consumer, tag: str) -> None:
        def answered(future: Future[int]) -> None:
            error = future.exception()
            consumer.examined(tag, future.result() if error is None else 0, error)

        self._submit(self._declarations.consumers(consumer.queue), answered)

    def _submit(self, steps: Steps[T], done: Callable[[Future[T]], None]) -> None:
        """In the I/O thread: a request that nobody waits for; it must not block those of others for ever."""
        future: Future[T] = Future()
        future.add_done_callback(done)
        self.io.later(self._options.request_timeout, lambda: self.requests.give_up(future))
        self.requests.submit(steps, future)

    def _join(self, consumer: Consumer) -> None:
        if self._consuming.connection is not None:
            consumer.up(self._consuming.connection)

    def _all_consumers(self) -> list[Consumer]:
        return list(self._consumers.values())


class _Progress:
    """Whether anything comes on a connection."""

    def __init__(self, link: ReconnectingConnection) -> None:
        self._link = link
        self._last = link.received
        self.has_moved = False

    def moved(self) -> bool:
        """Whether anything has come since the last call."""
        before, self._last = self._last, self._link.received
        moved = self._last is not None and self._last != before
        self.has_moved = self.has_moved or moved
        return moved


def _no_consumer(queue: str, reason: BaseException) -> QBridgeError:
    if errors.is_missing(reason):
        return UnroutableError(f"queue {queue!r} does not exist; declare it first")
    return errors.from_channel(reason, f"queue {queue!r}", "read")


def _report_count(consumer: Consumer, counted: Future[int]) -> None:
    if counted.exception() is None:
        consumer.drained(counted.result())


def _version(connection: Any) -> tuple[int, ...]:
    properties = connection.server_properties or {}
    found = re.match(r"(\d+)\.(\d+)", str(properties.get("version", "")))
    return (int(found[1]), int(found[2])) if found else (0,)
