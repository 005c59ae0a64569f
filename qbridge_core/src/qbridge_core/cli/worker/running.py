"""Runs targets in this process, or in several below a supervisor."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import Final, NoReturn

import click

from qbridge_core.cli.exits import DONE, FAILED, failure_of
from qbridge_core.cli.worker.probes import Probes
from qbridge_core.cli.worker.target import Target
from qbridge_core.contract.plugins import use_everywhere
from qbridge_core.errors import QBridgeError, TransientError
from qbridge_core.runtime.clock import monotonic
from qbridge_core.runtime.logs import flush, logger
from qbridge_core.runtime.signals import stop_signals
from qbridge_core.runtime.trying import keep_trying
from qbridge_core.telemetry.healthfile import HealthFile
from qbridge_core.telemetry.recorder import Recorder
from qbridge_core.work.manager import TaskManager
from qbridge_core.work.workers import Workers, disconnect_all

_log: Final = logger("qbridge.worker")
_DISCONNECT_TIME: Final = 2.0


class _Left(SystemExit):
    """A signal came before anything could be lost."""


def run_here(
    targets: Sequence[Target], start_timeout: float, until_idle: bool, recorder: Recorder | None, probes: Probes
) -> None:
    """Run all targets in this process, as one worker, until a signal comes or one of them ends.

    Args:
        targets: one for each queue.
        start_timeout: seconds to wait for a broker that is not up yet.
        until_idle: until all queues are empty.
        recorder: counts what they do.
        probes: learn how they are.
    """
    if recorder is not None:
        use_everywhere(recorder)
    deadline = monotonic() + start_timeout
    file = None if probes.file is None else HealthFile(probes.file)
    managers: list[TaskManager] = []
    with stop_signals(_leave):
        try:
            for target in targets:
                managers.extend(_built(target, deadline, file, probes))
            for manager in managers:
                client = manager.queue_client
                client._awaited_until = max(client._awaited_until, deadline)
            probes.say_what_is_shown()
            workers = Workers(managers, health_file=file, stall=probes.stall)
            probes.source = workers.health
            workers.run(until_idle=until_idle)
        finally:
            if file is not None:
                file.remove()
            _disconnect(managers)
    if until_idle:
        for manager in managers:
            click.echo(f"{', '.join(manager.input_queues)}: {manager.report()}")


def _leave(number: int) -> NoReturn:
    del number
    # What a target does while it is built may take long, and no message has been taken.
    raise _Left(DONE)


def _built(target: Target, deadline: float, file: HealthFile | None, probes: Probes) -> list[TaskManager]:
    """The managers of a target; one that cannot reach its broker is built again until the deadline."""

    def say(left: float, exc: Exception) -> None:
        _log.warning("%s waits for its broker, for %.0f s more: %s", target, left, exc)
        if file is not None:
            file.turn(probes.health)

    return keep_trying(target, deadline, TransientError, say)


def _disconnect(managers: Sequence[TaskManager]) -> None:
    """Disconnect the clients; a program that cannot do so ends without it, and the broker notices."""
    if disconnect_all([manager.queue_client for manager in managers], _DISCONNECT_TIME):
        return
    error = sys.exc_info()[1]
    if error is not None:
        _log.error("the worker ends: %s", error)
    _log.error("the client does not disconnect; the process ends without it")
    flush()
    os._exit(_code(error))  # a lock may be leaked, and the end of the interpreter may need it too


def _code(error: BaseException | None) -> int:
    if error is None or isinstance(error, _Left):
        return DONE
    return failure_of(error).exit_code if isinstance(error, QBridgeError) else FAILED
