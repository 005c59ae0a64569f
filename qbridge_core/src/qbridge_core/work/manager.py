"""``TaskManager``: a handler, a queue and a dead-letter queue, run by worker threads until told to stop."""

from __future__ import annotations

import contextlib
import math
import threading
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Final, Literal, Self

from qbridge_core.contract.checks import require_seconds
from qbridge_core.contract.client import QueueClient
from qbridge_core.errors import BrokerUnavailableError, ConfigurationError, IdleTimeoutError, NotConnectedError
from qbridge_core.execute.executor import Handler, checked_handler, loading, own_code
from qbridge_core.runtime.clock import monotonic
from qbridge_core.runtime.logs import flush, logger
from qbridge_core.runtime.signals import stop_signals
from qbridge_core.runtime.trying import keep_trying
from qbridge_core.task.formats.base import Format
from qbridge_core.task.formats.chosen import formats_of
from qbridge_core.task.lifecycle import Lifecycle
from qbridge_core.task.outcome import RunReport, Tally
from qbridge_core.task.retry import IMMEDIATELY, Backoff, ExceptionRule, RetryPolicy
from qbridge_core.task.routing import Router
from qbridge_core.task.runhooks import RunHooks
from qbridge_core.task.terms import Terms
from qbridge_core.telemetry.health import SILENCE, STALL, Health
from qbridge_core.work.arguments import (
    check_backoffs,
    check_queues,
    checked_client,
    checked_count,
    checked_crashes,
    checked_exceptions,
    checked_flag,
    checked_loop_factory,
    checked_program,
    checked_redact,
    checked_rules,
)
from qbridge_core.work.currentsession import CurrentSession
from qbridge_core.work.health import of_ended, of_silent
from qbridge_core.work.idle import WorkLeft
from qbridge_core.work.plan import Plan, usual_workers
from qbridge_core.work.session import INTERRUPTED, Session
from qbridge_core.work.settle.rules import Rules

if TYPE_CHECKING:
    import asyncio

    from qbridge_core.execute.lifespan import Lifespan

_log: Final = logger("qbridge.manager")
_IDLE_POLL: Final = 0.02
_LAST_MOMENT: Final = 0.5
DEFAULT_GRACE_PERIOD: Final = 25.0
DEFAULT_MAX_ABANDONED: Final = 100


