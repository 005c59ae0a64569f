"""``TaskManager``: a handler, a queue and a dead-letter queue, run by worker threads until told to stop."""

from __future__ import annotations

import logging
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import FrameType, TracebackType
from typing import TYPE_CHECKING, Final, Literal, Self, TypeVar

from qbridge_core.checks import MAX_ID_CHARS, check_queue_name, require_seconds
from qbridge_core.client import QueueClient, worker_identity
from qbridge_core.coroutines import AsyncHandler
from qbridge_core.envelope import DEFAULT_MAX_MESSAGE_BYTES
from qbridge_core.errors import (
    ConfigurationError,
    IdleTimeoutError,
    NotConnectedError,
    QBridgeError,
    TransientError,
)
from qbridge_core.executor import Executor, Handler, checked_handler, is_coroutine_function, loading
from qbridge_core.intake import Intake
from qbridge_core.lifecycle import Lifecycle
from qbridge_core.message import Delivery
from qbridge_core.outcome import RunReport, Tally
from qbridge_core.retry import IMMEDIATELY, Backoff, ExceptionRule, RetryPolicy
from qbridge_core.run import Run
from qbridge_core.settle import Rules, Settler
from qbridge_core.suspects import Suspects, suspects_queue
from qbridge_core.wakeup import Wakeup
from qbridge_core.worker import Job, WorkerPool

if TYPE_CHECKING:
    from qbridge_core.processes import Program

