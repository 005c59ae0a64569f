"""What a worker process opens once for all its tasks and closes at its end: the ``lifespan`` of a ``TaskManager``.

It is entered and left in one thread and, where there is a loop, in one task, as cancel scopes and task groups ask for.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from typing import TYPE_CHECKING, Any, Final, TypeGuard

from qbridge_core.errors import ConfigurationError, QBridgeError
from qbridge_core.runtime.logs import logger
from qbridge_core.runtime.signatures import call_signature

if TYPE_CHECKING:
    import asyncio

Lifespan = Callable[[], AbstractContextManager[Any] | AbstractAsyncContextManager[Any]]

_log: Final = logger("qbridge.worker")
_WANTED: Final = (
    "a function decorated with contextlib.contextmanager or contextlib.asynccontextmanager, "
    "or a class of context managers"
)
_MISUSED: Final = {
    "generator didn't yield": "it ended without a yield, and nothing was opened",
    "generator didn't stop": "it yielded again when it was to close what it had opened",
}
"""What contextlib says of generators that are no context managers, without their names; and what that means."""


def checked_lifespan(lifespan: object) -> Lifespan | None:
    """What makes a context manager whenever it is called without arguments, or None.

    Raises:
        ConfigurationError: it cannot; the text says what to do.
    """
    if lifespan is None:
        return None
    if _is_manager(lifespan) and not isinstance(lifespan, type):
        raise ConfigurationError(
            f"lifespan is a context manager, which can be entered once ({lifespan!r}), and each worker process and "
            "each new event loop needs one of its own. Give what makes it: lifespan=make, not lifespan=make()"
        )
    if not callable(lifespan):
        raise ConfigurationError(f"lifespan must be {_WANTED}, not {lifespan!r}")
    if problem := _wrong_kind(lifespan):
        raise ConfigurationError(f"lifespan {problem}")
    try:
        call_signature(lifespan).bind()
    except TypeError as exc:
        raise ConfigurationError(
            f"lifespan is called without arguments, which {_name(lifespan)} does not allow: {exc}; "
            "bind them with functools.partial"
        ) from exc
    except ValueError:
        pass  # some builtins have no signature to look at
    return lifespan  # what it returns is seen when it is called


def _wrong_kind(lifespan: Callable[..., object]) -> str:
    """What is wrong about a function or class; "" when it may be right."""
    if isinstance(lifespan, type):
        name = lifespan.__name__
        return (
            "" if _has(lifespan, "__enter__", "__aenter__") else f"is a class whose objects cannot be entered: {name}"
        )
    called = type(lifespan).__call__
    if inspect.isgeneratorfunction(lifespan) or inspect.isgeneratorfunction(called):
        return f"is a generator function: put @contextlib.contextmanager above {_name(lifespan)}"
    if inspect.isasyncgenfunction(lifespan) or inspect.isasyncgenfunction(called):
        return f"is an async generator function: put @contextlib.asynccontextmanager above {_name(lifespan)}"
    if inspect.iscoroutinefunction(lifespan) or inspect.iscoroutinefunction(called):
        return (
            f"is a coroutine function, which says nothing of the end: let {_name(lifespan)} yield what the handlers "
            "need, and put @contextlib.asynccontextmanager above it"
        )
    return ""


def _name(lifespan: object) -> str:
    while isinstance(lifespan, functools.partial):
        lifespan = lifespan.func
    return f"{getattr(lifespan, '__qualname__', type(lifespan).__qualname__)}"


def _has(kind: type, *names: str) -> bool:
    return any(hasattr(kind, name) for name in names)


def _is_manager(value: object) -> bool:
    return _has(type(value), "__enter__", "__aenter__")


def is_synchronous(manager: object) -> TypeGuard[AbstractContextManager[Any]]:
    """True for what ``with`` can enter."""
    return _has(type(manager), "__enter__")


def make(lifespan: Lifespan) -> AbstractContextManager[Any] | AbstractAsyncContextManager[Any]:
    """A context manager that nobody has entered.

    Raises:
        ConfigurationError: the function makes something else.
        BaseException: whatever the function raises.
    """
    manager: Any = lifespan()
    if not _is_manager(manager):
        if inspect.iscoroutine(manager):
            manager.close()
        raise ConfigurationError(
            f"lifespan must be {_WANTED}, but {_name(lifespan)} returned {manager!r}. What is opened there must be "
            "yielded once, and closed below the yield"
        )
    if not (hasattr(manager, "gen") and type(manager).__module__ == "contextlib"):
        return manager  # type: ignore[no-any-return]
    # Of those that contextlib makes from generators it is known: they forget their arguments when they are entered.
    if not hasattr(manager, "args"):
        raise ConfigurationError(
            f"lifespan returned a context manager that was entered before ({manager!r}): "
            "it must make a new one whenever it is called"
        )
    return _explaining(manager) if is_synchronous(manager) else _explaining_on_loop(manager)


@contextlib.contextmanager
def _explaining(manager: AbstractContextManager[Any]) -> Iterator[Any]:
    try:
        with manager as state:
            yield state
    except RuntimeError as exc:
        if (problem := _misuse(exc, manager)) is None:
            raise
        raise problem from exc


@contextlib.asynccontextmanager
async def _explaining_on_loop(manager: AbstractAsyncContextManager[Any]) -> AsyncIterator[Any]:
    try:
        async with manager as state:
            yield state
    except RuntimeError as exc:
        if (problem := _misuse(exc, manager)) is None:
            raise
        raise problem from exc


def _misuse(error: RuntimeError, manager: object) -> ConfigurationError | None:
    """What to say of a generator that yields never or twice, if that is what has come out of its context manager."""
    meaning, last = _MISUSED.get(str(error)), error.__traceback__
    while last is not None and last.tb_next is not None:
        last = last.tb_next
    if meaning is None or last is None or last.tb_frame.f_locals.get("self") is not manager:
        return None  # or it is said of another one, which this one has entered
    name = _name(getattr(manager, "gen", None))
    return ConfigurationError(f"lifespan must yield once, and {name} does not: {meaning}")


class OpenedLifespan:
    """A lifespan from its entering to its leaving. Thread-safe.

    ``live`` is called once, or ``start_on``, or the second when the first returns False.

    Attributes:
        state: what it yields, once it is entered.
        error: why it could not be entered, or has ended too early.
        entered: set when the entering has ended, well or not.
        left: set when nothing more will come of it.
        task: what lives it, on a loop.

    Args:
        lifespan: makes the context manager.
        failed: called with the error when that is known, before ``entered`` and ``left`` are set; must not raise.
    """

    def __init__(self, lifespan: Lifespan, failed: Callable[[BaseException], object] = lambda _: None) -> None:
        self.state: Any = None
        self.error: BaseException | None = None
        self.entered: Final = threading.Event()
        self.left: Final = threading.Event()
        self.task: asyncio.Task[None] | None = None
        self._lifespan = lifespan
        self._failed = failed
        self._closed = threading.Event()
        self._is_open = False
        self._thread = 0
        self._loop: asyncio.AbstractEventLoop | None = None
        self._end_of_entering: asyncio.Future[None] | None = None
        self._end: asyncio.Future[None] | None = None

    @property
    def is_closed(self) -> bool:
        """True after ``close``."""
        return self._closed.is_set()

    @property
    def is_current(self) -> bool:
        """True in the thread that enters and leaves it."""
        return self._thread == threading.get_ident()

    def wait(self) -> Any:
        """Wait until it is entered, and return what it yields; None when it was closed before.

        Raises:
            BaseException: whatever has kept it from being entered.
        """
        self.entered.wait()
        if self.error is not None:
            raise self.error
        return self.state

    def close(self) -> None:
        """Have it left, or its entering given up, soon. May be called again."""
        self._closed.set()
        if self._loop is not None:
            with contextlib.suppress(RuntimeError):  # the loop is closed
                self._loop.call_soon_threadsafe(self.close_here)

    # ------------------------------------------------------------------ in a thread without a loop

    def live(self) -> bool:
        """Enter, wait for ``close``, and leave, in this thread; False when it needs a loop. Never raises."""
        self._thread = threading.get_ident()
        if self._closed.is_set():
            self._say_left()
            return True
        try:
            manager = make(self._lifespan)
        except BaseException as exc:  # noqa: BLE001 - whatever a user's code raises
            self.fail(exc)
            return True
        if is_synchronous(manager):
            self._live(manager)
            return True
        self._lifespan = lambda: manager
        return False

    def _live(self, manager: AbstractContextManager[Any]) -> None:
        try:
            with manager as state:
                self._say_entered(state)
                self._closed.wait()
        except BaseException as exc:  # noqa: BLE001 - whatever a user's code raises
            self._fail(exc)
        self._say_left()

    # ------------------------------------------------------------------ in a loop

    def start_on(self, loop: asyncio.AbstractEventLoop) -> asyncio.Future[None]:
        """Begin to live in a task of this loop, in its thread; return what is done when it is entered, or cannot be."""
        import asyncio  # here, for others do without it

        self._thread = threading.get_ident()
        self._end_of_entering, self._end = loop.create_future(), loop.create_future()
        self._loop = loop
        self.task = asyncio.Task(self._live_on_loop(), loop=loop)  # whatever a task factory does
        if self._closed.is_set():
            self.close_here()
        return self._end_of_entering

    def close_here(self) -> None:
        """As ``close``, in the loop."""
        self._closed.set()
        if not self.entered.is_set():
            assert self.task is not None  # noqa: S101 - it was started
            self.task.cancel()
        elif self._end is not None and not self._end.done():
            self._end.set_result(None)

    async def _live_on_loop(self) -> None:
        import asyncio  # as above

        assert self._end is not None  # noqa: S101 - ``start_on`` calls this
        try:
            async with _asynchronous(make(self._lifespan)) as state:
                self._say_entered(state)
                if not self._closed.is_set():
                    await self._end
            if not self._closed.is_set():  # it has swallowed a cancellation
                raise asyncio.CancelledError
        except asyncio.CancelledError as exc:
            problem = QBridgeError("the lifespan was cancelled, by itself or by something else on its event loop")
            problem.__cause__ = exc
            self._fail(problem)
        except BaseException as exc:  # noqa: BLE001 - whatever a user's code raises
            self._fail(exc)
        self._say_left()

    # ------------------------------------------------------------------ both

    def fail(self, error: BaseException) -> None:
        """It cannot be entered at all."""
        self._fail(error)
        self._say_left()

    def _say_entered(self, state: object) -> None:
        self.state = state
        self._is_open = True
        self._end_entering()

    def _end_entering(self) -> None:
        self.entered.set()
        if self._end_of_entering is not None and not self._end_of_entering.done():
            self._end_of_entering.set_result(None)

    def _say_left(self) -> None:
        self._end_entering()
        self._thread = 0  # another thread may be called so from now on
        self.left.set()

    def _fail(self, error: BaseException) -> None:
        """Something was raised: by the entering, the leaving, or, on a loop, in between."""
        if not self._closed.is_set():
            self.error = error
            self._failed(error)
        elif self._is_open:
            _log.error("the lifespan was not left without an error", exc_info=error)
        else:
            _log.debug("the lifespan was given up while it was entered", exc_info=error)


def _asynchronous(
    manager: AbstractContextManager[Any] | AbstractAsyncContextManager[Any],
) -> AbstractAsyncContextManager[Any]:
    if _has(type(manager), "__aenter__"):
        return manager  # type: ignore[return-value]
    return _adapted(manager)  # type: ignore[arg-type]


@contextlib.asynccontextmanager
async def _adapted(manager: AbstractContextManager[Any]) -> AsyncIterator[Any]:
    with manager as state:
        yield state
