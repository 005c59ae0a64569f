"""What goes wrong in a test because it was asked to: workers die, the broker is away, slow, or repeats itself."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import CodeType
from typing import Final, Literal, NamedTuple, TypeVar

from qbridge_core import BrokerUnavailableError, Delivery, PublishUnconfirmedError
from qbridge_core.task.context import current_run
from qbridge_memory.stored import StoredMessage
from qbridge_pytest import points
from qbridge_pytest.clock import VirtualClock
from qbridge_pytest.points import Point
from qbridge_pytest.whose import Whose

_T = TypeVar("_T")
USUAL_PATIENCE: Final = 10.0
"""Seconds for which a producer waits for a confirmation, unless it says otherwise."""


class WorkerDiedError(BaseException):
    """Raised in a handler where its worker is to die. No ``Exception``: what a handler catches is not this."""


class Fault(NamedTuple):
    """Something that went wrong with a message, beside the events of its broker.

    Attributes:
        what: ``crashed``: its worker died; ``ack lost``: the broker has not heard that it was done.
        queue: where it was.
        message: the message.
        at: when (Unix time in seconds, by the clock of the broker).
        place: where in its run.
    """

    what: Literal["crashed", "ack lost"]
    queue: str
    message: StoredMessage
    at: float
    place: str = ""
    delay: float = 0.0
    target: str = ""


class _Crash(NamedTuple):
    point: Point
    whose: Whose
    may_not_come: bool


class Faults:
    """The faults of one test. Thread-safe.

    Args:
        time: the clock of the broker.
        note: called with each fault that happens.
    """

    def __init__(self, time: VirtualClock, note: Callable[[Fault], object]) -> None:
        self._time = time
        self._note = note
        self._crashes: list[_Crash] = []
        self._acks_to_lose: list[Whose] = []
        self._dead: dict[int, Delivery] = {}  # whose worker has died; kept, so that no other has their identity
        self._lock = threading.Lock()
        self._down_until = 0.0
        self._publishing_takes = 0.0
        self.happened = 0
        """How many of those that were asked for have happened."""
        self.refused = False
        """Whether a worker has met the broker that is down."""
        self.workers_end = False
        """Whether those who work are being stopped: what they have they may settle, for time stands still meanwhile."""

    # ------------------------------------------------------------------ what is asked for

    def crash(self, point: Point, whose: Whose, *, may_not_come: bool = False) -> None:
        """Have the worker of the next of these runs die that comes to this point, if any must."""
        with self._lock:
            self._crashes.append(_Crash(point, whose, may_not_come))

    def lose_ack(self, whose: Whose) -> None:
        """Have the next acknowledgement of these messages not arrive."""
        with self._lock:
            self._acks_to_lose.append(whose)

    def go_down(self, seconds: float) -> None:
        """Have the broker be away for so long."""
        self._down_until = self._time.monotonic() + seconds
        self.refused = False

    def slow_down(self, seconds: float) -> None:
        """Have each message take so long to be published from now on."""
        self._publishing_takes = seconds

    # ------------------------------------------------------------------ what happens

    @property
    def awaited(self) -> float | None:
        """When the broker comes back that a worker waits for, as the clock's monotonic time."""
        return self._down_until if self.refused and self._is_down else None

    @property
    def watches_lines(self) -> bool:
        """Whether a crash is asked for that only the lines of a handler show."""
        return any(crash.point.name in (points.START, "line") for crash in self._crashes)

    @property
    def codes(self) -> list[CodeType]:
        """The code whose lines are named."""
        return [crash.point.code for crash in self._crashes if crash.point.code is not None]

    def to_come(self) -> str:
        """What may have happened and has not; "" for nothing."""
        found = [f"no worker{_of(each.whose)} died {each.point.place}" for each in self._crashes if each.may_not_come]
        return f"{found[0]}: no run came to that point" if found else ""

    def missing(self) -> str:
        """What was asked for by the test itself and has not happened; "" for nothing."""
        found = [
            f"no worker{_of(each.whose)} died {each.point.place}" for each in self._crashes if not each.may_not_come
        ]
        found += [f"no acknowledgement{_of(whose)} was lost" for whose in self._acks_to_lose]
        return f"{'; '.join(found)}, as the test has asked for: no run came to that point" if found else ""

    def meet_settlement(self) -> None:
        """Be the broker to which a worker tells what has become of a message.

        Raises:
            BrokerUnavailableError: it is down.
        """
        if not self.workers_end:
            self.meet(worker=True)

    def meet(self, *, worker: bool = False) -> None:
        """Be the broker that is asked for something.

        Raises:
            BrokerUnavailableError: it is down.
        """
        if not self._is_down:
            return
        self.refused = self.refused or worker
        left = self._down_until - self._time.monotonic()
        raise BrokerUnavailableError(f"the broker is down for another {left:g} s, as broker_down has said")

    @contextmanager
    def publishing(self, timeout: float | None) -> Iterator[None]:
        """Stand around the publishing of a message.

        Raises:
            BrokerUnavailableError: the broker is down.
            PublishUnconfirmedError: it takes too long; the message is there all the same.
            WorkerDiedError: the worker is to die here.
        """
        self.meet()
        self._die_in_handler(points.BEFORE_PUBLISH)
        yield
        patience = USUAL_PATIENCE if timeout is None else timeout
        if takes := self._publishing_takes:
            self._time.advance(min(takes, patience))
        self._die_in_handler(points.PUBLISH)
        if takes > patience:
            raise PublishUnconfirmedError(f"no confirmation came within {patience:g} s, as slow_publish has said")

    def reaches_line(self, code: object, line: int) -> None:
        """A handler, or whoever else calls its function, is about to run this line.

        Raises:
            WorkerDiedError: the worker is to die here.
        """
        run = current_run.get()
        if run is None or not run.in_handler:
            return

        def is_meant(point: Point) -> bool:
            return point.name == points.START or (point.code is code and point.line == line)

        self._die(run.delivery, is_meant)

    def dies_at(self, point: str, delivery: Delivery) -> bool:
        """Whether its worker dies now, outside of the handler."""
        return self._take(delivery, lambda each: each.name == point) is not None

    def settles(self, delivery: Delivery) -> bool:
        """Whether its worker lives to settle it; if not, the message has to be given back, at the latest now."""
        if not self._dead and not self._crashes:
            return True
        if id(delivery) in self._dead:
            return False
        if not self.dies_at(points.DONE, delivery):
            return True
        with self._lock:
            self._dead[id(delivery)] = delivery
        return False

    def loses_ack(self, delivery: Delivery) -> bool:
        """Whether the broker does not hear of this acknowledgement; then the message has to be given back."""
        with self._lock:
            message = _message_of(delivery)
            number = _first(self._acks_to_lose, lambda whose: whose.has(delivery.queue, message))
            if number is None:
                return False
            del self._acks_to_lose[number]
        self._tell("ack lost", delivery, "")
        return True

    def sender_is_dead(self) -> bool:
        """Whether who sends something is a handler whose worker has died: nobody gets that."""
        if not self._dead:
            return False
        run = current_run.get()
        return run is not None and run.in_handler and id(run.delivery) in self._dead

    @property
    def _is_down(self) -> bool:
        return self._time.monotonic() < self._down_until

    def _die_in_handler(self, name: str) -> None:
        run = current_run.get()
        if run is not None and run.in_handler:
            self._die(run.delivery, lambda point: point.name == name)

    def _die(self, delivery: Delivery, is_meant: Callable[[Point], bool]) -> None:
        if id(delivery) in self._dead:
            return
        point = self._take(delivery, is_meant)
        if point is None:
            return
        with self._lock:
            self._dead[id(delivery)] = delivery
        raise WorkerDiedError(f"the worker dies here, as the test has asked for: {point.place}")

    def _take(self, delivery: Delivery, is_meant: Callable[[Point], bool]) -> Point | None:
        if not self._crashes:
            return None
        with self._lock:
            message = _message_of(delivery)
            number = _first(
                self._crashes, lambda crash: is_meant(crash.point) and crash.whose.has(delivery.queue, message)
            )
            if number is None:
                return None
            point = self._crashes.pop(number).point
        self._tell("crashed", delivery, point.place)
        return point

    def _tell(self, what: Literal["crashed", "ack lost"], delivery: Delivery, place: str) -> None:
        self.happened += 1
        self._note(Fault(what, delivery.queue, _message_of(delivery), self._time.wall(), place))


def _message_of(delivery: Delivery) -> StoredMessage:
    return StoredMessage(delivery.body, delivery.headers, delivery.message_id, delivery.meta)


def _of(whose: Whose) -> str:
    return f" of {whose.name}" if whose.name else ""


def _first(items: Sequence[_T], is_meant: Callable[[_T], bool]) -> int | None:
    return next((number for number, each in enumerate(items) if is_meant(each)), None)
