"""Several managers as one worker: ``run_workers``."""

from __future__ import annotations

import functools
import os
import threading
from collections.abc import Sequence
from typing import Final, NamedTuple

from qbridge_core.contract.checks import require_seconds
from qbridge_core.contract.client import QueueClient
from qbridge_core.errors import ConfigurationError
from qbridge_core.runtime.aside import aside
from qbridge_core.runtime.clock import monotonic
from qbridge_core.runtime.logs import flush, logger
from qbridge_core.runtime.signals import signal_name, stop_signals
from qbridge_core.telemetry.health import SILENCE, STALL, Health, together
from qbridge_core.telemetry.healthfile import HealthFile
from qbridge_core.work.arguments import check_dead_letter_routes
from qbridge_core.work.manager import TaskManager
from qbridge_core.work.session import INTERRUPTED, LOOK_EVERY, STOP_CALLED, Session

_log: Final = logger("qbridge.manager")
DEFAULT_POLL_TIMEOUT: Final = 5.0
_IDLE_POLL: Final = 0.1
_OPENING_POLL: Final = 0.05


def run_workers(
    *managers: TaskManager,
    poll_timeout: float = DEFAULT_POLL_TIMEOUT,
    until_idle: bool = False,
    health_file: str | os.PathLike[str] | None = None,
) -> None:
    """Process the tasks of several queues, each with a manager of its own, as one worker.

    They start together, once all queues are declared, and end together: when SIGINT or SIGTERM arrives, in the main
    thread, when somebody calls ``stop`` of one of them, or when one of them ends with an error. All stop gracefully at
    the same time, which takes the longest ``grace_period`` and 3 s at most. A second signal ends the grace periods at
    once, a third one ends the process (exit status 128 + signal). Signals are heard from the call on, and the previous
    signal handlers are back when it returns. In another thread signals are left alone.

    Args:
        managers: one for each queue, on one client or on several; none of them runs yet.
        poll_timeout: seconds that one request for messages may wait at the broker.
        until_idle: return when all queues are empty at once, nothing ready, in flight or delayed, as
            :meth:`TaskManager.run_until_idle` does. For jobs.
        health_file: a path. The file there is touched every other second while all of them are alive, as
            :meth:`TaskManager.health` tells it, and says whether they are ready; see docs/health.md.

    Raises:
        ConfigurationError: no manager or something else was given, one was given twice, two have one queue, dead
            letters would go round among their queues, or one of them runs already; ``poll_timeout`` is not a positive
            number; the health file cannot be written.
        NotConnectedError: a client is not connected, or was disconnected meanwhile.
        QBridgeError: the queues could not be created; then none has taken a message.
        BaseException: what ended the first that ended, for example :class:`~qbridge_core.TooManyStuckTasksError`. A
            note names its queue.
        QueuePausedError: with ``until_idle``: a queue has work, and nobody does it, since the queue is paused.
    """
    workers = Workers(managers, health_file=None if health_file is None else HealthFile(health_file))
    workers.run(poll_timeout, until_idle=until_idle)


