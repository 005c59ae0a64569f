"""Whether a session is alive and ready, found out without waiting for anybody.

Threads that come round by themselves show a pulse. A worker does not: between two messages it may wait for ever, and
its handler may take hours. So whoever watches over timeouts notes which of them are in code of ours, and since when
they have not moved there; that costs a message nothing. Whoever is in a handler or a hook has a deadline, and is
replaced after it.
"""

from __future__ import annotations

import traceback
from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

from qbridge_core.contract.client import QueueClient
from qbridge_core.runtime.clock import monotonic
from qbridge_core.runtime.frames import calls, frame_of
from qbridge_core.runtime.pulse import Stalled, worst
from qbridge_core.task.foreign import Watched
from qbridge_core.telemetry.health import Health
from qbridge_core.work import pauses
from qbridge_core.work.dispatcher import Dispatcher
from qbridge_core.work.poison import lookout
from qbridge_core.work.pool import Pool
from qbridge_core.work.watch import watch

if TYPE_CHECKING:
    from qbridge_core.work.pooled.suspects import AnyIsolation

_DEEPEST: Final = 40


class Liveness:
    """Whether what a session needs still turns.

    Args:
        client: the broker, with threads of its own.
        dispatcher: reads messages.
        pool: works on them.
        isolation: has threads that run suspects, if there is one.
    """

    def __init__(self, client: QueueClient, dispatcher: Dispatcher, pool: Pool, isolation: AnyIsolation | None) -> None:
        self._client = client
        self._dispatcher = dispatcher
        self._pool = pool
        self._isolation = isolation
        self._noted: dict[Watched, tuple[int, float]] = {}

    def note(self) -> None:
        """See which threads have moved; for the thread that watches over them, every second or so."""
        now, before = monotonic(), self._noted
        noted: dict[Watched, tuple[int, float]] = {}
        for thread in (*self._pool.busy(), *(() if self._isolation is None else self._isolation.watched())):
            turns, since = before.get(thread, (-1, now))
            if turns != thread.turns:
                since = max(now, thread.waits_until)
            noted[thread] = thread.turns, since
        self._noted = noted

    def stalled(self, stall: float) -> Stalled | None:
        """What has not turned for so many seconds, in any thread; None when all does. Waits for nobody.

        Whoever calls the client may wait as long as its own timeouts say, and hangs after that only.
        """
        now, client = monotonic(), self._client
        return worst(self._own(now), stall) or worst(self._callers(now), max(stall, client.patience))

    def _own(self, now: float) -> Iterator[Stalled]:
        """What never waits for the broker, and the client's own threads, which know how long they do."""
        yield watch.pulse.stalled(now)
        yield from self._pool.stalled(now)
        for pulse in self._client.pulses():
            yield pulse.stalled(now)

    def _callers(self, now: float) -> Iterator[Stalled]:
        yield self._reading(now)
        for thread, (turns, since) in self._noted.items():
            if thread.turns == turns:
                yield Stalled(thread.name, now - since, thread.thread)
        for pulse in (*lookout.pulses_of(self._client), *self._dispatcher.scouting):
            yield pulse.stalled(now)

    def _reading(self, now: float) -> Stalled:
        """Whoever reads messages; or that nobody does, though there are workers who wait for some."""
        dispatcher = self._dispatcher
        pulse, idle = dispatcher.pulse, dispatcher.idle
        stalled = pulse.stalled(now)
        if dispatcher.ending or dispatcher.gate.is_shut:
            return stalled._replace(seconds=-1.0)
        if pulse.rests and idle.value > 0 and not dispatcher.waits_for_suspect:
            return Stalled("the lock of those who read messages", now - max(pulse.rested_at, idle.raised_at), None)
        return stalled


def silent(client: QueueClient, dispatcher: Dispatcher, silence: float) -> str:
    """Why nothing comes from the broker; "" when it has answered in so many seconds. Waits for nobody."""
    now, failure = monotonic(), dispatcher.trouble
    why = "" if failure is None else f": {failure.error}"
    heard_at = pauses.heard_at(client)
    if heard_at is not None and now - heard_at > silence:
        return f"the broker has not answered for {now - heard_at:.0f} s{why}"
    if failure is not None and now - failure.since > silence:
        where = f" from {failure.queue}" if failure.queue else ""
        return f"nothing could be received{where} for {now - failure.since:.0f} s{why}"
    return ""


def of_stuck(queue: str, stalled: Stalled) -> Health:
    """The health of a worker in which something hangs."""
    reason = f"the worker of {queue!r} hangs: {stalled.what} has not turned for {stalled.seconds:.0f} s"
    return Health(alive=False, ready=False, reason=reason, stack=_stack(stalled.thread))


def of_silent(queue: str, reason: str) -> Health:
    """The health of a worker that takes nothing."""
    return Health(alive=True, ready=False, reason=f"the worker of {queue!r} takes nothing: {reason}")


def of_ended(queue: str, error: BaseException) -> Health:
    """The health of a worker that has ended by itself, or is about to."""
    reason = f"the worker of {queue!r} has ended: {type(error).__name__}: {error}"
    return Health(alive=False, ready=False, reason=reason)


def _stack(thread: int | None) -> str:
    frame = frame_of(thread)
    if frame is None:
        return ""
    return "".join(traceback.StackSummary.from_list(calls(frame)[-_DEEPEST:]).format())
