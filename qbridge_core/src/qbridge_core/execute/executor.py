"""What stands between a worker's thread and the handler. Here: nothing, the thread calls it.

:mod:`qbridge_core.execute.coroutines` and :mod:`qbridge_core.execute.processes` have the other ways to run one.
"""

from __future__ import annotations

import functools
import inspect
import threading
from collections.abc import Callable, Coroutine, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Protocol, TypeGuard

from qbridge_core.errors import ConfigurationError
from qbridge_core.execute.interrupt.owncode import OwnCode
from qbridge_core.runtime.signatures import call_signature
from qbridge_core.task.context import TaskContext, current_task
from qbridge_core.task.routing import Router
from qbridge_core.task.run import Run
from qbridge_core.task.verdict import Verdict

if TYPE_CHECKING:
    from qbridge_core.execute.lifespan import Lifespan, OpenedLifespan
    from qbridge_core.execute.lifespanthread import LifespanThread

Handler = Callable[[Any], object] | Callable[[Any, TaskContext], object]

loading: Final = threading.Event()
"""Set in a child process while it imports the program that it was started for."""


class NotStartedError(Exception):
    """There was no run that counts, for a reason that is none of the task's doing."""


class Progress(NamedTuple):
    """What has become of tasks that are run together.

    Attributes:
        done: those that have succeeded, in the order in which they ran.
        failed: the one that has failed, and what its end asks for.
        others: those that do not begin any more.
    """

    done: Sequence[Run]
    failed: tuple[Run, Verdict] | None
    others: Sequence[Run]


class Together(Protocol):
    """Tasks that are run one after the other, until one fails or they take too long."""

    @property
    def unfinished(self) -> Sequence[Run]:
        """In any thread: the one that is at work, and those behind it; none at the end."""
        ...

    def follow(self) -> Progress:
        """Begin, or wait for a moment; what has become of the tasks since the last time."""
        ...


class Executor:
    """Runs the handler in the worker's own thread; the base of the other executors. Thread-safe.

    Attributes:
        execute: called by a worker's thread as ``execute(payload)``; raises what the handler raises, one of
            ``not_started``, or :class:`~qbridge_core.task.verdict.Judged`. An attribute and not a method, so that
            nothing stands on the stack between the worker and the handler.
        not_started: the exceptions that mean :class:`NotStartedError`; none where the handler could raise them itself.
        takes_many: True where ``together`` runs several tasks for less than one by one.
        in_thread: True when the handler stands on the worker's own stack.
        on_loop: True when handlers run on an event loop, and not in workers' threads.
        own: the code in which HandlerTimeout may be raised when a run is late; None to leave late runs alone.
        lifespan: what is opened before the first task and closed after the last one.
        state: what that yields to handlers in workers' threads.
        lifespan_failed: called with the error when it cannot be entered, or has ended too early; may be replaced.

    Args:
        handler: what to call.
        interrupt: whether to raise HandlerTimeout in it.
        lifespan: see above.
    """

    takes_many = False
    in_thread = True
    on_loop = False
    not_started: tuple[type[NotStartedError], ...] = ()
    own: OwnCode | None = None
    state: Any = None
    lifespan_failed: Callable[[BaseException], object] = staticmethod(lambda _: None)

    def __init__(
        self, handler: Callable[[Any], object], interrupt: bool = False, lifespan: Lifespan | None = None
    ) -> None:
        self.execute = handler
        self.lifespan = lifespan
        self._opened: OpenedLifespan | None = None
        self._lifespan_thread: LifespanThread | None = None
        self._ends = False
        if interrupt:
            self.own = own_code(handler)

    def open(self) -> None:
        """Enter the lifespan, if there is one; wait until it is entered or ``close`` is called. Call it once.

        Raises:
            BaseException: whatever keeps it from being entered.
        """
        if self.lifespan is None:
            return
        from qbridge_core.execute.lifespanthread import LifespanThread

        thread = self._lifespan_thread = LifespanThread(self.lifespan, self.lifespan_failed)
        if self._ends:  # ``close`` may have looked before
            thread.close()
        thread.start()
        self._opened = thread.opened
        self.state = thread.opened.wait()

    @property
    def has_left(self) -> bool:
        """True when a lifespan that ``close`` has asked to end has been left."""
        return self._opened is None or self._opened.left.is_set()

    def abandon(self) -> None:
        """End what ``close`` has left to end by itself, as far as that can be done."""

    def prepare(self) -> bool:
        """Get ready for a task, before the calling worker takes one. May block; False when it should take none.

        Raises:
            ConfigurationError: handlers can never be run.
        """
        return True

    @property
    def room(self) -> int:
        """How many tasks the calling thread may have run together now."""
        return 1

    def together(self, runs: Sequence[Run]) -> AbstractContextManager[Together]:
        """Have several tasks run by the calling thread's means, within this block.

        Raises:
            NotStartedError: nothing has begun.
        """
        raise NotImplementedError

    def cancel(self, run: Run) -> None:
        """End a run whose result no longer counts; not here, where it runs in the worker's own thread."""

    def release(self, ident: int | None = None) -> None:
        """The calling worker's thread ends, or the one of this identifier will run no more handler."""

    def stuck(self, abandoned: int) -> int:
        """How many handlers hold something that cannot be taken from them, when so many worker threads do not end."""
        return abandoned

    def owns_current_thread(self) -> bool:
        """True in a thread of its own, in which code of the user's runs or may run."""
        return self._lifespan_thread is not None and self._lifespan_thread.owns_current_thread()

    def close(self) -> None:
        """End what still runs, in bounded time, and have the lifespan left; ``has_left`` tells when that is done."""
        self._ends = True
        if self._lifespan_thread is not None:
            self._lifespan_thread.close()