class Workers:
    """What ``run_workers`` runs, once. ``stop`` may be called before it does.

    Args:
        managers: at least one.
        health_file: to be touched as long as all are alive.
        stall: seconds that something may be overdue before a worker is not alive.

    Raises:
        ConfigurationError: they cannot run together.
    """

    def __init__(
        self, managers: Sequence[TaskManager], *, health_file: HealthFile | None = None, stall: float = STALL
    ) -> None:
        self._managers = _checked(managers)
        self._health_file = health_file
        self._stall = stall
        self._members: tuple[_Member, ...] = ()
        self._signals = 0
        self._stops = 0
        self._reason = ""
        self._over = threading.Event()
        self._error: BaseException | None = None

    @property
    def grace_period(self) -> float:
        """The longest of theirs, in seconds."""
        return max(manager.grace_period for manager in self._managers)

    @property
    def clients(self) -> list[QueueClient]:
        """Those of all managers; several may have one."""
        return [manager.queue_client for manager in self._managers]

    def run(self, poll_timeout: float = DEFAULT_POLL_TIMEOUT, *, until_idle: bool = False) -> None:
        """Work until somebody wants to stop, or one of them ends; see ``run_workers``."""
        seconds = require_seconds("poll_timeout", poll_timeout, positive=True)
        try:
            with stop_signals(self._on_signal):
                self._members = self._opened(seconds)
                if not self._wanted:
                    self._work(until_idle)
        finally:
            self._over.set()
            for manager, session in self._members:
                manager._current.forget(session)
            if self._health_file is not None:
                self._health_file.remove()
            flush()
        if self._error is not None:
            raise self._error

    def health(self) -> Health:
        """That of all together; in any thread, waiting for nobody."""
        members = self._members
        if not members or self._over.is_set():
            how = "has ended" if self._over.is_set() else "has not begun"
            return Health(alive=True, ready=False, reason=f"the worker {how}")
        return together(session.health(self._stall, SILENCE) for _, session in members)

    def _turn(self) -> None:
        if self._health_file is not None:
            self._health_file.turn(self.health)

    def stop(self, *, now: bool = False, reason: str = STOP_CALLED) -> None:
        """Ask all to stop, at any time, in any thread; does not wait for that.

        Args:
            now: end the grace period of the running tasks, as a second signal does.
            reason: who asks, for the log and for plugins.
        """
        self._reason = self._reason or reason
        self._stops = max(self._stops, 2 if now else 1)
        self._pass_on()

    def _on_signal(self, number: int) -> None:
        self._reason = self._reason or signal_name(number)
        self._signals += 1
        self._pass_on()

    @property
    def _wanted(self) -> int:
        """How often somebody has asked to stop, whoever it was: what one of them is asked counts for all."""
        failed = self._error is not None
        return max(self._signals, self._stops, failed, *(session.stop_requests for _, session in self._members))

    @property
    def _first_reason(self) -> str:
        """Why one of them stops, which is why all do."""
        if self._error is not None:
            return f"another worker of this process has ended: {type(self._error).__name__}: {self._error}"
        return next((session.stop_reason for _, session in self._members if session.stop_reason), STOP_CALLED)

    def _pass_on(self) -> None:
        # Takes no lock: a signal handler may have interrupted whoever holds it.
        wanted = self._wanted
        for _, session in self._members:
            if session.stop_requests < wanted:
                session.request_stop(wanted, self._reason or self._first_reason)

    # ------------------------------------------------------------------ from start to end

    def _opened(self, poll_timeout: float) -> tuple[_Member, ...]:
        """A session for each; none of them has begun. Nobody waits longer for that than they want."""
        opening = _Opening(self._managers, poll_timeout)
        helper = aside("qbridge-opening", opening.run)
        try:
            while helper.is_alive() and not self._wanted:
                helper.join(_OPENING_POLL)
                self._turn()
        finally:
            members = opening.end()
        if opening.raised is not None and not self._wanted:
            self._error = opening.raised
        return members

    def _work(self, until_idle: bool) -> None:
        begun: list[_Member] = []
        try:
            for manager, session in self._members:
                session.starter = threading.get_ident()
                manager._current.launch(session)
                begun.append(_Member(manager, session))
            if until_idle:
                aside("qbridge-idle", self._stop_when_idle)
            self._wait(begun)
        finally:  # something else interrupted the wait, or the system has no thread left
            if not all(session.stopped.is_set() for _, session in begun):
                self.stop(reason=INTERRUPTED)
                self._wait(begun)

    def _wait(self, begun: Sequence[_Member]) -> None:
        """Wait until all have ended. What one of them wants is what all want."""
        left = list(begun)
        while left:
            left[0].session.ends_within(LOOK_EVERY)
            self._turn()
            for member in left:
                self._note_error(member)
            self._pass_on()
            left = [member for member in left if not member.session.ends_within(0)]
        for member in begun:
            self._note_error(member)

    def _note_error(self, member: _Member) -> None:
        error = member.session.error
        if error is None or self._error is not None:
            return
        self._error = error
        if len(self._managers) > 1:
            error.add_note(f"this ended the worker of {member.manager._names!r}; the others were stopped")

    def _stop_when_idle(self) -> None:
        # Twice in a row: a delivery can be on its way between the broker's count and the client's.
        quiet = 0
        try:
            while quiet < 2:
                if self._over.wait(_IDLE_POLL):
                    return
                idle = all(manager._work_left.is_done(session) for manager, session in self._members)
                quiet = quiet + 1 if idle else 0
        except BaseException as exc:  # noqa: BLE001 - the job fails with it
            if self._error is None:
                self._error = exc
        self.stop(reason="the queues are empty")


class _Member(NamedTuple):
    """A manager, and what it does now."""

    manager: TaskManager
    session: Session


