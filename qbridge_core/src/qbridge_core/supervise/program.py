"""The program of a worker process below a :class:`~qbridge_core.Supervisor`: builds managers and runs them.

They run in a thread, so that the main thread is free for signals and for what the supervisor says: a service
manager may signal supervisor and workers at once, and two requests to stop must not become a demand to stop now.
"""

from __future__ import annotations

import functools
import itertools
import os
import pickle
import queue
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Final

from qbridge_core.contract.dead_letter import Reason
from qbridge_core.contract.plugins import use_everywhere
from qbridge_core.errors import AuthenticationError, ConfigurationError, QBridgeError, TransientError
from qbridge_core.execute.spawned import JsonLink, main_program_imported
from qbridge_core.runtime.clock import monotonic
from qbridge_core.runtime.logs import flush, logger
from qbridge_core.runtime.signals import Insistence, signal_name
from qbridge_core.supervise.beats import Beats
from qbridge_core.supervise.builds import find
from qbridge_core.supervise.telling import Teller
from qbridge_core.task.explanation import Explanation
from qbridge_core.work.manager import TaskManager
from qbridge_core.work.poison.observer import set_observer
from qbridge_core.work.workers import Workers, disconnect_all

_log: Final = logger("qbridge.worker")
READY: Final = "ready"
BEGAN: Final = "began"
ENDED: Final = "ended"
ASK: Final = "ask"
ANSWER: Final = "answer"
COMPLAINT: Final = "complaint"
GRACE: Final = "grace"
BROKER: Final = "broker"
ACCESS: Final = "access"
SETTINGS: Final = "settings"
HEALTH: Final = "health"
FIGURES: Final = "figures"
LOOK: Final = "look"
UNKNOWN: Final = ""
STOP: Final = "stop"
NOW: Final = "now"
PASSING: Final = os.EX_TEMPFAIL
"""The exit status of a worker that a later one may do better than."""
_DISCONNECT_TIME: Final = 2.0
_NOT_SHARED: Final = (
    "the queues of {} are in the memory of one process, so each worker process of a Supervisor would have queues of "
    "its own, and nobody could send to them: run one TaskManager without a Supervisor, or use a broker"
)
_ANSWER_TIME: Final = 1.0
_REPEAT: Final = 0.1


def main(descriptor: int) -> None:
    """Build the managers and run them until the supervisor says stop or is gone. The argument: an inherited socket."""
    link = SupervisorLink(JsonLink(descriptor))
    preparation, builds, counts, stall = pickle.loads(link.receive_bytes())  # noqa: S301 - from the supervisor
    teller = _counting(link) if counts else None
    orders = Orders(link)
    with _telling(link):
        with main_program_imported(preparation):
            found = [find(build) for build in pickle.loads(builds)]  # noqa: S301 - as above
        set_observer(link)
        workers = Workers([manager for make in found for manager in _made(make)], stall=stall)
    link.say(GRACE, float(workers.grace_period))
    orders.can_be_obeyed()
    sys.exit(_Worker(workers, orders, link, teller, stall).run())


def _counting(link: SupervisorLink) -> Teller:
    """Have all managers of this process counted, and the supervisor told."""
    teller = Teller(functools.partial(link.say, FIGURES), link.has_room)
    use_everywhere(teller.recorder)
    link.look = teller.recorder.depths.begin
    return teller


@contextmanager
def _telling(link: SupervisorLink) -> Iterator[None]:
    """Tell the supervisor what ends this process before it works; a traceback is in the output where it helps."""
    try:
        yield
    except QBridgeError as exc:  # says all there is to say
        _log_error("the worker cannot start: %s%s", exc, _place(exc))
        flush()  # the supervisor may end this process as soon as it knows
        passing = isinstance(exc, TransientError)
        plain = passing or isinstance(exc, ConfigurationError)
        link.say(COMPLAINT, str(exc) if plain else f"{type(exc).__name__}: {exc}", _kind(exc))
        sys.exit(PASSING if passing else 1)
    except Exception as exc:
        _complain(link, exc)
        raise


def _kind(exc: BaseException) -> str:
    """What has to change before another start can do better."""
    if isinstance(exc, ConfigurationError):
        return SETTINGS
    if isinstance(exc, AuthenticationError):
        return ACCESS
    return BROKER if isinstance(exc, TransientError) else UNKNOWN


def _log_error(text: str, exc: QBridgeError, *others: str) -> None:
    """What it says, and each of its notes in a line of its own."""
    _log.error(text, exc, *others)
    for note in getattr(exc, "__notes__", ()):
        _log.error("%s", note)


def _complain(link: SupervisorLink, error: BaseException) -> None:
    explanation = Explanation.from_exception(Reason.FAILED, error)
    link.say(COMPLAINT, f"{explanation.exception_type}: {explanation.message}", _kind(error))


def _place(exc: BaseException) -> str:
    """Where the program of the user has called what raised this."""
    frames = [(frame, line) for frame, line in traceback.walk_tb(exc.__traceback__)]
    for (outer, line), (inner, _) in itertools.pairwise(frames):
        if _is_ours(inner) and not _is_ours(outer):
            return f" (line {line} of {outer.f_code.co_filename})"
    return ""


def _is_ours(frame: FrameType) -> bool:
    return str(frame.f_globals.get("__name__", "")).startswith("qbridge_")


def _made(make: Callable[[], object]) -> list[TaskManager]:
    """The manager that a build function makes, or those of an app."""
    made = make()
    managers: list[TaskManager] = []
    for manager in made if isinstance(made, list) else [made]:
        if not isinstance(manager, TaskManager):
            raise ConfigurationError(f"the build function must return a TaskManager, not a {type(manager).__name__}")
        client = manager.queue_client
        if not client.capabilities.shared:
            raise ConfigurationError(_NOT_SHARED.format(type(client).__name__))
        managers.append(manager)
    return managers


