"""Checks of what callers give: names, ids, headers, durations. What not every broker can carry is refused on each."""

from __future__ import annotations

import functools
import math
import re
import reprlib
from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Final, TypeGuard

from qbridge_core.contract.headers import HEADER_PREFIX, NO_HEADERS
from qbridge_core.errors import ConfigurationError, MessageTooLargeError, PayloadError
from qbridge_core.runtime.clock import SYSTEM_CLOCK, Clock

MAX_ID_CHARS: Final = 255
DEFAULT_MAX_MESSAGE_BYTES: Final = 16 * 1024 * 1024
PREFETCH_BYTES: Final = 64 * 1024 * 1024
"""What a process holds of a queue beyond one message for each worker is smaller, as far as sizes can be foreseen."""
# Longer ones do not fit into what the system calls take.
_LONGEST_WAIT: Final = 365 * 86_400.0
_CONTROL_CHARACTER: Final = re.compile(r"[\x00-\x1f\x7f]")


_A_QUEUE_NAME: Final = "a queue name"


def check_queue_name(name: object, max_bytes: int = MAX_ID_CHARS, *, what: str = _A_QUEUE_NAME) -> str:
    """Return the name of a queue, refusing what not every broker can carry.

    RabbitMQ, for one, drops line ends from a name in silence: the queue would be another one.

    Args:
        name: what a caller gave as a name.
        max_bytes: the length in UTF-8 that is possible; AMQP 0-9-1 (short strings) allows 255.
        what: how the error calls it.

    Raises:
        ConfigurationError: it is not such a string.
    """
    if not isinstance(name, str):  # not shown: it may well be a payload
        order = "; the queue comes first, as in send(queue, payload)" if what == _A_QUEUE_NAME else ""
        raise ConfigurationError(f"{what} must be a string, not {_type(name)}{order}")
    if not _can_be_a_queue(name, max_bytes):
        raise ConfigurationError(
            f"{what} must be a string of 1 to {max_bytes} bytes in UTF-8 without control characters, "
            f"not {reprlib.repr(name)}"
        )
    return name


def check_queue_names(names: object) -> list[str]:
    """Return the names of several queues.

    Raises:
        ConfigurationError: they are one name, or one of them is none.
    """
    if isinstance(names, str | bytes) or not isinstance(names, Iterable):
        raise ConfigurationError(
            f"several queues are named in a list, and one of them as [queue], not by {_type(names)}"
        )
    return [check_queue_name(name) for name in names]


def _type(value: object) -> str:
    """What a value is, for an error: ``a dict``, ``None``."""
    return "None" if value is None else f"a {type(value).__name__}"


@functools.lru_cache(maxsize=1024)
def _can_be_a_queue(name: str, max_bytes: int) -> bool:
    return _is_text(name) and 0 < len(name.encode()) <= max_bytes and not _CONTROL_CHARACTER.search(name)


def check_body(body: object, most: int = DEFAULT_MAX_MESSAGE_BYTES) -> bytes:
    """Return the body of a message that a caller publishes.

    Copies of messages that are there already must not be refused: this is for what is new.

    Args:
        body: what a caller gave.
        most: the client's ``max_message_bytes``.

    Raises:
        ConfigurationError: it is no bytes.
        MessageTooLargeError: it is longer than that.
    """
    if type(body) is not bytes:
        if not isinstance(body, bytes | bytearray | memoryview):
            raise ConfigurationError(
                f"a message body must be bytes, not {_type(body)}; use send() for a payload; "
                "the order is publish(queue, body)"
            )
        body = bytes(body)
    if len(body) > most:
        raise MessageTooLargeError(
            f"the body has {len(body)} bytes, and max_message_bytes allows {most}: every worker with the same limit "
            "would call it malformed. Send less, for example where the data lies, or raise max_message_bytes for "
            "the clients and TaskManagers of both sides"
        )
    return body


def check_message_id(message_id: object) -> str | None:
    """Return the publisher's id of a message, refusing what not every broker can carry.

    Raises:
        PayloadError: it is neither ``None`` nor a string of 1 to 255 bytes in UTF-8.
    """
    if message_id is None:
        return None
    if isinstance(message_id, str) and _is_text(message_id) and 0 < len(message_id.encode()) <= MAX_ID_CHARS:
        return message_id
    raise PayloadError(f"a message_id must be a string of 1 to {MAX_ID_CHARS} bytes in UTF-8, not {message_id!r}")


def check_task_id(task_id: object) -> str:
    """Return the id of a task.

    Raises:
        PayloadError: it is no string, or an empty or a long one.
    """
    if not isinstance(task_id, str) or not 0 < len(task_id) <= MAX_ID_CHARS:
        raise PayloadError(f"task_id must be a string of 1 to {MAX_ID_CHARS} characters")
    return task_id


