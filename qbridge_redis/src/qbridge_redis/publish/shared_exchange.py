"""Shares the way to the server and back between threads that publish at the same time.

Sixteen threads with a write, a wait and a read each are no quicker than one. Here the first to come takes along what
has gathered behind it, in one write and one read; with nobody behind it that costs it a lock. There is no thread of the
client's own in between: who leads is one of the callers, and hands on to the next one. A command that nobody waits for
is led by a helper thread, which goes on as long as such a one is the next.
"""

from __future__ import annotations

import copy
import enum
import threading
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any, Final

from redis.exceptions import ConnectionError as RedisConnectionError

from qbridge_core.backend import PublishUnconfirmedError, QBridgeError, monotonic
from qbridge_redis.protocol.scripts import Command

_MOST: Final = 200
_MOST_BYTES: Final = 256 * 1024  # a small message shall not wait for what takes long
_SHARE: Final = 0.9  # the time of all ends with the leader's: one that has much more waits for another exchange

Exchange = Callable[[Sequence[Command], float], list[Any]]
"""Sends commands and returns a reply to each before a deadline (monotonic time). A QBridgeError: nothing was sent."""


class _State(enum.Enum):
    WAITS = enum.auto()
    SENT = enum.auto()
    LEADS = enum.auto()  # its thread must send, or let the next one do so
    ENDED = enum.auto()
    ALONE = enum.auto()  # nobody takes it along


class _Request:
    """One command.

    Attributes:
        state: where it is; changed with the lock held.
        reply: the server's, after the end.
        error: what kept the reply from coming.
    """

    __slots__ = ("command", "deadline", "error", "reply", "size", "state")

    def __init__(self, command: Command, size: int, deadline: float) -> None:
        self.command = command
        self.size = size
        self.deadline = deadline
        self.state = _State.WAITS
        self.reply: Any = None
        self.error: BaseException | None = None


class _Awaited(_Request):
    """One that a thread waits for."""

    __slots__ = ("_called",)

    def __init__(self, command: Command, size: int, deadline: float) -> None:
        super().__init__(command, size, deadline)
        self._called = threading.Lock()
        self._called.acquire()

    def wait(self) -> bool:
        """Wait until it is called; False when its time is over."""
        return self._called.acquire(timeout=max(0.0, self.deadline - monotonic()))

    def call(self, state: _State) -> None:
        """Wake its thread, once."""
        self.state = state
        self._called.release()


class Posted(_Request):
    """One that no thread waits for.

    Args:
        ended: called once, when there is a reply or an error; in any thread, which it must not hold up.
    """

    __slots__ = ("ended",)

    def __init__(self, command: Command, size: int, deadline: float, ended: Callable[[Posted], None]) -> None:
        super().__init__(command, size, deadline)
        self.ended = ended


_Either = _Awaited | Posted


class _Pilot:
    """A helper thread that leads.

    Attributes:
        next: what it leads then.
    """

    __slots__ = ("_ident", "next")

    def __init__(self) -> None:
        self._ident = threading.get_ident()
        self.next: Posted | None = None

    @property
    def is_this_thread(self) -> bool:
        """Whether it is the calling one."""
        return self._ident == threading.get_ident()


