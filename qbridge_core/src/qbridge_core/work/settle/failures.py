"""What is written beside a message that did not succeed, and what a log says of it."""

from __future__ import annotations

from dataclasses import replace

from qbridge_core.contract.dead_letter import Failure
from qbridge_core.contract.envelope import read_task
from qbridge_core.contract.headers import (
    CRASHES,
    MAX_EXCEPTION_MESSAGE_CHARS,
    REPLAYS,
    TASK_ID,
    instant,
    meta_int,
    meta_text,
)
from qbridge_core.contract.history import Attempt, AttemptOutcome, History, with_attempts, with_deaths
from qbridge_core.contract.message import Delivery
from qbridge_core.contract.names import worker_identity
from qbridge_core.runtime.clock import monotonic
from qbridge_core.task.explanation import Explanation
from qbridge_core.task.formats.chosen import Formats
from qbridge_core.task.run import Run
from qbridge_core.work.settle.rules import Rules


def failure_of(
    rules: Rules,
    delivery: Delivery,
    explanation: Explanation,
    task_id: str,
    attempts: int,
    *,
    crashes: int | None = None,
    attempt: Attempt | None = None,
) -> Failure:
    """What to write beside a message, redacted.

    Args:
        rules: of the worker.
        delivery: the message.
        explanation: what went wrong.
        task_id: the id of the task, or "".
        attempts: failed runs.
        crashes: deaths of processes that are charged to it; those of the delivery when not given.
        attempt: the run that ended so, if there was one.
    """
    now = rules.clock.wall()
    explanation = explanation.redacted(rules.redact)
    crashes = delivery.crashes if crashes is None else crashes
    return Failure(
        reason=explanation.reason,
        attempts=attempts,
        crashes=crashes,
        exception_type=explanation.exception_type,
        exception_message=explanation.message,
        traceback=explanation.traceback,
        first_failed_at=delivery.first_failed_at or now,
        last_failed_at=now,
        source_queue=rules.queue,
        task_id=task_id,
        worker=worker_identity(),
        replays=meta_int(delivery.meta, REPLAYS),
        history=history_with(delivery, crashes, attempt),
    )


def attempt_of(rules: Rules, run: Run, explanation: Explanation, outcome: AttemptOutcome | None = None) -> Attempt:
    """What the history says of a run that ends now; ``outcome`` where the reason of the explanation is another."""
    lasted = monotonic() - run.started_at
    return Attempt(
        outcome=outcome or AttemptOutcome(explanation.reason.value),
        began_at=instant(round((rules.clock.wall() - lasted) * 1000)),
        duration=round(lasted, 3),
        worker=worker_identity(),
        exception_type=explanation.exception_type,
        place=explanation.place,
        replays=meta_int(run.delivery.meta, REPLAYS),
    )


def history_with(delivery: Delivery, crashes: int, attempt: Attempt | None = None) -> History:
    """The history of a message, with the deaths that are charged to it and not in there, and with its last attempt."""
    told = meta_int(delivery.meta, CRASHES) if delivery.noted is None else delivery.noted.failure.crashes
    known = 1 if attempt is not None and attempt.outcome is AttemptOutcome.CRASHED else 0
    history = with_deaths(delivery.history, delivery.meta, crashes - told - known)
    return history if attempt is None else with_attempts(history, attempt)


def unrepeatable(failure: Failure, reason: BaseException) -> Failure:
    """The failure of a message whose copy for another attempt the broker finds too large."""
    note = f"it cannot be retried: {reason}"[: MAX_EXCEPTION_MESSAGE_CHARS // 2]
    message = failure.exception_message[: MAX_EXCEPTION_MESSAGE_CHARS - len(note) - 2]
    return replace(failure, exception_message=f"{message}; {note}" if message else note)


def in_words(failure: Failure) -> str:
    """The exception of a failure, for a log."""
    return ": ".join(text for text in (failure.exception_type, failure.exception_message) if text)


def nameless(delivery: Delivery) -> str:
    """What a log calls a message without any id: enough to find it, and nothing of what is in it."""
    try:
        from hashlib import sha256  # half a MiB, which a worker without such messages does without
    except (ImportError, OSError):  # no descriptor is left; the message is settled all the same
        return f"without id ({len(delivery.body)} bytes)"
    return f"without id ({len(delivery.body)} bytes, sha256 {sha256(delivery.body).hexdigest()[:16]})"


def known_task_id(delivery: Delivery, formats: Formats | None) -> str:
    """The task's id in a message that nobody has begun, as far as it has one; "" otherwise."""
    body = delivery.body
    try:
        task = read_task(body, len(body)) if formats is None else formats.read(delivery, len(body))
    except Exception:  # noqa: BLE001 - a format is a user's code
        return delivery.message_id or ""
    told = task.task_id
    return told or meta_text(delivery.meta, TASK_ID) or delivery.message_id or ""


def log_fields(delivery: Delivery, task_id: str | None, attempt: int) -> dict[str, object]:
    """The fields that the log shows of a task."""
    return {"qbridge_task_id": task_id, "qbridge_queue": delivery.queue, "qbridge_attempt": attempt}
