"""From redis-py's exceptions and the server's error replies to the errors of the contract.

redis-py makes some error replies classes of their own and cuts their code off; the others keep it as their first word.
"""

from __future__ import annotations

import re
from typing import Any, Final

from redis import exceptions as redis_errors

from qbridge_core.backend import (
    AuthenticationError,
    BrokerBlockedError,
    BrokerUnavailableError,
    ConfigurationError,
    MessageTooLargeError,
    PermanentError,
    QBridgeError,
    QueueMismatchError,
)

REFUSED: Final = (AuthenticationError, ConfigurationError)
"""What an attempt to connect raises that will fail again until somebody changes something."""
_READONLY: Final = "this server is a read-only replica; write its master's address, or redis+sentinel://"
_NOISE: Final = (
    re.compile(r"^Error -?\d+ connecting to \S+?\. (.*)$", re.DOTALL),
    re.compile(r"^Error while (?:reading from|writing to) .*\(-?\d+, '(.*)'\)$"),
    re.compile(r"^Error -?\d+ while writing to \S+\. (.*?)\.?$"),
    re.compile(r"^(.*) \(_ssl\.c:\d+\)"),
)
_NO_SUCH_NAME: Final = (
    "Name or service not known",
    "No address associated with hostname",
    "Temporary failure in name resolution",
    "nodename nor servname provided, or not known",
)
_CLASSES: Final[tuple[tuple[type[Exception], str], ...]] = (
    (redis_errors.NoScriptError, "NOSCRIPT"),
    (redis_errors.OutOfMemoryError, "OOM"),
    (redis_errors.ReadOnlyError, "READONLY"),
    (redis_errors.NoPermissionError, "NOPERM"),
    (redis_errors.BusyLoadingError, "LOADING"),
    (redis_errors.AuthenticationError, "NOAUTH"),
    (redis_errors.MasterDownError, "MASTERDOWN"),
    (redis_errors.ClusterDownError, "CLUSTERDOWN"),
    (redis_errors.MovedError, "MOVED"),
    (redis_errors.AskError, "ASK"),
    (redis_errors.TryAgainError, "TRYAGAIN"),
)
_BLOCKED: Final = {"OOM", "MISCONF", "NOREPLICAS"}
_REDIRECTS: Final = {"MOVED", "ASK", "TRYAGAIN"}
_UNAVAILABLE: Final = {"READONLY", "LOADING", "MASTERDOWN", "CLUSTERDOWN", "BUSY", "NOGROUP", "UNBLOCKED"} | _REDIRECTS
_DENIED: Final = ("ACL failure in script", "executing the script can't")  # within a script, new servers and old
_TOO_LARGE: Final = ("too large", "invalid bulk length", "maximum allowed size")


def code(error: BaseException) -> str:
    """The error code of a reply: its first word, which is the only part that is the same on all servers."""
    for kind, name in _CLASSES:
        if isinstance(error, kind):
            return name
    return str(error).partition(" ")[0]


def is_missing_group(error: BaseException) -> bool:
    """Whether the stream or its group is gone: what a read gets, and what ends a blocked read (differs by server)."""
    return code(error) in ("NOGROUP", "UNBLOCKED")


def is_transient(error: BaseException) -> bool:
    """Whether the server may accept the same command later."""
    return code(error) in _UNAVAILABLE or code(error) in _BLOCKED


def is_redirect(reply: object) -> bool:
    """Whether a node of a cluster says that the keys are elsewhere, or on their way: it did nothing."""
    return isinstance(reply, redis_errors.ResponseError) and code(reply) in _REDIRECTS


def refused(error: Exception, action: str) -> QBridgeError:
    """The error for a command that the server answered with an error, so it did nothing."""
    name = code(error)
    if name in _BLOCKED:
        return BrokerBlockedError(f"cannot {action}: Redis refuses writes ({name}: {error})")
    if name in _UNAVAILABLE:
        why = _READONLY if name == "READONLY" else f"Redis is not ready ({name}: {error})"
        return BrokerUnavailableError(f"cannot {action}: {why}")
    if name == "WRONGTYPE":
        return QueueMismatchError(
            f"cannot {action}: a key with the queue's name, or with its name and ':delayed' or ':paused', holds "
            "something that is no stream, or no sorted set, of QBridge. A list may be a queue of Celery's, which "
            "kombu+redis:// works off, or of Dramatiq's, which only Dramatiq can (docs/coming-from-celery.md); "
            "otherwise give the queue another name, or delete that key"
        )
    if name == "NOPERM" or any(hint in str(error) for hint in _DENIED):
        return AuthenticationError(
            f"cannot {action}: the Redis user lacks a permission ({error}); see docs/production.md"
        )
    if any(hint in str(error) for hint in _TOO_LARGE):
        return MessageTooLargeError(f"cannot {action}: {error}")
    return PermanentError(f"cannot {action}: Redis answered {error}")


def unreachable(error: Exception, where: object) -> BrokerUnavailableError:
    """The error for a connection that could not be made or broke."""
    return BrokerUnavailableError(f"no connection to {where}: {in_words(error)}")


def not_connected(error: Exception, where: object) -> QBridgeError:
    """The error for a connection that could not be made."""
    text = str(error)
    if isinstance(error, redis_errors.AuthenticationError):
        return AuthenticationError(f"{where} refused the credentials: {_credentials(text)}")
    if isinstance(error, redis_errors.ResponseError) and "DB index" in text:
        return ConfigurationError(
            f"{where}: the server has no database with this number; its setting 'databases' says how many there are "
            "(0 to 15 by default)"
        )
    return unreachable(error, where)


def in_words(error: BaseException) -> str:
    """What went wrong, without what redis-py says of its own workings."""
    text = str(error)
    if isinstance(error, OSError) and error.strerror and not isinstance(error, redis_errors.RedisError):
        text = error.strerror
    for pattern in _NOISE:
        if match := pattern.search(text):
            text = match[1]
    text = text.strip(". ") or type(error).__name__
    if text == "Connection refused":
        return "nothing listens there (connection refused)"
    if text in _NO_SUCH_NAME:
        return f"the host name cannot be resolved ({text})"
    if text.startswith("Timeout "):
        return "no answer in time"
    if "CERTIFICATE_VERIFY_FAILED" in text:
        reason = f"CERTIFICATE_VERIFY_FAILED: {text.rpartition('failed: ')[2]}"
        return f"its certificate is not trusted ({reason}); cafile=… names a CA to trust"
    if "Too many open files" in text:
        return f"{text}: this process has no file descriptor left (ulimit -n)"
    return text


def _credentials(text: str) -> str:
    if "without any password" in text:
        return "it has no password for its default user; leave the password out of the URL, or set requirepass there"
    if "Authentication required" in text:
        return "it wants a password, as in redis://user:password@host"
    return f"wrong user name or password, or a user that is switched off ({text.strip('. ')})"


def checked(reply: Any, action: str) -> Any:
    """The reply, unless it is an error: that is raised as the contract's."""
    if isinstance(reply, redis_errors.ResponseError):
        raise refused(reply, action) from reply
    return reply
