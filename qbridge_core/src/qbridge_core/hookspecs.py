"""The hooks that plugins implement; :mod:`qbridge_core.contract.hookspecs` says what each one tells."""

from qbridge_core.contract.hookspecs import (
    PROJECT,
    BackendFactory,
    hookimpl,
    hookspec,
    qbridge_backends,
    qbridge_task_dead_lettered,
    qbridge_task_failed,
    qbridge_task_retried,
    qbridge_task_started,
    qbridge_task_succeeded,
    qbridge_task_timed_out,
    qbridge_worker_started,
    qbridge_worker_stopping,
)

__all__ = [
    "BackendFactory",
    "PROJECT",
    "hookimpl",
    "hookspec",
    "qbridge_backends",
    "qbridge_task_dead_lettered",
    "qbridge_task_failed",
    "qbridge_task_retried",
    "qbridge_task_started",
    "qbridge_task_succeeded",
    "qbridge_task_timed_out",
    "qbridge_worker_started",
    "qbridge_worker_stopping",
]
