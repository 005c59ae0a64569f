"""QBridge: a reliability layer between any message broker and a Python function.

The public names are those in ``__all__``, and for authors of backends those of :mod:`qbridge_core.backend`. Modules are
an implementation detail, except these two, :mod:`qbridge_core.errors`, :mod:`qbridge_core.contract.hookspecs`,
:mod:`qbridge_core.contract.message` and :mod:`qbridge_core.testing`.
"""

import importlib
from typing import TYPE_CHECKING, Final

from qbridge_core.contract.capabilities import Capabilities
from qbridge_core.contract.client import QueueClient
from qbridge_core.contract.clienthooks import use_plugins
from qbridge_core.contract.envelope import MalformedTaskError, Task, UnsupportedTaskError
from qbridge_core.contract.hookspecs import hookimpl
from qbridge_core.contract.message import Delivery, Message, QueueStats
from qbridge_core.contract.names import default_dead_letter_queue
from qbridge_core.contract.registry import backends, connect, register_backend
from qbridge_core.errors import (
    AuthenticationError,
    BackendLoadError,
    BackendNotInstalledError,
    BrokerBlockedError,
    BrokerUnavailableError,
    ConfigurationError,
    DeliveryLostError,
    DuplicateBackendError,
    IdleTimeoutError,
    InvalidURLError,
    LettersGoneError,
    MessageTooLargeError,
    NotConnectedError,
    PayloadError,
    PermanentError,
    PublishUnconfirmedError,
    QBridgeError,
    QueueFullError,
    QueueMismatchError,
    QueuePausedError,
    RemoteError,
    TooManyStuckTasksError,
    TransientError,
    UnknownOptionError,
    UnknownSchemeError,
    UnroutableError,
    UnsupportedError,
    WorkerStartError,
)
from qbridge_core.task.context import HandlerTimeout, TaskContext, current_task
from qbridge_core.task.control import Reject, Retry, Snooze, TaskControl

if TYPE_CHECKING:  # each of these stands below, too
    from qbridge_core import backend as backend
    from qbridge_core.aio.client import AsyncQueueClient, aconnect
    from qbridge_core.app.app import App
    from qbridge_core.app.sending import TaskMessage
    from qbridge_core.app.task import AppTask
    from qbridge_core.backend import BackendFactory as BackendFactory
    from qbridge_core.backend import BrokerURL as BrokerURL
    from qbridge_core.backend import check_body as check_body
    from qbridge_core.backend import check_count as check_count
    from qbridge_core.backend import check_declaration as check_declaration
    from qbridge_core.backend import check_delay as check_delay
    from qbridge_core.backend import check_headers as check_headers
    from qbridge_core.backend import check_message_id as check_message_id
    from qbridge_core.backend import check_publish_timeout as check_publish_timeout
    from qbridge_core.backend import check_queue_name as check_queue_name
    from qbridge_core.backend import check_wait as check_wait
    from qbridge_core.backend import merge_options as merge_options
    from qbridge_core.backend import option_count as option_count
    from qbridge_core.backend import option_seconds as option_seconds
    from qbridge_core.backend import rejection as rejection
    from qbridge_core.backend import worker_identity as worker_identity
    from qbridge_core.contract.dead_letter import DeadLetter, Failure, Reason
    from qbridge_core.contract.delayed import DelayedMessage
    from qbridge_core.contract.findings import Finding, FindingStatus, QueueUse
    from qbridge_core.contract.history import Attempt, AttemptOutcome
    from qbridge_core.supervise.supervisor import Supervisor
    from qbridge_core.task.formats.base import Format, Outgoing
    from qbridge_core.task.formats.celery import CeleryFormat
    from qbridge_core.task.formats.cloudevents import CloudEventsFormat
    from qbridge_core.task.formats.dramatiq import DramatiqFormat
    from qbridge_core.task.formats.envelope import EnvelopeFormat
    from qbridge_core.task.formats.raw import RawFormat
    from qbridge_core.task.formats.wholejson import JSONFormat
    from qbridge_core.task.outcome import Outcome, RunReport
    from qbridge_core.task.retry import (
        Backoff,
        ConstantBackoff,
        ExceptionRule,
        ExponentialBackoff,
        LinearBackoff,
        RetryPolicy,
    )
    from qbridge_core.telemetry.health import Health
    from qbridge_core.work.manager import TaskManager
    from qbridge_core.work.workers import run_workers

