"""Runs ``async def`` handlers: each worker waits for its coroutine on one event loop in a thread of its own.

So a coroutine has the same rules as a function (timeout, retries, fencing, ``max_workers`` at once), and one that is
too late is cancelled.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections import deque
from collections.abc import Callable, Coroutine
from contextvars import Context, copy_context
from queue import SimpleQueue
from typing import Any, Final

from qbridge_core.execute.executor import Executor
from qbridge_core.execute.threadpool import PATIENCE, ThreadPool
from qbridge_core.runtime.clock import monotonic
from qbridge_core.runtime.forks import OneProcess
from qbridge_core.runtime.logs import log_errors_of, logger
from qbridge_core.task.context import current_run
from qbridge_core.task.run import Run

_log: Final = logger("qbridge.worker")
_ANSWER_TIME: Final = 1.0
_CLOSE_TIME: Final = 0.5


class AsyncHandler(Executor):
    """Runs a coroutine function for worker threads. Thread-safe.

    Args:
        function: called as ``function(payload)``; what it returns is awaited.
        workers: how many worker threads there are. At least as many blocking calls of coroutines run at once.
    """

    in_thread = False

    def __init__(self, function: Callable[[Any], Coroutine[Any, Any, object]], workers: int = 1) -> None:
        super().__init__(self._wait_for)
        self._function = function
        self._lock = threading.Lock()
        self._loop: _LoopThread | None = None
        self._loops: list[_LoopThread] = []
        self._closed = False
        self._calls: dict[Run | None, _Call] = {}
        self._threads = ThreadPool(workers, self._calls.__contains__)

    def _wait_for(self, payload: Any) -> object:
        """Run the coroutine for this payload and wait for it."""
        run = current_run.get()
        call = self._calls[run] = _Call(self._function, payload)
        try:
            if run is not None and run.cancelled:  # the cancellation came before there was a call to cancel
                raise asyncio.CancelledError
            loop = self._loop
            if loop is None or not loop.answers:
                loop = self._working_loop()
            call.loop = loop
            loop.post(call.start)
            result = call.answer.get()
        finally:
            del self._calls[run]
        if type(result) is _Raised:
            try:
                raise result.error
            finally:
                del result  # the exception's traceback holds this frame, which must not hold the exception
        return result

    def stuck(self, abandoned: int) -> int:
        """How many hang: coroutines, their blocking calls, and loops that were replaced and are still blocked."""
        del abandoned  # cancelling has freed each of those threads, though not all may have ended yet
        with self._lock:
            self._loops = [loop for loop in self._loops if loop.is_alive]
            return sum(loop.stuck() for loop in self._loops) + self._threads.stuck()

    def owns_current_thread(self) -> bool:
        """True where coroutines run, and in the threads of their blocking calls."""
        with self._lock:
            return any(loop.is_current for loop in self._loops) or self._threads.owns_current_thread()

    def cancel(self, run: Run) -> None:
        """Free the thread that waits for a run, and cancel the coroutine if it still runs."""
        call = self._calls.get(run)
        if call is not None:
            call.give_up()
        with self._lock:
            if self._loop is not None:
                self._loop.ask()

    def close(self) -> None:
        """Cancel what runs and end the loop; one that does not answer is left behind, but no worker waits for it."""
        with self._lock:
            self._closed = True
            loop, self._loop = self._loop, None
        self._threads.close()
        for call in list(self._calls.values()):  # each later one finds no loop
            call.free()
        if loop is not None:
            loop.close()

    def _working_loop(self) -> _LoopThread:
        """The loop, or a new one when a coroutine blocks it: otherwise one mistake would stop all other tasks."""
        with self._lock:
            if self._closed:
                raise asyncio.CancelledError  # nobody would end a new loop
            if self._loop is not None and not self._loop.answers:
                self._loop.replaced = True
                self._loop.stop()  # for the case that it turns again one day
                self._loop = None
            if self._loop is None:
                # Not in the context of the task that happens to be the first: the loop would keep it for ever.
                self._loop = Context().run(_LoopThread)
                self._threads.serve(self._loop.loop)
                self._loops.append(self._loop)
            return self._loop


class _Raised:
    """What a coroutine raised, on its way to the worker's thread."""

    __slots__ = ("error",)

    def __init__(self, error: BaseException) -> None:
        self.error = error


