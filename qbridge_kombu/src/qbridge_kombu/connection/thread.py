"""One thread for one connection: calls of other threads are carried out by it, one after the other."""

from __future__ import annotations

import math
import threading
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final, Generic, TypeVar

from qbridge_core.backend import (
    BrokerUnavailableError,
    GrowingPause,
    NotConnectedError,
    PermanentError,
    QBridgeError,
    monotonic,
)
from qbridge_kombu.connection.broker import Broker, log
from qbridge_kombu.transports.session import KombuSession

T = TypeVar("T")
_FIRST_PAUSE: Final = 0.05
_LONGEST_PAUSE: Final = 1.0


class UncertainError(QBridgeError):
    """Something was begun, and nobody knows whether the broker has done it. Never crosses the client's boundary."""


class _Call(Generic[T]):
    """What a caller wants of the thread.

    Attributes:
        began: the thread has begun with it, so it cannot be withdrawn.
        may_repeat: it can be done again when the connection was lost in between.
    """

    __slots__ = ("began", "deadline", "doing", "done", "error", "may_repeat", "on_failure", "result", "work")

    def __init__(
        self,
        work: Callable[[KombuSession], T],
        doing: str,
        deadline: float,
        may_repeat: bool,
        on_failure: Callable[[], object] | None = None,
    ) -> None:
        self.work = work
        self.doing = doing
        self.deadline = deadline
        self.may_repeat = may_repeat
        self.on_failure = on_failure
        self.began = False
        self.done = threading.Event()
        self.result: T | None = None
        self.error: BaseException | None = None

    def fail(self, error: BaseException) -> None:
        """End it with an error, if it has not ended."""
        if not self.done.is_set():
            self.error = error
            self.done.set()
            if self.on_failure is not None:
                self.on_failure()


