"""A few threads for what tasks of coroutines need and what may block: the broker, hooks, ``redact`` and backoffs.

A thread in which such code of the user's hangs is given up, and another one does the rest, as with the threads of
:mod:`qbridge_core.work.worker`. There are few of them, for most of that is quick. When it is not, there are some more.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable
from contextvars import Context
from typing import Final

from qbridge_core.runtime.clock import monotonic
from qbridge_core.task.foreign import GivenUp, Step, Watched
from qbridge_core.task.lifecycle import Lifecycle
from qbridge_core.task.run import Run
from qbridge_core.work.worker import say_hook_hangs

_USUAL: Final = 4
_MOST: Final = 32
_LONG: Final = 0.25
"""Seconds that a chore waits for a thread before there is one more. Too many would keep the loop from its turns."""
_IDLE_TIME: Final = 5.0


class Chore:
    """Something to do in a thread, for one task.

    Attributes:
        context: in which to do it.
        run: the run that the thread is in, as long as nobody has the right to settle it.
    """

    __slots__ = ("context", "run")

    def __init__(self, context: Context, run: Run | None = None) -> None:
        self.context = context
        self.run = run

    def do(self, watched: Watched) -> None:
        """Do it."""
        raise NotImplementedError

    def after(self) -> None:
        """Do what must come when the thread has left the context, since another one may enter it then."""

    def rest(self, step: Step | None) -> Chore:
        """What is left to be done when the thread was given up in this step."""
        raise NotImplementedError

    def expired(self) -> Chore:
        """What is to be done when the time of its run was over before."""
        raise NotImplementedError


class SettlingThreads:
    """Does chores. Thread-safe, but for ``expire``, which is for one thread.

    Args:
        most: so many threads at most.
        patience: seconds that one call of a user's code may take.
        lifecycle: told of hooks that hang.
        failed: called with what ends a thread and should not.
    """

    def __init__(
        self, most: int, patience: float, lifecycle: Lifecycle, failed: Callable[[BaseException], None]
    ) -> None:
        self._usual = min(most, _USUAL)
        self._most = min(most, _MOST)
        self._patience = patience
        self._lifecycle = lifecycle
        self._failed = failed
        self._changed = threading.Condition()
        self._waiting: deque[tuple[float, Chore]] = deque()
        self._threads: set[_Thread] = set()
        self._abandoned: set[_Thread] = set()
        self._idle = 0
        self._closed = False

    def do(self, chore: Chore) -> None:
        """Have a thread do it, soon."""
        now = monotonic()
        with self._changed:
            self._waiting.append((now, chore))
            self._serve(self._usual if now - self._waiting[0][0] < _LONG else self._most)

    def close(self) -> None:
        """Let the threads end when nothing is left to do."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    @property
    def hanging(self) -> int:
        """How many threads were given up and have not ended."""
        return len(self._abandoned)

    def busy(self) -> Iterable[Watched]:
        """See :class:`~qbridge_core.work.pool.Pool`. Takes no lock."""
        for thread in self._threads.copy():
            chore = thread.chore
            if chore is not None and chore.run is None and thread.watched.call is None:
                yield thread.watched

    def owns_current_thread(self) -> bool:
        """True in one of them, one that was given up included."""
        ident = threading.get_ident()
        with self._changed:
            return any(thread.watched.thread == ident for thread in self._threads | self._abandoned)

    def expire(self) -> float:
        """End what takes too long; return the seconds until the next one can."""
        now = monotonic()
        wait = self._patience
        with self._changed:
            threads = list(self._threads)
            if self._waiting and now - self._waiting[0][0] > _LONG:
                self._serve(self._most)
        for thread in threads:
            chore = thread.chore
            run = None if chore is None else chore.run
            if chore is None:
                continue
            if run is None:
                if thread.watched.give_up(self._patience):
                    self._lifecycle.give_up(thread.watched.thread)
                    self._replace(thread, chore.rest(thread.watched.step))
                continue
            left = run.deadline - now
            if left > 0:
                wait = min(wait, left)
            elif run.cancel():
                if call := thread.watched.call:
                    say_hook_hangs(run, call.name)
                self._replace(thread, chore.expired())
        return wait

    def _replace(self, thread: _Thread, rest: Chore) -> None:
        """Leave a thread to the foreign code that it is in; another one does the rest without that."""
        with self._changed:
            thread.abandoned = True
            if thread in self._threads:  # it may have ended since
                self._threads.discard(thread)
                self._abandoned.add(thread)
            self._waiting.appendleft((monotonic(), rest))
            self._serve(self._usual)

    # The two methods below expect the lock to be held.

    def _serve(self, most: int) -> None:
        """Have a thread for what waits, as far as there may be one more."""
        if len(self._waiting) <= self._idle or len(self._threads) >= most:
            self._changed.notify()
        else:
            self._grow()

    def _grow(self) -> None:
        thread = _Thread(self)
        try:
            thread.start()
        except RuntimeError as exc:  # the system has no thread left
            if not self._threads:
                self._failed(exc)
        else:
            self._threads.add(thread)
            self._idle += 1

    # ------------------------------------------------------------------ in the threads

    def next(self, thread: _Thread) -> Chore | None:
        """Wait for the next chore; None when the calling thread should end."""
        with self._changed:
            while not self._waiting or thread.abandoned:
                if self._closed or thread.abandoned or (not self._changed.wait(_IDLE_TIME) and not self._waiting):
                    self._idle -= 1
                    self._threads.discard(thread)  # now, so that what comes next does not count on it
                    return None
            self._idle -= 1
            return self._waiting.popleft()[1]

    def done(self) -> None:
        """The calling thread has done its chore, and is free for the next one."""
        with self._changed:
            self._idle += 1

    def ended(self, thread: _Thread, error: BaseException | None) -> None:
        """Called by a thread when it ends."""
        with self._changed:
            self._threads.discard(thread)
            self._abandoned.discard(thread)
            if self._waiting and not self._threads:  # what came when it had just found nothing to do
                self._grow()
        if error is not None:
            self._failed(error)


class _Thread:
    """A thread that does one chore after the other.

    Attributes:
        chore: what it does.
        watched: the foreign code that it is in.
        abandoned: True when another one has taken its place.
    """

    def __init__(self, threads: SettlingThreads) -> None:
        self.chore: Chore | None = None
        self.watched = Watched()
        self.abandoned = False
        self._threads = threads
        self._thread = threading.Thread(target=self._run, name="qbridge-settling", daemon=True)

    def start(self) -> None:
        """Start it.

        Raises:
            RuntimeError: the system has no thread left.
        """
        self._thread.start()

    def _run(self) -> None:
        error: BaseException | None = None
        self.watched.begin()
        try:
            self._work()
        except GivenUp:
            pass
        except BaseException as exc:  # noqa: BLE001 - it is not lost in silence
            error = None if self.abandoned else exc
        self._threads.ended(self, error)

    def _work(self) -> None:
        while (chore := self._threads.next(self)) is not None:
            self.chore = chore
            self.watched.turns += 1
            chore.context.run(chore.do, self.watched)
            if self.abandoned:
                return
            chore.after()
            self.chore = None
            del chore  # an idle thread holds nothing of its last task
            self._threads.done()
