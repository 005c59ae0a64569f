"""What becomes of a message whose worker died: it runs apart, and is dead-lettered when it has killed enough processes.

Only the death of a process that ran nothing else is charged; see :mod:`qbridge_core.work.poison.side_queue`.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from qbridge_core.contract.client import QueueClient
from qbridge_core.contract.dead_letter import Reason, SuspectFailure
from qbridge_core.contract.headers import CRASHES, SUSPICIONS, meta_int
from qbridge_core.contract.message import Delivery
from qbridge_core.errors import MessageTooLargeError, RemoteError
from qbridge_core.runtime.logs import logger
from qbridge_core.task.explanation import Explanation
from qbridge_core.task.lifecycle import Lifecycle
from qbridge_core.task.run import Run
from qbridge_core.task.run import in_words as told
from qbridge_core.work.poison.marks import charged, suspicions
from qbridge_core.work.poison.side_queue import SideQueue
from qbridge_core.work.settle.consequences import Consequences
from qbridge_core.work.settle.failures import attempt_of, failure_of, in_words, log_fields, unrepeatable
from qbridge_core.work.settle.repeat import RefusedError
from qbridge_core.work.settle.rules import Rules
from qbridge_core.work.settle.settler import Settler

_log: Final = logger("qbridge.worker")


class PoisonRule:
    """Decides about the messages of one queue that may be poison. Thread-safe.

    Args:
        client: the broker.
        rules: what a worker does with its runs.
        consequences: what follows from a death that is charged.
        settler: settles them.
        lifecycle: hooks to call.
        side_queue: where messages go that may have killed a worker.
    """

    def __init__(
        self,
        client: QueueClient,
        rules: Rules,
        consequences: Consequences,
        settler: Settler,
        lifecycle: Lifecycle,
        side_queue: SideQueue,
    ) -> None:
        self._client = client
        self._rules = rules
        self._consequences = consequences
        self._settler = settler
        self._lifecycle = lifecycle
        self._side_queue = side_queue

    def admit(self, delivery: Delivery, task_id: str) -> bool:
        """Decide about a message whose worker died: True to run it in this worker; False when it has been settled."""
        if delivery.queue == self._rules.queue:
            doubtful = delivery.suspected or delivery.crashes > meta_int(delivery.meta, CRASHES)
            if not doubtful and (self._rules.processes or SUSPICIONS in delivery.meta):
                return True  # it killed child processes at most, or a child has lived through it since then
            return self._isolate(delivery, task_id, doubtful)
        if self.dead_letter_poison(delivery, task_id):
            return False
        self._side_queue.began(task_id)
        return True

    def dead_letter_poison(self, delivery: Delivery, task_id: str) -> bool:
        """Dead-letter a suspect that has killed enough processes; False when it may run."""
        side_queue = self._side_queue
        if not side_queue.is_poison(delivery):
            return False
        text = f"{delivery.crashes} worker processes died while they ran this task"
        if death := side_queue.last_death(task_id):
            text += f"; the last one, {death}"
        explanation = Explanation(Reason.CRASHED, "", text)
        self._settler.dead_letter(delivery, failure_of(self._rules, delivery, explanation, task_id, delivery.attempts))
        return True

    def _isolate(self, delivery: Delivery, task_id: str, doubtful: bool) -> bool:
        """Have the message run apart. However often it was suspected, only a death that it causes there counts.

        True when the broker refuses that: then it runs here, rather than never.
        """
        side_queue = self._side_queue
        beside = side_queue.may_run_beside
        known = meta_int(delivery.meta, CRASHES) if beside else delivery.crashes  # in a child all charges are exact
        crashes = min(known, self._rules.max_crashes - 1)
        before = SUSPICIONS in delivery.meta  # it was in a child and in a worker since it was suspected first
        failure = SuspectFailure.of(
            failure_of(
                self._rules, replace(delivery, crashes=crashes), Explanation(Reason.CRASHED), task_id, delivery.attempts
            ),
            suspicions(delivery) + int(doubtful and before),
            beside=beside,
        )
        fields = log_fields(delivery, task_id, delivery.attempts + 1)

        def move() -> None:
            self._client.reject(delivery, requeue=True, failure=failure, queue=side_queue.queue)

        try:
            moved = self._settler.persist(move, lambda: fields, may_refuse=True)
        except RefusedError as refused:
            if isinstance(refused.__cause__, MessageTooLargeError):
                self._settler.dead_letter(delivery, unrepeatable(failure, refused.__cause__))
                return False
            _log.error(
                "%s cannot run by itself: %s; it runs beside others", told(fields), refused.__cause__, extra=fields
            )
            return True
        if moved:
            why = "was held by a worker that died" if doubtful else "has killed a process"
            _log.warning("%s %s; it runs by itself the next time", told(fields), why, extra=fields)
            if doubtful:
                self._lifecycle.task_crashed(queue=self._rules.queue, task_id=task_id, crashes=crashes, suspected=True)
            side_queue.moved()
        return False

    def crashed_apart(self, run: Run, process: str, how: str) -> None:
        """The child process that ran a suspect, and nothing else, died: charge it."""
        # The first such death explains the one for which it became a suspect, so that counts as well.
        crashes = (min(charged(run.delivery), self._rules.max_crashes - 1) or 1) + 1
        text = f"{crashes} worker processes died while they ran this task; the last one, worker {process}, {how}"
        explanation = Explanation(Reason.CRASHED, "", text)
        attempt = attempt_of(self._rules, run, explanation)
        self._lifecycle.task_failed(
            queue=run.delivery.queue, task_id=run.task_id, attempt=run.attempt, exception=RemoteError(text, "", "")
        )
        self._consequences.crashed(run, explanation, attempt, crashes)

    def failed_apart(self, run: Run, explanation: Explanation) -> bool:
        """A suspect did not succeed in its child process, which lived: it runs in a worker, and nothing is counted.

        It may need what the main program sets up, which the child does not have. False when the broker refuses to have
        it in its queue again; then it is not settled.
        """
        failure = failure_of(
            self._rules, run.delivery, explanation, run.task_id, run.delivery.attempts,
            attempt=attempt_of(self._rules, run, explanation),
        )  # fmt: skip
        cleared = SuspectFailure.of(failure, suspicions(run.delivery))

        def move() -> None:
            self._client.reject(run.delivery, requeue=True, failure=cleared, queue=self._rules.queue)

        try:
            moved = self._settler.persist(move, run.log_fields, may_refuse=True)
        except RefusedError:
            return False
        if moved:
            fields = run.log_fields()
            _log.info(
                "%s has not killed the process that it ran in by itself, but failed there (%s); it runs again in a "
                "worker, and nothing is counted", told(fields), in_words(failure), extra=fields,
            )  # fmt: skip
        return True