class ConnectionThread:
    """A connection to the broker that finds itself again, and the thread that alone uses it.

    The connection is made when it is first needed, and again after it was lost. A call that does not end in time costs
    it: its thread is left alone with it, and the next call gets new ones. Thread-safe.

    Args:
        role: what it is for, as a part of the thread's name.
        broker: makes connections, and knows what errors mean.
        on_lost: called with each session that has ended, by any thread.
    """

    def __init__(self, role: str, broker: Broker, on_lost: Callable[[KombuSession], None]) -> None:
        self._name = f"qbridge-kombu-{role}"
        self._broker = broker
        self._on_lost = on_lost
        self._lock = threading.Lock()
        self._runner: _Runner | None = None
        self._closed = False
        self._pause = GrowingPause(_FIRST_PAUSE, _LONGEST_PAUSE, jitter=(0.5, 1.0))
        self._retry_at = 0.0
        self._refusal: QBridgeError | None = None

    def call(self, work: Callable[[KombuSession], T], doing: str, timeout: float, *, may_repeat: bool = True) -> T:
        """Have the thread do something, and return what that returns.

        Args:
            work: gets the session. Errors of QBridge's leave that as it is, any other costs it.
            doing: what it is, for errors.
            timeout: seconds until the caller gives up, and the connection with it.
            may_repeat: it may be done once more on a new connection when that was lost.

        Raises:
            BrokerUnavailableError: no connection; it was not begun, or may be repeated.
            UncertainError: it was begun and did not end in time, or failed, and must not be repeated.
            NotConnectedError: the client was disconnected.
            What ``work`` raises, if that is an error of QBridge's.
        """
        call = _Call(work, doing, monotonic() + timeout, may_repeat)
        runner = self._hand_over(call)
        if not call.done.wait(timeout):
            self._give_up(runner, call)
        if call.error is not None:
            raise call.error
        return call.result  # type: ignore[return-value]

    def post(
        self, work: Callable[[KombuSession], object], doing: str, on_failure: Callable[[], object] | None = None
    ) -> None:
        """Have the thread do something some time; nobody waits for it, and it is not repeated.

        ``on_failure`` is called when it cannot be done or raises, by any thread.
        """
        call = _Call(work, doing, math.inf, False, on_failure)
        try:
            self._hand_over(call)
        except (NotConnectedError, RuntimeError) as exc:  # the second when the system has no thread left
            call.fail(exc)

    def close(self, timeout: float) -> None:
        """End the thread and close the connection; what hangs is left alone. Calls that wait fail."""
        with self._lock:
            self._closed = True
            runner, self._runner = self._runner, None
        if runner is not None and not runner.close(timeout):
            runner.abandon()

    def open_session(self) -> KombuSession:
        """A new session, for the thread; within the pause after a failure only that failure again."""
        if self._refusal is not None and monotonic() < self._retry_at:
            raise type(self._refusal)(str(self._refusal)) from self._refusal.__cause__
        try:
            session = self._broker.open()
        except QBridgeError as exc:
            self._retry_at = monotonic() + self._pause.next()
            self._refusal = exc
            self._broker.lost(self, exc)
            raise
        self._pause.reset()
        self._refusal = None
        self._broker.back(self)
        return session

    def session_ended(self, session: KombuSession, error: Exception | None) -> None:
        """A session is at its end, because of the error if there is one."""
        if error is not None:
            self._broker.lost(self, self._broker.translated(error, "use the connection"))
        self._on_lost(session)

    def failure(self, exc: Exception, call: _Call[Any]) -> QBridgeError:
        """What a caller gets for what a driver raised."""
        error = self._broker.translated(exc, call.doing)
        if isinstance(error, BrokerUnavailableError) and not call.may_repeat:
            uncertain = UncertainError(str(error))
            uncertain.__cause__ = error.__cause__
            return uncertain
        return error

    def interrupt(self, session: KombuSession) -> None:
        """End what hangs in a session that is given up, where that can be done."""
        with suppress(Exception):
            self._broker.transport.interrupt(session)

    def _hand_over(self, call: _Call[Any]) -> _Runner:
        with self._lock:
            if self._closed:
                raise closed()
            runner = self._runner
            if runner is None or not runner.accepts(call):
                runner = self._runner = _Runner(self, self._name)
                runner.accepts(call)
            return runner

    def _give_up(self, runner: _Runner, call: _Call[Any]) -> None:
        """A call's time is over: it is withdrawn, or when it was begun the connection is given up."""
        busy = _late(BrokerUnavailableError, f"cannot {call.doing}: the connection is busy, or the broker silent")
        if not runner.withdraw(call, busy) and not call.done.is_set():
            with self._lock:
                if self._runner is runner:
                    self._runner = None
            runner.abandon()


