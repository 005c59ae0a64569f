"""Runs targets in several processes, also anew whenever a file changes."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

from qbridge_core.cli.worker.logs import set_up_logs
from qbridge_core.cli.worker.probes import Probes
from qbridge_core.cli.worker.target import Target
from qbridge_core.contract.registry import how_to_install
from qbridge_core.errors import ConfigurationError, WorkerStartError
from qbridge_core.runtime.logs import logger
from qbridge_core.runtime.signals import stop_signals
from qbridge_core.supervise.supervisor import Supervisor
from qbridge_core.telemetry.recorder import Recorder

_log: Final = logger("qbridge.worker")
_POLL: Final = 0.2
_SHOWN: Final = 3


def run_supervised(
    targets: Sequence[Target], processes: int, start_timeout: float, recorder: Recorder | None, probes: Probes
) -> None:
    """Run all targets in each of so many processes until a signal comes."""
    set_up_logs(targets[0].log_level, targets[0].log_format)
    probes.say_what_is_shown()
    _supervisor(targets, processes, start_timeout, recorder, probes).run()


def _supervisor(
    targets: Sequence[Target], processes: int, start_timeout: float, recorder: Recorder | None, probes: Probes
) -> Supervisor:
    builds: list[Any] = list(targets)  # those of users make one manager each, a target all that there are of an app
    supervisor = Supervisor(
        builds, processes, start_timeout=start_timeout, metrics=recorder, health_file=probes.file,
        stall=probes.stall,
    )  # fmt: skip
    probes.source = supervisor.health
    return supervisor


def run_reloading(
    targets: Sequence[Target],
    processes: int,
    start_timeout: float,
    folders: Sequence[Path],
    recorder: Recorder | None,
    probes: Probes,
) -> None:
    """The same, with new processes after each change of a Python file.

    Once they have worked, a change that keeps them from starting is told, and the next change is waited for.

    Args:
        targets: one for each queue.
        processes: how many.
        start_timeout: seconds to wait for a broker that is not up yet.
        folders: where to look for changes, with all that is below.
        recorder: has what all of them have counted.
        probes: learn how they are.

    Raises:
        ConfigurationError: what watches is not installed, or a folder is missing.
        WorkerStartError: the first processes could not start.
    """
    changes = _Changes(folders)
    set_up_logs(targets[0].log_level, targets[0].log_format)
    probes.say_what_is_shown()
    asked: list[None] = []
    with stop_signals(lambda _: asked.append(None)):  # between two runs; in one the supervisor has its own
        worked = False
        while not asked:
            supervisor = _supervisor(targets, processes, start_timeout, recorder, probes)
            changes.end(supervisor)
            try:
                supervisor.run()
            except WorkerStartError as exc:
                if not worked:
                    raise
                _log.error("%s; waiting for the next change", exc)
                while not asked and not changes.wait(_POLL):
                    pass
            worked = True
            if supervisor.stopped_by_signal:
                return


class _Changes:
    """Looks for changes in a thread, and stops the supervisor of the moment after each."""

    def __init__(self, folders: Sequence[Path]) -> None:
        for folder in folders:
            if not folder.is_dir():
                raise ConfigurationError(f"{folder} is no folder, so it cannot be watched")
        watch = _watcher(folders)
        self._changed = threading.Event()
        self._supervisor: Supervisor | None = None
        threading.Thread(target=self._look, args=(watch,), name="qbridge-reload", daemon=True).start()

    def end(self, supervisor: Supervisor) -> None:
        """From now on a change stops this one."""
        self._changed.clear()
        self._supervisor = supervisor

    def wait(self, seconds: float) -> bool:
        """Wait for a change, at most so long; True when there was one."""
        return self._changed.wait(seconds)

    def _look(self, watch: Callable[[], Iterator[Sequence[str]]]) -> None:
        try:
            for files in watch():
                shown = ", ".join(files[:_SHOWN]) + (", …" if len(files) > _SHOWN else "")
                _log.info("changed: %s; the workers start anew when they have finished what they run", shown)
                self._changed.set()
                if self._supervisor is not None:
                    self._supervisor.stop()
        except Exception:  # noqa: BLE001 - the worker goes on, and it is said that it does not look any more
            _log.exception("changes are not seen any more")


def _watcher(folders: Sequence[Path]) -> Callable[[], Iterator[Sequence[str]]]:
    if find_spec("watchfiles") is None:
        raise ConfigurationError(f"--reload needs watchfiles; {how_to_install('reload')}")
    from watchfiles import PythonFilter, watch

    def changes() -> Iterator[Sequence[str]]:
        for found in watch(*folders, watch_filter=PythonFilter()):
            yield sorted({path for _, path in found})

    return changes
