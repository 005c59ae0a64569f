"""Shares the way to the server and back between threads that publish at the same time.

Sixteen threads with a write, a wait and a read each are no quicker than one. Here the first to come takes along what
has gathered behind it, in one write and one read; with nobody behind it that costs it a lock. There is no thread of the
client's own in between: whoever flies is one of the callers, and hands on to the next one.
"""

from __future__ import annotations

import copy
import enum
import threading
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Final

from redis.exceptions import ConnectionError as RedisConnectionError

from qbridge_core.backend import PublishUnconfirmedError, QBridgeError, monotonic
from qbridge_redis.protocol.scripts import Command

_MOST: Final = 200
_MOST_BYTES: Final = 256 * 1024  # a small message shall not wait for what takes long
_SHARE: Final = 0.9  # the time of all ends with the pilot's: one that has much more waits for another flight

Fly = Callable[[Sequence[Command], float], list[Any]]
"""Sends commands and returns a reply to each before a deadline (monotonic time). A QBridgeError: nothing was sent."""


class _State(enum.Enum):
    WAITS = enum.auto()
    FLIES = enum.auto()
    PILOTS = enum.auto()  # its thread must fly, or let the next one do so
    ENDED = enum.auto()
    ALONE = enum.auto()  # nobody takes it along


class _Ticket:
    """One command of one thread.

    Attributes:
        state: where it is; changed with the lock held.
        reply: the server's, after the end.
        error: what kept the reply from coming.
    """

    __slots__ = ("_called", "command", "deadline", "error", "reply", "size", "state")

    def __init__(self, command: Command, size: int, deadline: float) -> None:
        self.command = command
        self.size = size
        self.deadline = deadline
        self.state = _State.WAITS
        self.reply: Any = None
        self.error: BaseException | None = None
        self._called = threading.Lock()
        self._called.acquire()

    def wait(self) -> bool:
        """Wait until it is called; False when its time is over."""
        return self._called.acquire(timeout=max(0.0, self.deadline - monotonic()))

    def call(self, state: _State) -> None:
        """Wake its thread, once."""
        self.state = state
        self._called.release()


class Flights:
    """One flight at a time. Thread-safe.

    Args:
        fly: makes it.
    """

    def __init__(self, fly: Fly) -> None:
        self._fly = fly
        self._lock = threading.Lock()
        self._waiting: deque[_Ticket] = deque()
        self._in_the_air = False

    def reply(self, command: Command, size: int, deadline: float) -> Any:
        """Send a command of about ``size`` bytes, with those of others; return the reply to it.

        Raises:
            PublishUnconfirmedError: the time was over first.
            Exception: what ``fly`` has raised.
        """
        ticket = _Ticket(command, size, deadline)
        with self._lock:
            if self._in_the_air:
                self._waiting.append(ticket)
            else:
                self._in_the_air, ticket.state = True, _State.PILOTS
        if ticket.state is _State.PILOTS:  # nobody else could make it one yet
            return self._pilot(ticket)
        try:
            called = ticket.wait()
        except BaseException:
            self._leave(ticket)
            raise
        if called:
            return self._go(ticket, ticket.state)
        state = self._leave(ticket)
        if state is _State.ENDED:
            return self._go(ticket, state)
        what = "the message may or may not be there" if state is _State.FLIES else "the message was not sent"
        raise PublishUnconfirmedError(f"the messages of other threads took all the time; {what}")

    def _go(self, ticket: _Ticket, state: _State) -> Any:
        if state is _State.PILOTS:
            return self._pilot(ticket)
        if state is _State.ALONE:
            return self._fly([ticket.command], ticket.deadline)[0]
        if ticket.error is not None:
            raise copy.copy(ticket.error) from ticket.error  # each thread adds its own frames
        return ticket.reply

    def _leave(self, ticket: _Ticket) -> _State:
        """Wait no more; return what the ticket was about to do."""
        with self._lock:
            state = ticket.state
            if state is _State.WAITS:
                self._waiting.remove(ticket)
            elif state is _State.PILOTS:
                self._hand_on()
        return state

    def _pilot(self, ticket: _Ticket) -> Any:
        others = self._board(ticket)
        try:
            replies = self._fly([ticket.command, *[other.command for other in others]], ticket.deadline)
        except QBridgeError:
            self._disband(others)
            raise
        except BaseException as exc:
            doubt = (
                exc if isinstance(exc, Exception) else RedisConnectionError("the thread that sent it was interrupted")
            )
            for other in others:
                other.error = doubt
            self._land(others)
            raise
        for other, reply in zip(others, replies[1:], strict=True):
            other.reply = reply
        self._land(others)
        return replies[0]

    def _board(self, ticket: _Ticket) -> list[_Ticket]:
        """Take along who waits, as far as there is room and none is kept from its answer for lack of time."""
        others: list[_Ticket] = []
        now = monotonic()
        latest = now + (ticket.deadline - now) / _SHARE
        room = _MOST_BYTES - ticket.size
        with self._lock:
            while self._waiting and len(others) < _MOST:
                other = self._waiting[0]
                room -= other.size
                if room < 0 or other.deadline > latest:
                    break
                other.state = _State.FLIES
                others.append(self._waiting.popleft())
        return others

    def _land(self, others: Sequence[_Ticket]) -> None:
        with self._lock:
            self._hand_on()
            for other in others:
                other.call(_State.ENDED)

    def _disband(self, others: Sequence[_Ticket]) -> None:
        """There is no way to the server: let each thread try for itself, at the same time as the others."""
        with self._lock:
            waiting, self._waiting = [*others, *self._waiting], deque()
            self._in_the_air = False
            for other in waiting:
                other.call(_State.ALONE)

    def _hand_on(self) -> None:
        if self._waiting:
            self._waiting.popleft().call(_State.PILOTS)
        else:
            self._in_the_air = False
