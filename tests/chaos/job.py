"""One cell as a job for a process of its own."""

from __future__ import annotations

import logging
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

from chaos.cell import Outcome, run_cell
from chaos.plan import Plan
from chaos.report import failure


@dataclass(frozen=True)
class Job:
    """A cell to carry out, maybe beside others: each is mostly waiting."""

    plan: Plan
    directory: Path
    keep: bool

    def __call__(self) -> Outcome:
        """Carry it out and say how it went; its files stay when they are wanted or it failed."""
        logging.getLogger("qbridge").addHandler(logging.NullHandler())  # lost connections are no news here
        plan = self.plan
        self._say("; ".join(map(str, plan.strikes)))
        outcome = run_cell(plan, self.directory, self._say)
        if outcome.verdict.ok:
            self._say(f"ok: {outcome.verdict.runs} runs in {outcome.history.seconds:.1f} s")
        else:
            self._say(f"{failure(outcome)}\n  its files: {self.directory}")
        if outcome.verdict.ok and not self.keep:
            shutil.rmtree(self.directory, ignore_errors=True)
        return outcome

    def _say(self, text: str) -> None:
        sys.stdout.write(f"[{self.plan.seed} {self.plan.backend}, {self.plan.scenario}] {text}\n")
        sys.stdout.flush()
