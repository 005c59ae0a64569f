"""What is written beside a message that did not succeed, and what a log says of it."""

from __future__ import annotations

import hashlib
import time
from dataclasses import replace

from qbridge_core.contract.dead_letter import Failure
from qbridge_core.contract.headers import MAX_EXCEPTION_MESSAGE_CHARS, REPLAYS, meta_int
from qbridge_core.contract.message import Delivery
from qbridge_core.contract.names import worker_identity
from qbridge_core.task.explanation import Explanation
from qbridge_core.work.settle.rules import Rules


def failure_of(rules: Rules, delivery: Delivery, explanation: Explanation, task_id: str, attempts: int) -> Failure:
    """What to write beside a message, redacted."""
    now = time.time()
    explanation = explanation.redacted(rules.redact)
    return Failure(
        reason=explanation.reason,
        attempts=attempts,
        crashes=delivery.crashes,
        exception_type=explanation.exception_type,
        exception_message=explanation.message,
        traceback=explanation.traceback,
        first_failed_at=delivery.first_failed_at or now,
        last_failed_at=now,
        source_queue=rules.queue,
        task_id=task_id,
        worker=worker_identity(),
        replays=meta_int(delivery.meta, REPLAYS),
    )


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
    return f"without id ({len(delivery.body)} bytes, sha256 {hashlib.sha256(delivery.body).hexdigest()[:16]})"


def log_fields(delivery: Delivery, task_id: str | None, attempt: int) -> dict[str, object]:
    """The fields that the log shows of a task."""
    return {"qbridge_task_id": task_id, "qbridge_queue": delivery.queue, "qbridge_attempt": attempt}
