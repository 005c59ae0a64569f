"""Runs the programs of the contestants: starts them, waits for what they report, ends them."""

from __future__ import annotations

import itertools
import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.contestants import Contestant
from benchmarks.environments import ROOT, Environments
from benchmarks.order import Order
from benchmarks.servers import Server
from support.guard import die_with_parent

Report = dict[str, float]
_TIME_TO_STOP = 8.0
_TIME_FOR_EACH = 0.001


class BenchError(Exception):
    """A program failed or took too long; the text says how it ended."""


@dataclass
class Bench:
    """Everything that a measurement needs.

    Attributes:
        directory: for reports and logs.
        environments: where the libraries are.
        servers: the brokers by kind.
        scale: a factor for the numbers of messages; less than 1 in the quick form.
        timeout: seconds that one job may take, and a little more for each message.
    """

    directory: Path
    environments: Environments
    servers: dict[str, Server]
    scale: float = 1.0
    timeout: float = 90.0
    _numbers: Iterator[int] = field(default_factory=itertools.count)

    def scaled(self, count: int) -> int:
        """So many messages in this run."""
        return max(20, int(count * self.scale))

    def order(self, contestant: Contestant, role: str, count: int, **more: object) -> Order:
        """An order on a queue of its own."""
        number = next(self._numbers)
        url = self.servers[contestant.broker].url
        report = str(self.directory / f"report-{number}")
        settings = {"variant": contestant.variant} | more
        return Order(role, url, f"bench-{os.getpid()}-{number}", report, count, **settings)  # type: ignore[arg-type]

    def run(self, contestant: Contestant, order: Order) -> Report:
        """Run a program to its end."""
        with self.running(contestant, order) as process:
            return self.wait_for_report(process, order)

    @contextmanager
    def running(self, contestant: Contestant, order: Order) -> Iterator[subprocess.Popen[bytes]]:
        """Run a program beside the block, then end it and what it started."""
        Path(order.report).unlink(missing_ok=True)
        python = self.environments.python(contestant.environment)
        command = [python, "-m", f"benchmarks.peers.{contestant.program}", order.dump()]
        # Compiled modules are kept, whatever the user has set: the start of a worker is measured.
        environment = os.environ | {"PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": ""}
        with self._log(order).open("ab") as log:
            process = subprocess.Popen(
                command,
                cwd=ROOT,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                preexec_fn=die_with_parent,  # noqa: PLW1509 - this process has no threads
            )
        try:
            yield process
        finally:
            _end(process)

    def wait_for_report(self, process: subprocess.Popen[bytes], order: Order) -> Report:
        """What the program has written, as soon as it is there."""
        self.wait_until(Path(order.report).exists, process, order)
        return self.read_report(order)

    def wait_for_first(self, process: subprocess.Popen[bytes], order: Order) -> None:
        """Return when the worker has run its first task."""
        self.wait_until(Path(order.first_mark).exists, process, order)

    def read_report(self, order: Order) -> Report:
        """What a program has written."""
        path = Path(order.report)
        if not path.exists():
            raise BenchError(f"no report: {self._last_words(order)}")
        result: Report = json.loads(path.read_text())
        path.unlink()
        return result

    def wait_until(self, done: Callable[[], bool], process: subprocess.Popen[bytes], order: Order) -> None:
        """Return when a program has got so far; raise when it ends before, or takes too long."""
        limit = self.timeout + order.count * _TIME_FOR_EACH
        deadline = time.monotonic() + limit
        while not done():
            if process.poll() is not None and not done():
                raise BenchError(f"ended with status {process.returncode}: {self._last_words(order)}")
            if time.monotonic() > deadline:
                raise BenchError(f"not done after {limit:g} s: {self._last_words(order)}")
            time.sleep(0.005)

    def consume(self, contestant: Contestant, order: Order) -> Report:
        """Fill the queue, then start a worker and wait until it has run everything."""
        if contestant.broker == "memory":
            return self.run(contestant, order.but(role="both"))
        self.run(contestant, order.but(role="fill"))
        return self.run(contestant, order.but(role="work"))

    def _log(self, order: Order) -> Path:
        return Path(f"{order.report}.{order.role}.log")

    def _last_words(self, order: Order) -> str:
        lines = [line for line in self._log(order).read_text(errors="replace").splitlines() if line.strip()]
        return lines[-1].strip()[:300] if lines else "it printed nothing"


def _end(process: subprocess.Popen[bytes]) -> None:
    """Ask a program to stop, and make sure that nothing is left of its process group."""
    with suppress(ProcessLookupError):
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
            with suppress(subprocess.TimeoutExpired):
                process.wait(_TIME_TO_STOP)
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
