"""Several tasks that a child process runs one after the other, as its worker sees them.

The child reports once, at the end. In between the start mark tells how far it is: all tasks before the one that it has
begun last have succeeded, for it begins none after a failure.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from qbridge_core.contract.dead_letter import Reason
from qbridge_core.execute.executor import Progress
from qbridge_core.execute.processes.child import Child
from qbridge_core.execute.processes.program import DONE, RAISED, TIME_TOGETHER
from qbridge_core.runtime.logs import logger
from qbridge_core.task.explanation import Explanation
from qbridge_core.task.run import Run
from qbridge_core.task.verdict import Action, Verdict

_log: Final = logger("qbridge.worker")
_LOOK_EVERY: Final = 5 * TIME_TOGETHER
"""Seconds. A task that is at work in two looks is at work for longer than the child begins another one after it."""


class Batch:
    """For the worker's thread, within ``child.at_work()``.

    Args:
        child: runs them.
        runs: the tasks.
    """

    def __init__(self, child: Child, runs: Sequence[Run]) -> None:
        self._child = child
        self._first = child.next_number
        self._left = self._first, runs  # those whose end is not known, and the number of the first
        self._begun = False
        self._seen = 0

    @property
    def unfinished(self) -> Sequence[Run]:
        """In any thread: the one that is at work, and those behind it."""
        first, runs = self._left
        return runs[self._ended(first, runs) :]

    def follow(self) -> Progress:
        """Wait for the end of the tasks, or for a moment; what has become of them since the last time."""
        try:
            if not self._begun:
                self._begun = True
                self._child.begin(self._left[1])
            report = self._child.hear(_LOOK_EVERY)
        except (EOFError, OSError):
            return self._died()
        return self._look() if report is None else self._read(report)

    def _ended(self, first: int, runs: Sequence[Run]) -> int:
        """How many have ended, as far as the mark tells."""
        return max(0, min(self._child.begun - first, len(runs) - 1))

    def _look(self) -> Progress:
        first, runs = self._left
        count = self._ended(first, runs)
        done, rest, others = runs[:count], runs[count:], runs[:0]
        seen, self._seen = self._seen, first + count
        if self._seen == seen == self._child.begun:
            rest, others = rest[:1], rest[1:]
        self._left = first + count, rest
        self._child.tasks += count
        return Progress(done, None, others)

    def _read(self, report: list[Any]) -> Progress:
        first, runs = self._left
        # The last one that succeeded is counted already where a look fell between the mark and the clock.
        numbers = range(max(first - 1, self._first), first + len(runs))
        match report:
            case [str(word), int(number), int(memory), *details] if number in numbers:
                done = number - first
                self._child.memory = memory
                if word == DONE:
                    return self._end(done + 1)
                if word == RAISED and details and done >= 0:
                    return self._end(done, Verdict.from_json(details[0]))
        self._child.confused()
        _log.warning("a child process confused its tasks and was killed; those that it had run again")
        return self._end(self._ended(first, runs))

    def _died(self) -> Progress:
        first, runs = self._left
        outcome = self._child.outcome()
        if self._child.begun < first:
            _log.warning("a child process %s while it was idle; another one takes its tasks", outcome)
            return self._end(0)
        text = f"the process that ran it {outcome}"
        return self._end(self._ended(first, runs), Verdict(Action.CRASH, Explanation(Reason.CRASHED, "", text)))

    def _end(self, done: int, verdict: Verdict | None = None) -> Progress:
        """So many have succeeded, the next one failed if there is a verdict, and none of the others begins."""
        first, runs = self._left
        ended = done + (verdict is not None)
        self._left = first + ended, ()
        self._child.tasks += ended
        return Progress(runs[:done], None if verdict is None else (runs[done], verdict), runs[ended:])
