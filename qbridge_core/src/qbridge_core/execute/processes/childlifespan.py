"""The lifespan of a child process: entered before its first task, left after its last one.

A synchronous one is entered by the main thread, which runs the handlers. One that needs an event loop, or has handlers
that do, gets a loop in a thread of its own, which turns between the tasks too.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import threading
from collections.abc import Callable, Coroutine
from contextvars import Context, copy_context
from typing import Any, Final

from qbridge_core.execute.lifespan import Lifespan, OpenedLifespan, is_synchronous, make
from qbridge_core.execute.loopthread import LoopThread
from qbridge_core.execute.threadpool import ThreadPool
from qbridge_core.runtime.forks import OneProcess
from qbridge_core.runtime.logs import logger
from qbridge_core.task.context import HandlerTimeout

_log: Final = logger("qbridge.worker")
_Handler = Callable[[Any], Coroutine[Any, Any, object]]


class ChildLifespan:
    """Enters and leaves a lifespan, and runs coroutines on its loop. For the main thread.

    Args:
        lifespan: makes the context manager.
        threads: for the blocking calls of coroutines.
        failed: called in any thread when it has ended too early.
    """

    def __init__(self, lifespan: Lifespan, threads: ThreadPool, failed: Callable[[], object]) -> None:
        self._lifespan = lifespan
        self._threads = threads
        self._failed = failed
        self._stack = contextlib.ExitStack()
        self._loop: LoopThread | None = None
        self._opened: OpenedLifespan | None = None

    def open(self, *, on_loop: bool) -> Any:
        """Enter it, and return what it yields.

        Args:
            on_loop: whether the handlers are coroutines.

        Raises:
            BaseException: whatever keeps it from being entered.
        """
        if on_loop:
            return self._open_on_loop(self._lifespan)
        manager = make(self._lifespan)
        if is_synchronous(manager):
            return self._stack.enter_context(manager)
        return self._open_on_loop(lambda: manager)

    def _open_on_loop(self, lifespan: Lifespan) -> Any:
        loop = asyncio.new_event_loop()
        self._threads.serve(loop)
        self._opened = OpenedLifespan(lifespan, self._end_early)
        self._loop = LoopThread(loop, self._opened)
        self._loop.start()
        return self._opened.wait()

    def _end_early(self, error: BaseException) -> None:
        if self._opened is not None and self._opened.entered.is_set():  # otherwise the worker is told
            _log.error("the lifespan has ended too early, and this child process ends with it", exc_info=error)
            self._failed()

    def close(self) -> None:
        """Leave it, however long that takes. Never raises."""
        try:
            self._stack.close()
        except BaseException as exc:  # noqa: BLE001 - whatever a user's code raises
            _log.error("the lifespan was not left without an error", exc_info=exc)
        if self._loop is not None and self._opened is not None:
            self._loop.stop()
            self._opened.left.wait()

    def run(self, handler: _Handler, payload: Any) -> object:
        """Run a coroutine function on the loop, and wait for its end."""
        loop = self._loop
        assert loop is not None  # noqa: S101 - it was opened
        call = _Call(handler, payload)
        loop.post(functools.partial(call.start, loop.loop, copy_context()))
        try:
            call.ended.wait()
        except HandlerTimeout:
            loop.post(call.cancel)
            call.ended.wait()
            raise
        return call.result()


class _Call:
    """One call of a handler."""

    def __init__(self, handler: _Handler, payload: Any) -> None:
        self.ended: Final = threading.Event()
        self._handler = handler
        self._payload = payload
        self._task: asyncio.Task[None] | None = None
        self._result: object = None
        self._error: BaseException | None = asyncio.CancelledError()

    def start(self, loop: asyncio.AbstractEventLoop, context: Context) -> None:
        """In the loop: begin."""
        self._task = asyncio.Task(self._make(), loop=loop, context=context)
        self._task.add_done_callback(lambda _: self.ended.set())

    def cancel(self) -> None:
        """In the loop: end it early."""
        if self._task is not None:
            self._task.cancel()

    def result(self) -> object:
        """What the handler returned, or raise what it raised."""
        error, self._error = self._error, None
        if error is None:
            return self._result
        try:
            raise error
        finally:
            del error  # the frames that the exception holds would hold it

    async def _make(self) -> None:
        try:
            with OneProcess():
                self._result = await self._handler(self._payload)
        except BaseException as exc:  # noqa: BLE001 - raised again where it is awaited
            self._error = exc
        else:
            self._error = None
