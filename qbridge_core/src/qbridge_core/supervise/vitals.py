"""Whether a supervisor and its worker processes are alive and ready, from what those tell of themselves."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from qbridge_core.runtime.clock import monotonic
from qbridge_core.runtime.logs import logger
from qbridge_core.runtime.pulse import Pulse
from qbridge_core.supervise.beats import heard
from qbridge_core.supervise.worker_process import WorkerProcess
from qbridge_core.telemetry.health import Health, say_dead

_log: Final = logger("qbridge.supervisor")


class Vitals:
    """What is known of all processes. ``health`` is for any thread, the rest for the supervisor's.

    Args:
        stall: seconds that something may be overdue before it counts as stuck.
    """

    def __init__(self, stall: float) -> None:
        self.stall = stall
        self._pulse = Pulse("the supervisor")
        self._told: set[WorkerProcess] = set()

    def turn(self, workers: Sequence[WorkerProcess]) -> None:
        """The supervisor has come round; say which processes have begun to hang."""
        self._pulse.turn()
        hanging = {worker: health for worker in workers if (health := self._of_hanging(worker)) is not None}
        for worker in hanging.keys() - self._told:
            say_dead(hanging[worker])
        self._told = set(hanging)

    def end(self) -> None:
        """The supervisor has ended."""
        self._pulse.rest()

    def hear(self, worker: WorkerProcess, told: list[Any]) -> None:
        """A process tells its health."""
        try:
            worker.health, worker.heard_at = heard(told), monotonic()
        except ValueError:
            _log.debug("worker %d tells no health", worker.process.pid)

    def health(self, workers: Sequence[WorkerProcess], unready: str) -> Health:
        """That of all together: alive when each one is, ready when one is. Waits for nobody.

        Args:
            workers: the processes that there are; one that is dead and about to be replaced is none.
            unready: why none is ready, whatever they tell; "" where that is not so.
        """
        stalled = self._pulse.stalled(monotonic())
        if stalled.seconds > self.stall:
            return Health(alive=False, ready=False, reason=f"{stalled.what} has not turned for {stalled.seconds:.0f} s")
        for worker in workers:
            if (health := self._of_hanging(worker)) is not None:
                return health
        healths = [worker.health for worker in workers if worker.health is not None]
        if not unready and any(health.ready for health in healths):
            return Health(alive=True, ready=True)
        why = unready or next((health.reason for health in healths), "no worker process has begun")
        return Health(alive=True, ready=False, reason=why)

    def _of_hanging(self, worker: WorkerProcess) -> Health | None:
        """The health of a process that hangs, or in which something does; None for any other."""
        health, name = worker.health, f"worker process {worker.process.pid}"
        if health is None or worker.deaf:
            return None
        if not health.alive:
            return Health(alive=False, ready=False, reason=f"{name}: {health.reason}", stack=health.stack)
        silence = monotonic() - worker.heard_at
        if silence > self.stall:
            return Health(alive=False, ready=False, reason=f"{name} has said nothing for {silence:.0f} s")
        return None