__version__ = "0.1.0"

__all__ = [
    "App",
    "AppTask",
    "AsyncQueueClient",
    "Attempt",
    "AttemptOutcome",
    "AuthenticationError",
    "BackendLoadError",
    "BackendNotInstalledError",
    "Backoff",
    "BrokerBlockedError",
    "BrokerUnavailableError",
    "Capabilities",
    "CeleryFormat",
    "CloudEventsFormat",
    "ConfigurationError",
    "ConstantBackoff",
    "DeadLetter",
    "DelayedMessage",
    "Delivery",
    "DeliveryLostError",
    "DramatiqFormat",
    "DuplicateBackendError",
    "EnvelopeFormat",
    "ExceptionRule",
    "ExponentialBackoff",
    "Failure",
    "Finding",
    "FindingStatus",
    "Format",
    "HandlerTimeout",
    "Health",
    "IdleTimeoutError",
    "InvalidURLError",
    "JSONFormat",
    "LettersGoneError",
    "LinearBackoff",
    "MalformedTaskError",
    "Message",
    "MessageTooLargeError",
    "NotConnectedError",
    "Outcome",
    "Outgoing",
    "PayloadError",
    "PermanentError",
    "PublishUnconfirmedError",
    "QBridgeError",
    "QueueClient",
    "QueueFullError",
    "QueueMismatchError",
    "QueuePausedError",
    "QueueStats",
    "QueueUse",
    "RawFormat",
    "Reason",
    "Reject",
    "RemoteError",
    "Retry",
    "RetryPolicy",
    "RunReport",
    "Snooze",
    "Supervisor",
    "Task",
    "TaskContext",
    "TaskControl",
    "TaskManager",
    "TaskMessage",
    "TooManyStuckTasksError",
    "TransientError",
    "UnknownOptionError",
    "UnknownSchemeError",
    "UnroutableError",
    "UnsupportedError",
    "UnsupportedTaskError",
    "WorkerStartError",
    "__version__",
    "aconnect",
    "backends",
    "connect",
    "current_task",
    "default_dead_letter_queue",
    "hookimpl",
    "register_backend",
    "run_workers",
    "use_plugins",
]


_LATER: Final = {
    "aio.client": ("AsyncQueueClient", "aconnect"),
    "app.app": ("App",),
    "app.sending": ("TaskMessage",),
    "app.task": ("AppTask",),
    # What authors of backends had from here before there was qbridge_core.backend stays where they find it.
    "backend": (
        "BackendFactory",
        "BrokerURL",
        "check_body",
        "check_count",
        "check_declaration",
        "check_delay",
        "check_headers",
        "check_message_id",
        "check_publish_timeout",
        "check_queue_name",
        "check_wait",
        "merge_options",
        "option_count",
        "option_seconds",
        "rejection",
        "worker_identity",
    ),
    "contract.dead_letter": ("DeadLetter", "Failure", "Reason"),
    "contract.delayed": ("DelayedMessage",),
    "contract.findings": ("Finding", "FindingStatus", "QueueUse"),
    "contract.history": ("Attempt", "AttemptOutcome"),
    "supervise.supervisor": ("Supervisor",),
    "task.formats.base": ("Format", "Outgoing"),
    "task.formats.celery": ("CeleryFormat",),
    "task.formats.cloudevents": ("CloudEventsFormat",),
    "task.formats.dramatiq": ("DramatiqFormat",),
    "task.formats.envelope": ("EnvelopeFormat",),
    "task.formats.raw": ("RawFormat",),
    "task.formats.wholejson": ("JSONFormat",),
    "task.outcome": ("Outcome", "RunReport"),
    "task.retry": (
        "Backoff",
        "ConstantBackoff",
        "ExceptionRule",
        "ExponentialBackoff",
        "LinearBackoff",
        "RetryPolicy",
    ),
    "telemetry.health": ("Health",),
    "work.manager": ("TaskManager",),
    "work.workers": ("run_workers",),
}
_PLACES: Final = {name: f"{__name__}.{module}" for module, names in _LATER.items() for name in names}


def __getattr__(name: str) -> object:
    """Import what works, watches and describes only when somebody asks for it: who only sends needs little of it."""
    if name == "backend":
        return importlib.import_module(f"{__name__}.backend")
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    found = globals()[name] = getattr(importlib.import_module(_PLACES[name]), name)
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, *_PLACES, "backend"})
