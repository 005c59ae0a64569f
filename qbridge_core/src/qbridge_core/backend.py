"""What the author of a backend needs of QBridge, all of it: a backend imports nothing else of core.

* **The contract:** :class:`QueueClient` to subclass, its :class:`Capabilities`, and what goes in and out of it:
  :class:`Message`, :class:`Delivery`, :class:`Failure`, :class:`DeadLetter`, :class:`DelayedMessage`,
  :class:`QueueStats`, :class:`Reason`.
* **Being found:** :data:`hookimpl` marks the function ``qbridge_backends``, which returns a :data:`BackendFactory` for
  each scheme.
* **URL and options:** :class:`BrokerURL`, :func:`read_options` and the readers :func:`option_seconds` and
  :func:`option_count`, which take the strings of a URL.
* **Checks of arguments** (``check_…``), so that the same call means the same on every broker.
* **QBridge's headers:** their names, what reads them (:func:`meta_int`, :func:`meta_text`, :func:`meta_time`,
  :meth:`Delivery.from_headers`, :meth:`DeadLetter.from_headers`) and how long what they hold may be.
* **Declarations:** :class:`DeclaredQueues` remembers them, and where rejected messages go.
* **Looking:** :func:`list_queues` makes of names what ``queues`` returns, and :class:`Rates` makes rates of counts.
* **Tools:** :func:`monotonic`, which no frozen clock of a test stops, :class:`Clock`, by which a test may have delays
  pass, :func:`logger`, which never raises or waits,
  :class:`GrowingPause` between tries, :class:`Outage`, which makes one story of many complaints, :class:`Mailbox`,
  through which many threads hand work to one, :class:`Pulse`, by which a thread shows that it turns, and
  :func:`random_bytes`, for ids.
* **Not waiting,** for a ``publish_soon`` of one's own: :class:`Promises` are futures that end in time (each a
  :class:`Promise`), :class:`HelperThreads` run what may wait; :func:`settled` is a future that has ended,
  :func:`promised` puts what a call raises into the one that it returns, and of an error that several futures have
  each gets one of its own (:func:`each_with`, :func:`copied`). :func:`futures_for` makes the futures of what is told
  with each :data:`Ended`.
* **Looking at the broker:** ``diagnose`` makes each :class:`Finding` through a :class:`Check`, for the queues whose
  :class:`QueueUse` :func:`check_uses` returns; :func:`examine` makes all checks, whatever one
  of them raises.
* **The border:** :func:`guarded` lets only QBridge's errors out of a client's methods, :func:`callers_own` the caller's
  own as they are, and :func:`is_passing` tells what the system may give later.
* **The errors** that may cross it; :mod:`qbridge_core.errors` draws their tree.

The tests are in :mod:`qbridge_core.testing`; a backend's package never imports those.
"""

from qbridge_core.contract.asides import Ended, copied, each_with, futures_for, promised, settled
from qbridge_core.contract.boundary import callers_own, guarded, is_passing
from qbridge_core.contract.capabilities import Capabilities
from qbridge_core.contract.checks import (
    MAX_ID_CHARS,
    PREFETCH_BYTES,
    check_body,
    check_count,
    check_declaration,
    check_delay,
    check_headers,
    check_message_id,
    check_publish_timeout,
    check_queue_name,
    check_queue_names,
    check_replay,
    check_wait,
    check_wanted,
)
from qbridge_core.contract.client import QueueClient
from qbridge_core.contract.dead_letter import DeadLetter, Failure, Noted, Reason
from qbridge_core.contract.declared import DeclaredQueues
from qbridge_core.contract.delayed import DelayedMessage, check_delayed, check_delayed_id
from qbridge_core.contract.diagnosing import DIAGNOSIS_SECONDS
from qbridge_core.contract.events import ConnectionEvents
from qbridge_core.contract.findings import (
    Check,
    Finding,
    FindingStatus,
    Look,
    QueueUse,
    check_uses,
    examine,
)
from qbridge_core.contract.headers import (
    ATTEMPTS,
    BESIDE,
    CONTENT_TYPE_HEADER,
    CRASHES,
    DUE_AT,
    EXCEPTION_MESSAGE,
    EXCEPTION_TYPE,
    FIRST_FAILED_AT,
    HEADER_PREFIX,
    HISTORY,
    LAST_FAILED_AT,
    MAX_EXCEPTION_MESSAGE_CHARS,
    MAX_TRACEBACK_CHARS,
    NO_HEADERS,
    REASON,
    REPLAYS,
    SENT_AT,
    SOURCE_QUEUE,
    SUSPICIONS,
    TASK_ID,
    TRACEBACK,
    WORKER,
    meta_int,
    meta_text,
    meta_time,
)
from qbridge_core.contract.history import MAX_HISTORY_BYTES, Attempt, AttemptOutcome, charged_history
from qbridge_core.contract.hookspecs import BackendFactory, hookimpl
from qbridge_core.contract.imports import check_imports, letter_headers, plain_headers
from qbridge_core.contract.letters import Chosen, Edit, check_after, check_choice, check_letters, replay_headers
from qbridge_core.contract.message import (
    Delivery,
    Message,
    QueueStats,
    check_content,
    check_delivery,
    check_message,
    check_messages,
    check_rejection,
    check_sequence,
    rejection,
)
from qbridge_core.contract.names import default_dead_letter_queue, suspects_queue, worker_identity
from qbridge_core.contract.options import OptionReader, merge_options, option_count, option_seconds, read_options
from qbridge_core.contract.queuelist import list_queues
from qbridge_core.contract.rates import Rates
from qbridge_core.contract.url import BrokerURL
from qbridge_core.errors import (
    AuthenticationError,
    BrokerBlockedError,
    BrokerUnavailableError,
    ConfigurationError,
    DeliveryLostError,
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
    TransientError,
    UnknownOptionError,
    UnroutableError,
    UnsupportedError,
)
from qbridge_core.runtime.clock import SYSTEM_CLOCK, Clock, monotonic
from qbridge_core.runtime.helpers import HelperThreads
from qbridge_core.runtime.logs import QueuedLogger, logger
from qbridge_core.runtime.mailbox import Mailbox
from qbridge_core.runtime.outage import Outage
from qbridge_core.runtime.pause import GrowingPause
from qbridge_core.runtime.promises import Promise, Promises
from qbridge_core.runtime.pulse import Pulse
from qbridge_core.runtime.randomness import random_bytes

