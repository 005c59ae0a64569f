"""The hooks that plugins implement (pluggy project name ``qbridge``).

A backend implements :func:`qbridge_backends` in the module that its entry points name. Anybody can implement the
lifecycle hooks and pass the object as ``TaskManager(plugins=[...])``; a misspelled or misdeclared hook is refused
when it is registered. Lifecycle hooks run in the worker's threads, so they must be quick and thread-safe; an
exception that one raises is logged and changes nothing for the task. One that does not return for as long as a task may
take, at least a second, is left out: another thread takes the place of the one that it holds.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

import pluggy

from qbridge_core.contract.client import QueueClient

if TYPE_CHECKING:
    from qbridge_core.contract.dead_letter import Failure, Reason
    from qbridge_core.contract.settlement import Settlement

PROJECT = "qbridge"
hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)
"""Marks a function as an implementation of one of these hooks."""

BackendFactory = Callable[[str, Mapping[str, object]], QueueClient]
"""Builds an unconnected client from a URL and the keyword options given to ``connect``."""


@hookspec
def qbridge_backends() -> Mapping[str, BackendFactory]:  # type: ignore[empty-body]
    """Return the client factory for each URL scheme that this backend serves."""


@hookspec
def qbridge_worker_started(queue: str, worker: str, client: QueueClient) -> None:
    """A TaskManager began to consume. ``worker`` is ``host:pid``, ``client`` the one that it was given."""


@hookspec
def qbridge_worker_stopping(queue: str, worker: str, reason: str, client: QueueClient) -> None:
    """A TaskManager was asked to stop; running tasks still get their grace period.

    ``reason`` is the name of the signal (``SIGTERM``), ``stop() was called``, or the error that ends it.
    """


@hookspec
def qbridge_task_started(queue: str, task_id: str, attempt: int) -> None:
    """A handler is about to run. ``attempt`` counts from 1."""


@hookspec
def qbridge_task_succeeded(queue: str, task_id: str, attempt: int, duration: float) -> None:
    """A handler returned after ``duration`` seconds and its message was acknowledged."""


@hookspec
def qbridge_task_failed(queue: str, task_id: str, attempt: int, exception: BaseException) -> None:
    """A handler raised. What becomes of the task is told by ``retried`` or ``dead_lettered``.

    A child process sends texts only: then ``exception`` is a :class:`~qbridge_core.RemoteError`.
    """


@hookspec
def qbridge_task_timed_out(queue: str, task_id: str, attempt: int, timeout: float) -> None:
    """A handler ran longer than ``timeout`` seconds. ``retried`` or ``dead_lettered`` follows."""


@hookspec
def qbridge_task_retried(queue: str, task_id: str, attempt: int, delay: float) -> None:
    """The failed attempt will be followed by another one after ``delay`` seconds."""


@hookspec
def qbridge_task_dead_lettered(queue: str, task_id: str, failure: Failure) -> None:
    """The message is in the dead-letter queue."""


@hookspec
def qbridge_task_run(
    task: Any, system: str, server: tuple[str, int | None] | None
) -> AbstractContextManager[object] | None:
    """Return a context manager to put around a run, or None; ``task`` is its :class:`~qbridge_core.TaskContext`.

    It is entered where the handler runs: in the worker's thread, on the event loop, or in the child process, before the
    handler and in its context, so that a context variable that it sets is set in the handler. It is left with what the
    handler has raised (``HandlerTimeout`` or ``asyncio.CancelledError`` when it was too late), and cannot swallow that.
    When a handler has not ended a second after its time is over, or when its worker has stopped, another thread leaves
    it, once, with a ``HandlerTimeout``, in a copy of the context: tokens of context variables are useless there.

    With ``executor="process"`` the plugin goes to the child processes and must be one that can be pickled, or named as
    ``"module:name"``. Of several plugins the first is entered first, and left last.
    """


@hookspec
def qbridge_task_abandoned(queue: str, task_id: str, attempt: int) -> None:
    """A handler has not ended a second after its time was over, and is left to itself. Not told of child processes."""


@hookspec
def qbridge_task_settled(
    queue: str,
    task_id: str,
    attempt: int,
    outcome: str,
    reason: Reason | None,
    wait: float | None,
    duration: float | None,
    settling: float,
    message_id: str | None,
    headers: Mapping[str, Any],
    system: str,
    server: tuple[str, int | None] | None,
) -> None:
    """A delivery has ended, and the broker has agreed; the arguments up to ``settling`` are those of a ``Settlement``.

    Called for each task, in the worker's thread and the task's context, before ``succeeded``, ``retried`` or
    ``dead_lettered``. ``message_id`` and ``headers`` are the producer's, ``system`` is the client's: ``rabbitmq``,
    ``redis``, ``memory``, …; so is ``server``, its host and port where that is one server.
    """


@hookspec
def qbridge_settlements(queue: str, settlements: Sequence[Settlement], running: int) -> None:
    """The same for many tasks together: for those who count, and costs each task next to nothing.

    Called four times a second at most, when there is something new, and at the end of the worker; in a thread of its
    own, one call at a time for each worker. ``running`` is how many handlers run now, of which it tells as well. Where
    thousands of quick tasks succeed in a second, one stands for several: see ``Settlement.times``.
    """


@hookspec
def qbridge_task_handed_back(queue: str, task_id: str) -> None:
    """A message went back to its queue, nothing counted: the worker stops, or could not begin it."""


@hookspec
def qbridge_task_crashed(queue: str, task_id: str, crashes: int, suspected: bool) -> None:
    """A process died of a task. What becomes of the task is told by ``retried`` or ``dead_lettered``.

    ``crashes`` are those charged to it, this one included. With ``suspected`` it may have been another task that the
    process ran: this one is not charged, and runs apart.
    """


@hookspec
def qbridge_settlement_repeated(queue: str) -> None:
    """A settlement did not succeed and is tried again: the broker is away, or refuses it."""


@hookspec
def qbridge_before_publish(
    queue: str,
    message_id: str | None,
    headers: Mapping[str, str],
    system: str,
    server: tuple[str, int | None] | None,
) -> Mapping[str, str] | None:
    """A message is about to be published; return headers to add to it, or None.

    Called in the publishing thread for each message. The producer's own headers, which ``headers`` shows, stay as they
    are; of two plugins that add the same one, the first has the last word.
    """


@hookspec
def qbridge_published(
    queue: str,
    count: int,
    duration: float,
    exception: BaseException | None,
    system: str,
    server: tuple[str, int | None] | None,
) -> None:
    """A call of ``publish`` or ``publish_many`` ends: all is confirmed, or there is the exception that it raises.

    Called in the publishing thread, after ``duration`` seconds. ``count`` is how many messages the client was given.
    """


@hookspec
def qbridge_connection_lost(address: str, exception: BaseException, system: str) -> None:
    """A client has lost its broker, and tries to reach it again. ``address`` is the broker, without a password.

    Called in a thread of its own.
    """


@hookspec
def qbridge_connection_regained(address: str, duration: float, system: str) -> None:
    """It has its broker again, after ``duration`` seconds. Called in a thread of its own."""