def check_headers(headers: Mapping[str, str] | None) -> Mapping[str, str]:
    """Return the producer's headers, refusing what not every broker can carry and names that QBridge reserves.

    Raises:
        PayloadError: a name or a value is not a string, or a name starts with ``x-qbridge-``.
    """
    if headers is None:
        return NO_HEADERS
    if not isinstance(headers, Mapping):
        raise PayloadError(f"headers must be a mapping of strings, not {type(headers).__name__}")
    if not headers:
        return NO_HEADERS
    for name, value in headers.items():
        if not _is_text(name) or not 0 < len(name.encode()) <= MAX_ID_CHARS or name.lower().startswith(HEADER_PREFIX):
            raise PayloadError(
                f"header name {name!r} is not allowed: use a string of 1 to {MAX_ID_CHARS} bytes "
                f"without the prefix {HEADER_PREFIX!r}"
            )
        if not isinstance(value, str):
            raise PayloadError(f"the value of header {name!r} must be a string, not {type(value).__name__}")
        if not _is_text(value):
            raise PayloadError(f"the value of header {name!r} has a character that UTF-8 cannot express")
    return headers


def _is_text(value: object) -> TypeGuard[str]:
    """True for a string that UTF-8 can express, which a lone surrogate cannot be."""
    return isinstance(value, str) and (value.isascii() or value == value.encode("utf-8", "replace").decode("utf-8"))


def check_delay(delay: object, longest: float = math.inf) -> float:
    """Return a delay in seconds, refusing what the broker cannot wait for.

    Args:
        delay: what a caller gave.
        longest: the backend's ``capabilities.max_delay``.

    Raises:
        ConfigurationError: it is negative, no finite number, or longer than that.
    """
    seconds = require_seconds("delay", delay)
    if seconds > longest:
        raise ConfigurationError(f"delay must be at most {longest:.0f} seconds on this broker, not {delay!r}")
    return seconds


def check_declaration(queue: object, dead_letter_queue: object) -> None:
    """Refuse a pair of names that cannot be a queue and its dead-letter queue.

    Raises:
        ConfigurationError: one of them is no name, or they are one and the same: a dead letter would run again.
    """
    check_queue_name(queue)
    if dead_letter_queue is not None and check_queue_name(dead_letter_queue) == queue:
        raise ConfigurationError(f"queue {queue!r} cannot be its own dead-letter queue; give that another name")


def check_count(name: str, value: object, least: int = 0) -> int:
    """Return a number of messages.

    Raises:
        ConfigurationError: it is no whole number, or smaller than ``least``.
    """
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ConfigurationError(f"{name} must be a whole number of at least {least}, not {value!r}")
    return value


def check_wanted(wanted: object) -> dict[str, int]:
    """Return how many messages of which queues are wanted.

    Raises:
        ConfigurationError: it is no mapping, or one of the names or numbers is wrong.
    """
    if not isinstance(wanted, Mapping):
        raise ConfigurationError(f"wanted must say how many messages of each queue, not {type(wanted).__name__}")
    return {check_queue_name(queue): check_count("wanted", count, 1) for queue, count in wanted.items()}


def check_wait(timeout: object) -> float:
    """Return how long to wait, in seconds; less than nothing, as when a deadline has passed, is nothing.

    Raises:
        ConfigurationError: it is no finite number.
    """
    if not is_number(timeout):
        raise ConfigurationError(f"timeout must be a finite number of seconds, not {timeout!r}")
    return min(max(0.0, float(timeout)), _LONGEST_WAIT)


def check_publish_timeout(timeout: object) -> float | None:
    """Return how long to wait for a confirmation, in seconds; ``None`` stands for the client's own setting.

    Raises:
        ConfigurationError: it is neither ``None`` nor a finite number.
    """
    return None if timeout is None else check_wait(timeout)


def check_replay(dead_letter_queue: str, target: object, limit: object) -> None:
    """Refuse a replay that makes no sense before it touches a letter.

    Raises:
        ConfigurationError: the target is no queue, or the dead-letter queue itself; or the limit makes no sense.
    """
    check_queue_name(dead_letter_queue)
    if target is not None and check_queue_name(target) == dead_letter_queue:
        raise ConfigurationError(
            f"replaying {dead_letter_queue!r} into itself would take from its letters what they say; leave target out "
            "to send each one back to where it came from"
        )
    if limit is not None:
        check_count("limit", limit)


def require_seconds(name: str, value: object, *, positive: bool = False) -> float:
    """Check a duration given by the user.

    Raises:
        ConfigurationError: it is not a finite number, or negative, or (``positive``) zero.
    """
    if not is_number(value) or value < 0 or (positive and value == 0):
        kind = "a positive number" if positive else "a number of at least 0"
        raise ConfigurationError(f"{name} must be {kind} (seconds), not {value!r}")
    return float(value)


def check_expires(expires: object, delay: float = 0.0, clock: Clock = SYSTEM_CLOCK) -> float:
    """Return when a task expires, in Unix time, refusing what cannot say that, and what says that it never runs.

    Args:
        expires: seconds from now on, or a time with a time zone, which may be past.
        delay: seconds before it may run.
        clock: tells what time it is.

    Raises:
        ConfigurationError: it is something else, or ends before the delay.
    """
    if isinstance(expires, datetime) and expires.tzinfo is not None:
        moment = expires.timestamp()
    elif is_number(expires) and expires > 0:
        moment = clock.wall() + expires
    else:
        raise ConfigurationError(
            f"expires must be a positive number of seconds, or a datetime with a time zone, not {expires!r}"
        )
    if delay and moment <= clock.wall() + delay:
        raise ConfigurationError(f"a task that may run in {delay:g} s and expires before that would never run")
    return round(moment, 3)


def is_number(value: object) -> TypeGuard[float]:
    """True for a finite number."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    try:
        return math.isfinite(value)
    except OverflowError:  # an int that is too large for a float
        return False