class TaskManager:
    """Consumes tasks from a queue and runs a handler on each, at least once.

    A message is acknowledged after its handler returned. When the handler raises or runs too long, the message is
    retried up to ``max_retries`` times and then moved to the dead-letter queue with an explanation. Anything
    that is not a task goes there at once. The counting travels with the message, so it survives restarts and goes on in
    other workers.

    Args:
        queue_client: a connected client; the manager never disconnects it.
        handler: called as ``handler(payload)`` in one of the worker threads; it must be thread-safe if
            ``max_workers`` is not 1, and raise an exception when the task failed. What it returns is ignored. An
            ``async def`` handler runs on an event loop that all tasks share, and is cancelled at its timeout. One
            that needs a second argument gets its :class:`~qbridge_core.TaskContext`, as from
            :func:`~qbridge_core.current_task`; a second parameter with a default keeps its default.
        input_queue: where the tasks come from; created when missing.
        dead_letter_queue: where failed tasks go; created when missing.
        max_retries: how often to retry after the first failed run.
        task_timeout: seconds that a run may take, counted from its start. A handler that runs longer has failed; its
            thread is replaced, and what it still does is ignored; its process is killed.
        max_workers: how many tasks run at once; ``None`` means 100 for an ``async def`` handler, which needs no thread
            for each, ``min(32, processors + 4)`` for a function, and ``processors`` for processes: those that an
            affinity and a container's limit leave to this process.
        backoff: delays between attempts, held by the broker; none by default.
        dead_letter_on: exception types that are dead-lettered at once, without a retry. A handler can also raise
            :class:`~qbridge_core.Retry`, :class:`~qbridge_core.Reject` or :class:`~qbridge_core.Snooze`.
        retry_rules: :class:`~qbridge_core.ExceptionRule` objects that give some exception types a backoff or a limit of
            their own; the first that matches counts.
        grace_period: seconds that running tasks get to finish when the manager stops.
        max_crashes: how many processes a task may kill before it is dead-lettered as ``crashed``, at least 2: at the
            first death another task may be the cause, so a suspect runs the next time in a child process of its own,
            which imports the handler's module only; where that cannot be, alone in a worker. Needs a backend that sees
            such deaths (``capabilities.crashes``).
        max_abandoned: how many handlers, hooks and the like may hang past their timeout, each holding a thread, before
            the manager stops and raises :class:`~qbridge_core.TooManyStuckTasksError`.
        max_message_bytes: a longer message is malformed; ``None`` means what the client publishes at most.
        plugins: objects or modules that implement lifecycle hooks (:mod:`qbridge_core.hookspecs`), or names of such as
            ``"module:name"``, which are imported; of a class an object is made. A hook that does not
            return for ``task_timeout``, at least a second, is left out and its thread replaced, as are a backoff, whose
            delay then counts as 0, and ``redact``.
        executor: ``"thread"``, or ``"process"`` to run each handler in one of ``max_workers`` child processes: then a
            handler can be killed when its time is over, may crash its process, and does not share the interpreter
            with the others. Another process must be able to import it, and the main program must be guarded by
            ``if __name__ == "__main__":``, as for ``multiprocessing``. Not on Windows.
        interrupt: whether :class:`~qbridge_core.HandlerTimeout` is raised in a handler whose time is over, as soon as
            control is in code of the handler's own top-level package. ``False`` lets it run on; it is fenced and its
            thread replaced all the same. Of no effect on ``async def`` handlers, which are cancelled, and processes.
        max_tasks_per_child: a child process is replaced after so many runs; ``None`` means never.
        max_memory_per_child: a child process that holds more bytes of memory after a run is replaced; ``None`` means
            never.
        redact: called with the text of a handler's exception and with its traceback, before they are logged or written
            into a dead letter; returns what may be shown. When it raises or hangs, the text is left out. Hooks see the
            exception itself. It should be quick, and is called by several threads.
        loop_factory: makes the event loop of an ``async def`` handler, and the one that takes its place when it is
            blocked: ``uvloop.new_event_loop``, for one. ``None`` means the one that asyncio makes. What it raises ends
            ``start``. Not with ``executor="process"``.
        lifespan: called without arguments; returns a context manager, sync or async, that is entered once in each
            worker process, before it takes a task, and left when it stops, after the last handler has ended. What it
            yields is ``current_task().state``. For ``async def`` handlers it lives on their event loop, and is entered
            once more on a loop that takes the place of a blocked one; for functions in a thread of its own, an async
            one with an event loop. Child processes enter it each, and must be able to import it. What it raises when
            it is entered ends ``start``, ``with`` and ``run_until_idle``; what it raises when it is left is logged.
        formats: of what formats the messages are, as objects or classes; ``None`` means the JSON envelope, an
            :class:`~qbridge_core.EnvelopeFormat`. A message of each of them is accepted. One whose tasks have
            positional arguments hands out ``{"args": [...], "kwargs": {...}}``.

    Raises:
        ConfigurationError: an argument is wrong; the text says which and why.
        NotConnectedError: the client is not connected.

    ``start`` is for a worker program. In tests use ``run_until_idle``, or ``with manager:`` to have it run in the
    background. ``stop``, ``wait``, ``report``, ``running``, ``error`` and ``health`` may be used in any thread; the
    rest in one thread at a time.
    """

    def __init__(
        self,
        queue_client: QueueClient,
        handler: Handler,
        input_queue: str,
        dead_letter_queue: str,
        max_retries: int = 3,
        task_timeout: float = 10.0,
        max_workers: int | None = None,
        *,
        backoff: Backoff = IMMEDIATELY,
        dead_letter_on: Sequence[type[BaseException]] = (),
        retry_rules: Sequence[ExceptionRule] = (),
        grace_period: float = DEFAULT_GRACE_PERIOD,
        max_crashes: int = 3,
        max_abandoned: int = DEFAULT_MAX_ABANDONED,
        max_message_bytes: int | None = None,
        plugins: Sequence[object] = (),
        executor: Literal["thread", "process"] = "thread",
        interrupt: bool = True,
        max_tasks_per_child: int | None = None,
        max_memory_per_child: int | None = None,
        redact: Callable[[str], str] | None = None,
        loop_factory: Callable[[], asyncio.AbstractEventLoop] | None = None,
        lifespan: Lifespan | None = None,
        formats: Sequence[Format | type[Format]] | None = None,
    ) -> None:
        self._client = checked_client(queue_client)
        handler = checked_handler(handler)
        check_queues(input_queue, dead_letter_queue)
        policy = RetryPolicy(max_retries, backoff, checked_exceptions(dead_letter_on), checked_rules(retry_rules))
        own_terms = Terms(require_seconds("task_timeout", task_timeout, positive=True), policy)
        terms = handler.terms if isinstance(handler, Router) else (own_terms,)
        check_backoffs(queue_client, [each.policy for each in terms])
        if lifespan is not None:
            from qbridge_core.execute.lifespan import checked_lifespan

            lifespan = checked_lifespan(lifespan)
        self._lifecycle = Lifecycle(plugins)
        run_hooks = RunHooks.of(plugins, queue_client.system, queue_client.server)
        chosen = formats_of(formats)
        program = checked_program(
            executor, handler, policy, max_tasks_per_child, max_memory_per_child, lifespan, run_hooks, chosen
        )
        rules = Rules(
            queue=input_queue,
            max_crashes=checked_crashes(max_crashes),
            processes=program is not None,
            redact=checked_redact(redact),
            owns=own_code(handler).includes,
            clock=queue_client.clock,
            formats=chosen,
        )
        self._lifecycle.attach_to(queue_client)
        self._plan = Plan(
            client=queue_client,
            handler=handler,
            dead_letter_queue=dead_letter_queue,
            rules=rules,
            terms=terms,
            lifecycle=self._lifecycle,
            run_hooks=run_hooks,
            program=program,
            loop_factory=checked_loop_factory(loop_factory, handler, program),
            lifespan=lifespan,
            workers=checked_count("max_workers", max_workers) or usual_workers(handler, program),
            grace_period=require_seconds("grace_period", grace_period),
            max_abandoned=checked_count("max_abandoned", max_abandoned) or DEFAULT_MAX_ABANDONED,
            max_message_bytes=checked_count("max_message_bytes", max_message_bytes) or queue_client.max_message_bytes,
            interrupt=checked_flag("interrupt", interrupt),
        )
        self._tally = Tally()
        self._current = CurrentSession()

    # ------------------------------------------------------------------ running

    def start(self, poll_timeout: float = 5.0) -> None:
        """Process tasks until ``stop`` is called or, in the main thread, SIGINT or SIGTERM arrives.

        Stopping is graceful: no new tasks, running ones get ``grace_period`` seconds, the rest goes back to the queue.
        A second signal ends the grace period at once, a third one ends the process (exit status 128 + signal). Returns
        at most 2.5 s after the grace period, whatever hangs; the previous signal handlers are back then.

        Args:
            poll_timeout: seconds that one request for messages may wait at the broker.

        Raises:
            ConfigurationError: ``poll_timeout`` is not a positive number, or the manager runs already.
            NotConnectedError: the client is not connected, or was disconnected meanwhile.
            QBridgeError: the queues could not be created.
            BaseException: whatever the lifespan raises when it is entered.
        """
        session = self._open_session(require_seconds("poll_timeout", poll_timeout, positive=True))
        session.starter = threading.get_ident()
        try:
            with stop_signals(session.request_stop_by_signal):
                self._current.launch(session)
                try:
                    session.wait()
                finally:  # something else interrupted the wait
                    if not session.stopped.is_set():
                        session.request_stop(reason=INTERRUPTED)
                        session.wait()
        finally:
            self._current.forget(session)
            flush()
        if session.error is not None:
            raise session.error

    @property
    def running(self) -> bool:
        """True from the start until it has stopped; a worker that ended because of an error is not running."""
        return self._current.running is not None

    @property
    def paused(self) -> bool:
        """True while it takes nothing because somebody has paused its queue; it is running all the same."""
        session = self._current.running
        return session is not None and session.rests

    @property
    def error(self) -> BaseException | None:
        """Why it ended, or is about to end, without being asked to; None when it runs well, and after a ``stop``.

        Also set when it could not start. The next start forgets it.
        """
        return self._current.error

    def health(self, *, stall: float = STALL, silence: float = SILENCE) -> Health:
        """Whether it is alive and ready, for a probe; in any thread, waiting for nobody, neither broker nor lock.

        It is not alive when an error has ended it, or when something of QBridge's that it needs, a thread, a
        lock or the event loop of its handlers, has been overdue for ``stall`` seconds. What takes its time in a handler
        or a hook is replaced after its timeout, and costs no life; neither does a broker that is away. It is ready
        while it takes messages, also from a queue that is paused, and the broker has answered within ``silence``
        seconds; neither before its start nor from a request to stop on.

        Args:
            stall: seconds. Where calls of the client may take longer (``publish_timeout``), a thread in one gets that.
            silence: seconds.
        """
        session, error = self._current.running, self._current.error
        if session is not None:
            return session.health(stall, silence)
        if error is not None:
            return of_ended(self._names, error)
        return of_silent(self._names, "it does not run")

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until it does not run any more, because of a ``stop`` or of an ``error``; may be called in any thread.

        Returns True when it does not run, False when ``timeout`` was over first.

        Args:
            timeout: seconds; ``None`` means without end.

        Raises:
            ConfigurationError: ``timeout`` is no number of at least 0, or a handler or a hook would wait for itself.
        """
        seconds = None if timeout is None else require_seconds("timeout", timeout)
        self._current.refuse_in_handler("wait()")
        session = self._current.here
        return session is None or session.stopped.wait(seconds)

    @property
    def queue_client(self) -> QueueClient:
        """The client that this manager was made with."""
        return self._client

    @property
    def grace_period(self) -> float:
        """Seconds that running tasks get when it stops."""
        return self._plan.grace_period

    @property
    def input_queue(self) -> str:
        """Where its tasks come from; the first of them, where several queues share its workers."""
        return self._plan.rules.queue

    @property
    def input_queues(self) -> tuple[str, ...]:
        """Where its tasks come from: one queue, or those of a pool of an :class:`~qbridge_core.App`."""
        return tuple(queue.name for queue in self._plan.queues)

    @property
    def _names(self) -> str:
        return ", ".join(self.input_queues)

    @property
    def dead_letter_queue(self) -> str:
        """Where its failed tasks go."""
        return self._plan.dead_letter_queue

    def stop(self, *, now: bool = False) -> None:
        """Ask a running manager to stop gracefully, and wait until it has. Does nothing when it does not run.

        Called by a handler or a hook it only asks, since waiting for itself would never end. So it does in a coroutine,
        in ``asyncio.to_thread``, in a callback on the handlers' loop, and in a thread that the handler started with a
        copy of its context. Any other thread waits: a handler that waits for such a one in turn is a task that runs
        until ``grace_period`` is over. In a process that was forked from the manager's one it does nothing.

        Args:
            now: end the grace period of the running tasks, as a second signal does.
        """
        session = self._current.here
        if session is None:
            return
        session.request_stop(2 if now else 1)
        if not session.waits_for_caller():
            session.wait()

    def run_until_idle(self, timeout: float = 30.0) -> RunReport:
        """Process tasks until the queue is empty: nothing ready, in flight or delayed.

        Returns what happened since the manager was created. RabbitMQ tells a client only of its own deliveries in
        flight, so there the work of other processes on the same queue is not waited for. A client that does not claim
        ``exact_stats`` may say that a queue is empty into which something was sent just now: then this ends too early.

        Args:
            timeout: seconds after which to give up.

        Raises:
            QueuePausedError: there is work, and nobody does it, since the queue is paused. (An empty one is idle.)
            IdleTimeoutError: there was work left after ``timeout`` seconds, or the lifespan was not entered by then;
                its ``report`` says what was done.
            ConfigurationError: ``timeout`` is not a positive number, or a handler or hook of this manager asks, whose
                own task would never be done.
            QBridgeError: the manager could not start or had to stop.
        """
        deadline = monotonic() + require_seconds("timeout", timeout, positive=True)
        self._current.refuse_in_handler("run_until_idle()")
        if self._current.is_taken:
            self._work_left.wait(self._current, timeout, deadline)
            flush()
            return self.report()
        with contextlib.ExitStack() as entered:
            self._enter(deadline)
            entered.push(self)
            self._work_left.wait(self._current, timeout, deadline)
        return self.report()

    def report(self) -> RunReport:
        """What happened since the manager was created."""
        return self._tally.report()

    def __enter__(self) -> Self:
        """Start processing in a background thread, once the lifespan is entered; raise what keeps it from that."""
        self._enter(math.inf)
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Stop gracefully; raise what ended the background thread early, unless the block raised itself."""
        self.stop()
        self._current.refuse_in_handler("leaving its `with` block")
        error = self._current.leave()
        flush()
        if error is not None and exc is None:
            raise error

    def _enter(self, deadline: float) -> None:
        session = self._open_session(poll_timeout=1.0)
        try:
            self._current.launch_until_left(session)
            if self._plan.lifespan is not None:
                self._wait_for_lifespan(session, deadline)
        except BaseException as exc:  # Ctrl-C may come while the thread begins
            self.__exit__(type(exc), exc, exc.__traceback__)
            raise

    def _wait_for_lifespan(self, session: Session, deadline: float) -> None:
        """Wait until it is entered; raise what keeps it from that."""
        if not session.wait_until_opened(deadline):
            self.stop(now=True)
            raise IdleTimeoutError(f"the lifespan for {self._names!r} was not entered in time", self.report())
        if session.error is not None:
            raise session.error

    def _open_session(self, poll_timeout: float) -> Session:
        return self._current.open(lambda: self._prepared(poll_timeout))

    def _prepared(self, poll_timeout: float) -> Session:
        if not self._client.connected:
            raise NotConnectedError("the queue client is not connected; call its connect() first")
        if loading.is_set():
            raise ConfigurationError(
                "the main program starts its TaskManager again in each child process, which imports it: "
                "put the start below `if __name__ == '__main__':`"
            )
        return keep_trying(
            lambda: self._plan.session(self._tally, poll_timeout),
            self._client._awaited_until,
            BrokerUnavailableError,
            self._say_awaited,
        )

    def _say_awaited(self, left: float, exc: Exception) -> None:
        _log.warning("waiting for the queues of %s, for %.0f s more: %s", self._names, left, exc)

    @property
    def _work_left(self) -> WorkLeft:
        return WorkLeft(self._client, self.input_queues, self.report)
