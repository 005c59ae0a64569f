"""The last line between a caller and errors that are not QBridge's: what a backend has not dealt with ends here."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator
from typing import Final, ParamSpec, TypeVar

from qbridge_core.errors import QBridgeError

P = ParamSpec("P")
R = TypeVar("R")
T = TypeVar("T")
_NO_THREAD: Final = "can't start new thread"


class _CallersError(Exception):
    """What the caller's own iterable raised; the ``__cause__`` crosses as it is."""


def guarded(translated: Callable[[Exception], QBridgeError]) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Make a decorator for the public methods of a client, which lets only QBridge's errors out of them.

    What Python itself raises for arguments that the method does not have stays a ``TypeError``, and what an iterable
    of the caller's raises stays what it is (:func:`callers_own`).

    Args:
        translated: makes QBridge's error of one that nobody has dealt with, which becomes its cause.
    """

    def decorate(method: Callable[P, R]) -> Callable[P, R]:
        @functools.wraps(method)
        def call(*args: P.args, **kwargs: P.kwargs) -> R:
            try:
                return method(*args, **kwargs)
            except QBridgeError:
                raise
            except _CallersError as exc:
                raise exc.__cause__ or exc from None
            except Exception as exc:
                if exc.__traceback__ is not None and exc.__traceback__.tb_next is None:
                    raise  # Python's own TypeError: the caller has passed arguments that do not exist
                raise translated(exc) from exc

        return call

    return decorate


def callers_own(items: Iterable[T]) -> Iterator[T]:
    """The same items; what the caller's iterable raises passes a :func:`guarded` method unchanged."""
    try:
        yield from items
    except Exception as exc:
        raise _CallersError from exc


def is_passing(exc: BaseException) -> bool:
    """True for what the system cannot give now and may give later: a descriptor, memory, a thread."""
    return isinstance(exc, OSError | MemoryError) or _NO_THREAD in str(exc)
