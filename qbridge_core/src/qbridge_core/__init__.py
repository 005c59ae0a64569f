"""QBridge: a reliability layer between any message broker and a Python function.

The public names are those in ``__all__``; modules are an implementation detail, except
:mod:`qbridge_core.errors`, :mod:`qbridge_core.hookspecs` and :mod:`qbridge_core.testing`.
"""

from qbridge_core.client import Capabilities, QueueClient, default_dead_letter_queue, rejection, worker_identity
from qbridge_core.errors import *  # noqa: F403 - the error tree is public as a whole
from qbridge_core.hookspecs import BackendFactory, hookimpl
from qbridge_core.message import DeadLetter, Delivery, Failure, Message, QueueStats, Reason
from qbridge_core.registry import backends, connect, register_backend
from qbridge_core.retry import Backoff, ConstantBackoff, ExponentialBackoff, RetryPolicy
from qbridge_core.url import BrokerURL, merge_options

__version__ = "0.1.0"
