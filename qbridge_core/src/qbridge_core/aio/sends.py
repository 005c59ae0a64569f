"""Has coroutines wait for what a client does, in any number of event loops, and bounds what they have under way."""

from __future__ import annotations

import asyncio
import math
import os
from collections.abc import Callable, Sequence
from concurrent.futures import Future, wait
from functools import partial
from itertools import count, groupby, islice
from operator import itemgetter
from typing import Any, Final, TypeVar

from qbridge_core.contract.asides import Asides, copied, error_of
from qbridge_core.contract.checks import check_count, check_publish_timeout
from qbridge_core.contract.client import QueueClient
from qbridge_core.contract.message import Message
from qbridge_core.contract.producing import longest_wait
from qbridge_core.errors import BrokerUnavailableError, QBridgeError
from qbridge_core.runtime.clock import monotonic
from qbridge_core.runtime.logs import logger
from qbridge_core.runtime.mailbox import Mailbox

T = TypeVar("T")
MAX_IN_FLIGHT: Final = 1000
_STEP: Final = 0.1
_TURN: Final = 100  # messages that are dealt with in one turn of a loop: each wakes a task, and others wait meanwhile
_log: Final = logger("qbridge.send")


# Tuples, because there is one of each for each message.
_Target = tuple[QueueClient, str, float, float | None]
"""The client, the queue, the delay and the seconds that there are: messages for one are handed over together."""
_Letter = tuple[_Target, Message, asyncio.Future[None]]
"""A message that its loop is about to hand over, and what ends when it is confirmed."""
_Arrival = tuple[asyncio.Future[Any], str, BaseException | None, Any, bool]
"""What has ended: who waits for it, who may have been cancelled; what it was, for the log; its error, or else its
result; whether it has taken room up, which is free now."""


class _Flight:
    """Messages that were handed over together.

    Args:
        queue: where they go.
        waiters: who waits for each of them.
        arrived: called with the end of each, in any thread.

    Attributes:
        done: ends with the last of them.
    """

    def __init__(
        self, queue: str, waiters: Sequence[asyncio.Future[None]], arrived: Callable[[_Arrival], None]
    ) -> None:
        self.done: Final[Future[None]] = Future()
        self._waiters = waiters
        self._arrived = arrived
        self._what = f"a message for {queue!r}"
        self._ended = count(1)

    def end(self, position: int, error: BaseException | None) -> None:
        """In any thread: one of them has ended."""
        self._arrived((self._waiters[position], self._what, error, None, True))
        if next(self._ended) == len(self._waiters):
            self.done.set_result(None)


class _Room:
    """Places that are taken one by one, and waited for in turn; for one event loop.

    Args:
        places: how many there are.
    """

    def __init__(self, places: int) -> None:
        self._free = places
        self._others = asyncio.Semaphore(0)  # those that were given back while somebody waited
        self._waiting = 0

    def take(self) -> bool:
        """Take one, if there is one for which nobody needs to wait."""
        if not self._free:
            return False
        self._free -= 1
        return True

    async def wait(self) -> None:
        """Wait for one, and take it."""
        self._waiting += 1
        try:
            await self._others.acquire()
        finally:
            self._waiting -= 1

    def give(self) -> None:
        """Give one back."""
        if self._waiting:
            self._others.release()
        else:
            self._free += 1