class _Call:
    """One run of the coroutine function; each has an answer of its own, so a late one reaches nobody.

    A concurrent future would do the same at several times the cost.

    Attributes:
        answer: gets the result or a :class:`_Raised`; only the first item counts.
        loop: where it runs.
    """

    __slots__ = ("_context", "_function", "_given_up", "_payload", "_task", "answer", "loop")

    def __init__(self, function: Callable[[Any], Coroutine[Any, Any, object]], payload: Any) -> None:
        self.answer: SimpleQueue[object] = SimpleQueue()
        self.loop: _LoopThread | None = None
        self._function = function
        self._payload = payload
        self._context = copy_context()
        self._task: asyncio.Task[object] | None = None
        self._given_up = False

    def start(self) -> None:
        """In the loop's thread: start the coroutine, unless nobody wants it any more."""
        assert self.loop is not None  # noqa: S101 - set before this was posted
        if self._given_up or self.loop.stopping:
            self.answer.put(_Raised(asyncio.CancelledError()))
            return
        coroutine = self._guarded()
        try:
            # Not as an argument: a handler may have set a task factory, and older ones know of no context.
            self._task = self._context.run(self.loop.loop.create_task, coroutine)
        except BaseException as exc:  # noqa: BLE001 - the task factory may raise anything
            coroutine.close()
            self.answer.put(_Raised(exc))
        else:
            self._task.add_done_callback(self._done)

    def free(self) -> None:
        """Answer at once that it was cancelled."""
        self._given_up = True  # what has not started by now does not start
        self.answer.put(_Raised(asyncio.CancelledError()))

    def give_up(self) -> None:
        """Answer at once that it was cancelled, and see to it that it will be."""
        self.free()  # before the post, which comes too late for what has not started
        if self.loop is not None:
            self.loop.post(self._cancel)

    def _cancel(self) -> None:
        if self._task is not None and self.loop is not None:
            self.loop.cancelled[self] = monotonic()
            self._task.cancel()

    async def _guarded(self) -> object:
        """The handler; what it raises is returned, for asyncio would end the loop for a SystemExit."""
        try:
            with OneProcess():
                return await self._function(self._payload)
        except BaseException as exc:  # noqa: BLE001 - raised again in the worker's thread
            return _Raised(exc)

    def _done(self, task: asyncio.Task[object]) -> None:
        # Not in the coroutine, which does not run at all when it is cancelled before its first step.
        # A traceback holds this call. If the call held the exception in turn, in its task or as an answer that nobody
        # takes, the cycle (and with it the payload) would wait for the garbage collector.
        self._task = None
        if self._given_up:
            assert self.loop is not None  # noqa: S101 - it has run there
            self.loop.cancelled.pop(self, None)
        else:
            self.answer.put(_Raised(asyncio.CancelledError()) if task.cancelled() else task.result())


class _LoopThread:
    """An event loop in a daemon thread.

    Attributes:
        cancelled: the calls that were cancelled and have not ended, each with the ``monotonic()`` at which it was.
        replaced: True when another loop has taken its place, because it was blocked.
    """

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self.loop.time = monotonic  # type: ignore[method-assign]  # a test's frozen one would stop what waits
        log_errors_of(self.loop)
        self.stopping = False
        self.replaced = False
        self.cancelled: dict[_Call, float] = {}
        self._posted: deque[Callable[[], object]] = deque()
        self._awake = False
        self._ended = False
        self._asked_at: float | None = None
        self._thread = threading.Thread(target=self._run, name="qbridge-asyncio", daemon=True)
        self._thread.start()

    @property
    def answers(self) -> bool:
        """False when the loop has ended, or has left a question unanswered for too long."""
        asked_at = self._asked_at
        return not self._ended and (asked_at is None or monotonic() - asked_at < _ANSWER_TIME)

    @property
    def is_alive(self) -> bool:
        """False when its thread has ended."""
        return self._thread.is_alive()

    @property
    def is_current(self) -> bool:
        """True in its thread."""
        return self._thread is threading.current_thread()

    def stuck(self) -> int:
        """How many of its coroutines have not followed their cancellation, and itself if it cannot be reached."""
        latest = monotonic() - PATIENCE
        return sum(at < latest for at in list(self.cancelled.values())) + (self.replaced and self.is_alive)

    def post(self, call: Callable[[], object]) -> None:
        """Have the loop call this, soon and after what was posted before; it must not raise."""
        # A wake-up is a system call and a context switch. The flag is cleared before the work is taken, so what is
        # appended after the clearing wakes again and nothing is left behind.
        self._posted.append(call)
        if not self._awake:
            self._awake = True
            with contextlib.suppress(RuntimeError):  # the loop is closed
                self.loop.call_soon_threadsafe(self._work)
        if self._ended:
            self._work()

    def ask(self) -> None:
        """Find out whether the loop still turns."""
        if self._asked_at is None:
            self._asked_at = monotonic()
            self.post(self._answer)

    def stop(self) -> None:
        """End the loop when it turns next."""
        self.stopping = True
        self.post(self.loop.stop)

    def close(self) -> None:
        """Cancel all tasks and end the thread, if it can be reached."""
        self.stop()
        self._thread.join(_CLOSE_TIME)

    def _answer(self) -> None:
        self._asked_at = None

    def _work(self) -> None:
        self._awake = False
        posted = self._posted
        while posted:
            try:
                call = posted.popleft()
            except IndexError:
                break  # after the end of the loop several threads may be here
            call()

    def _run(self) -> None:
        asyncio.set_event_loop(self.loop)
        try:
            self._turn()
            self._cancel_all()
            self.loop.run_until_complete(self.loop.shutdown_asyncgens())
        finally:
            self.loop.close()
            self._ended = True
            self._work()

    def _cancel_all(self) -> None:
        tasks = asyncio.all_tasks(self.loop)
        for task in tasks:
            task.cancel()
        ends = asyncio.gather(*tasks, return_exceptions=True)
        while not ends.done():  # one that stops the loop must not cost the others their cleaning up
            with contextlib.suppress(BaseException):
                self.loop.run_until_complete(ends)

    def _turn(self) -> None:
        """Run the loop until ``stop``. Others wait on it, whatever one handler does to it."""
        while not self.stopping:
            try:
                self.loop.run_forever()
            except BaseException:  # noqa: BLE001 - asyncio lets a SystemExit in a task or callback through
                _log.exception("something in the event loop of the handlers tried to end it; it goes on")
            else:
                if not self.stopping:
                    _log.warning("a handler stopped the event loop of all handlers; it goes on")