class SharedExchange:
    """One exchange of commands and replies at a time, for all who wait for one. Thread-safe.

    Args:
        exchange: makes it.
        aside: has another thread call something; a RuntimeError says that there is none.
    """

    def __init__(self, exchange: Exchange, aside: Callable[[Callable[[], None]], None]) -> None:
        self._exchange = exchange
        self._aside = aside
        self._lock = threading.Lock()
        self._waiting: deque[_Either] = deque()
        self._is_busy = False
        self._pilot: _Pilot | None = None

    def reply(self, command: Command, size: int, deadline: float) -> Any:
        """Send a command of about ``size`` bytes, with those of others; return the reply to it.

        Raises:
            PublishUnconfirmedError: the time was over first.
            Exception: what ``exchange`` has raised.
        """
        request = _Awaited(command, size, deadline)
        with self._lock:
            if self._is_busy:
                self._waiting.append(request)
            else:
                self._is_busy, request.state = True, _State.LEADS
        if request.state is _State.LEADS:  # nobody else could make it one yet
            return self._lead(request)
        try:
            called = request.wait()
        except BaseException:
            self._leave(request)
            raise
        if called:
            return self._go(request, request.state)
        state = self._leave(request)
        if state is _State.ENDED:
            return self._go(request, state)
        what = "the message may or may not be there" if state is _State.SENT else "the message was not sent"
        raise PublishUnconfirmedError(f"the messages of other threads took all the time; {what}")

    def post(self, requests: Sequence[Posted]) -> None:
        """Send commands, with those of others, and do not wait for them.

        Raises:
            RuntimeError: there is no thread that could send them, so they are not.
        """
        with self._lock:
            self._waiting.extend(requests)
            if self._is_busy or not requests:
                return
            self._is_busy = True
            failed = self._hand_on()
        if failed:
            raise RuntimeError("can't start new thread")

    def withdraw(self, request: Posted) -> bool:
        """Take a command back; False when it may have been sent."""
        with self._lock:
            if request.state is not _State.WAITS:
                return False
            self._waiting.remove(request)
            request.state = _State.ENDED
            return True

    def _fly(self, first: Posted) -> None:
        """In a helper thread: lead, and go on while the next one is again one that nobody waits for."""
        request: Posted | None = first
        while request is not None:
            pilot = self._pilot = _Pilot()
            try:
                request.reply = self._lead(request)
            except Exception as exc:  # noqa: BLE001 - it is for whoever has the future
                request.error = exc
            self._end([request])
            request = pilot.next

    @staticmethod
    def _end(requests: Iterable[_Either]) -> None:
        """Without the lock: what is called may come back here."""
        for request in requests:
            if isinstance(request, Posted):
                request.ended(request)

    def _go(self, request: _Either, state: _State) -> Any:
        if state is _State.LEADS:
            return self._lead(request)
        if state is _State.ALONE:
            return self._exchange([request.command], request.deadline)[0]
        if request.error is not None:
            raise copy.copy(request.error) from request.error  # each thread adds its own frames
        return request.reply

    def _leave(self, request: _Awaited) -> _State:
        """Wait no more; return what the request was about to do."""
        failed: Sequence[Posted] = ()
        with self._lock:
            state = request.state
            if state is _State.WAITS:
                self._waiting.remove(request)
            elif state is _State.LEADS:
                failed = self._hand_on()
        self._end(failed)
        return state

    def _lead(self, request: _Either) -> Any:
        others = self._gather(request)
        try:
            replies = self._exchange([request.command, *[other.command for other in others]], request.deadline)
        except QBridgeError as exc:
            self._scatter(others, exc)
            raise
        except BaseException as exc:
            doubt = (
                exc if isinstance(exc, Exception) else RedisConnectionError("the thread that sent it was interrupted")
            )
            for other in others:
                other.error = doubt
            self._finish(others)
            raise
        for other, reply in zip(others, replies[1:], strict=True):
            other.reply = reply
        self._finish(others)
        return replies[0]

    def _gather(self, request: _Either) -> list[_Either]:
        """Take along who waits, as far as there is room and none is kept from its answer for lack of time."""
        others: list[_Either] = []
        now = monotonic()
        latest = now + (request.deadline - now) / _SHARE
        room = _MOST_BYTES - request.size
        with self._lock:
            while self._waiting and len(others) < _MOST:
                other = self._waiting[0]
                room -= other.size
                if room < 0 or other.deadline > latest:
                    break
                other.state = _State.SENT
                others.append(self._waiting.popleft())
        return others

    def _finish(self, others: Sequence[_Either]) -> None:
        with self._lock:
            failed = self._hand_on()
            for other in others:
                if isinstance(other, _Awaited):
                    other.call(_State.ENDED)
        self._end([*others, *failed])

    def _scatter(self, others: Sequence[_Either], error: QBridgeError) -> None:
        """There is no way to the server: let each thread try for itself, at the same time as the others.

        What no thread waits for has the error, which is its own: its time is no longer. The others of its kind go on.
        """
        with self._lock:
            everyone = [*others, *self._waiting]
            self._waiting = deque(other for other in self._waiting if isinstance(other, Posted))
            for other in everyone:
                if isinstance(other, _Awaited):
                    other.call(_State.ALONE)
            failed = self._hand_on()
        for other in others:
            other.error = error
        self._end([*others, *failed])

    def _hand_on(self) -> list[Posted]:
        """With the lock: let the next one lead. Returns those that would have, if there were a thread for them."""
        failed: list[Posted] = []
        pilot, self._pilot = self._pilot, None
        while self._waiting:
            request = self._waiting.popleft()
            if isinstance(request, _Awaited):
                request.call(_State.LEADS)
                return failed
            request.state = _State.LEADS
            if pilot is not None and pilot.is_this_thread:
                pilot.next = request
                return failed
            try:
                self._aside(partial(self._fly, request))
            except RuntimeError as exc:
                request.error = exc
                failed.append(request)
            else:
                return failed
        self._is_busy = False
        return failed
