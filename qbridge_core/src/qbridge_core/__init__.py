"""QBridge: a reliability layer between any message broker and a Python function.

The public names are those in ``__all__``; modules are an implementation detail, except
:mod:`qbridge_core.errors`, :mod:`qbridge_core.hookspecs`, :mod:`qbridge_core.testing` and, for backends,
:mod:`qbridge_core.message` with the names of QBridge's headers.
"""

from typing import TYPE_CHECKING

from qbridge_core.checks import (
    check_body,
    check_count,
    check_declaration,
    check_delay,
    check_headers,
    check_message_id,
    check_publish_timeout,
    check_queue_name,
    check_wait,
    option_count,
    option_seconds,
)
from qbridge_core.client import (
    Capabilities,
    QueueClient,
    default_dead_letter_queue,
    rejection,
    worker_identity,
)
from qbridge_core.context import HandlerTimeout, TaskContext, current_task
from qbridge_core.control import Reject, Retry, Snooze, TaskControl
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
    MessageTooLargeError,
    NotConnectedError,
    PayloadError,
    PermanentError,
    PublishUnconfirmedError,
    QBridgeError,
    QueueFullError,
    QueueMismatchError,
    RemoteError,
    TooManyStuckTasksError,
    TransientError,
    UnknownOptionError,
    UnknownSchemeError,
    UnroutableError,
    UnsupportedError,
    WorkerStartError,
)
from qbridge_core.hookspecs import BackendFactory, hookimpl
from qbridge_core.manager import TaskManager
from qbridge_core.message import DeadLetter, Delivery, Failure, Message, QueueStats, Reason
from qbridge_core.outcome import Outcome, RunReport
from qbridge_core.registry import backends, connect, register_backend
from qbridge_core.retry import Backoff, ConstantBackoff, ExceptionRule, ExponentialBackoff, LinearBackoff, RetryPolicy
from qbridge_core.url import BrokerURL, merge_options

if TYPE_CHECKING:
    from qbridge_core.supervisor import Supervisor

__version__ = "0.1.0"

__all__ = [
    "AuthenticationError",
    "BackendFactory",
    "BackendLoadError",
    "BackendNotInstalledError",
    "Backoff",
    "BrokerBlockedError",
    "BrokerURL",
    "BrokerUnavailableError",
    "Capabilities",
    "ConfigurationError",
    "ConstantBackoff",
    "DeadLetter",
    "Delivery",
    "DeliveryLostError",
    "DuplicateBackendError",
    "ExceptionRule",
    "ExponentialBackoff",
    "Failure",
    "HandlerTimeout",
    "IdleTimeoutError",
    "InvalidURLError",
    "LinearBackoff",
    "Message",
    "MessageTooLargeError",
    "NotConnectedError",
    "Outcome",
    "PayloadError",
    "PermanentError",
    "PublishUnconfirmedError",
    "QBridgeError",
    "QueueClient",
    "QueueFullError",
    "QueueMismatchError",
    "QueueStats",
    "Reason",
    "Reject",
    "RemoteError",
    "Retry",
    "RetryPolicy",
    "RunReport",
    "Snooze",
    "Supervisor",
    "TaskContext",
    "TaskControl",
    "TaskManager",
    "TooManyStuckTasksError",
    "TransientError",
    "UnknownOptionError",
    "UnknownSchemeError",
    "UnroutableError",
    "UnsupportedError",
    "WorkerStartError",
    "__version__",
    "backends",
    "check_body",
    "check_count",
    "check_declaration",
    "check_delay",
    "check_headers",
    "check_message_id",
    "check_publish_timeout",
    "check_queue_name",
    "check_wait",
    "connect",
    "current_task",
    "default_dead_letter_queue",
    "hookimpl",
    "merge_options",
    "option_count",
    "option_seconds",
    "register_backend",
    "rejection",
    "worker_identity",
]


def __getattr__(name: str) -> object:
    """Import the `Supervisor` only when somebody asks for it: a worker would hold its modules for nothing."""
    if name != "Supervisor":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from qbridge_core.supervisor import Supervisor

    globals()[name] = Supervisor
    return Supervisor


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