class _Runner:
    """The thread, with its connection and its calls. After ``abandon`` it ends when what hangs in it has ended."""

    def __init__(self, owner: ConnectionThread, name: str) -> None:
        self._owner = owner
        self._calls: deque[_Call[Any]] = deque()
        self._changed = threading.Condition()
        self._closing = False
        self._abandoned = False
        self._running: _Call[Any] | None = None
        self._session: KombuSession | None = None
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def accepts(self, call: _Call[Any]) -> bool:
        """Take a call, unless this one is at its end."""
        with self._changed:
            if self._closing or self._abandoned:
                return False
            self._calls.append(call)
            self._changed.notify()
            return True

    def withdraw(self, call: _Call[Any], error: QBridgeError) -> bool:
        """Take back a call that was not begun, which ends with the error; False when it was."""
        with self._changed:
            if call.began:
                return False
            with suppress(ValueError):  # the thread may have it, and be connecting
                self._calls.remove(call)
            call.fail(error)
            return True

    def close(self, timeout: float) -> bool:
        """End in order; False when it does not in time."""
        for call in self._end_intake(closing=True):
            call.fail(closed())
        self._thread.join(timeout)
        return not self._thread.is_alive()

    def abandon(self) -> None:
        """Leave the thread alone with what hangs in it; what waits behind that fails."""
        for call in self._end_intake(closing=False):
            call.fail(BrokerUnavailableError(f"cannot {call.doing}: the connection was given up"))
        running, session = self._running, self._session
        if session is not None:
            self._owner.interrupt(session)
            self._owner.session_ended(session, TimeoutError("the broker does not answer"))
        if running is not None:  # its caller may look at what the session's end has left behind
            kind = BrokerUnavailableError if running.may_repeat else UncertainError
            running.fail(_late(kind, f"cannot {running.doing}: the broker does not answer"))

    def _end_intake(self, *, closing: bool) -> list[_Call[Any]]:
        with self._changed:
            self._closing, self._abandoned = closing, not closing
            waiting = list(self._calls)
            self._calls.clear()
            self._changed.notify()
            return waiting

    def _run(self) -> None:
        while (call := self._next()) is not None:
            try:
                self._do(call)
            except BaseException as exc:  # noqa: BLE001 - what comes after it would wait for a dead thread
                self._survive(call, exc)
            self._running = None
            del call  # a message may be in it
        self._drop(None)

    def _next(self) -> _Call[Any] | None:
        with self._changed:
            while not self._calls:
                if self._closing or self._abandoned:
                    return None
                self._changed.wait()
            self._running = self._calls.popleft()
            return self._running

    def _do(self, call: _Call[Any]) -> None:
        tries = 2 if call.may_repeat else 1
        while tries:
            tries -= 1
            try:
                session = self._session or self._open()
            except Exception as exc:  # noqa: BLE001 - whatever it is, its caller learns of it
                call.fail(exc)
                return
            if not self._begin(call):
                return
            error = self._try(call, session)
            if error is None:
                return
            if not tries or monotonic() >= call.deadline:
                call.fail(self._owner.failure(error, call))
                return

    def _survive(self, call: _Call[Any], exc: BaseException) -> None:
        """Nobody knows what it has left behind: the next call has a new connection."""
        log.error("%s goes on after an unexpected error", self._thread.name, exc_info=exc)
        with suppress(BaseException):
            self._drop(None)
        with suppress(BaseException):
            call.fail(PermanentError(f"cannot {call.doing}: unexpected {type(exc).__name__}: {exc}"))

    def _try(self, call: _Call[Any], session: KombuSession) -> Exception | None:
        """Do it; the driver's error, if there is one, has cost the session."""
        try:
            call.result = call.work(session)
        except QBridgeError as exc:
            if session.broken:
                self._drop(exc)
            call.fail(exc)
        except Exception as exc:  # noqa: BLE001 - drivers raise what they like
            self._drop(exc)
            return exc
        call.done.set()
        return None

    def _begin(self, call: _Call[Any]) -> bool:
        """Whether its caller still waits for it."""
        with self._changed:
            if call.done.is_set():
                return False
            call.began = True
            return True

    def _open(self) -> KombuSession:
        session = self._owner.open_session()
        with self._changed:
            if not self._abandoned:
                self._session = session
                return session
        with suppress(Exception):
            session.close()
        raise closed()

    def _drop(self, error: Exception | None) -> None:
        """Close the session, whatever the driver says to that."""
        with self._changed:
            session, self._session = self._session, None
        if session is None:
            return
        if error is not None:
            self._owner.interrupt(session)  # or closing it would wait for the broker's answer
        try:
            session.close()
        except Exception as exc:  # noqa: BLE001 - it is at its end anyway
            log.debug("closing a connection failed: %s", type(exc).__name__)
        if not self._abandoned:
            self._owner.session_ended(session, error)


def _late(kind: type[QBridgeError], text: str) -> QBridgeError:
    error = kind(text)
    error.__cause__ = TimeoutError("its time is over")
    return error


def closed() -> NotConnectedError:
    """What calls get of a client that is not connected."""
    return NotConnectedError("the client is not connected; call connect() first")
