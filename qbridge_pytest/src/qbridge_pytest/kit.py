"""``Kit``: what the fixture ``qbridge`` is."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from datetime import datetime
from types import CodeType, TracebackType
from typing import Any, Concatenate, Final, ParamSpec, Self

from qbridge_core import App, AppTask, ConfigurationError, RunReport, TaskManager
from qbridge_core.task.formats.chosen import Formats
from qbridge_memory.stored import Event
from qbridge_pytest import points
from qbridge_pytest.client import FaultyClient
from qbridge_pytest.clock import Duration, VirtualClock, seconds_of
from qbridge_pytest.faults import Fault, Faults
from qbridge_pytest.happened import Happened
from qbridge_pytest.lines import CAN_BEGIN_LATE, watching
from qbridge_pytest.points import Point
from qbridge_pytest.reading import Reader
from qbridge_pytest.whose import Owners
from qbridge_pytest.working import Work

P = ParamSpec("P")


def _of_client(make: Callable[Concatenate[Any, P], TaskManager]) -> Callable[Concatenate[Kit, P], TaskManager]:
    """The same, with the client of the test."""

    def manager(kit: Kit, /, *args: P.args, **kwargs: P.kwargs) -> TaskManager:
        """A :class:`~qbridge_core.TaskManager` on the broker of the test, which ``run`` runs.

        It is made with the arguments of production, without the client: the handler, the queue, the dead-letter queue
        and so on. Both queues are declared.
        """
        __tracebackhide__ = True
        made = make(kit.client, *args, **kwargs)
        kit._add(made)
        return made

    return manager


class Kit(Happened):
    """A broker in memory and the time by which it goes, for one test.

    Managers and tasks work as in production: in their threads, on their event loops, in child processes. Only what is
    delayed comes as soon as nothing else is left to do, for the clock is moved to that moment. Timeouts, and what a
    handler itself waits for, take real time.

    Attributes:
        client: a connected client of the broker.
    """

    def __init__(self) -> None:
        events: list[Event | Fault] = []
        self._time: Final = VirtualClock()
        self._faults: Final = Faults(self._time, events.append)
        self._apps: list[App] = []
        self._managers: list[TaskManager] = []
        self._at_work: Sequence[TaskManager] = ()
        self._may_run: Final = threading.Lock()
        client, reader = FaultyClient(self._time, events.append, self._faults), Reader(self._formats)
        super().__init__(client, events, reader, Owners(self._apps, self._managers, reader))
        self._end: Final = ExitStack()
        self._watched: Final = ExitStack()

    def __enter__(self) -> Self:
        self._end.enter_context(self.client)
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._end.close()

    # ------------------------------------------------------------------ what works

    def open(self, app: App) -> None:
        """Have an app send to this broker, and ``run`` work on its queues, until the end of the test.

        Whoever opens the app meanwhile gets this broker, whatever URL they name. Then it is as it was before.

        Raises:
            ConfigurationError: it is no app, or is open here already.
        """
        if not isinstance(app, App):
            raise ConfigurationError(
                f"open takes an App, not a {type(app).__name__}; a TaskManager: qbridge.manager(…)"
            )
        if any(app is each for each in self._apps):
            raise ConfigurationError(
                "this app is open here already, as the setting qbridge_app says or after open(app)"
            )
        self._end.enter_context(app._lent(self.client))
        self._apps.append(app)

    manager = _of_client(TaskManager)

    @contextmanager
    def working(self) -> Iterator[None]:
        """Have all managers work in the background within this block, to look at what runs.

        Nothing moves the clock there but ``advance`` and ``run``.

        Raises:
            ConfigurationError: they work already, or there is nothing that could.
            BaseException: what has ended one of them early.
        """
        if self._at_work:
            raise ConfigurationError("the managers of this test work already")
        with self._running(self._all_managers()):
            yield

    def run(self, timeout: float = 30.0, *, ahead: Duration | None = None) -> RunReport:
        """Work everything off, what is delayed included, and return what happened.

        Whenever nothing is ready and nothing is in flight, the clock is moved to when the next message is due.

        Args:
            timeout: seconds, real ones, after which to give up.
            ahead: for how long time may pass meanwhile, and has passed at the end; what is due later stays. 0 does what
                is due now. Without it all that comes is waited for.

        Raises:
            IdleTimeoutError: there was work left; its ``report`` says what was done.
            QueuePausedError: there is work, and nobody does it, since its queue is paused.
            ConfigurationError: an argument makes no sense, there is nothing that could work, or a handler asks.
            BaseException: what has ended a manager early.
        """
        __tracebackhide__ = True
        if not seconds_of("timeout", timeout):
            raise ConfigurationError("timeout must be more than 0 seconds")
        if not self._may_run.acquire(blocking=False):
            raise ConfigurationError("run() is called while it runs: by a handler, or by another thread of the test")
        try:
            return self._run(timeout, ahead)
        finally:
            self._may_run.release()

    def _run(self, timeout: float, ahead: Duration | None) -> RunReport:
        __tracebackhide__ = True
        until = None if ahead is None else self._time.monotonic() + seconds_of("ahead", ahead)
        managers = self._at_work or self._all_managers()
        work = Work(self.client, self._time, self._faults, self._events, managers, seconds_of("timeout", timeout))
        with nullcontext() if self._at_work else self._running(managers):
            work.finish(until)
        if until is not None:
            self._time.advance_to(until)
        return work.report()

    # ------------------------------------------------------------------ time

    @property
    def now(self) -> datetime:
        """What time it is for the broker (UTC). It stands still until it is moved."""
        return self._time.now

    def advance(self, by: Duration) -> None:
        """Let time pass, also while handlers run. What is due by then is ready; nobody is waited for.

        Args:
            by: how much, as ``90``, ``"90s"``, ``"1h 30m"``, ``"30d"`` or a ``timedelta``.

        Raises:
            ConfigurationError: it is no length of time.
        """
        __tracebackhide__ = True
        self._time.advance(seconds_of("by", by))

    # ------------------------------------------------------------------ what goes wrong

    def crash(
        self, *, after: str | None = None, before: str | None = None, of: str | AppTask[Any] | None = None
    ) -> None:
        """Have the worker of the next run die that comes to a point: the broker delivers its message again.

        In the handler :class:`~qbridge_pytest.WorkerDiedError` is raised there, a ``BaseException``, so that what it
        holds is let go; a real death does not even run its ``finally``. What it raises and returns afterwards counts
        for nothing. Other runs of the same worker go on, as those of another would. May be called for several deaths.

        Args:
            after: ``"received"``: no handler has begun; ``"start"``: before its first line; ``"publish"``: it has sent
                a message; ``"done"``: it has ended, and nothing is settled; ``"settled"``: the broker knows.
            before: ``"publish"``: before it sends one.
            of: the queue, or a task of an app; any when missing.

        Raises:
            ConfigurationError: there is no such point, or it is too late to watch for it.
        """
        if (after is None) == (before is None):
            raise ConfigurationError('crash takes after="done", say, or before="publish"')
        name = points.named(after if before is None else f"before {before}")
        if self._at_work and name == points.START and not CAN_BEGIN_LATE:
            raise ConfigurationError('before Python 3.12 ask for crash(after="start") before anything works')
        self._faults.crash(Point(name), self._owners.of(of))
        if self._at_work and name == points.START:
            self._watch()

    def deliver_twice(self, of: str | AppTask[Any] | None = None) -> None:
        """Have the next acknowledgement be lost: the broker delivers the message again although it is done.

        Args:
            of: the queue, or a task of an app; any when missing.
        """
        self._faults.lose_ack(self._owners.of(of))

    def broker_down(self, duration: Duration) -> None:
        """Have the broker be away for so long, from now on, in virtual time.

        Whoever sends gets a :class:`~qbridge_core.BrokerUnavailableError`; workers try again, and ``run`` moves the
        clock to when it is back as soon as one of them waits for that.

        Raises:
            ConfigurationError: it is no length of time.
        """
        self._faults.go_down(seconds_of("duration", duration))

    def slow_publish(self, duration: Duration) -> None:
        """Have each message take so long to be published, from now on; 0 ends that.

        What takes longer than its ``publish_timeout`` (10 s when none is given) is in its queue, and
        :class:`~qbridge_core.PublishUnconfirmedError` is raised.

        Raises:
            ConfigurationError: it is no length of time.
        """
        self._faults.slow_down(seconds_of("duration", duration))

    @property
    def faults(self) -> int:
        """How many of the crashes and lost acknowledgements that were asked for have happened."""
        return self._faults.happened

    # ------------------------------------------------------------------ parts

    def _die_at(self, point: Point) -> None:
        self._faults.crash(point, self._owners.of_handlers(point.of), may_not_come=True)

    def _crash_to_come(self) -> str:
        """Where the marker has a worker die, and none has yet; "" for nowhere."""
        return self._faults.to_come()

    def _missing_faults(self) -> str:
        """What the test has asked for and has not happened; "" for nothing."""
        return self._faults.missing()

    def _codes(self) -> list[CodeType]:
        """Those of all handlers, as far as their lines are to be watched."""
        if not self._faults.watches_lines:
            return []
        named = self._faults.codes  # what a handler calls may be named as well
        handlers = [manager._plan.handler for manager in self._managers]
        tasks = [task for app in self._apps for task in app._root.tasks]
        return [*named, *(code for each in (*handlers, *tasks) if (code := points.code_of(each)) is not None)]

    def _watch(self) -> None:
        """Have the lines watched that are to be, until nothing works any more."""
        self._watched.close()
        self._watched.enter_context(watching(self._codes(), self._faults.reaches_line))

    def _all_managers(self) -> list[TaskManager]:
        __tracebackhide__ = True
        managers = [*self._managers, *(each for app in self._apps for each in app.managers())]
        if not managers:
            raise ConfigurationError(
                "nothing works in this test: give it an app with qbridge.open(app) or the setting qbridge_app, or a "
                "manager with qbridge.manager(handler, queue, dead_letter_queue)"
            )
        return managers

    @contextmanager
    def _running(self, managers: Sequence[TaskManager]) -> Iterator[None]:
        with ExitStack() as running:
            running.callback(self._watched.close)
            self._watch()
            for each in managers:
                if not each.running:
                    running.enter_context(each)
            self._at_work = managers
            self._faults.workers_end = False
            try:
                yield
                self._faults.workers_end = True
            except BaseException:
                for each in managers:  # all at once, and without a grace period: the test has failed
                    each.stop(now=True)
                raise
            finally:
                self._at_work = ()

    def _add(self, manager: TaskManager) -> None:
        self.client.declare(manager.input_queue, manager.dead_letter_queue)
        self._managers.append(manager)

    def _formats(self, queue: str) -> Formats | None:
        """What is accepted in a queue."""
        for manager in self._managers:
            if manager.input_queue == queue:
                return manager._plan.rules.formats
        own = (app._root._layout.queue(queue).formats for app in self._apps)
        return next((formats for formats in own if formats is not None), None)
