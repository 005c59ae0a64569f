"""Hands deliveries from the client to the workers.

An idle worker thread that finds nothing ready becomes the reader: it alone calls ``receive``, asks for as many messages
as there are idle workers (for some more when tasks are quick, see ``readahead``), keeps one and leaves
the rest to the others. So next to nothing is held that no worker is free for, no thread stands between the broker and
the workers, and a backend's ``receive`` needs to serve one thread only.

Coroutines have no threads of their own to read in. For them one thread calls ``feed`` whenever slots are free, and
their loop ``take_ready``, which never waits; which slots are free they say through ``idle``.

Where several queues share the workers, a :class:`~qbridge_core.work.pooled.reading.PoolReader` asks for their messages.
"""

from __future__ import annotations

import contextlib
import math
import threading
from collections import deque
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Final

from qbridge_core.contract.client import QueueClient
from qbridge_core.contract.message import Delivery
from qbridge_core.errors import NotConnectedError, QBridgeError
from qbridge_core.runtime.clock import monotonic
from qbridge_core.runtime.logs import logger
from qbridge_core.runtime.pulse import Pulse
from qbridge_core.work.gauge import Gauge
from qbridge_core.work.readahead import LARGE, SECONDS_HELD, ReadAhead
from qbridge_core.work.rest import Resting, pause
from qbridge_core.work.source import Source
from qbridge_core.work.trouble import Trouble, Troubles
from qbridge_core.work.watch import watch

if TYPE_CHECKING:
    from qbridge_core.work.pooled.reading import PoolReader
    from qbridge_core.work.pooled.suspects import AnySideQueue

_log: Final = logger("qbridge.worker")
_STALE_AFTER: Final = 1.0
_LOOK_EVERY: Final = 0.25
_STEP: Final = 100
_REST_POLL: Final = 0.05