def _nothing(seconds: float) -> None:
    """Nobody looks."""


class SupervisorLink:
    """The connection to the supervisor; also the observer of this process. Thread-safe.

    Attributes:
        look: called when this process is to look at the queues, with the seconds between two looks.
    """

    def __init__(self, link: JsonLink) -> None:
        self.look: Callable[[float], None] = _nothing
        self._link = link
        self._asking = threading.Lock()
        self._answers: queue.SimpleQueue[tuple[int, str]] = queue.SimpleQueue()
        self._questions = 0
        self._is_ready = False

    def receive_bytes(self) -> bytes:
        """The first message, which is not JSON."""
        return self._link.receive_bytes()

    def say(self, *words: object) -> None:
        """Tell the supervisor; one that is gone does not matter here."""
        try:
            self._link.say(*words)
        except OSError as exc:
            _log.debug("the supervisor does not listen: %s", exc)

    def has_room(self) -> bool:
        """Whether the supervisor reads what it is told."""
        return self._link.has_room()

    def hear(self) -> str | None:
        """Wait for the next command; ``None`` when the supervisor is gone."""
        while True:
            try:
                word, *details = self._link.hear()
            except (EOFError, OSError):
                return None
            except ValueError:
                _log.exception("the supervisor says what nobody understands; the worker stops")
                return None
            if word == ANSWER:
                self._answers.put((details[0], details[1]))
            elif word == LOOK:
                self.look(details[0])
            else:
                return str(word)

    def ready(self) -> None:
        """This process is about to work. Each of its threads says so."""
        if not self._is_ready:
            self._is_ready = True
            self.say(READY)

    def began(self, queue: str, task_id: str) -> None:
        """This process runs this task and no other."""
        self.say(BEGAN, queue, task_id)

    def ended(self) -> None:
        """This process has survived it."""
        self.say(ENDED)

    def last_death(self, queue: str, task_id: str) -> str:
        """How the last process that ran this task alone ended; "" when the supervisor does not know or answer."""
        with self._asking:
            self._questions += 1
            self.say(ASK, self._questions, queue, task_id)
            return self._answer(self._questions)

    def _answer(self, number: int) -> str:
        try:
            while True:
                answered, text = self._answers.get(timeout=_ANSWER_TIME)
                if answered == number:  # another one is late
                    return text
        except queue.Empty:
            return ""


class Orders:
    """What the supervisor wants, heard in a thread.

    Attributes:
        wanted: STOP, then perhaps NOW; signal handlers append to it as well.
    """

    def __init__(self, link: SupervisorLink) -> None:
        self.wanted: Final[list[str]] = []
        self._link = link
        self._obeyed = False
        self._deciding = threading.Lock()
        threading.Thread(target=self._listen, name="qbridge-supervisor", daemon=True).start()

    def can_be_obeyed(self) -> None:
        """From now on somebody looks at ``wanted``. Until then, while user code builds the manager, orders end all."""
        with self._deciding:
            self._obeyed = True

    def _listen(self) -> None:
        try:
            while (word := self._link.hear()) is not None:
                self._note(word)
        except BaseException:  # noqa: BLE001 - a worker that hears no orders would never end
            _log.exception("the supervisor cannot be heard; the worker stops")
        self._note(STOP)  # the supervisor is gone

    def _note(self, word: str) -> None:
        with self._deciding:
            if not self._obeyed:
                os._exit(0)  # no message has been taken, and nobody knows how long the user's code may take
            self.wanted.append(word)


class _Worker:
    """Runs the managers in a thread, and stops them on demand."""

    def __init__(
        self, workers: Workers, orders: Orders, link: SupervisorLink, teller: Teller | None, stall: float
    ) -> None:
        self._workers = workers
        self._wanted = orders.wanted
        self._link = link
        self._teller = teller
        self._beats = Beats(functools.partial(link.say, HEALTH), link.has_room, workers.health, stall)
        self._insistence = Insistence()
        self._reason = "the supervisor stops it"
        self._ended_at: float | None = None
        self._thread = threading.Thread(target=self._work, name="qbridge-manager", daemon=True)
        self._status = 0

    def run(self) -> int:
        """Work until told to stop; return the exit status."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._on_signal)
        self._thread.start()
        while self._thread.is_alive():
            if self._wanted:
                self._workers.stop(now=NOW in self._wanted, reason=self._reason)
            self._beats.turn()
            self._thread.join(_REPEAT)
            if self._ended_at is not None and monotonic() > self._ended_at + _DISCONNECT_TIME:
                _log.error("the client does not disconnect; the process ends without it")
                flush()
                os._exit(self._status)  # a lock may be leaked, and the end of the interpreter may need it too
        return self._status

    def _work(self) -> None:
        try:
            self._workers.run()
        except QBridgeError as exc:
            _log_error("the worker ends: %s", exc)
            self._status = PASSING if isinstance(exc, TransientError) else 1
            self._link.say(COMPLAINT, str(exc), _kind(exc))
        except BaseException as exc:  # noqa: BLE001 - whatever it is, the process ends with it
            _log.exception("the worker ends")
            self._status = 1
            _complain(self._link, exc)
        finally:
            self._ended_at = monotonic()
            if self._teller is not None:
                self._teller.tell()
            disconnect_all(self._workers.clients)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        del frame
        if not self._wanted:
            self._reason = signal_name(number)
        self._wanted.append(STOP)
        self._insistence.count(number)
