"""What Django calls the result of a task: what is known of one that was sent, runs, or has ended."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Final

from django.utils import timezone

from qbridge_core.contract.dead_letter import Failure
from qbridge_core.contract.history import AttemptOutcome
from qbridge_core.contract.names import worker_identity
from qbridge_core.contrib.django.backend.library import Task, TaskError, TaskResult, TaskResultStatus
from qbridge_core.task.context import TaskContext

_NO_EXCEPTION: Final = "builtins.RuntimeError"
"""What a task has failed with that has raised nothing, as one that has killed its worker."""


def ready(task: Task, alias: str, task_id: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> TaskResult:
    """That of a task that is about to be sent. It has the arguments as JSON has them.

    Raises:
        TypeError, ValueError: JSON does not have one of them.
    """
    return _result(task, alias, task_id, args, kwargs, enqueued_at=None)


def running(task: Task, alias: str, context: TaskContext, args: Sequence[Any], kwargs: Mapping[str, Any]) -> TaskResult:
    """That of a task that begins to run."""
    result = _result(task, alias, context.task_id, args, kwargs, enqueued_at=context.sent_at)
    now = timezone.now()
    counted = [each for each in context.history if each.outcome != AttemptOutcome.SNOOZED]
    began = next((each.began_at for each in counted if each.began_at is not None), None)
    workers = [each.worker for each in counted][-(context.attempt - 1) :] if context.attempt > 1 else []
    unknown = [""] * (context.attempt - 1 - len(workers))
    result.worker_ids.extend([*unknown, *workers, worker_identity()])
    _set(result, status=TaskResultStatus.RUNNING, started_at=began or now, last_attempted_at=now)
    return result


def succeed(result: TaskResult, value: Any) -> None:
    """It has returned this."""
    _set(result, status=TaskResultStatus.SUCCESSFUL, finished_at=timezone.now(), _return_value=value)


def fail(result: TaskResult, failure: Failure) -> None:
    """It is a dead letter."""
    kind = failure.exception_type or _NO_EXCEPTION
    path = kind if "." in kind else f"builtins.{kind}"
    text = failure.traceback or f"{failure.reason}: {failure.exception_message}"
    result.errors.append(TaskError(exception_class_path=path, traceback=text))
    _set(result, status=TaskResultStatus.FAILED, finished_at=timezone.now())


def enqueued(result: TaskResult) -> None:
    """It has been sent."""
    _set(result, enqueued_at=timezone.now())


def _result(
    task: Task, alias: str, task_id: str, args: Sequence[Any], kwargs: Mapping[str, Any], enqueued_at: datetime | None
) -> TaskResult:
    return TaskResult(
        task=task,
        id=task_id,
        status=TaskResultStatus.READY,
        enqueued_at=enqueued_at,
        started_at=None,
        finished_at=None,
        last_attempted_at=None,
        args=args,
        kwargs=kwargs,
        backend=alias,
        errors=[],
        worker_ids=[],
    )


def _set(result: TaskResult, **values: object) -> None:
    """It is frozen for users; backends write it."""
    for name, value in values.items():
        object.__setattr__(result, name, value)
