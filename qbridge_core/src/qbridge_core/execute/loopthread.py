"""An event loop in a thread of its own, for all handlers, and how one that is blocked is found out."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import math
import threading
from asyncio.events import Handle
from collections.abc import Callable
from contextvars import Context, ContextVar
from types import FrameType
from typing import Any, Final, NamedTuple

from qbridge_core.execute.lifespan import OpenedLifespan
from qbridge_core.execute.threadpool import PATIENCE
from qbridge_core.runtime.clock import monotonic
from qbridge_core.runtime.frames import frame_of, undisturbed
from qbridge_core.runtime.logs import log_errors_of, logger
from qbridge_core.runtime.mailbox import Mailbox
from qbridge_core.runtime.pulse import Stalled
from qbridge_core.task.context import current_run, current_state
from qbridge_core.task.run import Run

_log: Final = logger("qbridge.worker")
ANSWER_TIME: Final = 1.0
"""Seconds that a loop may leave a question unanswered, before it counts as blocked."""
_CLOSE_TIME: Final = 0.5
_LOOK_EVERY: Final = 0.01
_CALLS: Final = Handle._run.__code__
"""What calls each callback of a loop written in Python."""


tenant: Final[ContextVar[Any]] = ContextVar("qbridge_tenant", default=None)
"""Whose coroutine it is, where several may use the loop (:class:`~qbridge_core.execute.loops.Tenant`)."""


class Blocker(NamedTuple):
    """What a loop is in.

    Attributes:
        run: the run; None for something that is no task, and where nobody can tell.
        whose: the tenant; None likewise.
        stack: where that is.
    """

    run: Run | None
    whose: object
    stack: FrameType | None


def _context_of(task: object) -> Context | None:
    """The context of a task, which before Python 3.12 has no name for it."""
    return next((each for each in gc.get_referents(task) if isinstance(each, Context)), None)


def _tenant_of(task: object) -> object:
    context = _context_of(task)
    return None if context is None else context.get(tenant)


class LoopThread:
    """An event loop in a daemon thread.

    Args:
        loop: the loop, which does not run yet.
        lifespan: entered before the loop does anything else, and left when what it runs has ended.

    Attributes:
        loop: the loop.
        lifespan: what was given.
        context: what the contexts of its tasks are copies of.
        opened_at: ``monotonic()`` since which it does what is posted; infinite before.
        stopping: True when it is about to end.
        replaced: True when another loop has taken its place, because it was blocked.
        blocked_by: the run that has blocked it then; None where nobody could tell.
        cancelled: the tasks that were cancelled and have not ended, each with the ``monotonic()`` at which it was and
            its tenant.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, lifespan: OpenedLifespan | None = None) -> None:
        self.loop = loop
        self.lifespan = lifespan
        self.context = Context()
        self.opened_at = -math.inf if lifespan is None else math.inf
        self.loop.time = monotonic  # type: ignore[method-assign]  # a test's frozen one would stop what waits
        log_errors_of(self.loop)
        self.stopping = False
        self.replaced = False
        self.blocked_by: Run | None = None
        self.cancelled: dict[object, tuple[float, object]] = {}
        self._blocks: object = None
        self._posted: Mailbox[Callable[[], object]] = Mailbox(self._wake)
        self._is_open = lifespan is None
        self._ended = False
        self._asked_at: float | None = None
        self._answered_at = -math.inf
        self._seen: object = None
        self._seen_at = 0.0
        self._thread = threading.Thread(target=self.run, name="qbridge-asyncio", daemon=True)

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

    def stuck(self, one: object) -> int:
        """How many coroutines of a tenant have not followed their cancellation, and the loop where those block it.

        When nobody knows whose it is that blocks the loop, that is everybody's.
        """
        latest = monotonic() - PATIENCE
        ignoring = sum(at < latest and whose is one for at, whose in list(self.cancelled.values()))
        return ignoring + (self.replaced and self._blocks in (None, one) and self.is_alive)

    def replace(self) -> None:
        """Another loop takes its place, since it is blocked."""
        self.blocked_by, self._blocks, _ = self.blocker()
        self.replaced = True

    def post(self, call: Callable[[], object]) -> None:
        """Have the loop call this, soon and after what was posted before; it must not raise."""
        self._posted.post(call)
        if self._ended:
            self._work()

    def ask(self, answered_within: float = 0.0) -> None:
        """Find out whether the loop still turns; ``is_blocked`` tells the result.

        Args:
            answered_within: seconds; what is no longer ago than this is answer enough.
        """
        if self._asked_at is None and monotonic() - self._answered_at >= answered_within:
            self._asked_at = monotonic()
            self.post(self._answer)

    @property
    def was_asked(self) -> bool:
        """True while a question is unanswered."""
        return self._asked_at is not None

    def stalled(self, now: float) -> Stalled:
        """In any thread: for how long it has left a question unanswered; less than nothing when there is none."""
        asked_at = self._asked_at
        seconds = -1.0 if asked_at is None else now - asked_at
        return Stalled("the event loop of the handlers", seconds, self._thread.ident)

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

    def blocker(self) -> Blocker:
        """What the loop is in, as far as it can be told."""
        frame = self._frame()
        callback = self._callback(frame)
        context = getattr(callback, "_context", None) or _context_of(callback)
        if context is None:
            return Blocker(None, None, frame)
        return Blocker(context.get(current_run), context.get(tenant), frame)

    def cancel(self, one: object) -> None:
        """Cancel all tasks of a tenant, and wait for their end, if the loop can be reached."""
        ended = threading.Event()

        def cancel() -> None:
            tasks = [task for task in asyncio.all_tasks(self.loop) if _tenant_of(task) is one]
            for task in tasks:
                task.cancel()
            if tasks:
                asyncio.gather(*tasks, return_exceptions=True).add_done_callback(lambda _: ended.set())
            else:
                ended.set()

        if self.is_alive:
            self.post(cancel)
            ended.wait(_CLOSE_TIME)

    def stop(self) -> None:
        """End the loop when it turns next."""
        self.stopping = True
        if self.lifespan is not None and not self.lifespan.entered.is_set():
            self.lifespan.close()
        self.post(self.loop.stop)

    def close(self) -> None:
        """Cancel all tasks and end the thread, if it can be reached."""
        self.stop()
        self._thread.join(_CLOSE_TIME)

    def _frame(self) -> FrameType | None:
        return frame_of(self._thread.ident)

    def _callback(self, frame: FrameType | None) -> object:
        """What the loop is calling: for one that is not written in Python, the task alone."""
        callback = None
        with undisturbed:
            while frame is not None:
                if frame.f_code is _CALLS:
                    callback = frame.f_locals.get("self")  # the outermost, if a handler calls others
                frame = frame.f_back
        return asyncio.current_task(self.loop) if callback is None else callback

    def _answer(self) -> None:
        self._asked_at = self._seen = None
        self._answered_at = monotonic()

    def _wake(self) -> None:
        if not self._is_open:
            return  # whoever opens it looks
        with contextlib.suppress(RuntimeError):  # the loop is closed
            self.loop.call_soon_threadsafe(self._work)

    def _work(self) -> None:
        for call in self._posted.take():
            try:
                call()
            except BaseException:  # noqa: BLE001 - those behind it are other tasks' slots
                _log.exception("the event loop of the handlers goes on after an unexpected error")

    def run(self) -> None:
        """What the thread does; until ``stop``, in the calling thread."""
        asyncio.set_event_loop(self.loop)
        try:
            if self.lifespan is not None:
                self._enter(self.lifespan)
            self._turn()
            if self.lifespan is not None:
                self._leave(self.lifespan)
            self._cancel_all()
            self.loop.run_until_complete(self.loop.shutdown_asyncgens())
        finally:
            self.loop.close()
            self._ended = True
            self._work()

    def _enter(self, lifespan: OpenedLifespan) -> None:
        """Enter the lifespan, and do what is posted from then on."""
        self._complete(lifespan.start_on(self.loop))
        if lifespan.is_closed or lifespan.error is not None:
            self.stopping = True
            return
        self.context.run(current_state.set, lifespan.state)
        self.opened_at = monotonic()
        self._is_open = True
        self.loop.call_soon(self._work)

    def _leave(self, lifespan: OpenedLifespan) -> None:
        """Leave the lifespan, when what was cancelled has ended or hangs."""
        assert lifespan.task is not None  # noqa: S101 - it was entered here
        self._complete(asyncio.Task(self._end_of_cancelled(), loop=self.loop))
        lifespan.close_here()
        self._complete(lifespan.task)

    async def _end_of_cancelled(self) -> None:
        latest = monotonic() + PATIENCE
        while self.cancelled and monotonic() < latest:  # noqa: ASYNC110 - they tell nobody
            await asyncio.sleep(_LOOK_EVERY)

    def _cancel_all(self) -> None:
        tasks = asyncio.all_tasks(self.loop)
        for task in tasks:
            task.cancel()
        self._complete(asyncio.gather(*tasks, return_exceptions=True))

    def _complete(self, future: asyncio.Future[Any]) -> None:
        """Run the loop until then. What stops it must not cost the others their cleaning up."""
        while not future.done():
            with contextlib.suppress(BaseException):
                self.loop.run_until_complete(future)

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
