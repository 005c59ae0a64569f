"""The errors that QBridge raises, in one tree.

::

    QBridgeError
    ├── ConfigurationError (ValueError)    it will not work until somebody changes the code or the settings
    │   ├── InvalidURLError                the URL cannot be understood
    │   ├── UnknownOptionError             a URL or keyword option that the backend does not have
    │   ├── UnknownSchemeError             no backend is known for the scheme
    │   │   └── BackendNotInstalledError   a known scheme whose distribution is missing
    │   ├── BackendLoadError               the backend is installed but cannot be imported
    │   ├── DuplicateBackendError          two distributions claim one scheme
    │   └── PayloadError                   the payload cannot be written as JSON
    ├── TransientError                     the same call may succeed later
    │   ├── BrokerUnavailableError (ConnectionError)   no connection to the broker
    │   ├── BrokerBlockedError             the broker refuses writes for now (memory or disk alarm, out of memory)
    │   ├── QueueFullError                 the queue has a length limit and has reached it
    │   ├── PublishUnconfirmedError        no confirmation came in time: the message may or may not exist
    │   └── DeliveryLostError              the delivery went back to the broker and will be delivered again
    ├── PermanentError                     the same call will fail again
    │   ├── NotConnectedError              connect() was not called, or disconnect() was
    │   ├── AuthenticationError            the broker refused the credentials or the permission
    │   ├── UnroutableError                the queue does not exist
    │   ├── MessageTooLargeError           over max_message_bytes or the broker's limit
    │   ├── QueueMismatchError             the queue exists and cannot be used as asked
    │   ├── LettersGoneError               letters that were named are not there; the others are done
    │   └── UnsupportedError               the backend does not have this capability (see its ``capabilities``)
    ├── RemoteError                        what a handler raised in a child process, for lifecycle hooks
    ├── TooManyStuckTasksError             too many handlers hang past their timeout: the process must be restarted
    ├── WorkerStartError                   a Supervisor's worker processes end before they are ready
    └── IdleTimeoutError (TimeoutError)    run_until_idle gave up while work was left
        └── QueuePausedError               its queue is paused, so nobody works it off

A driver's exception never crosses a backend's boundary: it becomes one of these and stays reachable as
``__cause__``. No message of any of them contains a password.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

_MOST_IDS: Final = 5


class QBridgeError(Exception):
    """Base class of everything that QBridge raises on purpose."""


class ConfigurationError(QBridgeError, ValueError):
    """An argument, option or installation is wrong; retrying cannot help."""


class InvalidURLError(ConfigurationError):
    """The broker URL cannot be understood."""


class UnknownOptionError(ConfigurationError):
    """An option that the backend does not have; the message names those it has."""


class UnknownSchemeError(ConfigurationError):
    """No backend is known for the URL's scheme."""


class BackendNotInstalledError(UnknownSchemeError):
    """The scheme is known, but its distribution is not installed; the message has the ``pip install`` line."""


class BackendLoadError(ConfigurationError):
    """The backend is installed but importing it failed; the reason is the ``__cause__``."""


class DuplicateBackendError(ConfigurationError):
    """Two installed distributions claim the same scheme."""


class PayloadError(ConfigurationError):
    """The payload, task id or header given to ``send`` cannot be written into a JSON message."""


class TransientError(QBridgeError):
    """The broker could not do it now; the same call may succeed later."""


class BrokerUnavailableError(TransientError, ConnectionError):
    """There is no working connection to the broker."""


class BrokerBlockedError(TransientError):
    """The broker refuses new messages for now (memory or disk alarm, out of memory)."""


class QueueFullError(TransientError):
    """The queue has a length limit that rejects new messages, and has reached it."""


class PublishUnconfirmedError(TransientError):
    """The confirmation did not arrive before the deadline: the broker may or may not have the message."""


class DeliveryLostError(TransientError):
    """The delivery can no longer be settled: the broker took it back and will deliver it again."""


class PermanentError(QBridgeError):
    """The same call will fail again."""


class NotConnectedError(PermanentError):
    """The client is not connected."""


class AuthenticationError(PermanentError):
    """The broker refused the credentials, or denied access to the resource."""


class UnroutableError(PermanentError):
    """The message was not accepted because its queue does not exist."""


class MessageTooLargeError(PermanentError):
    """The message is over the client's ``max_message_bytes`` or the broker's size limit."""


class QueueMismatchError(PermanentError):
    """The queue exists in a form that cannot be used as asked (an exclusive queue, a key of another type)."""


class LettersGoneError(PermanentError):
    """Dead letters that were named are not in the queue any more, or a consumer holds them; the others are done.

    Also raised for delayed messages that were named.

    Attributes:
        ids: theirs, in the order in which they were named.
        done: how many of the others were sent back or deleted.
    """

    def __init__(self, ids: Sequence[str], done: int = 0) -> None:
        super().__init__(tuple(ids), done)
        self.ids = tuple(ids)
        self.done = done

    def __str__(self) -> str:
        shown = ", ".join(map(repr, self.ids[:_MOST_IDS])) + (", …" if len(self.ids) > _MOST_IDS else "")
        return (
            f"{len(self.ids)} of the named messages are not there, or a consumer holds them: {shown}; "
            f"{self.done} others are done"
        )


class UnsupportedError(PermanentError):
    """The backend does not have this capability."""


class RemoteError(QBridgeError):
    """What a handler raised in a child process, or how that process died; hooks get it as ``exception``.

    Exceptions stay in the process where they were raised, since not all of them can travel; their texts do.

    Attributes:
        exception_type: the class of the exception as ``module.Class``, without the module for a built-in one; "" when
            the process died.
        traceback: the formatted traceback.
    """

    def __init__(self, message: str, exception_type: str, traceback: str) -> None:
        super().__init__(message)
        self.exception_type = exception_type
        self.traceback = traceback
        if traceback:
            self.add_note(traceback)  # printed with the exception

    def __str__(self) -> str:
        return f"{self.exception_type}: {self.args[0]}" if self.exception_type else self.args[0]


class TooManyStuckTasksError(QBridgeError):
    """So many handlers hang past their timeout that the worker process has to be restarted.

    ``TaskManager.start`` raises it after a graceful stop, so that the process ends with a non-zero status and its
    supervisor starts a new one.
    """


class WorkerStartError(QBridgeError):
    """A Supervisor gave up: its worker processes ended again and again before they were ready."""


class IdleTimeoutError(QBridgeError, TimeoutError):
    """``run_until_idle`` reached its timeout while work was left.

    Attributes:
        report: the :class:`~qbridge_core.RunReport` of what had happened until then.
    """

    def __init__(self, message: str, report: object) -> None:
        super().__init__(message)
        self.report = report


class QueuePausedError(IdleTimeoutError):
    """``run_until_idle`` found work in a queue that is paused; it would have waited for somebody to resume it."""
