"""The event loops that ``async def`` handlers run on, and how one that is blocked is found out.

There is one loop, in a thread of its own, for all tasks of a worker. A coroutine that blocks it holds up all others, so
a loop that does not answer is left to whoever blocks it, and another one takes its place.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import sys
import threading
from asyncio.events import Handle
from collections.abc import Callable, Coroutine
from contextvars import Context
from types import FrameType
from typing import Any, Final

from qbridge_core.errors import ConfigurationError
from qbridge_core.execute.executor import Executor
from qbridge_core.execute.threadpool import PATIENCE, ThreadPool
from qbridge_core.runtime.clock import monotonic
from qbridge_core.runtime.logs import log_errors_of, logger
from qbridge_core.runtime.mailbox import Mailbox
from qbridge_core.task.context import current_run
from qbridge_core.task.run import Run

_log: Final = logger("qbridge.worker")
ANSWER_TIME: Final = 1.0
"""Seconds that a loop may leave a question unanswered, before it counts as blocked."""
_CLOSE_TIME: Final = 0.5
_CALLS: Final = Handle._run.__code__
"""What calls each callback of a loop written in Python."""


class AsyncHandler(Executor):
    """A coroutine function and the loop that it runs on. Thread-safe.

    Args:
        function: called as ``function(payload)``; what it returns is awaited.
        workers: how many tasks run at once. At least as many blocking calls of coroutines do.
        loop_factory: makes the event loop; asyncio does otherwise.
    """

    in_thread = False
    on_loop = True

    def __init__(
        self,
        function: Callable[[Any], Coroutine[Any, Any, object]],
        workers: int = 1,
        loop_factory: Callable[[], asyncio.AbstractEventLoop] | None = None,
    ) -> None:
        super().__init__(function)
        self.function: Final = function
        self._loop_factory = loop_factory or asyncio.new_event_loop
        self._lock = threading.Lock()
        self._loop: LoopThread | None = None
        self._loops: list[LoopThread] = []
        self._closed = False
        self._threads = ThreadPool(workers, _is_running)

    def loop(self) -> LoopThread | None:
        """The loop to run on; None when this is closed.

        Raises:
            RuntimeError: the system has no thread left for one.
            ConfigurationError: what the factory makes is no event loop.
            BaseException: whatever the factory raises.
        """
        with self._lock:
            if self._loop is None and not self._closed:
                # Not in the context of the task that happens to be the first: the loop would keep it for ever.
                self._loop = Context().run(self._new_loop)
            return self._loop

    def _new_loop(self) -> LoopThread:
        made = self._loop_factory()
        if not isinstance(made, asyncio.AbstractEventLoop):
            raise ConfigurationError(f"loop_factory must make an event loop of asyncio, not {made!r}")
        loop = LoopThread(made)
        self._threads.serve(made)
        self._loops.append(loop)
        loop.start()
        return loop

    def replace(self, loop: LoopThread) -> None:
        """Use this loop for no other task."""
        with self._lock:
            loop.replaced = True
            if self._loop is loop:
                self._loop = None

    def stuck(self, abandoned: int) -> int:
        """How many hang: coroutines, their blocking calls, and loops that were replaced and are still blocked."""
        del abandoned  # no thread of a worker runs a handler
        with self._lock:
            self._loops = [loop for loop in self._loops if loop.is_alive]
            return sum(loop.stuck() for loop in self._loops) + self._threads.stuck()

    def owns_current_thread(self) -> bool:
        """True where coroutines run, and in the threads of their blocking calls."""
        with self._lock:
            return any(loop.is_current for loop in self._loops) or self._threads.owns_current_thread()

    def close(self) -> None:
        """Cancel what runs and end the loop; one that does not answer is left behind."""
        with self._lock:
            self._closed = True
            loop, self._loop = self._loop, None
        self._threads.close()
        if loop is not None:
            loop.close()


def _is_running(run: Run) -> bool:
    return run.in_handler and not run.cancelled


def _context_of(task: object) -> Context | None:
    """The context of a task, which before Python 3.12 has no name for it."""
    return next((each for each in gc.get_referents(task) if isinstance(each, Context)), None)


class LoopThread:
    """An event loop in a daemon thread.

    Args:
        loop: the loop, which does not run yet.

    Attributes:
        loop: the loop.
        stopping: True when it is about to end.
        replaced: True when another loop has taken its place, because it was blocked.
        cancelled: the tasks that were cancelled and have not ended, each with the ``monotonic()`` at which it was.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self.loop.time = monotonic  # type: ignore[method-assign]  # a test's frozen one would stop what waits
        log_errors_of(self.loop)
        self.stopping = False
        self.replaced = False
        self.cancelled: dict[object, float] = {}
        self._posted: Mailbox[Callable[[], object]] = Mailbox(self._wake)
        self._ended = False
        self._asked_at: float | None = None
        self._seen: object = None
        self._seen_at = 0.0
        self._thread = threading.Thread(target=self._run, name="qbridge-asyncio", daemon=True)

    def start(self) -> None:
        """Start the thread.

        Raises:
            RuntimeError: the system has no thread left.
        """
        self._thread.start()

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
        self._posted.post(call)
        if self._ended:
            self._work()

    def ask(self) -> None:
        """Find out whether the loop still turns; ``is_blocked`` tells the result."""
        if self._asked_at is None:
            self._asked_at = monotonic()
            self.post(self._answer)

    @property
    def was_asked(self) -> bool:
        """True while a question is unanswered."""
        return self._asked_at is not None

    def is_blocked(self) -> bool:
        """True when a single callback has kept the loop from answering; one that has much to do is not blocked."""
        asked_at, now = self._asked_at, monotonic()
        if asked_at is None or now - asked_at < ANSWER_TIME / 2:
            return False
        if not self.is_alive:
            return True
        callback = self._callback(self._frame())
        if callback is not self._seen:
            self._seen, self._seen_at = callback, now
            return False
        return now - self._seen_at >= ANSWER_TIME / 2

    def blocker(self) -> tuple[Run | None, FrameType | None]:
        """The run that the loop is in, if it can be told, and where that is."""
        frame = self._frame()
        callback = self._callback(frame)
        context = getattr(callback, "_context", None) or _context_of(callback)
        return (None if context is None else context.get(current_run)), frame

    def stop(self) -> None:
        """End the loop when it turns next."""
        self.stopping = True
        self.post(self.loop.stop)

    def close(self) -> None:
        """Cancel all tasks and end the thread, if it can be reached."""
        self.stop()
        self._thread.join(_CLOSE_TIME)

    def _frame(self) -> FrameType | None:
        return sys._current_frames().get(self._thread.ident or 0)

    def _callback(self, frame: FrameType | None) -> object:
        """What the loop is calling: for one that is not written in Python, the task alone."""
        callback = None
        while frame is not None:
            if frame.f_code is _CALLS:
                callback = frame.f_locals.get("self")  # the outermost, if a handler calls others
            frame = frame.f_back
        return asyncio.current_task(self.loop) if callback is None else callback

    def _answer(self) -> None:
        self._asked_at = self._seen = None

    def _wake(self) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed
            self.loop.call_soon_threadsafe(self._work)

    def _work(self) -> None:
        for call in self._posted.take():
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