class _WithContext:
    """Calls a handler with its payload and its context. Can be pickled when the handler can."""

    __slots__ = ("func",)

    def __init__(self, func: Callable[[Any, TaskContext], object]) -> None:
        self.func = func

    def __call__(self, payload: Any) -> object:
        return self.func(payload, current_task())


def checked_handler(handler: object) -> Callable[[Any], object]:
    """The handler as a function of the payload alone.

    It gets its :class:`~qbridge_core.TaskContext` as well when it cannot be called without a second argument; a second
    parameter that has a default, or ``*args``, may mean anything and is left alone. A handler without a second argument
    is returned as it is, so that calling it costs nothing more.

    Raises:
        ConfigurationError: it cannot be a handler.
    """
    if inspect.iscoroutine(handler):
        handler.close()  # or Python would warn that nobody awaits it
        raise ConfigurationError(
            f"handler must be a function, and {handler.__qualname__} was called already: leave out the parentheses "
            "and what is between them"
        )
    if not callable(handler):
        raise ConfigurationError(f"handler must be callable as handler(payload), not {handler!r}")
    if inspect.isgeneratorfunction(handler) or inspect.isasyncgenfunction(handler):
        raise ConfigurationError(
            "handler is a generator function (it has a yield): calling it would run nothing. Give a function that does "
            "the work and returns, for example one that goes through what this one yields"
        )
    try:
        shown, own = call_signature(handler), call_signature(handler, follow_wrapped=False)
    except (TypeError, ValueError):
        return handler  # some builtins have no signature to look at
    problem = _cannot_bind(shown, 1)
    # A decorator may supply the second argument itself, and still show the signature of what it decorates.
    if problem is None or (_cannot_bind(own, 1) is None and _cannot_bind(own, 2) is not None):
        return handler
    if _cannot_bind(shown, 2) is None:
        return _WithContext(handler)
    name = getattr(handler, "__qualname__", type(handler).__qualname__)
    raise ConfigurationError(
        "handler must accept one argument, the payload, or two, the payload and its context; "
        f"{name}({', '.join(shown.parameters)}) does not: {problem}"
    )


def _cannot_bind(signature: inspect.Signature, count: int) -> TypeError | None:
    try:
        signature.bind(*[None] * count)
    except TypeError as exc:
        return exc
    return None


def unwrapped(handler: Callable[..., object]) -> Callable[..., object]:
    """What a handler calls in the end: without partials, and without what gives it its context."""
    while isinstance(handler, functools.partial | _WithContext):
        handler = handler.func
    return handler


def own_code(handler: Callable[..., object]) -> OwnCode:
    """What belongs to a handler."""
    if isinstance(handler, Router):
        return OwnCode(*handler.functions)
    return OwnCode(handler.func if isinstance(handler, _WithContext) else handler)


def is_coroutine_function(handler: Callable[..., object]) -> TypeGuard[Callable[..., Coroutine[Any, Any, object]]]:
    """True when a call of the handler makes a coroutine."""
    handler = unwrapped(handler)
    return inspect.iscoroutinefunction(handler) or inspect.iscoroutinefunction(type(handler).__call__)


def refuse_unstarted(result: object) -> None:
    """A coroutine or generator that nobody runs would look like a success without any work done.

    Raises:
        TypeError: the handler returned one.
    """
    if result is None:
        return
    advice = "let the handler be `async def` and await it"
    if inspect.iscoroutine(result):
        result.close()
    elif inspect.isgenerator(result):
        result.close()
        advice = "let the handler go through it, and return"
    elif inspect.isasyncgen(result):
        advice = "let the handler be `async def` and go through it"
    elif not inspect.isawaitable(result):
        return
    raise TypeError(f"the handler returned a {type(result).__name__} that would never run; {advice}")
