"""The side queue for messages that may be killing their workers.

When a worker process dies, every task that it held is a suspect, and only one of them may be guilty. A suspect is moved
to the queue ``<queue>.suspects``, and its next run tells more:

* in a child process of its own (:mod:`.isolation`) wherever one can be had. A child that dies leaves no
  doubt, and nobody waits for it. Such a message is marked as running *beside* others: when a whole worker dies while it
  holds one, that is a suspicion and no more, because the worker ran other tasks too.
* alone in a worker, where no child can be had, or when ``max_crashes`` workers have died with it although it ran in a
  child (a container's limit may kill both). Nothing is read meanwhile, for a few seconds at most. When the other tasks
  do not end by then, a suspect runs beside them, marked; one with so many suspicions waits for another chance. Then
  the others have their turn (:mod:`.turns`).

Which of the two it is stands on the message before the run, so that whoever gets it after a death can tell.
"""

from __future__ import annotations

import contextlib
import math
import threading
from collections.abc import Callable
from typing import Final

from qbridge_core.contract.client import QueueClient
from qbridge_core.contract.headers import BESIDE
from qbridge_core.contract.message import Delivery
from qbridge_core.errors import QBridgeError
from qbridge_core.runtime.clock import monotonic
from qbridge_core.runtime.logs import logger
from qbridge_core.runtime.pulse import Pulse
from qbridge_core.work.poison.observer import current_observer
from qbridge_core.work.poison.scout import Scout
from qbridge_core.work.poison.suspects import Suspects
from qbridge_core.work.poison.turns import Turns
from qbridge_core.work.poison.waiting_time import LONGEST_WAIT, WaitingTime
from qbridge_core.work.watch import watch

_log: Final = logger("qbridge.worker")
LOOK_EVERY: Final = 5.0
_LOOKS: Final = 50
"""So many looks a second at most are made for all managers: each costs the broker a round trip."""
_LONGEST_EVERY: Final = 20.0
_QUIET_POLL: Final = 0.01
_LONGEST_LOOK: Final = 0.9
_BUSY: Final = 0.5
_ANSWERING: Final = 0.5
_MOVING: Final = 10.0
"""So long after a suspect has been moved more of them may come: what one dead worker held comes at once."""
_FEW: Final = 5


def look_every(queues: int) -> float:
    """Seconds between two looks into each of so many side queues."""
    return min(_LONGEST_EVERY, max(LOOK_EVERY, queues / _LOOKS))


