"""Connections to databases, around each run as around a request."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any, Final

from asgiref.sync import SyncToAsync, ThreadSensitiveContext
from django.db import close_old_connections, connections, reset_queries

from qbridge_core.runtime.logs import logger

_log: Final = logger("qbridge.django")


def with_connections(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function, with a look at the connections before and after it.

    A function uses those of its thread: such as are too old or broken are closed. A coroutine uses those of a thread
    that is its own for this run, which ends with it.
    """
    return _around_coroutine(function) if inspect.iscoroutinefunction(function) else _around_function(function)


def _around_function(function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def run(*args: Any, **kwargs: Any) -> Any:
        _tidy()
        try:
            return function(*args, **kwargs)
        finally:
            _tidy()

    return run


def _around_coroutine(function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    async def run(*args: Any, **kwargs: Any) -> Any:
        async with ThreadSensitiveContext() as context:
            try:
                return await function(*args, **kwargs)
            finally:
                _end_thread(context)

    return run


def _tidy() -> None:
    """What a request does at its beginning and its end. An error is none of the task's: its next query will tell."""
    try:
        reset_queries()
        close_old_connections()
    except Exception:  # noqa: BLE001 - of any driver
        _log.exception("connections to databases could not be looked after")


def _end_thread(context: ThreadSensitiveContext) -> None:
    """End the thread that a run has used for what is not async, if it did, and wait neither for it nor for a database.

    Leaving the context would wait, and stop the event loop: a query may still run that nobody waits for any more.
    """
    thread = SyncToAsync.context_to_thread_executor.pop(context, None)
    if thread is not None:
        thread.submit(_close_all)
        thread.shutdown(wait=False)


def _close_all() -> None:
    try:
        connections.close_all()
    except Exception:  # noqa: BLE001 - of any driver
        _log.exception("connections to databases could not be closed")
