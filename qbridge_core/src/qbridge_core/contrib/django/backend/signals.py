"""Tells the signals of ``django.tasks`` what has failed for good."""

from __future__ import annotations

from typing import Any

from qbridge_core.contract.dead_letter import Failure
from qbridge_core.contract.envelope import task_of
from qbridge_core.contract.hookspecs import hookimpl
from qbridge_core.contrib.django.backend import results
from qbridge_core.contrib.django.backend.found import found_tasks
from qbridge_core.contrib.django.backend.library import TaskResult, task_backends, task_finished
from qbridge_core.contrib.django.backend.sending import QBridgeBackend
from qbridge_core.contrib.django.connections import with_connections
from qbridge_core.errors import RemoteError
from qbridge_core.task.context import TaskContext, current_run


class Signals:
    """The plugin for managers of queues with such tasks."""

    @hookimpl
    def qbridge_task_dead_lettered(self, queue: str, task_id: str, failure: Failure) -> None:
        """Send ``task_finished``, where it is known what has run: not of a task that has killed its worker."""
        run = current_run.get()
        if run is None or run.task_id != task_id:
            return
        result = _result(queue, run.delivery.body, TaskContext(run))
        if result is None:
            return
        results.fail(result, failure)
        try:  # receivers look for the exception that is being handled
            raise RemoteError(failure.exception_message, failure.exception_type, failure.traceback)
        except RemoteError:
            with_connections(task_finished.send_robust)(type(task_backends[result.backend]), task_result=result)


def _result(queue: str, body: bytes, context: TaskContext) -> TaskResult | None:
    """That of a message with a task of Django's; ``None`` for others."""
    message = task_of(body)
    document: Any = {} if message is None else message.document
    task = next((each for each in found_tasks() if each.module_path == document.get("task")), None)
    payload = document.get("payload")
    if task is None or not isinstance(payload, dict):
        return None
    args, kwargs = payload.get("args") or [], payload.get("kwargs") or {}
    return results.running(task, _alias(queue, task.backend), context, args, kwargs)


def _alias(queue: str, usual: str) -> str:
    """The backend that has sent it, as far as its queue tells."""
    backends = [each for each in task_backends.all() if isinstance(each, QBridgeBackend)]
    having = [each.alias for each in backends if queue in each.app.queue_names]
    return usual if usual in having or not having else str(having[0])
