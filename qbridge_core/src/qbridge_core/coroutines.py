"""Runs ``async def`` handlers: each worker waits for its coroutine on one event loop in a thread of its own.

So a coroutine has the same rules as a function (timeout, retries, fencing, ``max_workers`` at once), and one that is
too late is cancelled.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
import time
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from typing import Any, Final

from qbridge_core.context import current_run
from qbridge_core.executor import Executor
from qbridge_core.run import Run

_log: Final = logging.getLogger("qbridge.worker")
_ANSWER_TIME: Final = 1.0
_CLOSE_TIME: Final = 1.0


class AsyncHandler(Executor):
    """Runs a coroutine function for worker threads. Thread-safe.

    Args:
        function: called as ``function(payload)``; what it returns is awaited.
    """

    in_thread = False

    def __init__(self, function: Callable[[Any], Coroutine[Any, Any, object]]) -> None:
        super().__init__(self._wait_for)
        self._function = function
        self._lock = threading.Lock()
        self._loop: _LoopThread | None = None
        self._replaced: list[_LoopThread] = []
        self._futures: dict[Run | None, Future[object]] = {}

    def _wait_for(self, payload: Any) -> object:
        """Run the coroutine for this payload and wait for it."""
        run = current_run.get()
        future = asyncio.run_coroutine_threadsafe(self._guarded(payload), self._working_loop().loop)
        self._futures[run] = future
        try:
            if run is not None and run.cancelled:
                future.cancel()  # the cancellation came before there was a future to cancel
            result = future.result()
        finally:
            del self._futures[run]
        if type(result) is _Raised:
            raise result.error
        return result

    async def _guarded(self, payload: Any) -> object:
        """The handler; what it raises is returned, for asyncio would end the loop for a SystemExit."""
        try:
            return await self._function(payload)
        except asyncio.CancelledError:
            raise
        except BaseException as exc:  # noqa: BLE001 - raised again in the worker's thread
            return _Raised(exc)

    def stuck(self, abandoned: int) -> int:
        """How many threads are held: those of the workers, and of loops that were replaced and are still blocked."""
        with self._lock:
            self._replaced = [loop for loop in self._replaced if loop.is_alive]
            return abandoned + len(self._replaced)

    def cancel(self, run: Run) -> None:
        """Cancel the coroutine of a run, if it still runs."""
        future = self._futures.get(run)
        if future is not None:
            future.cancel()
        with self._lock:
            if self._loop is not None:
                self._loop.ask()

    def close(self) -> None:
        """Cancel what runs and end the loop; one that does not answer is left behind."""
        with self._lock:
            loop, self._loop = self._loop, None
        if loop is not None:
            loop.close()

    def _working_loop(self) -> _LoopThread:
        """The loop, or a new one when a coroutine blocks it: otherwise one mistake would stop all other tasks."""
        with self._lock:
            if self._loop is not None and not self._loop.answers:
                self._loop.stop()  # for the case that it turns again one day
                self._replaced.append(self._loop)
                self._loop = None
            if self._loop is None:
                self._loop = _LoopThread()
            return self._loop


class _Raised:
    """What a coroutine raised, on its way to the worker's thread."""

    __slots__ = ("error",)

    def __init__(self, error: BaseException) -> None:
        self.error = error


class _LoopThread:
    """An event loop in a daemon thread."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self._asked_at: float | None = None
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name="qbridge-asyncio", daemon=True)
        self._thread.start()

    @property
    def answers(self) -> bool:
        """False when the loop has ended, or has left a question unanswered for too long."""
        asked_at = self._asked_at
        return self.is_alive and (asked_at is None or time.monotonic() - asked_at < _ANSWER_TIME)

    @property
    def is_alive(self) -> bool:
        """False when its thread has ended."""
        return self._thread.is_alive()

    def ask(self) -> None:
        """Find out whether the loop still turns."""
        if self._asked_at is None:
            self._asked_at = time.monotonic()
            self._call(self._answer)

    def stop(self) -> None:
        """End the loop when it turns next."""
        self._stopping = True
        self._call(self.loop.stop)

    def close(self) -> None:
        """Cancel all tasks and end the thread, if it can be reached."""
        self.stop()
        self._thread.join(_CLOSE_TIME)

    def _call(self, function: Callable[[], None]) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed
            self.loop.call_soon_threadsafe(function)

    def _answer(self) -> None:
        self._asked_at = None

    def _run(self) -> None:
        asyncio.set_event_loop(self.loop)
        try:
            self._turn()
            tasks = asyncio.all_tasks(self.loop)
            for task in tasks:
                task.cancel()
            self.loop.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))
            self.loop.run_until_complete(self.loop.shutdown_asyncgens())
        finally:
            self.loop.close()

    def _turn(self) -> None:
        """Run the loop until ``stop``. Others wait on it, whatever one handler does to it."""
        while not self._stopping:
            try:
                self.loop.run_forever()
            except BaseException:  # noqa: BLE001 - asyncio lets a SystemExit in a task or callback through
                _log.exception("something in the event loop of the handlers tried to end it; it goes on")
            else:
                if not self._stopping:
                    _log.warning("a handler stopped the event loop of all handlers; it goes on")
