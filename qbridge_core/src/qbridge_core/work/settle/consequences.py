"""Decides what the end of a run leads to: another attempt at once or later, the dead letters, or neither.

What a handler's exception asks for is in :mod:`qbridge_core.task.verdict`, whether and when there is another attempt in
:mod:`qbridge_core.task.retry`; how the broker is made to agree in :mod:`qbridge_core.work.settle.settler`.
"""

from __future__ import annotations

from types import FrameType

from qbridge_core.contract.dead_letter import Failure, Noted, Reason
from qbridge_core.contract.envelope import UnfitError
from qbridge_core.contract.history import Attempt, AttemptOutcome
from qbridge_core.contract.message import Delivery
from qbridge_core.errors import RemoteError
from qbridge_core.task.explanation import Explanation
from qbridge_core.task.lifecycle import Lifecycle
from qbridge_core.task.reading import NotDueError, UnreadableTaskError
from qbridge_core.task.routing import NotYetError
from qbridge_core.task.run import Run
from qbridge_core.task.verdict import Action, Judged, Verdict, judge
from qbridge_core.work.settle.failures import attempt_of, failure_of
from qbridge_core.work.settle.rules import Rules
from qbridge_core.work.settle.settler import Settler
from qbridge_core.work.settle.waiting import wait_of


class Consequences:
    """What the runs of one queue lead to. Thread-safe.

    Args:
        rules: what to do with them.
        settler: settles them.
        lifecycle: hooks to call before a settlement.
    """

    def __init__(self, rules: Rules, settler: Settler, lifecycle: Lifecycle) -> None:
        self._rules = rules
        self._settler = settler
        self._lifecycle = lifecycle

    def read(self, run: Run, exc: BaseException) -> Verdict:
        """What a handler's exception asks for. It runs the exception's own code, which may hang."""
        return exc.verdict if type(exc) is Judged else judge(exc, run.terms.policy, self._rules.owns)

    def failed(self, run: Run, exc: BaseException, verdict: Verdict) -> None:
        """Do what the handler's exception asks for, or retry or dead-letter the message."""
        shown = exc
        if type(exc) is Judged:
            shown = RemoteError(
                verdict.explanation.message, verdict.explanation.exception_type, verdict.explanation.traceback
            )
        explanation = verdict.explanation
        if verdict.action is Action.POSTPONE:
            run.delivery.record(attempt_of(self._rules, run, explanation, AttemptOutcome.SNOOZED))
            self._settler.postpone(run.delivery, run.task_id, explanation, verdict.delay or 0.0, run)
            return
        attempt = attempt_of(self._rules, run, explanation)  # before the hook, which may take its time
        self._lifecycle.task_failed(queue=run.delivery.queue, task_id=run.task_id, attempt=run.attempt, exception=shown)
        if verdict.action is Action.REJECT:
            self._settler.dead_letter(run.delivery, self._failure(run, explanation, attempt), run, shown)
        elif verdict.action is Action.CRASH:
            self.crashed(run, explanation, attempt)
        else:
            self._count_failure(run, explanation, attempt, verdict, shown)

    def timed_out(self, run: Run, stack: FrameType | None) -> None:
        """Retry or dead-letter a message whose handler ran too long."""
        explanation = Explanation.timed_out(run.terms.timeout, stack, self._rules.owns)
        attempt = attempt_of(self._rules, run, explanation)
        self._lifecycle.task_timed_out(
            queue=run.delivery.queue, task_id=run.task_id, attempt=run.attempt, timeout=run.terms.timeout
        )
        self._count_failure(run, explanation, attempt)

    def unreadable(self, run: Run, exception_type: str) -> None:
        """Retry or dead-letter a message whose handler raised what cannot be read in time."""
        explanation = Explanation(Reason.FAILED, exception_type, "(could not be read in time)")
        self._count_failure(run, explanation, attempt_of(self._rules, run, explanation))

    def unfit(self, delivery: Delivery, exc: UnfitError) -> None:
        """Dead-letter a message that can never run; put off one that another worker may be able to run, or later."""
        task_id = exc.task_id or delivery.message_id or ""
        pause = self._settler.next_pause(delivery, exc)
        never = (
            "; this broker can hold nothing back until then" if pause is None and isinstance(exc, NotDueError) else ""
        )
        explanation = Explanation(Reason(exc.reason), type(exc).__name__, f"{exc}{never}")
        if isinstance(exc, UnreadableTaskError) and exc.__cause__ is not None:
            explanation = Explanation.from_exception(explanation.reason, exc.__cause__, self._rules.owns)
        if pause is None:
            failure = failure_of(self._rules, delivery, explanation, task_id, delivery.attempts)
            self._settler.dead_letter(delivery, failure)
            return
        if isinstance(exc, NotYetError):
            delivery.record(wait_of(delivery, self._rules.clock))
        self._settler.postpone(delivery, task_id, explanation, pause)

    def crashed(self, run: Run, explanation: Explanation, attempt: Attempt, crashes: int | None = None) -> None:
        """A child process died of this task alone: no attempt is counted, and after enough deaths it is poison."""
        if crashes is None:
            crashes = min(run.delivery.crashes, self._rules.max_crashes - 1) + 1
        failure = failure_of(
            self._rules, run.delivery, explanation, run.task_id, run.delivery.attempts, crashes=crashes, attempt=attempt
        )
        self._lifecycle.task_crashed(queue=self._rules.queue, task_id=run.task_id, crashes=crashes, suspected=False)
        if crashes >= self._rules.max_crashes:
            self._settler.dead_letter(run.delivery, failure, run)
        else:
            self._settler.retry(run, failure, run.terms.policy.pause(crashes))

    def settle_noted(self, delivery: Delivery, noted: Noted) -> bool:
        """Dead-letter a message if that was decided when it was here before; False when it may run."""
        if noted.is_final:
            self._settler.dead_letter(delivery, noted.failure)
        return noted.is_final

    def _count_failure(
        self,
        run: Run,
        explanation: Explanation,
        attempt: Attempt,
        verdict: Verdict | None = None,
        error: BaseException | None = None,
    ) -> None:
        failure = self._failure(run, explanation, attempt)
        policy_delay = run.terms.policy.next_delay(run.attempt, None if verdict is None else verdict.rule)
        if policy_delay is None or (verdict is not None and verdict.final):
            self._settler.dead_letter(run.delivery, failure, run, error)
        else:
            asked = None if verdict is None else verdict.delay
            self._settler.retry(run, failure, policy_delay if asked is None else asked)

    def _failure(self, run: Run, explanation: Explanation, attempt: Attempt) -> Failure:
        return failure_of(self._rules, run.delivery, explanation, run.task_id, run.attempt, attempt=attempt)