_log: Final = logging.getLogger("qbridge.manager")
T = TypeVar("T")
_IDLE_POLL: Final = 0.02
_DRAIN_POLL: Final = 0.2
_STALE_POLL: Final = 1.0
# Together with the default grace period less than the 30 s that Kubernetes allows.
_HAND_BACK_TIME: Final = 2.0
_FLUSH_TIMEOUT: Final = 2.0
_HURRY: Final = 0.5
_JOIN_POLL: Final = 0.05
_LONGEST_SLEEP: Final = 3600.0  # the platform's own limit on waiting is far away, but finite
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
            ``async def`` handler runs on an event loop that all workers share, and is cancelled at its timeout. One
            that needs a second argument gets its :class:`~qbridge_core.TaskContext`, as from
            :func:`~qbridge_core.current_task`; a second parameter with a default keeps its default.
        input_queue: where the tasks come from; created when missing.
        dead_letter_queue: where failed tasks go; created when missing.
        max_retries: how often to retry after the first failed run.
        task_timeout: seconds that a run may take, counted from its start. A handler that runs longer has failed; its
            thread is replaced, and what it still does is ignored; its process is killed.
        max_workers: how many tasks run at once; ``None`` means ``min(32, cpu_count + 4)``, and ``cpu_count`` for
            processes, as in ``concurrent.futures``.
        backoff: delays between attempts, held by the broker; none by default.
        dead_letter_on: exception types that are dead-lettered at once, without a retry. A handler can also raise
            :class:`~qbridge_core.Retry`, :class:`~qbridge_core.Reject` or :class:`~qbridge_core.Snooze`.
        retry_rules: :class:`~qbridge_core.ExceptionRule` objects that give some exception types a backoff or a limit of
            their own; the first that matches counts.
        grace_period: seconds that running tasks get to finish when the manager stops.
        max_crashes: how many worker processes a task may kill before it is dead-lettered as ``crashed``, at least 2: at
            the first death another task may be the cause, so a suspect runs alone the next time. Needs a backend
            that sees such deaths (``capabilities.crashes``).
        max_abandoned: how many handlers may hang past their timeout, each holding a thread, before the manager stops
            and raises :class:`~qbridge_core.TooManyStuckTasksError`.
        max_message_bytes: a longer message is malformed.
        plugins: objects or modules that implement lifecycle hooks (:mod:`qbridge_core.hookspecs`).
        executor: ``"thread"``, or ``"process"`` to run each handler in one of ``max_workers`` child processes: then a
            handler can be killed when its time is over, may crash its process, and does not share the interpreter
            with the others. Another process must be able to import it, and the main program must be guarded by
            ``if __name__ == "__main__":``, as for ``multiprocessing``. Not on Windows.
        max_tasks_per_child: a child process is replaced after so many runs; ``None`` means never.
        max_memory_per_child: a child process that holds more bytes of memory after a run is replaced; ``None`` means
            never.
        redact: called with the text of a handler's exception and with its traceback, before they are logged or written
            into a dead letter; returns what may be shown. When it raises, the text is left out. Hooks see the
            exception itself. It should be quick, and is called by several threads.

    Raises:
        ConfigurationError: an argument is wrong; the text says which and why.
        NotConnectedError: the client is not connected.

    ``start`` is for a worker program. In tests use ``run_until_idle``, or ``with manager:`` to have it run in the
    background. ``stop`` and ``report`` may be called from any thread; the rest from one thread at a time.
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
        max_message_bytes: int = DEFAULT_MAX_MESSAGE_BYTES,
        plugins: Sequence[object] = (),
        executor: Literal["thread", "process"] = "thread",
        max_tasks_per_child: int | None = None,
        max_memory_per_child: int | None = None,
        redact: Callable[[str], str] | None = None,
    ) -> None:
        self._client = _checked_client(queue_client)
        self._handler = checked_handler(handler)
        self._input_queue = check_queue_name(input_queue, MAX_ID_CHARS - len(suspects_queue("")), what="input_queue")
        self._dead_letter_queue = check_queue_name(dead_letter_queue, what="dead_letter_queue")
        if input_queue == dead_letter_queue:
            raise ConfigurationError(f"input_queue and dead_letter_queue are both {input_queue!r}; they must differ")
        policy = RetryPolicy(max_retries, backoff, _checked_exceptions(dead_letter_on), _checked_rules(retry_rules))
        backoffs = [backoff, *(rule.backoff for rule in policy.rules if rule.backoff is not None)]
        if not queue_client.capabilities.delay and any(each != IMMEDIATELY for each in backoffs):
            raise ConfigurationError(f"{type(queue_client).__name__} has no delays, so backoff cannot be used with it")
        self._task_timeout = require_seconds("task_timeout", task_timeout, positive=True)
        self._program = _checked_program(executor, self._handler, policy, max_tasks_per_child, max_memory_per_child)
        self._rules = Rules(
            queue=input_queue,
            policy=policy,
            task_timeout=self._task_timeout,
            max_crashes=_checked_crashes(max_crashes),
            processes=self._program is not None,
            redact=_checked_redact(redact),
        )
        processors = os.cpu_count() or 1
        usual = min(32, processors + 4) if self._program is None else processors
        self._max_workers = _checked_count("max_workers", max_workers) or usual
        self._grace_period = require_seconds("grace_period", grace_period)
        self._max_abandoned = _checked_count("max_abandoned", max_abandoned) or DEFAULT_MAX_ABANDONED
        self._max_message_bytes = _checked_count("max_message_bytes", max_message_bytes) or DEFAULT_MAX_MESSAGE_BYTES
        self._lifecycle = Lifecycle(plugins)
        self._tally = Tally()
        self._session: _Session | None = None
        self._background: threading.Thread | None = None
        self._background_error: BaseException | None = None

    # ------------------------------------------------------------------ running

    def start(self, poll_timeout: float = 5.0) -> None:
        """Process tasks until ``stop`` is called or, in the main thread, SIGINT or SIGTERM arrives.

        Stopping is graceful: no new tasks, running ones get ``grace_period`` seconds, the rest goes back to the queue.
        A second signal ends the grace period at once. Returns when stopped; the previous signal handlers are back
        then.

        Args:
            poll_timeout: seconds that one request for messages may wait at the broker.

        Raises:
            ConfigurationError: ``poll_timeout`` is not a positive number, or the manager runs already.
            NotConnectedError: the client is not connected, or was disconnected meanwhile.
            QBridgeError: the queues could not be created.
        """
        session = self._open_session(require_seconds("poll_timeout", poll_timeout, positive=True))
        try:
            with _signals(session):
                session.run()
        finally:
            session.wakeup.close()
            self._session = None

    @property
    def queue_client(self) -> QueueClient:
        """The client that this manager was made with."""
        return self._client

    def stop(self, *, now: bool = False) -> None:
        """Ask a running manager to stop gracefully, and wait until it has. Does nothing when it does not run.

        Called from inside a handler or a hook it only asks, since waiting for itself would never end.

        Args:
            now: end the grace period of the running tasks, as a second signal does.
        """
        session = self._session
        if session is None:
            return
        session.request_stop(2 if now else 1)
        if not session.owns_current_thread():
            session.stopped.wait()

    def run_until_idle(self, timeout: float = 30.0) -> RunReport:
        """Process tasks until the queue is empty: nothing ready, in flight or delayed.

        Returns what happened since the manager was created. RabbitMQ tells a client only of its own deliveries in
        flight, so there the work of other processes on the same queue is not waited for.

        Args:
            timeout: seconds after which to give up.

        Raises:
            IdleTimeoutError: there was work left after ``timeout`` seconds; its ``report`` says what was done.
            ConfigurationError: ``timeout`` is not a positive number.
            QBridgeError: the manager could not start or had to stop.
        """
        deadline = time.monotonic() + require_seconds("timeout", timeout, positive=True)
        if self._session is not None:
            return self._wait_until_idle(deadline, timeout)
        with self:
            self._wait_until_idle(deadline, timeout)
        return self.report()

    def report(self) -> RunReport:
        """What happened since the manager was created."""
        return self._tally.report()

    def __enter__(self) -> Self:
        """Start processing in a background thread."""
        session = self._open_session(poll_timeout=1.0)
        self._background_error = None
        self._background = threading.Thread(
            target=self._run_in_background, args=(session,), name="qbridge-manager", daemon=True
        )
        self._background.start()
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Stop gracefully; raise what ended the background thread early, unless the block raised itself."""
        self.stop()
        if self._background is not None:
            self._background.join()
        self._session = self._background = None
        if self._background_error is not None and exc is None:
            raise self._background_error

    def _run_in_background(self, session: _Session) -> None:
        try:
            session.run()
        except BaseException as exc:  # noqa: BLE001 - raised again by __exit__
            self._background_error = exc
        finally:
            session.wakeup.close()

    def _open_session(self, poll_timeout: float) -> _Session:
        if self._session is not None:
            raise ConfigurationError("this TaskManager is running already; create a second one")
        if not self._client.connected:
            raise NotConnectedError("the queue client is not connected; call its connect() first")
        if loading.is_set():
            raise ConfigurationError(
                "the main program starts its TaskManager again in each child process, which imports it: "
                "put the start below `if __name__ == '__main__':`"
            )
        self._client.declare(self._input_queue, self._dead_letter_queue)
        self._client.check_task_timeout(self._input_queue, self._task_timeout, self._max_workers)
        suspects = self._declare_suspects()
        give_up = threading.Event()
        settler = Settler(self._client, self._rules, self._lifecycle, self._tally, give_up, suspects)
        intake = Intake(self._client, self._input_queue, self._max_workers, poll_timeout, suspects)
        job = Job(self._executor(), intake, settler, self._lifecycle, self._task_timeout, self._max_message_bytes)
        self._session = _Session(
            self._client, job, self._input_queue, self._max_workers, self._max_abandoned, self._grace_period, give_up
        )
        return self._session

    def _executor(self) -> Executor:
        if self._program is not None:
            from qbridge_core.processes import ProcessExecutor

            return ProcessExecutor(self._program)
        return AsyncHandler(self._handler) if is_coroutine_function(self._handler) else Executor(self._handler)

    def _declare_suspects(self) -> Suspects | None:
        if not self._client.capabilities.crashes:
            return None
        suspects = Suspects(self._client, suspects_queue(self._input_queue))
        self._client.declare(suspects.queue, self._dead_letter_queue)
        return suspects

    def _wait_until_idle(self, deadline: float, timeout: float) -> RunReport:
        session = self._session
        # Twice in a row: a delivery can be on its way between the broker's count and the client's.
        quiet = 0
        while quiet < 2:
            if session is None or session.stopped.is_set():
                raise self._background_error or QBridgeError("the manager stopped before the queue was empty")
            quiet = quiet + 1 if self._is_empty() else 0
            if time.monotonic() > deadline:
                raise IdleTimeoutError(
                    f"{self._input_queue!r} still has work after {timeout:g} s ({self._tally.report()})",
                    self.report(),
                )
            session.stopped.wait(_IDLE_POLL)
        return self.report()

    def _is_empty(self) -> bool:
        queues = [self._input_queue]
        if self._client.capabilities.crashes:
            queues.append(suspects_queue(self._input_queue))
        try:
            counts = [self._client.stats(queue) for queue in queues]
        except TransientError:
            return False
        return all(stats.ready == stats.in_flight == stats.delayed == 0 for stats in counts)


class _Session:
    """One run of a TaskManager from start to stop."""

    def __init__(
        self,
        client: QueueClient,
        job: Job,
        input_queue: str,
        workers: int,
        max_abandoned: int,
        grace_period: float,
        give_up: threading.Event,
    ) -> None:
        self.stopped = threading.Event()
        self._client = client
        self._job = job
        self._queue = input_queue
        self._grace_period = grace_period
        self._give_up = give_up
        self.wakeup = Wakeup()
        self._stop_requests = 0
        self._pool = WorkerPool(job, workers, max_abandoned, self.wakeup)
        self._thread: int | None = None

    def request_stop(self, times: int = 1) -> None:
        """Begin to stop, the second time at once; may be called from any thread and from a signal handler."""
        self._job.intake.ending = True
        self._stop_requests = max(times, self._stop_requests)
        self.wakeup.notify()

    def request_stop_by_signal(self) -> None:
        """Begin to stop, or end the grace period when already stopping."""
        self._job.intake.ending = True
        self._stop_requests += 1
        self.wakeup.notify()

    def owns_current_thread(self) -> bool:
        """True in the supervisor's and the workers' threads."""
        return threading.get_ident() == self._thread or self._pool.owns(threading.current_thread())

    def run(self) -> None:
        """Process tasks until a stop is requested; then drain."""
        self._thread = threading.get_ident()
        worker = worker_identity()
        _log.info("worker %s consumes %s", worker, self._queue, extra={"queue": self._queue})
        try:
            self._job.intake.open()
            self._job.lifecycle.worker_started(queue=self._queue, worker=worker)
            self._pool.start()
            while not self._stop_requests and self._pool.error is None:
                self._sleep(min(self._pool.expire(), _STALE_POLL))
                self._return_stale()
            self._job.intake.close()
            self._job.lifecycle.worker_stopping(queue=self._queue, worker=worker)
        finally:
            try:
                self._drain()
            finally:
                self.stopped.set()
        _log.info("worker %s stopped", worker, extra={"queue": self._queue})
        if self._pool.error is not None:
            raise self._pool.error

    def _return_stale(self) -> None:
        """Give back what was read ahead and waits behind tasks that turned out to be long."""
        if stale := self._job.intake.stale():
            # In a thread of its own: the broker may be slow, and the watch over the runs must go on.
            _aside("qbridge-return", self._return, stale)

    def _return(self, deliveries: Sequence[Delivery]) -> None:
        for delivery in deliveries:
            self._job.settler.hand_back(delivery)

    def _drain(self) -> None:
        """Let the running tasks finish within the grace period; give back the rest."""
        deadline = time.monotonic() + self._grace_period
        while True:
            # Each time anew: a reader may have passed its check just before the first close.
            self._job.intake.close()
            left = deadline - time.monotonic()
            if not self._pool.alive or left <= 0 or self._stop_requests > 1:
                break
            self._sleep(min(self._pool.expire(), left, _DRAIN_POLL))
        self._give_up.set()
        self._give_back()
        self._flush()

    def _give_back(self) -> None:
        """Hand back what did not finish, as far as the broker answers in time.

        The rest it delivers again when the client disconnects or its process ends.
        """
        runs = self._pool.claim_running()
        # In a thread of its own: with a broker that does not answer each one may take seconds.
        helper = _aside("qbridge-hand-back", self._hand_back, runs)
        until = time.monotonic() + self._patience(_HAND_BACK_TIME)
        requests = self._stop_requests  # one more, and there is no time for this either
        while helper.is_alive() and self._stop_requests == requests and (left := until - time.monotonic()) > 0:
            helper.join(min(left, _JOIN_POLL))

    def _patience(self, seconds: float) -> float:
        """How long to wait for the broker: hardly, when somebody has asked twice to stop."""
        return seconds if self._stop_requests < 2 else min(seconds, _HURRY)

    def _hand_back(self, runs: Sequence[Run]) -> None:
        self._job.executor.close()  # what goes back must not go on here
        for run in runs:
            if self.stopped.is_set():
                return  # the time was over
            _log.warning(
                "task %s did not finish in time; it goes back to the queue",
                run.task_id,
                extra=run.log_fields(),
            )
            self._job.settler.hand_back(run.delivery)
        self._return(self._job.intake.left_over()[::-1])  # each goes to the front: this keeps their order

    def _flush(self) -> None:
        try:
            if not self._client.flush(self._patience(_FLUSH_TIMEOUT)):
                _log.warning("some settlements did not reach the broker; those tasks will be delivered again")
        except QBridgeError as exc:
            _log.warning("the last settlements did not reach the broker: %s", exc)

    def _sleep(self, seconds: float) -> None:
        self.wakeup.wait(min(seconds, _LONGEST_SLEEP))


def _aside(name: str, call: Callable[[T], None], argument: T) -> threading.Thread:
    """Call something in a thread of its own; in this one when the system has no thread left."""
    thread = threading.Thread(target=call, args=(argument,), name=name, daemon=True)
    try:
        thread.start()
    except RuntimeError:
        call(argument)
    return thread


@contextmanager
def _signals(session: _Session) -> Iterator[None]:
    """SIGINT and SIGTERM stop the session, if this is the main thread (only there Python can install handlers)."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(number: int, frame: FrameType | None) -> None:
        del number, frame
        session.request_stop_by_signal()

    previous = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    previous_fd = signal.set_wakeup_fd(session.wakeup.fileno(), warn_on_full_buffer=False)
    try:
        yield
    finally:
        signal.set_wakeup_fd(previous_fd)
        for number, handler in previous.items():
            signal.signal(number, handler)


