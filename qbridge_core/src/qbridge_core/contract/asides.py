"""Calls of a client that somebody else than the caller waits for."""

from __future__ import annotations

import contextvars
import copy
import math
import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, TypeVar

from qbridge_core.errors import BrokerUnavailableError, PublishUnconfirmedError, QBridgeError
from qbridge_core.runtime.clock import monotonic
from qbridge_core.runtime.helpers import HelperThreads
from qbridge_core.runtime.promises import Promise, Promises, kept_future

if TYPE_CHECKING:
    from concurrent.futures import Future

T = TypeVar("T")
Ended = Callable[[int, BaseException | None], object]
"""Called with the position of a message, and its error or ``None``."""
# What a call says itself is more exact than that its time is over, so it gets a moment more.
_MARGIN: Final = 0.5


def settled(error: BaseException | None = None) -> Future[None]:
    """A future that has ended already."""
    from concurrent.futures import Future

    future: Future[None] = Future()
    if error is None:
        future.set_result(None)
    else:
        future.set_exception(error)
    return future


def error_of(future: Future[Any]) -> BaseException | None:
    """The error of a future that has ended; one of somebody's may have been cancelled, which is its error then."""
    try:
        return future.exception()
    except BaseException as exc:  # noqa: BLE001 - as above
        return exc


def futures_for(count: int, publish: Callable[[Ended], None]) -> list[Future[None]]:
    """Futures for so many messages, which end as ``publish`` tells; they cannot be cancelled."""
    futures: list[Future[None]] = [kept_future() for _ in range(count)]

    def ended(position: int, error: BaseException | None) -> None:
        if error is None:
            futures[position].set_result(None)
        else:
            futures[position].set_exception(error)

    publish(ended)
    return futures


def each_with(error: QBridgeError, count: int) -> list[Future[None]]:
    """So many futures that have ended with an error, each with one of its own: who raises it adds frames to it."""
    return [settled(copied(error)) for _ in range(count)]


def copied(error: QBridgeError) -> QBridgeError:
    """The same error without the frames that it has come through."""
    another = copy.copy(error)
    another.__cause__ = error.__cause__
    return another


def promised(call: Callable[[], Future[None]]) -> Future[None]:
    """What a call returns; an error of QBridge's that it raises is in the future, too."""
    try:
        return call()
    except QBridgeError as exc:
        return settled(exc)


class _Call(Promise):
    """A call that a thread makes.

    Attributes:
        began: a thread has begun with it.
    """

    __slots__ = ("began",)

    def __init__(self, deadline: float) -> None:
        super().__init__(deadline)
        self.began = False


class Asides:
    """Threads that call a client, for whoever must not wait. Thread-safe, and its own in a forked child.

    Args:
        name: of the threads.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._begin()

    def _begin(self) -> None:
        self._pid = os.getpid()
        self._threads = HelperThreads(self._name)
        self._promises: Promises[_Call] = Promises(_late, f"{self._name}-deadlines")

    def call(self, function: Callable[[], T], seconds: float = math.inf) -> Future[T]:
        """Have a thread call this, in the context variables of the caller. Never waits, and raises nothing.

        Args:
            function: the call, which ends by itself.
            seconds: until the future ends in any case; a call that was not begun by then is not made.
        """
        if self._pid != os.getpid():
            self._begin()
        call = _Call(monotonic() + seconds + _MARGIN)
        context, promises = contextvars.copy_context(), self._promises
        promises.add(call)
        try:
            self._threads.run(lambda: _do(call, context, function, promises))
        except RuntimeError as exc:
            error = BrokerUnavailableError("the system has no thread left; nothing was done")
            error.__cause__ = exc
            promises.keep(call, error)
        return call.future


def _do(call: _Call, context: contextvars.Context, function: Callable[[], object], promises: Promises[_Call]) -> None:
    """In one of the threads."""
    call.began = True  # first: who finds it late may have to say that nobody knows what became of it
    if call not in promises:
        return
    try:
        result = context.run(function)
    except BaseException as exc:  # noqa: BLE001 - whatever it is, it is for the caller
        promises.keep(call, exc)
    else:
        promises.keep(call, result=result)


def _late(call: _Call) -> QBridgeError:
    if call.began:
        return PublishUnconfirmedError("its time is over and the broker has not answered; it may have been done or not")
    return BrokerUnavailableError("its time was over before it was begun: calls before it wait for the broker")