class SideQueue:
    """Takes suspects from the side queue. Thread-safe, but for ``take``, which is for one thread at a time.

    Args:
        client: the broker.
        queue: the side queue.
        max_crashes: a message is poison after so many deaths that it is charged with, and runs alone after so many
            suspicions.
        in_children: workers run all tasks in child processes, so a suspect need not wait for anything.
        slots: how many tasks the worker runs at once.

    Attributes:
        client: the broker.
        isolated: other threads (:mod:`.isolation`) take the suspects and run them in child processes; what
            is left to the workers are those that must run alone.
        wanted: set when there may be something for those threads to do.
        ring: called then too.
    """

    def __init__(
        self,
        client: QueueClient,
        queue: str,
        max_crashes: int = 3,
        *,
        in_children: bool = False,
        slots: int = 1,
    ) -> None:
        self.client = client
        self._observer = current_observer()
        self._suspects = Suspects(client, queue, max_crashes)
        self._in_children = in_children
        self.queue = queue
        self.isolated = False
        self.wanted = threading.Event()
        self.ring: Callable[[], None] = _nobody
        self._turn = threading.Lock()
        self._counting = threading.Lock()
        self._apart = 0
        self._waiting_time = WaitingTime()
        self._turns = Turns(slots)
        self._scout = Scout(self._suspects.count)
        self._look_at = 0.0
        self._moved_at = -math.inf
        self._look_again = False
        self._left = 0
        self._must_run_alone = False
        self._alone: Delivery | None = None
        self._alone_until = 0.0

    @property
    def may_run_beside(self) -> bool:
        """Whether a suspect that is moved now will run in a child process, so that its worker need run nothing else."""
        return self.isolated or self._in_children

    @property
    def scouting(self) -> tuple[Pulse, ...]:
        """Of the thread that counts suspects for the workers."""
        return (self._scout.pulse,)

    def moved(self) -> None:
        """A suspect was put into the side queue: look soon."""
        self._look_at = 0.0
        self._moved_at = monotonic()
        self.wanted.set()
        self.ring()

    def is_poison(self, delivery: Delivery) -> bool:
        """Whether a message has killed so many processes that it must not run again."""
        return self._suspects.is_poison(delivery)

    # ------------------------------------------------------------------ for the threads with a child process

    def has_any(self) -> bool:
        """Whether there is a suspect, as far as the broker can tell."""
        return self._suspects.count() > 0

    def take_isolated(self) -> Delivery | None:
        """The next suspect to run in a child process, or one that is poison; None when there is none.

        Call ``release`` when it has been dealt with.
        """
        if not self._turn.acquire(timeout=LOOK_EVERY):  # one runs alone in a worker
            return None
        try:
            delivery = self._suspects.find(self._next_isolated, self._suspects.count())
            if delivery is not None:
                with self._counting:
                    self._apart += 1
        finally:
            self._turn.release()
        return delivery

    def release(self) -> None:
        """A suspect that ``take_isolated`` returned has been dealt with."""
        with self._counting:
            self._apart -= 1

    def leave(self, delivery: Delivery) -> None:
        """No child process can be had for it: leave it and those behind it to the workers."""
        self.isolated = False
        if not self._suspects.write_anew(delivery, beside=True):
            with contextlib.suppress(QBridgeError):  # what is not settled the broker delivers again at the end
                self.client.reject(delivery, requeue=True)
        self.moved()

    def _next_isolated(self, waiting: int) -> Delivery | None:
        for _ in range(2 * waiting):
            delivery = self._suspects.receive()
            if delivery is None or self._suspects.is_poison(delivery):
                return delivery
            exhausted = self._suspects.is_exhausted(delivery)
            if exhausted:
                self._must_run_alone = True
            elif BESIDE in delivery.meta:
                return delivery
            if not self._suspects.write_anew(delivery, beside=True):
                return delivery
        return None

    # ------------------------------------------------------------------ for the workers

    def take(self, is_quiet: Callable[[], bool], closed: threading.Event) -> Delivery | None:
        """The next suspect for a worker's thread, while that keeps the others from reading; None when there is none.

        When ``is_alone`` says so, they must not read before ``is_over`` or ``ended``.
        """
        began = monotonic()
        if not self._is_due(began):
            return None
        if self._apart:  # suspects run in child processes
            self._look_at = began + _BUSY
            return None
        if not (waiting := self._look(began)):
            return None
        if not self._turn.acquire(blocking=False):
            self._look_at = began + _BUSY
            return None
        self._turns.begin(began)
        delivery = None
        try:
            delivery = self._suspects.find(
                lambda count: self._next(count, lambda: is_quiet() and not self._apart, closed), waiting
            )
        finally:
            if self._alone is None:
                self._turn.release()
            if delivery is None:
                self._turns.end()
        if delivery is not None and self._alone is None:
            self._turns.run_beside(delivery)
        if delivery is not None or self._look_again:
            self._look_at = 0.0  # when the others have had their turn
            self._look_again = False
        self._left = waiting - 1 if delivery is not None else 0
        return delivery

    @property
    def patience(self) -> float:
        """For how many seconds to wait for other messages before ``take`` is called again."""
        patience = self._turns.patience
        # Whoever reads when another thread moves one is not told.
        moving = monotonic() - self._moved_at < _MOVING
        return min(patience, _ANSWERING) if moving or self._scout.is_looking else patience

    def due_in(self) -> float:
        """Seconds until ``take`` may find something that was not moved here; infinite when other threads look."""
        if self.isolated and not self._must_run_alone:
            return math.inf
        return max(0.0, self._look_at - monotonic())

    def nothing_else(self) -> None:
        """For so long no other message has come."""
        self._turns.skip()

    def is_alone(self, delivery: Delivery) -> bool:
        """Whether a suspect that ``take`` returned runs with nothing beside it."""
        return delivery is self._alone

    def is_over(self) -> bool:
        """Whether others have waited long enough for a suspect that runs alone."""
        return self._alone is not None and monotonic() >= self._alone_until

    def go_on(self) -> None:
        """Others read again, though a suspect that began alone has not ended."""
        self._turns.end()

    def began(self, task_id: str) -> None:
        """A suspect is about to run in a worker's thread."""
        self._observer.began(self.queue, task_id)

    def ended(self, delivery: Delivery) -> None:
        """The suspect has been dealt with, and this process lives."""
        self._observer.ended()
        if delivery is self._alone:
            self._alone = None
            self._turns.end()
            self._turn.release()
        else:
            self._turns.ended(delivery)

    def last_death(self, task_id: str) -> str:
        """How the last process that ran this suspect in a worker's thread ended; "" when nobody saw it."""
        return self._observer.last_death(self.queue, task_id)

    def _look(self, now: float) -> int | None:
        """How many there are; None when the broker takes long to say so."""
        if not self._scout.is_looking:
            # Before the look, so that ``moved`` meanwhile is not forgotten.
            self._look_at = now + look_every(watch.count)
        # A look takes long on a loaded broker: one will do for all that it found.
        return self._left or self._scout.look()

    def _is_due(self, now: float) -> bool:
        if self.isolated and not self._must_run_alone:
            return False
        return (now >= self._look_at or self._scout.is_looking) and self._turns.may_begin(now)

    def _next(self, waiting: int, is_quiet: Callable[[], bool], closed: threading.Event) -> Delivery | None:
        self._must_run_alone = False
        began = monotonic()
        # With many suspects each process finds one. With few, whoever holds one waits, and other processes need not.
        quiet = is_quiet() or (waiting > _FEW and not self.may_run_beside and self._wait_until(is_quiet, closed))
        until = monotonic() + _LONGEST_LOOK
        while monotonic() < until:
            delivery = self._suspects.receive()
            if delivery is None or self._suspects.is_poison(delivery):
                return delivery
            exhausted = self._suspects.is_exhausted(delivery)
            if self.may_run_beside and not exhausted:
                if self._in_children and BESIDE in delivery.meta:
                    return delivery
                if self._suspects.write_anew(delivery, beside=True):  # for the thread that is there for it
                    continue
                return delivery
            if not quiet:
                # Marked first: what waits for others to end would be charged when one of them kills us.
                if BESIDE not in delivery.meta and self._suspects.write_anew(delivery, beside=True):
                    continue
                quiet = self._wait_until(is_quiet, closed)
            if not quiet:
                return self._not_alone(delivery, exhausted, closed)
            if BESIDE in delivery.meta and self._suspects.write_anew(delivery, beside=False):
                continue
            self._alone_until = began + LONGEST_WAIT
            self._alone = delivery
            return delivery
        self._look_again = not self.isolated  # the others have waited for this long enough
        return None

    def _not_alone(self, delivery: Delivery, exhausted: bool, closed: threading.Event) -> Delivery | None:
        """The others do not end: run a suspect beside them, but for one that has had enough of that."""
        if closed.is_set():
            self.client.reject(delivery, requeue=True)
            return None
        self._must_run_alone = exhausted
        return None if exhausted and self._suspects.write_anew(delivery, beside=True) else delivery

    def _wait_until(self, is_quiet: Callable[[], bool], closed: threading.Event) -> bool:
        began = monotonic()
        until = began + self._waiting_time.left()
        while not (quiet := is_quiet()) and monotonic() < until and not closed.wait(_QUIET_POLL):
            pass
        self._waiting_time.spend(monotonic() - began)
        return quiet


def _nobody() -> None:
    """Nobody wants to be told."""