class _Opening:
    """Declares the queues of all, in a thread: a broker that does not answer must not keep a signal waiting.

    Attributes:
        raised: why one of them cannot start.
    """

    def __init__(self, managers: Sequence[TaskManager], poll_timeout: float) -> None:
        self.raised: BaseException | None = None
        self._managers = managers
        self._poll_timeout = poll_timeout
        self._members: list[_Member] = []
        self._is_over = False
        self._lock = threading.Lock()

    def run(self) -> None:
        """Open one after the other, until one cannot be opened or nobody wants it any more."""
        try:
            for manager in _letters_first(self._managers):
                session = manager._open_session(self._poll_timeout)
                with self._lock:
                    if self._is_over:
                        manager._current.forget(session)
                        return
                    self._members.append(_Member(manager, session))
        except BaseException as exc:  # noqa: BLE001 - whoever waits raises it again
            self.raised = exc

    def end(self) -> tuple[_Member, ...]:
        """Those that are open; no more will be."""
        with self._lock:
            self._is_over = True
            return tuple(self._members)


def _checked(managers: Sequence[object]) -> tuple[TaskManager, ...]:
    if not managers:
        raise ConfigurationError("run_workers needs a TaskManager for each queue, as in run_workers(emails, images)")
    found: list[TaskManager] = []
    for manager in managers:
        if not isinstance(manager, TaskManager):
            hint = ": write run_workers(*managers)" if isinstance(manager, list | tuple) else ""
            raise ConfigurationError(f"run_workers needs TaskManagers, not a {type(manager).__name__}{hint}")
        if any(manager is each for each in found):
            raise ConfigurationError(f"the TaskManager of {manager._names!r} is given twice")
        if shared := {queue for each in found for queue in _shared_queues(manager, each)}:
            raise ConfigurationError(
                f"two TaskManagers have the queue {min(shared)!r}, and each of its tasks would go to either of "
                "them; for more tasks at once give one of them more max_workers"
            )
        found.append(manager)
    _check_dead_letters(found)
    return tuple(found)


def _check_dead_letters(managers: Sequence[TaskManager]) -> None:
    """Refuse letters that go round. That they run as tasks of another queue is meant, or a slip: say so."""
    brokers: dict[str, dict[str, str]] = {}  # two clients of one broker look alike
    for manager in managers:
        routes = brokers.setdefault(repr(manager.queue_client), {})
        routes.update((queue.name, queue.dead_letter_queue) for queue in manager._plan.queues)
    for routes in brokers.values():
        for queue in check_dead_letter_routes(routes):
            _log.warning(
                "dead letters of %s go to %s, from which this program takes tasks: each runs there as a new one, "
                "which is right if that worker is made for them",
                queue, routes[queue],
            )  # fmt: skip


def _letters_first(managers: Sequence[TaskManager]) -> list[TaskManager]:
    """Who works on the letters of another one comes before that one, which would make the queue for letters only."""
    routes = {queue.name: queue.dead_letter_queue for manager in managers for queue in manager._plan.queues}

    def length(queue: str) -> int:
        count = 0
        while (queue := routes.get(queue, "")) in routes and count < len(routes):
            count += 1
        return count

    return sorted(managers, key=lambda manager: max(map(length, manager.input_queues)))


def _shared_queues(one: TaskManager, other: TaskManager) -> set[str]:
    """The queues that both consume, also through two clients of one broker, which look alike."""
    clients = one.queue_client, other.queue_client
    are_alike = clients[0] is clients[1] or repr(clients[0]) == repr(clients[1])
    return set(one.input_queues) & set(other.input_queues) if are_alike else set()


def disconnect_all(clients: Sequence[QueueClient], patience: float | None = None) -> bool:
    """Disconnect each client, all at the same time; False when that was not done in time.

    Args:
        clients: some may be there twice.
        patience: seconds to wait; ``None`` for as long as it takes.
    """
    deadline = None if patience is None else monotonic() + patience
    distinct = {id(client): client for client in clients}.values()
    helpers = [aside("qbridge-disconnect", functools.partial(_disconnect, client)) for client in distinct]
    for helper in helpers:
        helper.join(None if deadline is None else max(0.0, deadline - monotonic()))
    return not any(helper.is_alive() for helper in helpers)


def _disconnect(client: QueueClient) -> None:
    try:
        client.disconnect()
    except BaseException:  # noqa: BLE001 - the process ends, and the broker notices
        _log.exception("the client could not disconnect")
