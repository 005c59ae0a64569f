"""Runs the blocking calls of coroutines: ``asyncio.to_thread``, and the look-up of a host's name by asyncio itself.

An event loop of asyncio has a pool of threads for them by default. A call that hangs keeps its thread there for ever,
so that in the end no other call starts, and the interpreter waits for the thread when it exits. The threads here are
daemons, and one whose call nobody waits for any more is replaced.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import math
import threading
from collections import deque
from collections.abc import Callable
from typing import Any, Final

from qbridge_core.runtime.clock import monotonic
from qbridge_core.runtime.processors import usable_processors
from qbridge_core.task.context import current_run
from qbridge_core.task.run import Run

PATIENCE: Final = 0.25
"""Seconds that what was cancelled gets to end, before it counts as hanging."""


class ThreadPool:
    """Daemon threads for the calls of one or more event loops. Thread-safe.

    Args:
        at_least: so many calls may run at once, however few processors there are.
        is_running: tells of a run whether its handler has not ended yet. A call that has outlived its handler gives
            up its place when there is no room for others.
    """

    def __init__(self, at_least: int = 1, is_running: Callable[[Run], bool] = lambda _: True) -> None:
        # What asyncio and concurrent.futures have, but for the processors of a container or an affinity.
        self._size = max(min(32, usable_processors() + 4), at_least)
        self._is_running = is_running
        self._changed = threading.Condition()
        self._waiting: deque[_Call] = deque()
        self._running: dict[_Call, int] = {}
        self._threads = 0  # without those that were replaced
        self._idle = 0
        self._closed_at = math.inf
        self._awaited = False

    def serve(self, loop: asyncio.AbstractEventLoop) -> None:
        """Take over what the loop would give to its default executor. Call it before the loop runs anything."""
        serve(loop, lambda: self)

    def stuck(self) -> int:
        """How many threads are held by calls that nobody has waited for since a moment ago."""
        with self._changed:
            self._grow()
            latest = min(monotonic() - PATIENCE, self._closed_at)
            return sum(call.left_at is not None and call.left_at < latest for call in self._running)

    def owns_current_thread(self) -> bool:
        """True in a thread that runs a call."""
        ident = threading.get_ident()
        with self._changed:
            return ident in self._running.values()

    def close(self) -> None:
        """Let the idle threads end now, and each other one after its call. What is left from now on does not hang."""
        with self._changed:
            self._closed_at = monotonic()
            self._changed.notify_all()

    def wait(self) -> None:
        """Wait for the calls that were not left alone."""
        with self._changed:
            self._awaited = True
            while self._waiting or any(call.left_at is None for call in self._running):
                self._changed.wait()
            self._awaited = False

    def submit(
        self, loop: asyncio.AbstractEventLoop, function: Callable[..., Any], args: tuple[Any, ...]
    ) -> asyncio.Future[Any]:
        """In the loop: have a thread make a call.

        Raises:
            RuntimeError: the loop is closed, or the system has no thread left.
        """
        if loop.is_closed():
            raise RuntimeError("Event loop is closed")
        call = _Call(loop, functools.partial(function, *args))
        with self._changed:
            self._waiting.append(call)
            self._grow()
            if not self._threads:
                self._waiting.remove(call)
                raise RuntimeError("the system has no thread left")
            self._changed.notify()
        call.future.add_done_callback(functools.partial(self._answered, call))
        return call.future

    def _answered(self, call: _Call, future: asyncio.Future[Any]) -> None:
        """In the loop: it has got its answer, or nobody waits for it any more."""
        if future.cancelled():
            with self._changed:
                if call in self._running:
                    self._leave(call)
                    self._grow()
                elif call in self._waiting:
                    self._waiting.remove(call)

    def _serve(self) -> None:
        while (call := self._next()) is not None:
            call.execute()
            with self._changed:
                del self._running[call]
                if call.left_at is not None:
                    return  # another thread has its place
                self._idle += 1
                if self._awaited:
                    self._changed.notify_all()
            del call  # with what it holds, while this waits for the next one

    def _next(self) -> _Call | None:
        with self._changed:
            while not self._waiting and self._closed_at == math.inf:
                self._changed.wait()
            self._idle -= 1
            if not self._waiting:
                self._threads -= 1
                return None
            call = self._waiting.popleft()
            self._running[call] = threading.get_ident()
            return call

    # The methods below expect the lock to be held.

    def _leave(self, call: _Call) -> None:
        if call.left_at is None:
            call.left_at = monotonic()
            self._threads -= 1

    def _grow(self) -> None:
        """Have threads for the calls that wait, as far as there is room and the system has some."""
        if len(self._waiting) <= self._idle:
            return
        if self._threads >= self._size:
            self._make_room()
        with contextlib.suppress(RuntimeError):  # the system has none left; there may be one when this is asked next
            while len(self._waiting) > self._idle and self._threads < self._size:
                threading.Thread(target=self._serve, name="qbridge-to-thread", daemon=True).start()
                self._threads += 1
                self._idle += 1

    def _make_room(self) -> None:
        for call in self._running:
            if call.run is not None and not self._is_running(call.run):
                self._leave(call)


class _Call:
    """One call on its way through a thread.

    Attributes:
        future: gets the answer, in the loop.
        run: the run in which it was made.
        left_at: ``monotonic()`` since which nobody waits for it.
    """

    __slots__ = ("_function", "_loop", "future", "left_at", "run")

    def __init__(self, loop: asyncio.AbstractEventLoop, function: Callable[[], Any]) -> None:
        self.future: asyncio.Future[Any] = loop.create_future()
        self.run = current_run.get()
        self.left_at: float | None = None
        self._loop = loop
        self._function = function

    def execute(self) -> None:
        """Make the call, in a thread, and give the answer to the loop."""
        try:
            result = self._function()
        except BaseException as exc:  # noqa: BLE001 - raised again where the call is awaited
            exc.__traceback__ = exc.__traceback__ and exc.__traceback__.tb_next  # without this frame
            self._tell(self._fail, exc)
        else:
            self._tell(self._succeed, result)

    def _tell(self, answer: Callable[[Any], None], what: object) -> None:
        with contextlib.suppress(RuntimeError):  # the loop has ended, and with it everybody who waited
            self._loop.call_soon_threadsafe(answer, what)

    def _succeed(self, result: object) -> None:
        if not self.future.done():
            self.future.set_result(result)

    def _fail(self, error: BaseException) -> None:
        future = self.future
        # The exception's frames lead to this call. If the call led to the exception, through its future, the cycle (and
        # with it the payload) would wait for the garbage collector.
        del self.future
        if future.done():
            return
        if isinstance(error, StopIteration):  # which no future can hold
            stop, error = error, RuntimeError("the call raised StopIteration")
            error.__cause__ = stop
        future.set_exception(error)


def serve(loop: asyncio.AbstractEventLoop, threads: Callable[[], ThreadPool]) -> None:
    """Have some threads do what the loop would give to its default executor. Call it before the loop runs anything.

    Args:
        loop: the loop.
        threads: called in the loop, for each call; says which threads.
    """
    # Instead of an executor of ours: a default executor must be derived from ThreadPoolExecutor, whose names may
    # change, and nobody learns from it that a call is not waited for any more.
    theirs = loop.run_in_executor
    set_default = loop.set_default_executor
    chosen = False

    def run_in_executor(executor: Any, func: Callable[..., Any], *args: Any) -> asyncio.Future[Any]:
        if executor is not None or chosen:
            return theirs(executor, func, *args)
        return threads().submit(loop, func, args)

    def set_default_executor(executor: Any) -> None:
        nonlocal chosen
        set_default(executor)
        chosen = True

    async def shutdown_default_executor(timeout: float | None = None) -> None:  # noqa: ASYNC109 - as asyncio has it
        del timeout  # it is not this loop's alone: whoever shuts it down must not do so for all handlers

    loop.run_in_executor = run_in_executor  # type: ignore[method-assign, assignment]
    loop.set_default_executor = set_default_executor  # type: ignore[method-assign]
    loop.shutdown_default_executor = shutdown_default_executor  # type: ignore[method-assign]