class _Loop:
    """What coroutines of one event loop send and wait for. For that loop, unless it is said otherwise.

    Args:
        loop: the loop.
        most: so many messages may be under way.
        under_way: the futures of all loops that have not ended.

    Attributes:
        room: for messages.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, most: int, under_way: set[Future[Any]]) -> None:
        self.room: Final = _Room(most)
        self._loop = loop
        self._under_way = under_way
        self._outgoing: list[_Letter] = []
        self._mailbox: Mailbox[_Arrival] = Mailbox(self._wake)

    def publish(
        self, client: QueueClient, queue: str, message: Message, delay: float, seconds: float | None
    ) -> asyncio.Future[None]:
        """Hand a message over to the client, with all others of this turn of the loop; there must be room for it.

        One by one they would wake the client's thread one by one, which then takes turns with the loop.
        """
        if not self._outgoing:
            self._loop.call_soon(self._hand_over)
        waiter: asyncio.Future[None] = self._loop.create_future()
        self._outgoing.append(((client, queue, delay, seconds), message, waiter))
        return waiter

    async def wait_for_outgoing(self) -> None:
        """Wait for messages that the client has not got yet, those that wait for room first, as it is given in turn."""
        if not self.room.take():
            await self.room.wait()
        self.room.give()
        waiters = [waiter for _, _, waiter in self._outgoing]
        if waiters:
            await asyncio.wait(waiters)

    def _hand_over(self) -> None:
        letters, self._outgoing = self._outgoing[:_TURN], self._outgoing[_TURN:]
        if self._outgoing:
            self._loop.call_soon(self._hand_over)
        for target, group in groupby(letters, itemgetter(0)):
            sent = []
            for letter in group:
                if letter[2].done():  # cancelled before it was sent
                    self.room.give()
                else:
                    sent.append(letter)
            if sent:
                self._publish(target, sent)

    def _publish(self, target: _Target, letters: Sequence[_Letter]) -> None:
        client, queue, delay, seconds = target
        flight = _Flight(queue, [waiter for _, _, waiter in letters], self._arrived)
        self._under_way.add(flight.done)
        flight.done.add_done_callback(self._under_way.discard)
        messages = [message for _, message, _ in letters]
        try:
            client._publish_then(queue, messages, flight.end, delay=delay, timeout=seconds)
        except Exception as exc:  # noqa: BLE001 - a backend of somebody's: those who wait must learn of it
            for position in range(len(letters)):
                flight.end(position, exc)

    async def wait(self, future: Future[T], what: str) -> T:
        """Return what a future ends with. When this is cancelled the future goes on, and its error is logged."""
        waiter: asyncio.Future[T] = self._loop.create_future()

        def arrived(done: Future[T]) -> None:
            error = error_of(done)
            self._arrived((waiter, what, error, done.result() if error is None else None, False))

        future.add_done_callback(arrived)
        return await waiter

    def _arrived(self, arrival: _Arrival) -> None:
        """In any thread."""
        if self._loop.is_closed():
            _say(arrival)
        else:
            self._mailbox.post(arrival)

    def _wake(self) -> None:
        """In any thread: one call of the loop for all that arrive until it looks."""
        try:
            self._loop.call_soon_threadsafe(self._take)
        except RuntimeError:  # it was closed in this moment
            for arrival in self._mailbox.take():
                _say(arrival)

    def _take(self) -> None:
        for arrival in islice(self._mailbox.take(), _TURN):
            self._end(arrival)
        if len(self._mailbox):
            self._mailbox.ring()

    def _end(self, arrival: _Arrival) -> None:
        waiter, _, error, result, has_room = arrival
        if has_room:
            self.room.give()
        if waiter.done():
            _say(arrival)
        elif error is None:
            waiter.set_result(result)
        else:
            waiter.set_exception(error)


def _say(arrival: _Arrival) -> None:
    """Nobody waits for it any more: what has failed is not to be lost in silence."""
    _, what, error, _, _ = arrival
    if error is not None:
        _log.error("%s, for which nobody waits any more, failed: %s: %s", what, type(error).__name__, error)


class Sends:
    """For coroutines of any loop, in any thread; the client is given with each call.

    Args:
        most: so many messages each loop may have under way; the next one waits for room.

    Raises:
        ConfigurationError: that is no whole number of at least 1.
    """

    def __init__(self, most: int = MAX_IN_FLIGHT) -> None:
        self._most = check_count("max_in_flight", most, 1)
        self._asides = Asides("qbridge-async")
        self._begin()

    def _begin(self) -> None:
        self._pid = os.getpid()
        self._loops: dict[asyncio.AbstractEventLoop, _Loop] = {}
        self._under_way: set[Future[Any]] = set()
        self._shared: dict[str, Future[None]] = {}

    async def publish(
        self, client: QueueClient, queue: str, message: Message, delay: float = 0.0, seconds: float | None = None
    ) -> None:
        """Publish one message; it is confirmed on return. Those that are under way share their way to the broker.

        Args:
            client: a connected client.
            queue: where it goes.
            message: the message.
            delay: seconds for which the broker holds it back.
            seconds: to wait for room and for the confirmation; ``None`` means the client's setting.

        Raises:
            BrokerUnavailableError: there was no room in all the time, so it was not sent.
            The errors of ``QueueClient.publish``.
        """
        here, left = self._here(), check_publish_timeout(seconds)
        if not here.room.take():
            left = await self._enter(here, client, left)
        await here.publish(client, queue, message, delay, left)

    async def call(self, function: Callable[[], T], what: str) -> T:
        """Have a thread call something that may wait for the broker. When this is cancelled the call goes on."""
        return await self._here().wait(self._call(function), what)

    async def share(self, name: str, function: Callable[[], None], what: str) -> None:
        """The same for a call that many want at the same time: those who come while it is under way wait for it, too.

        Args:
            name: of the call.
            function: the call.
            what: what it stands for, for the log.
        """
        here, shared = self._here(), self._shared
        future = shared.get(name)
        if future is None:
            future = shared[name] = self._call(function)
            future.add_done_callback(lambda _: shared.pop(name, None))
        try:
            await here.wait(future, what)
        except QBridgeError as exc:
            raise copied(exc) from exc.__cause__

    async def open(self, function: Callable[[], T], undo: Callable[[T], object], what: str) -> T:
        """The same for something that is undone when this is cancelled, since nobody else could do that any more."""
        future = self._asides.call(function)
        try:
            return await self._here().wait(future, what)
        except asyncio.CancelledError:
            self._asides.call(lambda: undo(future.result()))
            raise

    async def drain(self) -> None:
        """Wait for all that is under way, also for what nobody else waits for any more. Each has a deadline.

        What begins after this is not waited for: who goes on sending does not keep it from ending.
        """
        here = self._here()
        await asyncio.sleep(0)  # tasks that were made just before this begin
        await self._wait_for_calls()  # such as one that opens a queue for messages
        await here.wait_for_outgoing()
        await self._wait_for_calls()

    async def _wait_for_calls(self) -> None:
        if under_way := list(self._under_way):
            await self._here().wait(self._asides.call(partial(wait, under_way)), "waiting for what is under way")

    def _call(self, function: Callable[[], T]) -> Future[T]:
        """Have a thread call this; it is under way until it ends."""
        future = self._asides.call(function)
        self._under_way.add(future)
        future.add_done_callback(self._under_way.discard)
        return future

    async def _enter(self, here: _Loop, client: QueueClient, seconds: float | None) -> float | None:
        """Wait for room; return how much is left of the time."""
        began = monotonic()
        limit = longest_wait(client, seconds)
        try:
            async with asyncio.timeout(limit):
                await here.room.wait()
        except TimeoutError:
            raise BrokerUnavailableError(
                f"the message was not sent: {self._most} are under way in this event loop, and none of them had ended "
                f"after {limit:g} s"
            ) from None
        if seconds is None:
            return None
        # In steps, so that those who have waited for room together are handed over together.
        return math.ceil(max(0.0, seconds - (monotonic() - began)) / _STEP) * _STEP

    def _here(self) -> _Loop:
        """What belongs to the running event loop."""
        if self._pid != os.getpid():
            self._begin()  # a forked child: what its parent has under way ends there
        loop = asyncio.get_running_loop()
        here = self._loops.get(loop)
        if here is None:
            for other in list(self._loops):
                if other.is_closed():
                    self._loops.pop(other, None)
            here = self._loops.setdefault(loop, _Loop(loop, self._most, self._under_way))
        return here