__all__ = [
    "ATTEMPTS",
    "Attempt",
    "AttemptOutcome",
    "AuthenticationError",
    "BESIDE",
    "BackendFactory",
    "BrokerBlockedError",
    "BrokerURL",
    "BrokerUnavailableError",
    "CONTENT_TYPE_HEADER",
    "CRASHES",
    "Capabilities",
    "Check",
    "Chosen",
    "Clock",
    "ConfigurationError",
    "ConnectionEvents",
    "DIAGNOSIS_SECONDS",
    "DUE_AT",
    "DeadLetter",
    "DeclaredQueues",
    "DelayedMessage",
    "Delivery",
    "DeliveryLostError",
    "EXCEPTION_MESSAGE",
    "EXCEPTION_TYPE",
    "Edit",
    "Ended",
    "FIRST_FAILED_AT",
    "Failure",
    "Finding",
    "FindingStatus",
    "GrowingPause",
    "HEADER_PREFIX",
    "HISTORY",
    "HelperThreads",
    "InvalidURLError",
    "LAST_FAILED_AT",
    "LettersGoneError",
    "Look",
    "MAX_EXCEPTION_MESSAGE_CHARS",
    "MAX_HISTORY_BYTES",
    "MAX_ID_CHARS",
    "MAX_TRACEBACK_CHARS",
    "Mailbox",
    "Message",
    "MessageTooLargeError",
    "NO_HEADERS",
    "NotConnectedError",
    "Noted",
    "OptionReader",
    "Outage",
    "PREFETCH_BYTES",
    "PayloadError",
    "PermanentError",
    "Promise",
    "Promises",
    "PublishUnconfirmedError",
    "Pulse",
    "QBridgeError",
    "QueueClient",
    "QueueFullError",
    "QueueMismatchError",
    "QueueStats",
    "QueueUse",
    "QueuedLogger",
    "REASON",
    "REPLAYS",
    "Rates",
    "Reason",
    "SENT_AT",
    "SOURCE_QUEUE",
    "SUSPICIONS",
    "SYSTEM_CLOCK",
    "TASK_ID",
    "TRACEBACK",
    "TransientError",
    "UnknownOptionError",
    "UnroutableError",
    "UnsupportedError",
    "WORKER",
    "callers_own",
    "charged_history",
    "check_after",
    "check_body",
    "check_choice",
    "check_content",
    "check_count",
    "check_declaration",
    "check_delay",
    "check_delayed",
    "check_delayed_id",
    "check_delivery",
    "check_headers",
    "check_imports",
    "check_letters",
    "check_message",
    "check_message_id",
    "check_messages",
    "check_publish_timeout",
    "check_queue_name",
    "check_queue_names",
    "check_rejection",
    "check_replay",
    "check_sequence",
    "check_uses",
    "check_wait",
    "check_wanted",
    "copied",
    "default_dead_letter_queue",
    "each_with",
    "examine",
    "futures_for",
    "guarded",
    "hookimpl",
    "is_passing",
    "letter_headers",
    "list_queues",
    "logger",
    "merge_options",
    "meta_int",
    "meta_text",
    "meta_time",
    "monotonic",
    "option_count",
    "option_seconds",
    "plain_headers",
    "promised",
    "random_bytes",
    "read_options",
    "rejection",
    "replay_headers",
    "settled",
    "suspects_queue",
    "worker_identity",
]