def _checked_client(client: object) -> QueueClient:
    if not isinstance(client, QueueClient):
        raise ConfigurationError(
            f"queue_client must be a QueueClient (see qbridge_core.connect), not a {type(client).__name__}"
        )
    if not client.connected:
        raise NotConnectedError("the queue client is not connected; call its connect() before creating a TaskManager")
    return client


def _checked_redact(redact: object) -> Callable[[str], str] | None:
    if redact is not None and not callable(redact):
        raise ConfigurationError(f"redact must be a function from text to text, not {redact!r}")
    return redact


def _checked_program(
    executor: object,
    handler: Callable[..., object],
    policy: RetryPolicy,
    max_tasks_per_child: object,
    max_memory_per_child: object,
) -> Program | None:
    """What child processes load; None when handlers run in threads."""
    max_tasks = _checked_count("max_tasks_per_child", max_tasks_per_child)
    max_memory = _checked_count("max_memory_per_child", max_memory_per_child)
    if executor == "process":
        if os.name != "posix":
            raise ConfigurationError("executor='process' needs a POSIX system (signals, process groups)")
        from qbridge_core.processes import Program

        return Program.of(handler, policy, max_tasks, max_memory)
    if executor != "thread":
        raise ConfigurationError(f"executor must be 'thread' or 'process', not {executor!r}")
    if max_tasks is not None or max_memory is not None:
        raise ConfigurationError("max_tasks_per_child and max_memory_per_child need executor='process'")
    return None


def _checked_crashes(value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 2:
        raise ConfigurationError(f"max_crashes must be an integer of at least 2, not {value!r}")
    return value


def _checked_exceptions(value: object) -> tuple[type[BaseException], ...]:
    if isinstance(value, str) or not isinstance(value, Sequence):
        raise ConfigurationError(f"dead_letter_on must be a sequence of exception classes, not {value!r}")
    return tuple(value)


def _checked_rules(value: object) -> tuple[ExceptionRule, ...]:
    if isinstance(value, str) or not isinstance(value, Sequence):
        raise ConfigurationError(f"retry_rules must be a sequence of ExceptionRule objects, not {value!r}")
    if not all(isinstance(rule, ExceptionRule) for rule in value):
        raise ConfigurationError(f"retry_rules must hold ExceptionRule objects only, not {value!r}")
    return tuple(value)


def _checked_count(name: str, value: object) -> int | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ConfigurationError(f"{name} must be an integer of at least 1, not {value!r}")
    return value