class Dispatcher:
    """The deliveries of one queue, or of those of a pool, for the workers of one process. Thread-safe.

    Args:
        client: the broker.
        queue: the input queue; of a pool what the log calls it.
        workers: how many workers there are.
        poll_timeout: seconds that one ``receive`` may wait.
        suspects: messages that must run apart, if the backend can tell which those are.
        seconds_held: so much work of quick tasks may be held beyond what the workers do.
        reader: reads the queues of a pool.
    """

    def __init__(
        self,
        client: QueueClient,
        queue: str,
        workers: int,
        poll_timeout: float,
        suspects: AnySideQueue | None = None,
        seconds_held: float = SECONDS_HELD,
        reader: PoolReader | None = None,
    ) -> None:
        self.source = source = Source(client, queue, workers, reader)
        self._queues = source.queues
        self._poll_timeout = poll_timeout
        self._ready: deque[Delivery] = deque()
        self._reading = threading.Lock()
        self._idle = Gauge()
        self._workers = workers
        self._read_ahead = ReadAhead(workers, seconds_held)
        self._received = 0
        self._share = 0  # of each worker in what came last, beside the one task that it takes
        self._received_at = 0.0
        self._closed = threading.Event()
        self._is_over = False
        self._troubles = Troubles(client, queue)
        self._suspects = suspects
        self._alone: Delivery | None = None
        self._ending_alone = threading.Lock()
        self.gate: Final = source.gate
        """Keeps everybody from reading while it is shut."""
        self.pulse: Final = Pulse("whoever reads messages")
        """Of those who have the right to read, one after the other; nobody does while it rests."""
        self.unstarted = 0
        """How many of the workers have no thread yet; it counts as idle what is started when ``need`` asks for it."""
        self.need: Callable[[int], None] = _nobody
        """Called with the number of workers that are missing, by the one that reads."""
        self.resting: Final = Resting(self._is_idle, lambda: self._received)
        """Whether requests may be few, since nothing comes."""
        self.ending = False
        """Set it to let nothing more out, before ``close``; a plain attribute, so that a signal handler can."""

    @property
    def closed(self) -> bool:
        """True after ``close``."""
        return self._closed.is_set()

    @property
    def received(self) -> int:
        """How many messages have come so far."""
        return self._received

    @property
    def scouting(self) -> tuple[Pulse, ...]:
        """Of the threads that count suspects, where there may be some."""
        return () if self._suspects is None else self._suspects.scouting

    @property
    def trouble(self) -> Trouble | None:
        """Why nothing comes, from all queues or from one of them; None when each can be read."""
        return self._troubles.last or self.source.trouble

    @property
    def idle(self) -> Gauge:
        """How many slots are free, where those who use ``feed`` count them."""
        return self._idle

    @property
    def waits_for_suspect(self) -> bool:
        """True while a message runs alone, and nobody reads."""
        return self._alone is not None

    @property
    def has_ready(self) -> bool:
        """True while there is something that nobody has taken."""
        return bool(self._ready)

    def open(self) -> None:
        """Start the consumer."""
        self.source.open()

    def shut(self) -> None:
        """Let no more deliveries out. Waits for nothing."""
        self.ending = True
        self._closed.set()
        self.gate.give_up()

    def hold(self) -> None:
        """Let nobody ask for more, before ``rest``. Waits for nothing."""
        self.gate.shut()

    def rest(self) -> list[Delivery]:
        """End the consumer, after ``hold``; return what nobody has taken, the last first, as ``stale`` does.

        Returns when nobody asks for more.
        """
        self.source.end()
        # Once more: a reader may have passed the gate just before.
        while self.source.wakes and self.gate.is_asking and not self._closed.wait(_REST_POLL):
            self.source.end()
        return self._take_all()[::-1]  # each goes to the front: this keeps their order

    def go_on(self) -> None:
        """Start the consumer again, and open the gate."""
        try:
            self.open()
        except QBridgeError as exc:  # whoever receives is told, too
            _log.debug("subscribe after a pause: %s", exc)
        if self.closed:  # meanwhile, and before there was this consumer
            self.source.end()
        self.gate.open()

    def close(self) -> None:
        """Let no more deliveries out and wake the reader. May be called again, to wake a reader that was late."""
        self.shut()
        self.source.end()

    def take(self) -> Delivery | None:
        """Wait for the next delivery; None when the dispatcher is closed.

        Raises:
            NotConnectedError: somebody disconnected the client.
        """
        if self._ready and not self.ending:
            try:
                return self._ready.popleft()
            except IndexError:
                pass  # another worker was quicker
        self._idle.add(1)
        self._reading.acquire()
        delivery = None
        try:
            delivery = self._take_or_read()
            return delivery
        finally:
            self._idle.add(-1)  # before the lock is free: the next reader must not count this worker
            if delivery is None or not self._runs_alone(delivery):
                self._reading.release()  # otherwise ``done`` or ``stale`` does

    def take_more(self, first: Delivery, most: int) -> list[Delivery]:
        """What a worker has just taken, and its share of what was read ahead, but no more than ``most``. Never waits.

        Only what no worker has had before is taken together: it is not poison, and has no past that counts.
        """
        ready, taken = self._ready, [first]
        share = min(most - 1, self._share)
        if share < 1 or self.ending or first.queue not in self._queues or not _is_new(first):
            return taken
        try:
            while share and _is_new(ready[0]):
                taken.append(ready.popleft())
                share -= 1
        except IndexError:
            pass  # other workers were quicker
        return taken

    def put_back(self, deliveries: Sequence[Delivery]) -> list[Delivery]:
        """Leave to others what did not begin; what nobody comes for any more is returned."""
        self._ready.extendleft(reversed(deliveries))
        return self.left_over() if self._is_over else []

    def take_ready(self) -> Delivery | None:
        """The next delivery that is here already; None when there is none, or the dispatcher is closed. Never waits."""
        if self.ending:
            return None
        try:
            return self._ready.popleft()
        except IndexError:
            return None

    def feed(self) -> Delivery | None:
        """Wait for deliveries, as many as ``idle`` says, and leave them to ``take_ready``.

        Returns a suspect, which the caller has to run; when it runs alone, the next call waits until ``done``.

        Raises:
            NotConnectedError: somebody disconnected the client.
        """
        while not self._reading.acquire(timeout=_LOOK_EVERY):
            if self.ending:
                return None
        suspect = None
        try:
            if not self.ending and not self._ready:
                suspect = self._ask()
            return suspect
        finally:
            if suspect is None or not self._runs_alone(suspect):
                self._reading.release()

    # ------------------------------------------------------------------ where others wait for many queues

    @property
    def may_sleep(self) -> bool:
        """Whether nothing is to be done but to wait for a message, which somebody else may do."""
        if not (self.resting.rests and self.source.waits_for_any) or self.gate.is_shut or self.ending:
            return False
        return self._troubles.last is None and (self._suspects is None or self._suspects.due_in() == math.inf)

    def sleep(self) -> bool:
        """For whoever calls ``feed``: whether somebody else waits for messages until ``wake`` is called."""
        if not self.may_sleep or self._ready or not self.gate.try_enter():
            return False
        self.pulse.turn()
        return True

    def wake(self, batch: Sequence[Delivery]) -> None:
        """Nobody else waits any more, and these have come."""
        self._received += len(batch)
        self._received_at = monotonic()
        self._ready.extend(batch)
        if batch:
            self.resting.rouse()
        self.gate.leave()
        self.pulse.rest()

    def done(self, delivery: Delivery) -> None:
        """A delivery has been dealt with; when it ran alone, the others may go on."""
        if delivery.queue not in self._queues and self._suspects is not None:
            self._suspects.ended(delivery)
            self._go_on(delivery)

    def _take_or_read(self) -> Delivery | None:
        while not self.ending:
            if not self._ready and (suspect := self._ask()):
                return suspect
            try:
                return self._ready.popleft()
            except IndexError:
                pass  # nothing came, or another worker was quicker
        return None

    def _ask(self) -> Delivery | None:
        """Ask for messages, unless the queue is paused; return a suspect that has to run first, if there is one."""
        gate = self.gate
        if not gate.enter():
            return None
        self.pulse.turn()
        try:
            if self._suspects is not None and (suspect := self._suspects.take(self._is_quiet, self._closed)):
                return self._note_alone(suspect)
            self._ready.extend(self._read())
        finally:
            gate.leave()
            if self.source.pool is not None:
                self.source.pool.leave()
            self.pulse.rest()
        return None

    def _note_alone(self, suspect: Delivery) -> Delivery:
        self.resting.rouse()
        if self._runs_alone(suspect):
            self._alone = suspect  # whoever takes it keeps the right to read
        elif self.unstarted and self._idle.value <= 1:
            self.need(1)
        return suspect

    def take_all_of(self, queue: str) -> list[Delivery]:
        """Remove and return what nobody has taken of one of the queues, the last first."""
        taken: list[Delivery] = []
        for delivery in reversed([each for each in self._ready.copy() if each.queue == queue]):
            with contextlib.suppress(ValueError, IndexError):  # a worker has come for it
                self._ready.remove(delivery)
                taken.append(delivery)
        return taken

    def left_over(self) -> list[Delivery]:
        """Remove and return what was received and no worker took. Call it when the workers have ended."""
        self._is_over = True  # before the look
        return self._take_all()

    def _take_all(self) -> list[Delivery]:
        left: list[Delivery] = []
        try:
            while True:
                left.append(self._ready.popleft())
        except IndexError:
            return left

    def stale(self) -> list[Delivery]:
        """Remove and return what has waited for a second, because tasks take longer than those before them.

        Other worker processes may be idle: it belongs back into the queue. Also lets the others go on when they have
        waited long enough for a suspect that runs alone.
        """
        alone = self._alone
        if alone is not None and self._suspects is not None and self._suspects.is_over():
            self._suspects.go_on()
            self._go_on(alone)
        waiting: list[Delivery] = []
        if self._ready and monotonic() - self._received_at > _STALE_AFTER:
            try:
                while True:
                    waiting.append(self._ready.pop())
            except IndexError:
                pass  # that was the last one, or a worker has come for it
        if self.source.pool is not None and self._idle.value + self.unstarted <= 0:
            self.source.pool.tidy()
        return waiting

    def _is_idle(self) -> bool:
        return self._is_quiet() and not self._ready and self._alone is None

    def _runs_alone(self, delivery: Delivery) -> bool:
        return delivery.queue not in self._queues and self._suspects is not None and self._suspects.is_alone(delivery)

    def _go_on(self, delivery: Delivery) -> None:
        """Let others read, if they wait for this suspect."""
        with self._ending_alone:
            if delivery is not self._alone:
                return
            self._alone = None
        self._reading.release()

    def _is_quiet(self) -> bool:
        """True when every worker waits here, so that nothing runs."""
        return self._idle.value + self.unstarted >= self._workers

    def _read(self) -> list[Delivery]:
        idle = max(1, self._idle.value + min(self.unstarted, _STEP))
        done = self._received - (self._workers - self.unstarted - max(1, self._idle.value))
        began = monotonic()
        more = self._read_ahead.more(done, began)
        timeout, suspects = self._poll_timeout, self._suspects
        if self.resting.rests:
            timeout = self._long_timeout()
        if suspects is not None:
            timeout = min(timeout, suspects.patience)
        self.pulse.turn(timeout)
        try:
            batch = self.source.receive(idle + more, timeout)
        except NotConnectedError:
            raise
        except Exception as exc:  # noqa: BLE001 - whatever it is, the worker must go on asking
            seconds = self._troubles.failed(exc)
            self.pulse.turn(seconds)
            self._closed.wait(seconds)
            return []
        self._note_wait(began)
        if not batch and suspects is not None:
            suspects.nothing_else()
        self._received += len(batch)
        self._share = max(0, len(batch) - idle) // self._workers
        if self.resting.rests and batch:
            self.resting.rouse()
        if self.unstarted and (missing := len(batch) + 1 - self._idle.value) > 0:  # with one to read next
            self.need(missing)
        if batch and (len(batch[-1].body) > LARGE or self._read_ahead.size > LARGE):
            self._read_ahead.seen(len(batch[-1].body))
        self._received_at = monotonic()
        if self._troubles.last is not None:
            self._troubles.over()
        return batch

    def _long_timeout(self) -> float:
        """For how many seconds a request of a queue that rests may wait; ``unsubscribe`` must be able to end it."""
        if not self.source.wakes:
            return self._poll_timeout
        longer = pause(watch.count)
        if self._suspects is not None:
            longer = min(longer, self._suspects.due_in())
        return max(self._poll_timeout, longer)

    def _note_wait(self, began: float) -> None:
        """A request that began then has been answered: no work was done while all workers waited for it."""
        if self._is_quiet():
            self._read_ahead.waited(max(0.0, monotonic() - max(began, self._idle.raised_at)))


def _is_new(delivery: Delivery) -> bool:
    """True for what no worker has had before, as far as is known."""
    return not (delivery.meta or delivery.crashes or delivery.suspected or delivery.noted)


def _nobody(count: int) -> None:
    """Start no workers."""
